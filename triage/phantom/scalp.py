"""What lies on the skull and what surgeons leave there: hair, ears, swelling, bone flaps and gaps; nothing inside."""

from typing import Any

import numpy as np
from scipy import ndimage

from triage.phantom.fields import AnyField, blend_in, ellipsoid, smooth_step, soft
from triage.phantom.grids import (
    BoolArray,
    Coordinates,
    Point,
    Region,
    coordinates,
    inverted,
    is_empty,
    region_about,
)
from triage.phantom.skull import FAT_HU, MUSCLE_HU, SKIN_HU, Site, Space, scaled
from triage.records import FloatArray

HEART: Point = (0.0, 5.0, 8.0)
"""From where directions point outwards, in head coordinates."""

HAIR_HU = (-780.0, -300.0)
"""Hair and the air in it."""

SWELLING_HU = (40.0, 70.0)
"""Blood and oedema under the scalp: no bleed of the brain."""


def direction(rng: np.random.Generator, azimuth_deg: tuple[float, float], height_deg: tuple[float, float]) -> Point:
    """A random direction from the middle of the head.

    Args:
        rng: Source of chance; also of the side.
        azimuth_deg: 0 to the side, 90 to the back, -90 to the front.
        height_deg: Above the horizontal.

    Returns:
        Unit vector.
    """
    a, b = np.deg2rad(rng.uniform(*azimuth_deg)), np.deg2rad(rng.uniform(*height_deg))
    side = 1.0 if rng.random() < 0.5 else -1.0
    return (side * float(np.cos(a) * np.cos(b)), float(np.sin(a) * np.cos(b)), float(np.sin(b)))


def outwards(site: Site, start: Point, way: Point, above_mm: float) -> Point | None:
    """Where a ray comes out of the vault.

    Args:
        site: The head.
        start: Inside the head.
        way: Unit vector.
        above_mm: How far above the outer table to stop.

    Returns:
        The point; None where that is not in the stack.
    """
    reach = np.arange(0.0, 150.0, 0.5)
    points = np.array(start)[:, None] + np.array(way)[:, None] * reach - site.grid.origin_mm[:, None]
    inverse = np.array(inverted(site.grid.matrix.tolist()))
    index = np.stack([(points * row[:, None]).sum(axis=0) for row in inverse])
    index = np.rint(index + (np.array(site.grid.shape)[:, None] - 1) / 2.0).astype(int)
    held = ((index >= 0) & (index < np.array(site.grid.shape)[:, None])).all(axis=0)
    i, j, k = np.where(held, index, 0)
    out: BoolArray = np.asarray(held & (_above_bone(site, (i, j, k)) > above_mm))
    before: BoolArray = np.asarray(held & ~out)
    crossing = np.flatnonzero(out[1:] & before[:-1])
    if crossing.size == 0:
        return None
    mm = float(reach[crossing[0] + 1])
    return (start[0] + way[0] * mm, start[1] + way[1] * mm, start[2] + way[2] * mm)


def _above_bone(site: Site, where: Any) -> FloatArray:
    """Height above the outer table in mm, at an index or region."""
    height: FloatArray = -site.surface.vault[where] - site.surface.bone[where]
    return height


def bone_share(hu: FloatArray, site: Site, region: Region) -> FloatArray:
    """Share of each voxel of a region that is bone of the vault; blood beside it would count as its edge."""
    s = site.surface
    place = soft(3 - _above_bone(site, region), 2) * soft(6 - s.vault[region], 2)
    share: FloatArray = place * np.clip((hu[region] - 42) * np.float32(1 / 30), 0, 1)
    return share


def around(site: Site | Space, centre: Point, reach_mm: float) -> Region | None:
    """Voxels of the cube about a point, in the head's block or the whole grid; None where that is outside."""
    region = region_about(site.grid, centre, reach_mm)
    return None if is_empty(region) else region


