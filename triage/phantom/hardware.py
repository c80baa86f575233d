"""What a head carries besides its own tissue: draws it, paints it and adds the streaks of metal."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from triage.phantom.fields import AnyField, blend_in, capsule, ellipsoid, soft
from triage.phantom.grids import Grid, Point, Region, coordinates, is_empty, region_around
from triage.phantom.profile import Profile
from triage.phantom.scalp import (
    HEART,
    around,
    bone_share,
    direction,
    dot,
    fill_air,
    grain,
    outwards,
    paint_craniotomy,
    paint_ears,
    paint_hair,
    paint_swelling,
)
from triage.phantom.skull import AIR_HU, Site, Space, scaled
from triage.records import FloatArray

METAL_HU = (5000.0, 12000.0)
"""Far above what can be stored, so that metal blooms when it is blurred."""

ANEURYSMS: tuple[Point, ...] = (
    (1, -16, -15), (9, -13, -17), (-9, -13, -17), (31, -17, -13), (-31, -17, -13), (0, 1, -21),
)  # fmt: skip
"""Where they sit on the circle of Willis: anterior communicating, carotid, middle cerebral and basilar arteries."""

STREAK_REACH_MM = 100.0
"""How far from metal rays are computed."""

RAYS = 20
"""Lines through one piece of metal, each bright or dark."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What is in and on one head besides brain, bleed and illness; 0 or "" for what is not there."""

    ears: bool
    hair_mm: float
    """Thickness."""
    swelling_mm: float
    """How much thicker a swollen scalp is."""
    craniotomy: str
    """Flap, gap or nothing."""
    shunt_hu: float
    """Density of a ventricular catheter."""
    tubes: int
    """Tubes, lines and electrodes."""
    clip_mm: float
    """Radius of a coiled aneurysm, or half the length of its clip."""
    coil: bool
    """Of the two."""


def draw_marks(rng: np.random.Generator, profile: Profile) -> Marks:
    """What one head carries.

    Args:
        rng: Source of chance; draws as much whatever is switched on.
        profile: Probabilities.

    Returns:
        The marks.
    """
    chance, value = rng.random(7), rng.random(8)
    return Marks(
        ears=bool(chance[0] < profile.p_ears),
        hair_mm=float((2 + 7 * value[0] ** 2) * (chance[1] < profile.p_hair)),
        swelling_mm=float((2.5 + 11 * value[1]) * (chance[2] < profile.p_scalp_swelling)),
        craniotomy=("gap" if value[2] < 0.3 else "flap") if chance[3] < profile.p_craniotomy else "",
        shunt_hu=float((150 + 250 * value[3]) * (chance[4] < profile.p_shunt)),
        tubes=int((1 + int(5 * value[4])) * (chance[5] < profile.p_tube)),
        clip_mm=float((2.5 + 3.5 * value[5]) * (chance[6] < profile.p_clip)),
        coil=bool(value[6] < 0.5),
    )


def paint_surgery(hu: FloatArray, site: Site, marks: Marks, rng: np.random.Generator) -> None:
    """A flap or a gap in the skull, in place.

    Args:
        hu: (n, rows, columns), with brain, but before blood, which may be as dense as the edge of bone.
        site: The head.
        marks: What there is.
        rng: Source of chance.
    """
    sawn = rng.spawn(1)[0]
    if marks.craniotomy:
        paint_craniotomy(hu, site, marks.craniotomy == "gap", sawn)


def paint_marks(whole: FloatArray, space: Space, marks: Marks, rng: np.random.Generator) -> FloatArray | None:
    """Everything else that a head carries, in place.

    Args:
        whole: (n, rows, columns), of the whole grid, with brain and blood.
        space: The head and what is round it.
        marks: What there is.
        rng: Source of chance; each mark has a child of its own, so that a switch leaves the others alone.

    Returns:
        Share of each voxel of the head's block that is metal; None where there is none.
    """
    hu, site = whole[space.block], space.site
    ear, hair, swollen, drained, lined, clipped = rng.spawn(6)
    if marks.ears:
        paint_ears(whole, space, ear)
    if marks.hair_mm:
        paint_hair(whole, space, marks.hair_mm, hair)
    if marks.swelling_mm:
        paint_swelling(whole, space, marks.swelling_mm, swollen)
    if marks.shunt_hu:
        _shunt(hu, site, marks.shunt_hu, drained)
    for _ in range(marks.tubes):
        _line(whole, space, lined)
    return _clip(hu, site, marks, clipped) if marks.clip_mm else None


