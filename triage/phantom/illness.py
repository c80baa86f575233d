"""Illness of the brain without a bleed: low density of age, oedema, infarcts and masses; knows no blood."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from triage.phantom.anatomy import Brain
from triage.phantom.fields import AnyField, blend_in, capsule, ellipsoid, noise, soft
from triage.phantom.grids import Coordinates, Point, Region, is_empty, region_about, region_around
from triage.phantom.profile import Head, Profile
from triage.phantom.skull import Site
from triage.records import FloatArray

MASSES = ("ring", "lump", "meningioma")
"""Kinds of tumour-like mass."""

P_FALX, P_BASE = 0.2, 0.15
"""Of a meningioma on the falx, and of one that may lie as low as the skull base."""

TERRITORIES = ("middle", "middle", "anterior", "posterior", "cerebellar", "lacune")
"""Arteries whose territory an infarct takes; the middle cerebral one most often."""

FULL_HU = 20.0
"""White matter so much denser than fluid turns as dark as drawn."""

BLOTTED = 0.35
"""Share of the contrast of grey and white that a fresh infarct leaves."""

ROUND_VENTRICLES = ((14, -34, 8, 9), (18, 0, 24, 8), (24, 40, 14, 10))
"""(x, y, z, radius) of rods round the left lateral ventricle in mm."""


@dataclass(frozen=True, slots=True)
class Illness:
    """What ails one brain besides a bleed; 0 or "" for what it does not have."""

    white_disease_hu: float
    """Depth of low density round the ventricles and in patches."""
    infarct: str
    """Territory of an old infarct."""
    oedema_hu: float
    """How much darker than its surroundings a fresh infarct is, or oedema round nothing that is seen."""
    oedema: str
    """Territory of that infarct; "white" for oedema, which spares grey matter."""
    mass: str
    """One of MASSES."""
    mass_mm: float
    """Its radius."""


def draw_illness(rng: np.random.Generator, profile: Profile, head: Head) -> Illness:
    """What ails one brain.

    Args:
        rng: Source of chance; draws as much whatever is switched on.
        profile: Probabilities.
        head: Its age.

    Returns:
        The illness.
    """
    old = float(np.clip((head.age - 30) / 60, 0, 1))
    chance, value = rng.random(4), rng.random(7)
    places = (*TERRITORIES[:5], "white", "white", "white")
    oedematous, tumorous = chance[2] < profile.p_oedema, chance[3] < profile.p_tumour
    return Illness(
        white_disease_hu=float((2 + 10 * value[0]) * old * (chance[0] < profile.p_white_disease)),
        infarct=TERRITORIES[int(6 * value[1])] if chance[1] < profile.p_infarct * 2 * old else "",
        oedema_hu=float((4 + 8 * value[2]) * oedematous),
        oedema=places[int(8 * value[3])] if oedematous else "",
        mass=MASSES[int(3 * value[4])] if tumorous else "",
        mass_mm=float((5 + 16 * value[5]) * tumorous),
    )


def paint_illness(hu: FloatArray, site: Site, brain: Brain, illness: Illness, rng: np.random.Generator) -> None:
    """All of it, in place; bleeds come on top.

    Args:
        hu: (n, rows, columns), with a healthy brain.
        site: The head.
        brain: Tissue shares.
        illness: What there is.
        rng: Source of chance; each illness has a child of its own, so that a switch leaves the others alone.
    """
    pale, old, fresh, grown = rng.spawn(4)
    if illness.white_disease_hu > 1:
        _white_disease(hu, site, brain, illness.white_disease_hu, pale)
    if illness.oedema_hu:
        _fresh(hu, site, brain, illness, fresh)
    if illness.infarct:
        _old_infarct(hu, site, brain, illness.infarct, old)
    if illness.mass:
        _mass(hu, site, brain, illness, grown)


@dataclass(frozen=True, slots=True)
class _Block:
    """One block of the brain that an illness touches."""

    region: Region
    at: Coordinates
    """In the undeformed brain."""
    tissue: FloatArray
    """Share of each voxel that is brain."""
    fluid: FloatArray
    """Share that is CSF outside the ventricles."""
    white: FloatArray
    """Share of its tissue that is white matter."""


def _clear_of_bone(hu: FloatArray) -> FloatArray:
    """1 in brain, 0 where bone shares a voxel: its edge is not painted twice."""
    clear: FloatArray = np.clip((110 - hu) * np.float32(1 / 40), 0, 1)
    return clear


def _depth(head: Head, depth_hu: float) -> np.float32:
    """How much darker illness makes tissue: less where brain is hardly denser than fluid."""
    return np.float32(depth_hu * min((head.white_hu - head.csf_hu) / FULL_HU, 1.0))


def _darken(hu: FloatArray, share: FloatArray, value: float) -> None:
    """Lay a density over what is brighter, in place; what is darker already stays."""
    hu += share * np.minimum(np.float32(value) - hu, 0)


def _block(hu: FloatArray, site: Site, brain: Brain, centre: Point, reach_mm: Point) -> _Block | None:
    """The block round a point of the undeformed brain; None where it lies outside the stack."""
    head = site.head
    x, y, z = (c * r / n for c, r, n in zip(centre, head.radii_mm, (67, 84, 76), strict=True))
    dx, dy, dz = (1.12 * reach + 8 for reach in reach_mm)
    region = region_around(site.grid, (x - dx, y - dy, z - dz), (x + dx, y + dy, z + dz))
    if is_empty(region):
        return None
    inside = brain.inside[region] * (1 - brain.dura[region]) * _clear_of_bone(hu[region])
    fluid = brain.csf[region]
    tissue = np.clip(inside - fluid - brain.ventricle[region], 0, 1)
    contrast = head.grey_hu - head.white_hu
    white = np.clip((np.float32(head.grey_hu - 0.3 * contrast) - hu[region]) * np.float32(2.5 / contrast), 0, 1)
    return _Block(region, brain.at.at(region), tissue, np.minimum(fluid, inside), white.astype(np.float32))


def _ragged(site: Site, inside: AnyField, amount_mm: float, rng: np.random.Generator) -> AnyField:
    """The same shape with a wavy edge."""
    wave = noise(rng, inside.shape, site.grid.step_mm, 9) + noise(rng, inside.shape, site.grid.step_mm, 4)
    ragged: AnyField = inside + np.clip(wave, -2.5, 2.5) * np.float32(amount_mm)
    return ragged


def _white_disease(hu: FloatArray, site: Site, brain: Brain, depth_hu: float, rng: np.random.Generator) -> None:
    """Caps and bands round the lateral ventricles that run together, and patches in the white matter, in place."""
    block = _block(hu, site, brain, (0, 4, 20), (44, 66, 32))
    if block is None:
        return
    spread, patchy = float(rng.uniform(-4, 5)), float(rng.uniform(0, 1))
    at = block.at
    squat = Coordinates(np.abs(at.x), at.y, at.z)
    rods = [capsule(squat, a[:3], b[:3], (a[3], b[3])) for a, b in pairwise(ROUND_VENTRICLES)]
    near = np.maximum(*rods) + np.float32(spread)
    wave = noise(rng, near.shape, site.grid.step_mm, 10)
    band = soft(near + wave * np.float32(3), 8)
    spots = soft(wave * 4 - np.float32(6.5 - 2.5 * patchy), 3) * soft(near + 15, 10) * np.float32(0.8)
    share = np.maximum(band, spots) * block.white * block.tissue
    hu[block.region] -= _depth(site.head, depth_hu) * share


def _territory(name: str, at: Coordinates, side: float, chance: npt.NDArray[np.float64]) -> AnyField:
    """Signed distance in mm to the brain that one artery feeds, positive inside.

    Args:
        name: One of TERRITORIES, or "white".
        at: Undeformed coordinates.
        side: 1 for the left.
        chance: (4,), 0..1.
    """
    here = Coordinates(at.x * np.float32(side), at.y, at.z)
    a, b, c, d = (float(v) for v in chance)
    if name == "cerebellar":
        return ellipsoid(here, (22 + 8 * a, 52 + 10 * b, -40), (14 + 12 * c, 16 + 8 * d, 14))
    if name == "lacune":
        r = 2.5 + 4 * c
        return ellipsoid(here, (14 + 14 * a, -14 + 30 * b, 4 + 14 * d), (r, 1.4 * r, r))
    if name == "white":
        return ellipsoid(here, (25 + 12 * a, -42 + 90 * b, 12 + 30 * c), (12 + 9 * d, 15 + 13 * d, 12 + 9 * d))
    apex, aim, slope = {
        "middle": ((17.0, -4.0, 8.0), (1.0, -0.7 + 1.5 * a, -0.3 + 0.9 * b), 0.3 + 0.75 * c),
        "anterior": ((-3.0, -14.0, 20.0), (0.2, -1.0 + 1.1 * a, 0.9), 0.3 + 0.2 * c),
        "posterior": ((6.0, 26.0, 0.0), (0.25 + 0.2 * a, 1.0, 0.05 + 0.3 * b), 0.35 + 0.2 * c),
    }[name]
    size = float(np.sqrt(sum(v * v for v in aim)))
    ux, uy, uz = (np.float32(v / size) for v in aim)
    x, y, z = (p - np.float32(o) for p, o in zip((here.x, here.y, here.z), apex, strict=True))
    along = x * ux + y * uy + z * uz
    aside = np.sqrt(np.clip(x * x + y * y + z * z - along * along, 0, None))
    cone = (along - np.float32(14 * d)) * np.float32(slope) - aside
    inside: AnyField = np.minimum.reduce([cone, here.x - 1, along - np.float32(14 * d)])
    return inside


_REACH: dict[str, tuple[Point, Point]] = {
    "middle": ((38, 0, 16), (40, 64, 64)), "anterior": ((16, -30, 40), (24, 54, 46)),
    "posterior": ((20, 56, 10), (28, 44, 40)), "cerebellar": ((26, 56, -40), (30, 32, 28)),
    "lacune": ((21, 1, 11), (20, 28, 20)), "white": ((31, 3, 27), (38, 68, 44)),
}  # fmt: skip
"""Middle on the left and half the sides of the box that holds a territory."""


def _infarcted(
    hu: FloatArray, site: Site, brain: Brain, name: str, rng: np.random.Generator
) -> tuple[_Block, FloatArray, float] | None:
    """Block and share of one ragged territory, and its side; None where it lies outside the stack."""
    side, chance = (1.0 if rng.random() < 0.5 else -1.0), rng.random(4)
    (x, y, z), reach = _REACH[name]
    block = _block(hu, site, brain, (side * x, y, z), reach)
    if block is None:
        return None
    inside = _territory(name, block.at, side, chance)
    inside = _ragged(site, inside, 0.5 if name == "lacune" else 1.8, rng)
    above = site.surface.tentorium[block.region]
    share = soft(inside, 5) * soft(-above if name == "cerebellar" else above, 3)
    return block, share, side


def _fresh(hu: FloatArray, site: Site, brain: Brain, illness: Illness, rng: np.random.Generator) -> None:
    """A fresh infarct, which blots out grey, white and sulci, or oedema, which keeps to white matter, in place."""
    found = _infarcted(hu, site, brain, illness.oedema, rng)
    opacity, swollen = np.float32(rng.uniform(0.6, 1.0)), np.float32(rng.uniform(0.3, 0.9))
    if found is None:
        return
    block, share, _ = found
    head, depth, share = site.head, _depth(site.head, illness.oedema_hu), share * opacity
    if illness.oedema == "white":
        hu[block.region] -= depth * share * block.white * block.tissue
        return
    blotted = np.float32(head.white_hu + BLOTTED * (head.grey_hu - head.white_hu))
    _darken(hu[block.region], share * block.tissue, float(blotted))
    hu[block.region] -= depth * share * block.tissue
    hu[block.region] += share * swollen * block.fluid * (np.float32(head.white_hu - head.csf_hu) - depth)


def _old_infarct(hu: FloatArray, site: Site, brain: Brain, name: str, rng: np.random.Generator) -> None:
    """A defect like fluid with a pale rim, and a ventricle drawn towards it, in place."""
    found = _infarcted(hu, site, brain, name, rng)
    depth, rim = float(rng.uniform(1, 9)), float(rng.uniform(5, 11))
    wide = float(rng.uniform(4, 9))
    if found is None:
        return
    block, share, side = found
    core = np.clip(share * 2.2 - 1.1, 0, 1)  # narrower than its rim
    hu[block.region] -= _depth(site.head, rim) * share * block.tissue
    _darken(hu[block.region], core * block.tissue, site.head.csf_hu + depth)
    if name in ("cerebellar", "lacune"):
        return
    y = {"middle": 4.0, "anterior": -24.0, "posterior": 38.0}[name]
    horn = (side * (11.0 + 0.6 * wide), y, 15.0)
    beside = _block(hu, site, brain, horn, (26, 26, 26))
    if beside is not None:
        widened = ellipsoid(beside.at, horn, (wide, 21, 0.9 * wide))
        blend_in(hu[beside.region], soft(widened, 2) * beside.tissue, site.head.csf_hu)


def _mass(hu: FloatArray, site: Site, brain: Brain, illness: Illness, rng: np.random.Generator) -> None:
    """One tumour-like mass, with oedema, in place."""
    chance = rng.random(6)
    side, r = (1.0 if chance[0] < 0.5 else -1.0), illness.mass_mm
    if illness.mass == "meningioma":
        _meningioma(hu, site, brain, r, rng)
        return
    low = chance[1] < 0.2
    centre: Point = (side * (16 + 24 * float(chance[2])), -44 + 92 * float(chance[3]), -4 + 46 * float(chance[4]))
    if low:
        centre = (side * 22, 54, -38)
    swollen_mm = r * (0.5 + 1.2 * float(chance[5]))
    reach = r * 1.3 + swollen_mm + 12
    block = _block(hu, site, brain, centre, (reach, reach, reach))
    if block is None:
        return
    stretch = rng.uniform(0.8, 1.25, 3)
    radii: Point = (r * float(stretch[0]), r * float(stretch[1]), r * float(stretch[2]))
    inside = _ragged(site, ellipsoid(block.at, centre, radii), 0.09 * r + 0.4, rng)
    wave = noise(rng, inside.shape, site.grid.step_mm, 20)
    finger = soft(inside + np.float32(swollen_mm) * (1 + np.float32(0.35) * wave), 5)
    hu[block.region] -= _depth(site.head, float(rng.uniform(4, 11))) * finger * block.white * block.tissue
    body, room = soft(inside, site.grid.soft_mm + 1), block.tissue + block.fluid
    if illness.mass == "ring":
        wall = float(rng.uniform(0.15, 0.4)) * r + 1
        blend_in(hu[block.region], body * room, float(rng.uniform(36, 45)))
        core = soft(inside - wall, site.grid.soft_mm + 1)
        blend_in(hu[block.region], core * room, float(rng.uniform(10, 26)))
        return
    texture = noise(rng, inside.shape, site.grid.step_mm, 6) * np.float32(2.5)
    blend_in(hu[block.region], body * room, np.float32(rng.uniform(25, 40)) + texture)


def _beside_dura(site: Site, brain: Brain, radius: float, chance: npt.NDArray[np.float64]) -> Point | None:
    """Where a meningioma's middle lies: its back is against the vault, the skull base or the falx; None for no room.

    Args:
        site: The head.
        brain: Tissue shares.
        radius: Of the lump, mm.
        chance: (2,), 0..1: against what, and where.
    """
    s, back = site.surface, np.float32(0.55 * radius)
    z, wall = s.at.z, np.abs(s.depth - back) < 1.5
    above_callosum = ((s.at.y - 4) / 47) ** 2 + ((z - 2) / 31) ** 2 > 1
    falx = (np.abs(np.abs(s.at.x) - back) < 1.5) & (s.depth > back) & (s.tentorium > back) & (z > 5) & above_callosum
    vault = wall & (z > 5)
    base = wall & (z > -30)
    wanted = falx if chance[0] < P_FALX else base if chance[0] > 1 - P_BASE else vault
    inside = brain.inside > 0.5
    for where in (wanted, base, s.depth > back):  # the latter two where the stack shows none of the first
        found = np.flatnonzero(where & inside)
        if found.size:
            i = int(found[int(chance[1] * found.size)])
            return (float(s.at.x.ravel()[i]), float(s.at.y.ravel()[i]), float(s.at.z.ravel()[i]))
    return None


def _meningioma(hu: FloatArray, site: Site, brain: Brain, radius: float, rng: np.random.Generator) -> None:
    """A round lump with its back against the dura, at times calcified, in place."""
    s, grid = site.surface, site.grid
    where, value, calcified = rng.random(2), float(rng.uniform(37, 50)), rng.random() < 0.3
    child = rng.spawn(1)[0]
    centre = _beside_dura(site, brain, radius, where)
    if centre is None:
        return
    region = region_about(grid, centre, 1.9 * radius + 6)
    at = s.at.at(region)
    inside = _ragged(site, ellipsoid(at, centre, (radius, radius, radius)), 0.5, child)
    room = brain.inside[region] * (1 - brain.ventricle[region]) * _clear_of_bone(hu[region])
    halo = soft(inside + np.float32(0.6 * radius * float(child.random())), 5) * room * (1 - brain.csf[region])
    hu[region] -= _depth(site.head, float(child.uniform(3, 9))) * halo * (1 - brain.dura[region])
    cleft = soft(1.2 - np.abs(inside + 1), grid.soft_mm) * room  # fluid between lump and brain
    blend_in(hu[region], cleft * np.float32(0.6), site.head.csf_hu + 8)
    texture = noise(child, inside.shape, grid.step_mm, 5)
    body = soft(inside, grid.soft_mm + 0.5) * room
    blend_in(hu[region], body, np.float32(value) + texture)
    if calcified:
        blend_in(hu[region], body * soft(texture * 3 - 3, 2), float(child.uniform(110, 260)))