def away(at: Coordinates, centre: Point) -> FloatArray:
    """Distance to a point in mm."""
    x, y, z = (a - np.float32(c) for a, c in zip((at.x, at.y, at.z), centre, strict=True))
    distance: FloatArray = np.sqrt(x * x + y * y + z * z)
    return distance


def grain(rng: np.random.Generator, points: tuple[AnyField, AnyField, AnyField], pitch_mm: Point) -> FloatArray:
    """A random field of about unit variance that repeats every 24 pitches, looked up at points.

    Args:
        rng: Source of chance.
        points: x, y, z in mm, of one shape.
        pitch_mm: Distance between independent values, an axis each.

    Returns:
        Of the shape of the points.
    """
    values = rng.standard_normal((24, 24, 24), dtype=np.float32)
    where = np.stack([axis * np.float32(1 / pitch) for axis, pitch in zip(points, pitch_mm, strict=True)])
    found: FloatArray = ndimage.map_coordinates(values, where, order=1, mode="grid-wrap", prefilter=False)
    found *= np.float32(1.6)  # interpolation takes over a third
    return found


def paint_hair(hu: FloatArray, space: Space, hair_mm: float, rng: np.random.Generator) -> None:
    """A ragged band outside the skin, at times a bun and pins, in place.

    Args:
        hu: (n, rows, columns), of the whole grid.
        space: The head and what is round it.
        hair_mm: Thickness.
        rng: Source of chance.
    """
    s = space.site.surface
    bun, pins, knot = rng.random() < 0.25, rng.random() < 0.15, rng.spawn(1)[0]
    middle = np.float32(0.75 * hair_mm)
    region = space.reaching(1.5 * hair_mm + 1)
    skin, x, y, z = (space.carried(values, region) for values in (s.skin, s.at.x, s.at.y, s.at.z))
    band = np.nonzero(np.abs(skin + middle) < middle + 1)
    grown = soft(z[band] + 4 + np.float32(0.6) * y[band], 12)  # forehead, temples and nape are bare
    band, grown = tuple(axis[grown > 0] for axis in band), grown[grown > 0]
    skin, x, y, z = (values[band] for values in (skin, x, y, z))
    thick = np.float32(hair_mm) * np.clip(0.75 + 0.3 * grain(rng, (x, y, z), (30, 30, 30)), 0.15, 1.5)
    thick *= 1 - np.float32(0.6) * smooth_step((y - 55) / 25)  # the head lies on it
    block = hu[region]
    share = soft(thick + skin, 2.0) * grown * airy(block[band])
    strands = rng.random(z.shape, dtype=np.float32)
    fill = np.float32(HAIR_HU[0]) + strands * np.float32(HAIR_HU[1] - HAIR_HU[0])
    block[band] += share * strands * (fill - block[band])
    if bun:
        _bun(hu, space, knot)
    for way in [direction(knot, (-60, 80), (5, 60)) for _ in range(5)] if pins else []:
        if point := outwards(space.site, HEART, way, space.site.head.scalp_mm + 0.5 * hair_mm):
            dot(hu, space, point, (0.9, 3.0, 1.5), float(knot.uniform(900, 2600)))


def _bun(hu: FloatArray, space: Space, rng: np.random.Generator) -> None:
    """A knot of hair on the back of the head, in place."""
    radius, way = float(rng.uniform(14, 26)), direction(rng, (70, 90), (5, 55))
    skin = outwards(space.site, HEART, way, space.site.head.scalp_mm)
    if skin is None:
        return
    x, y, z = (a + 0.5 * radius * b for a, b in zip(skin, way, strict=True))
    region = around(space, (x, y, z), radius + 3)
    if region is None:
        return
    at = coordinates(space.grid.cropped(region))
    turns = grain(rng, (at.x, at.y, at.z), (2.2, 2.2, 4.0))
    inside = ellipsoid(at, (x, y, z), (radius, 0.7 * radius, radius)) + turns * np.float32(1.5)
    fill = -480 + np.clip(turns, -1.5, 1.5) * np.float32(170)
    blend_in(hu[region], soft(inside, 4) * airy(hu[region]), fill)