def _rod(grid: Grid, start: Point, end: Point, radius: float) -> tuple[Region, FloatArray] | None:
    """Signed distance to a rod on the block that holds it."""
    (ax, ay, az), (bx, by, bz), r = start, end, radius + 3
    low, high = (min(ax, bx) - r, min(ay, by) - r, min(az, bz) - r), (max(ax, bx) + r, max(ay, by) + r, max(az, bz) + r)
    region = region_around(grid, low, high)
    if is_empty(region):
        return None
    return region, capsule(coordinates(grid.cropped(region)), start, end, (radius, radius))


def _thin(grid: Grid, distance: AnyField, radius: float) -> AnyField:
    """Share of a rod, which never fills a voxel wider than itself."""
    return soft(distance, grid.soft_mm) * np.float32(min(1.0, 2 * radius / grid.soft_mm))


def _shunt(hu: FloatArray, site: Site, value: float, rng: np.random.Generator) -> None:
    """A catheter from a burr hole into a lateral ventricle, at times with a valve under the scalp, in place."""
    side, frontal, valve = (1.0 if rng.random() < 0.4 else -1.0), rng.random() < 0.6, rng.random() < 0.5
    radius, s, head = float(rng.uniform(1.0, 1.5)), site.surface, site.head
    if frontal:
        tip, hole = (side * 6.0, -12.0, 6.0), (side * float(rng.uniform(24, 32)), float(rng.uniform(-45, -28)), 70.0)
    else:
        tip, hole = (side * 9.0, -14.0, 12.0), (side * float(rng.uniform(22, 32)), 82.0, float(rng.uniform(18, 34)))
    tip, hole = scaled(tip, head), scaled(hole, head)
    away = np.array(hole) - np.array(tip)
    length = float(np.sqrt((away * away).sum()))
    far: Point = (tip[0] + 1.4 * float(away[0]), tip[1] + 1.4 * float(away[1]), tip[2] + 1.4 * float(away[2]))
    way: Point = (float(away[0]) / length, float(away[1]) / length, float(away[2]) / length)
    if bored := _rod(site.grid, tip, far, 5.0):
        region, distance = bored
        blend_in(hu[region], bone_share(hu, site, region) * soft(distance, 1.5), 20.0)
    if rod := _rod(site.grid, tip, far, radius):
        region, distance = rod
        under = soft(s.skin[region] - np.float32(0.5 * head.scalp_mm), site.grid.soft_mm)
        blend_in(hu[region], _thin(site.grid, distance, radius) * under, value)
    out = outwards(site, tip, way, 2.0)
    if valve and out:
        dot(hu, site, out, (5.0, 7.0, 3.2), float(rng.uniform(150, 900)))
        dot(hu, site, (out[0], out[1] + 5, out[2] - 3), (1.8, 1.8, 1.8), 2400.0)


def _line(hu: FloatArray, space: Space, rng: np.random.Generator) -> None:
    """One tube in the nose or throat, electrode on the scalp, strap round it or leads beside the head, in place."""
    kind, size = rng.random(), float(rng.random())
    way, value = direction(rng, (-80, 80), (-15, 60)), float(rng.uniform(200, 2000))
    child = rng.spawn(1)[0]
    if kind < 0.12:
        _hollow(hu, space, [(0.0, -30.0, -70.0), (0.0, -19.0, -84.0), (0.0, -14.0, -120.0)], (5.0, 3.8))
    elif kind < 0.30:
        nose = 7.0 if size < 0.5 else -7.0
        path: list[Point] = [(nose, -104, -76), (nose, -70, -70), (nose, -28, -64), (2, -15, -74), (1, -12, -120)]
        _hollow(hu, space, path, (2.6, 1.4))
    elif kind < 0.52:
        _electrode(hu, space, (way, size), value)
    elif kind < 0.64:
        _strap(hu, space, size, child)
    else:
        _beside(hu, space, (way, size), child)