def dot(hu: FloatArray, site: Site | Space, centre: Point, radii: Point, value: float) -> None:
    """A small dense body, in place."""
    grid, region = site.grid, around(site, centre, max(radii) + 3)
    if region is not None:
        inside = ellipsoid(coordinates(grid.cropped(region)), centre, radii)
        thin = min(1.0, 2 * min(radii) / grid.soft_mm)
        blend_in(hu[region], soft(inside, grid.soft_mm) * np.float32(thin), value)


def paint_ears(hu: FloatArray, space: Space, rng: np.random.Generator) -> None:
    """Two leaves that stand away from the head, in place.

    Args:
        hu: (n, rows, columns), of the whole grid.
        space: The head and what is round it.
        rng: Source of chance.
    """
    lean, tall = float(rng.uniform(0.05, 0.4)), float(rng.uniform(24, 32))
    head, grid = space.site.head, space.grid
    wide = head.radii_mm[0] + head.skull_mm + head.scalp_mm
    middle = scaled((0, 19, -46), head)
    for side in (-1.0, 1.0):
        region = around(space, (side * wide, middle[1], middle[2]), tall + 2)
        if region is None or not space.touches(region):
            continue
        at, skin = coordinates(grid.cropped(region)), space.carried(space.site.surface.skin, region)
        across, up = (at.y - middle[1]) / 17, (at.z - middle[2]) / tall
        rim = (1 - np.sqrt(across * across + up * up)) * 17
        stand = 2 + np.float32(lean) * (at.y - np.float32(middle[1] - 14))
        curl = np.clip(2.5 - np.abs(rim - 3), 0, 1.6)
        leaf = np.minimum(1.6 + curl - np.abs(skin + np.maximum(stand, 1.5)), rim)
        share = soft(leaf, grid.soft_mm) * airy(hu[region])
        blend_in(hu[region], share * (at.x * np.float32(side) > 0), 20.0)


def paint_swelling(hu: FloatArray, space: Space, swelling_mm: float, rng: np.random.Generator) -> None:
    """Blood and oedema between skull and skin, in place: outside the skull, so no finding.

    Args:
        hu: (n, rows, columns), of the whole grid.
        space: The head and what is round it.
        swelling_mm: How much thicker the scalp is.
        rng: Source of chance.
    """
    head, s = space.site.head, space.site.surface
    way, radius = direction(rng, (-85, 85), (-5, 55)), float(rng.uniform(18, 48))
    value, firm = float(rng.uniform(*SWELLING_HU)), float(rng.uniform(0.6, 1.0))
    spot = outwards(space.site, HEART, way, 0.0)
    region = around(space, spot, radius + 4) if spot else None
    if spot is None or region is None:
        return
    at, width = coordinates(space.grid.cropped(region)), space.grid.soft_mm
    skin_mm, vault, bone = (space.carried(values, region) for values in (s.skin, s.vault, s.bone))
    wave = grain(rng, (at.x, at.y, at.z), (11, 11, 11))
    near = away(at, spot) / (radius * (1 + np.float32(0.1) * np.clip(wave, -2, 2)))
    bump = smooth_step(1.25 * (1 - near)) * np.float32(swelling_mm)
    below = skin_mm + bump
    out = soft(-vault - bone, width)
    lifted = out * soft(bump - 0.3, 0.6)
    texture = np.float32(value) + wave * 6
    skin = np.where(below < 2, np.float32(SKIN_HU), np.float32(FAT_HU) + smooth_step(bump / 4) * np.float32(70 * firm))
    inner = soft(below - max(0.45 * head.scalp_mm, 2.0), width) * np.float32(firm)
    blend_in(hu[region], lifted * soft(below, width), skin + inner * (texture - skin))