def _electrode(hu: FloatArray, space: Space, where: tuple[Point, float], value: float) -> None:
    """A flat electrode on the scalp and its cable, in place."""
    (way, size), site, grid = where, space.site, space.grid
    radius = 3.5 + 3.5 * size
    spot = outwards(site, HEART, way, site.head.scalp_mm + 1.0)
    region = around(space, spot, radius + 3) if spot else None
    if spot and region is not None:
        skin, at = space.carried(site.surface.skin, region), coordinates(grid.cropped(region))
        cap = np.minimum(1.1 - np.abs(skin + 1.0), ellipsoid(at, spot, (radius,) * 3))
        blend_in(hu[region], _thin(grid, cap, 1.1), value)
        end = (spot[0] + 30 * way[0], spot[1] + 25.0, spot[2] - 40.0)
        _cable(hu, space, (spot, end), 0.7, 0.6 * value)


def _strap(hu: FloatArray, space: Space, size: float, rng: np.random.Generator) -> None:
    """A band over forehead and temples that holds the head, in place; above the ears it leaves the skin."""
    middle, half, slope = float(rng.uniform(2, 26)), 12 + 10 * size, float(rng.uniform(0.0, 0.25))
    thick, value = float(rng.uniform(0.5, 1.3)), float(rng.uniform(-60, 180))
    reach = half + 30
    region = region_around(space.grid, (-110, -140, middle - reach), (110, 35, middle + reach))
    if is_empty(region) or not space.touches(region):
        return
    at, skin = coordinates(space.grid.cropped(region)), space.carried(space.site.surface.skin, region)
    lift = np.float32(1.0 + thick) + np.float32(0.006) * np.clip(at.y + 25, 0, None) ** 2
    width = half - np.abs(at.z - np.float32(slope) * at.y - np.float32(middle))
    band = np.minimum(np.float32(thick) - np.abs(skin + lift), np.minimum(width, 25 - at.y))
    fill_air(hu, region, _thin(space.grid, band, thick), value)


def _cable(hu: FloatArray, space: Space, ends: tuple[Point, Point], radius: float, value: float) -> None:
    """A cable in the air, in place."""
    if rod := _rod(space.grid, *ends, radius):
        fill_air(hu, rod[0], _thin(space.grid, rod[1], radius), value)


def _beside(hu: FloatArray, space: Space, where: tuple[Point, float], rng: np.random.Generator) -> None:
    """Leads or an oxygen tube that run along the head through many slices, in place."""
    (x, y, _), size = where
    head, slant = space.site.head, rng.uniform(-12, 12, 2)
    gap = head.skull_mm + head.scalp_mm + 3 + 12 * float(rng.random())
    flat = max(float(np.sqrt(x * x + y * y)), 0.2)
    a, b = x / flat * (head.radii_mm[0] + gap), y / flat * (head.radii_mm[1] + gap)
    top, radius = float(rng.uniform(-10, 80)), 0.8 + 2.4 * size
    value = float(rng.uniform(60, 300)) if radius > 2 else float(rng.uniform(200, 2000))
    leads = 1 if radius > 1.4 else 1 + int(4 * rng.random())
    for i in range(leads):
        start: Point = (a + 5.0 * i * y / flat, b - 5.0 * i * x / flat, top - 9.0 * i)
        end: Point = (start[0] + float(slant[0]), start[1] + float(slant[1]) + 4.0 * i, -130.0)
        _cable(hu, space, (start, end), radius, value)
        if radius > 2 and (rod := _rod(space.grid, start, end, radius)):
            blend_in(hu[rod[0]], soft(rod[1] - 1.0, space.grid.soft_mm), AIR_HU)


def _hollow(hu: FloatArray, space: Space, path: list[Point], radii: tuple[float, float]) -> None:
    """A bent tube of a given outer and inner radius, in place."""
    points = [scaled(point, space.site.head) for point in path]
    for radius, value in ((radii[0], 180.0), (radii[1], AIR_HU)):
        for start, end in pairwise(points):
            if rod := _rod(space.grid, start, end, radius):
                blend_in(hu[rod[0]], soft(rod[1], space.grid.soft_mm), value)