def paint_craniotomy(hu: FloatArray, site: Site, gap: bool, rng: np.random.Generator) -> None:
    """A sawn bone flap with burr holes and plates, or a gap in the bone under which the brain bulges, in place.

    Args:
        hu: (n, rows, columns).
        site: The head.
        gap: No flap was put back.
        rng: Source of chance.
    """
    head, s = site.head, site.surface
    way, share_of = direction(rng, (-70, 50), (0, 50)), float(rng.random())
    radius = 38 + 24 * share_of if gap else 20 + 26 * share_of
    cut_mm, bulge_mm = float(rng.uniform(0.9, 2.4)), float(rng.uniform(0, 7)) * gap
    turns = [float(rng.uniform(0, 1) + i) for i in range(int(rng.integers(3, 6)))]
    spot = outwards(site, HEART, way, -0.5 * head.skull_mm)
    region = around(site, spot, radius + 8) if spot else None
    if spot is None or region is None:
        return
    at, width = s.at.at(region), site.grid.soft_mm
    reach = away(at, spot) + np.clip(grain(rng, (at.x, at.y, at.z), (26, 26, 26)), -2, 2) * np.float32(2.5)
    bone = bone_share(hu, site, region)
    if gap:
        lift = smooth_step(1.4 * (1 - reach / np.float32(radius))) * np.float32(bulge_mm)
        below, over = s.skin[region] + lift, soft(_above_bone(site, region), width)
        fresh = soft(below, width) * over * smooth_step(lift / 2)
        blend_in(hu[region], bone * soft(radius - reach, 2.0), float(rng.uniform(30, 42)))
        blend_in(hu[region], fresh, np.where(below < 2.5, np.float32(SKIN_HU), np.float32(MUSCLE_HU - 14)))
        return
    saw = soft(0.5 * cut_mm - np.abs(reach - radius), width) * np.float32(min(1.0, 1.4 * cut_mm / width))
    blend_in(hu[region], bone * saw, 25.0)
    for turn in turns:
        _plate(hu, site, (spot, way), (radius, turn / len(turns)), rng)


def _plate(hu: FloatArray, site: Site, axis: tuple[Point, Point], polar: tuple[float, float],
           rng: np.random.Generator) -> None:  # fmt: skip
    """One burr hole on the edge of a flap and the plate over it, in place."""
    (spot, way), (radius, turn) = axis, polar
    first = np.array([-way[1], way[0], 0.0]) + np.array([1e-3, 0, 0])
    first /= np.sqrt((first * first).sum())
    second = np.cross(np.array(way), first)
    edge = np.array(spot) + radius * (np.cos(2 * np.pi * turn) * first + np.sin(2 * np.pi * turn) * second)
    out = edge - np.array(HEART)
    out /= np.sqrt((out * out).sum())
    to = (float(out[0]), float(out[1]), float(out[2]))
    value, bored = float(rng.uniform(1400, 3000)), rng.random() < 0.6
    hole = outwards(site, HEART, to, -0.5 * site.head.skull_mm)
    region = around(site, hole, 8) if hole and bored else None
    if hole and region is not None:
        blend_in(
            hu[region], bone_share(hu, site, region) * soft(5.5 - away(site.surface.at.at(region), hole), 1.5), 20.0
        )
    if plate := outwards(site, HEART, to, 0.8):
        dot(hu, site, plate, (2.2, 2.2, 2.2), value)


def airy(hu: FloatArray) -> FloatArray:
    """Share of free air.

    Args:
        hu: Any shape.

    Returns:
        1 in air, 0 where half a voxel or more is something else.
    """
    air: FloatArray = np.clip((-500 - hu) * np.float32(1 / 500), 0, 1)
    return air


def fill_air(hu: FloatArray, region: Region, share: AnyField, value: float) -> None:
    """Paint only where there is air, in place."""
    blend_in(hu[region], share * airy(hu[region]), value)