def _clip(hu: FloatArray, site: Site, marks: Marks, rng: np.random.Generator) -> FloatArray | None:
    """A coiled or clipped aneurysm, in place; its share of each voxel is returned."""
    spot = scaled(ANEURYSMS[int(rng.integers(len(ANEURYSMS)))], site.head)
    turn, value = rng.normal(size=3), float(rng.uniform(*METAL_HU))
    region = around(site, spot, 16.0)
    if region is None:
        return None
    at = site.surface.at.at(region)
    if marks.coil:
        r = marks.clip_mm
        inside = ellipsoid(at, spot, (r, r, r)) + np.clip(grain(rng, (at.x, at.y, at.z), (2, 2, 2)), -1.5, 1.5)
        share = soft(inside, site.grid.soft_mm)
    else:
        turn *= 1.6 * marks.clip_mm / max(float(np.sqrt((turn * turn).sum())), 1e-3)
        a, b, c = (float(v) for v in turn)
        ends: tuple[Point, Point] = (spot[0] - a, spot[1] - b, spot[2] - c), (spot[0] + a, spot[1] + b, spot[2] + c)
        share = np.asarray(_thin(site.grid, capsule(at, *ends, (1.4, 0.8)), 1.1), np.float32)
    blend_in(hu[region], share, value)
    metal = np.zeros(site.grid.shape, np.float32)
    metal[region] = share
    return metal


def streaks(hu: FloatArray, grid: Grid, metal: FloatArray | None, rng: np.random.Generator) -> None:
    """Bright and dark rays from metal in its own slices, in place.

    Args:
        hu: (n, rows, columns), blurred.
        grid: The voxels.
        metal: Share of each voxel that is metal; None for no metal.
        rng: Source of chance.
    """
    child = rng.spawn(1)[0]
    if metal is None:
        return
    pixel = grid.step_mm[2]
    for k in np.flatnonzero(metal.any(axis=(1, 2))):
        rows, columns = np.nonzero(metal[k] > 0.02)
        if rows.size == 0:
            continue
        weight = metal[k][rows, columns].astype(np.float64)
        area = float(weight.sum()) * pixel * pixel
        middle = float((rows * weight).sum() / weight.sum()), float((columns * weight).sum() / weight.sum())
        reach = int(STREAK_REACH_MM / pixel)
        low = [max(int(m) - reach, 0) for m in middle]
        box = hu[k, low[0] : int(middle[0]) + reach, low[1] : int(middle[1]) + reach]
        y = ((np.arange(box.shape[0]) + low[0] - middle[0]) * pixel).astype(np.float32)[:, None]
        x = ((np.arange(box.shape[1]) + low[1] - middle[1]) * pixel).astype(np.float32)[None, :]
        box += _rays(x, y, area, child)


def _rays(x: FloatArray, y: FloatArray, area_mm2: float, rng: np.random.Generator) -> FloatArray:
    """HU of a star of rays about (0, 0); every line is bright or dark and fades with distance."""
    size = float(min(np.sqrt(area_mm2), 5.0))
    r = np.sqrt(x * x + y * y) + np.float32(1)
    fade = 1 / (1 + (r / np.float32(8 + 3 * size)) ** 2)
    slow = 1 / (1 + r / np.float32(5 + size))
    total: FloatArray = np.zeros_like(r)
    first = float(rng.uniform(0, np.pi))
    for i in range(RAYS):
        angle = first + np.pi * (i + float(rng.uniform(-0.35, 0.35))) / RAYS
        level, wide = float(rng.normal(0, 30)) * size, float(rng.uniform(0.5, 1.4)) + 0.12 * size
        across = np.abs(x * np.float32(np.sin(angle)) - y * np.float32(np.cos(angle)))
        ray: FloatArray = 1 - across / (np.float32(wide) + np.float32(0.03) * r)
        np.add(total, np.float32(level) * np.clip(ray, 0, 1), out=total)
    total *= np.maximum(fade, np.float32(0.25) * slow)
    total -= np.float32(9 * size) * fade
    return total
