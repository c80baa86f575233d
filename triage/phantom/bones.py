"""Skin, bone, air and fat of the phantom's head, painted on its surfaces; the brain lies elsewhere."""

from dataclasses import dataclass

import numpy as np

from triage.phantom.fields import blend_in, capsule, ellipsoid, noise, smooth_step, soft, soft_slab
from triage.phantom.grids import Coordinates, Grid, Point, is_empty, point, region_around, region_in, rod_region, slabs
from triage.phantom.profile import Head
from triage.phantom.skull import (
    BASE_MM,
    FACE_MM,
    FAT_HU,
    MOST_BEND_MM,
    MUSCLE_HU,
    PETROUS,
    SKIN_HU,
    Surface,
)
from triage.records import FloatArray

LEAST_AIR = 0.1
"""Smaller air spaces are left out."""

LEAST_FRONTAL = 0.3
"""Some frontal sinuses never grew."""


def paint_scalp_and_vault(hu: FloatArray, head: Head, grid: Grid, s: Surface) -> None:
    """Skin, fat, muscle and the three layers of the vault, in place.

    Args:
        hu: (n, rows, columns), air before.
        head: Parameters.
        grid: The voxels.
        s: Surfaces.
    """
    for part in slabs(grid.shape):
        _paint_outside(hu[part], head, grid, s.at_region(part))


def _paint_outside(hu: FloatArray, head: Head, grid: Grid, s: Surface) -> None:
    """The same for a block of slices."""
    width = grid.step_mm[2] + s.rise * np.float32(0.9 * grid.thickness_mm)  # edges fade where slices cut them flat
    inverse = 1 / width

    def share(distance: FloatArray) -> FloatArray:
        return np.clip(distance * inverse + np.float32(0.5), 0, 1)

    blend_in(hu, share(s.skin), SKIN_HU)
    blend_in(hu, share(s.skin - 2), FAT_HU)
    below = smooth_step((np.abs(s.at.x) * np.float32(0.3) - 18 - s.at.z) / 25)  # temporal muscles reach up
    blend_in(hu, share(s.skin - np.float32(0.7 * head.scalp_mm) - 3 * below), MUSCLE_HU)
    reach = s.at.z + 40 + s.at.y * np.float32(0.35)  # the squama reaches lower than the forehead
    wall = share(3 - s.vault) * soft(reach, 4.0)
    thin = share(s.depth + np.float32(2.6))
    blend_in(hu, share(s.vault + s.bone) * np.maximum(wall, thin), head.bone_hu)
    half = np.float32(0.22) * s.bone
    middle = np.abs(s.vault + np.float32(0.5) * s.bone)
    diploe = np.clip((half - middle) * inverse + np.float32(0.5), 0, 1) * np.minimum(1, 2 * half * inverse)
    diploe *= np.float32(head.diploe) * (s.at.z > -25)
    blend_in(hu, diploe, 350.0)


@dataclass(frozen=True, slots=True)
class _Base:
    """What the painters of the skull base share."""

    hu: FloatArray
    grid: Grid
    at: Coordinates
    bone_hu: float
    scale: Point
    """Of the head against the average one, an axis each."""

    def lay(self, shape: str, points: tuple[Point, Point], radii: Point, value: float) -> None:
        """Paint one rod ("rod": two ends, radii at the ends) or ellipsoid ("egg": centre in `points[0]`)."""
        a, b = (tuple(v * f for v, f in zip(p, self.scale, strict=True)) for p in points)
        r = tuple(v * self.scale[0] for v in radii)
        reach = max(r) + 0.5 * self.grid.soft_mm
        region = rod_region(self.grid, point(a), point(b), reach, (MOST_BEND_MM, MOST_BEND_MM, MOST_BEND_MM))
        if is_empty(region):
            return
        here = self.at.at(region)
        if shape == "rod":
            inside = capsule(here, point(a), point(b), (r[0], r[1]))
        else:
            inside = ellipsoid(here, point(a), point(r))
        blend_in(self.hu[region], soft(inside, self.grid.soft_mm), value)

    def egg(self, centre: Point, radii: Point, value: float) -> None:
        """Paint one ellipsoid."""
        self.lay("egg", (centre, centre), radii, value)

    def rod(self, start: Point, end: Point, radii: tuple[float, float], value: float) -> None:
        """Paint one tapering rod."""
        self.lay("rod", (start, end), (*radii, 0.0), value)


def paint_base_and_face(hu: FloatArray, head: Head, grid: Grid, s: Surface, rng: np.random.Generator) -> None:
    """Petrous bones, mastoid cells, sphenoid, orbits, sinuses, nose, cheek and jaw bones, in place.

    Args:
        hu: (n, rows, columns).
        head: Parameters.
        grid: The voxels.
        s: Surfaces.
        rng: Source of chance.
    """
    if is_empty(region_around(grid, (-130, -140, -400), (130, 140, BASE_MM + 4))):
        return
    _soft_parts(hu, grid, s, rng)
    sideways = head.radii_mm[0] / 67
    base = _Base(hu, grid, s.bent, head.bone_hu, (sideways, head.radii_mm[1] / 84, sideways))
    for side in (-1.0, 1.0):
        _side_bones(base, side)
        _petrous(base, side, head.petrous)
        if head.orbits:
            _orbit(base, side)
    sinus, forehead, *mastoids = (float(v) * head.air for v in rng.uniform(0.4, 1.1, 4))
    _nose(base, rng)
    middle, front, *beside = rng.spawn(4)  # each space has its own stream: none moves another
    if sinus > LEAST_AIR:
        _sinuses(base, sinus, middle)
    if forehead > LEAST_FRONTAL:
        _frontal_sinus(hu, grid, s, forehead, front)
    for side, air, own in zip((-1.0, 1.0), mastoids, beside, strict=True):
        if air > LEAST_AIR:
            _mastoid(base, side, air, own)


def _soft_parts(hu: FloatArray, grid: Grid, s: Surface, rng: np.random.Generator) -> None:
    """Fat planes between the muscles of neck and face, in place."""
    low = region_around(grid, (-130, -140, -400), (130, 140, FACE_MM))
    if is_empty(low):
        return
    shape = hu[low].shape
    planes, much = noise(rng, shape, grid.step_mm, 16), noise(rng, shape, grid.step_mm, 25)
    for part in slabs(shape):
        block = region_in(low, part)
        fat = np.clip(0.9 - np.abs(planes[part]) * 3.5, 0, 1) * np.clip(0.6 + 0.5 * much[part], 0, 0.85)
        fat *= soft(s.skin[block] - 6, 3) * soft(-s.depth[block] - 5, 3)
        blend_in(hu[block], fat, FAT_HU)


def _side_bones(base: _Base, side: float) -> None:
    """One side: mastoid bone, ear canal, sphenoid wing, cheek, jaw, first vertebra."""
    bone = base.bone_hu
    base.egg((side * 62, 32, -52), (9, 13, 17), bone * 0.9)  # mastoid process
    base.egg((side * 62, 12, -50), (10, 2.2, 2.2), -850.0)  # ear canal
    base.rod((side * 14, -27, -30), (side * 50, -38, -30), (2.2, 2.6), bone)  # sphenoid wing
    base.rod((side * 50, -38, -30), (side * 53, -56, -36), (3.0, 3.0), bone)
    base.rod((side * 53, -56, -36), (side * 54, -62, -52), (3.5, 4.0), bone)  # cheek
    base.rod((side * 54, -60, -54), (side * 66, -8, -54), (2.5, 2.5), bone)  # zygomatic arch
    base.rod((side * 54, 2, -52), (side * 49, -6, -90), (6.0, 5.5), bone)  # jaw
    base.rod((side * 19, 12, -66), (side * 22, 16, -90), (8.0, 9.0), bone * 0.8)  # condyle, atlas
    base.rod((side * 12, -22, -56), (side * 13, -22, -90), (2.0, 2.0), bone)  # pterygoid


def _petrous(base: _Base, side: float, wide: float) -> None:
    """One petrous pyramid and what is hollow in it; nothing where its size is 0."""
    if not wide:
        return
    for start, end, radii in PETROUS:
        a, b = ((side * p[0], p[1], p[2]) for p in (start, end))
        base.rod(a, b, (radii[0] * wide, radii[1] * wide), base.bone_hu * 1.15)
    base.egg((side * 15, 6, -35), (1.3, 1.3, 3.0), 40.0)  # carotid canal
    base.egg((side * 25, 9, -36), (4.0, 1.6, 1.8), 15.0)  # inner ear canal
    base.egg((side * 41, 16, -37), (2.6, 2.4, 3.0), -500.0)  # middle ear


def _orbit(base: _Base, side: float) -> None:
    """One orbit: its walls, fat, muscles, optic nerve, eye and lens."""
    bone = base.bone_hu
    base.rod((side * 31, -70, -41), (side * 12, -30, -36), (18.5, 6.5), bone * 0.9)
    base.rod((side * 31, -72, -41), (side * 12, -30, -36), (16.8, 4.8), FAT_HU)
    base.rod((side * 32, -92, -41), (side * 31, -72, -41), (17.0, 15.0), FAT_HU)
    base.egg((side * 33, -82, -41), (14, 5, 12), 30.0)  # lids
    for dx in (-10.0, 10.0):
        base.rod((side * (31 + dx), -66, -41), (side * 13, -33, -37), (1.8, 1.3), 48.0)
    base.rod((side * 31, -64, -42), (side * 12, -32, -36), (2.0, 1.8), 32.0)  # optic nerve
    base.egg((side * 31, -75, -41), (12.3, 12.3, 12.3), 42.0)
    base.egg((side * 31, -75, -41), (11.2, 11.2, 11.2), 10.0)
    base.egg((side * 31, -84, -41), (4.5, 2.2, 4.5), 75.0)  # lens


def _nose(base: _Base, rng: np.random.Generator) -> None:
    """What lies in the middle: sphenoid, clivus, sella, nose, ethmoid and maxillary sinuses, throat."""
    bone = base.bone_hu
    base.egg((0, -12, -40), (15, 15, 14), bone * 0.85)  # body of the sphenoid
    base.rod((0, -2, -30), (0, 3, -62), (5.0, 5.5), bone * 0.75)  # clivus
    base.rod((-9, -3, -25), (9, -3, -25), (2.0, 2.0), bone)  # dorsum sellae
    base.egg((0, -9, -27), (6, 4.5, 4.0), 42.0)  # pituitary
    air = -980.0
    for side in (-1.0, 1.0):
        base.egg((side * 7, -46, -38), (5.8, 17, 9), air)  # ethmoid
        base.rod((side * 21, -62, -72), (side * 36, -44, -72), (13, 8.5), bone * 0.6)  # maxilla
        base.rod((side * 21, -62, -72), (side * 36, -44, -72), (11.5, 7), air)
        base.egg((side * 7, -50, -66), (5.5, 25, 17), air)  # nasal cavity
        base.rod((side * 6, -66, -62), (side * 6, -30, -64), (2.4, 2.4), 35.0)  # turbinates
        base.rod((side * 7, -66, -72), (side * 7, -30, -74), (3.0, 2.6), 35.0)
    base.egg((0, -22, -74), (12, 16, 16), air)  # nasopharynx
    base.rod((0, -76, -48), (0, -34, -60), (0.9, 0.9), bone * 0.6)
    low = region_around(base.grid, (-13, -66, -50), (13, -30, -30))
    if not is_empty(low):
        here = base.at.at(low)
        cut = np.abs((here.y + np.float32(0.5) * np.abs(here.x) + np.float32(0.3) * here.z) % 9.0 - 4.5)
        walls = np.maximum(soft_slab(np.abs(here.x), 0.6, base.grid.soft_mm), soft_slab(cut, 0.35, base.grid.soft_mm))
        blend_in(base.hu[low], walls * (np.abs(here.x) < 12) * float(rng.uniform(0.2, 0.8)), bone * 0.5)


def _sinuses(base: _Base, wide: float, rng: np.random.Generator) -> None:
    """Sphenoid sinus: air, or now and then fluid."""
    for side in (-1.0, 1.0):
        value = -980.0 if rng.random() < 0.85 else float(rng.uniform(5, 45))
        base.egg((side * 6, -17, -42), (5.5 * wide, 9.5 * wide, 8.5 * wide), value)


def _frontal_sinus(hu: FloatArray, grid: Grid, s: Surface, wide: float, rng: np.random.Generator) -> None:
    """Air between the tables of the forehead, in place: two unequal halves, scalloped, with a thin bent septum."""
    sizes, lean, bow = rng.uniform(0.6, 1.4, 2), float(rng.uniform(-5, 5)), float(rng.uniform(-0.2, 0.2))
    scallops = float(rng.uniform(6, 10))
    region = region_around(grid, (-40, -150, -40), (40, -40, 16))
    if is_empty(region):
        return
    at, layer = s.at.at(region), s.vault[region] + np.float32(0.52) * s.bone[region]
    waves = noise(rng, at.x.shape, grid.step_mm, scallops)
    x = at.x - np.float32(lean) - np.float32(bow) * (at.z + 20)
    size = np.where(x > 0, np.float32(sizes[0] * wide), np.float32(sizes[1] * wide))
    across = 1 - np.sqrt((x / (24 * size)) ** 2 + ((at.z + 13) / (20 * size)) ** 2)
    across = across * 12 + np.float32(2.2) * waves
    half = (np.float32(0.28) * s.bone[region] + np.float32(0.6)) * np.clip(across * np.float32(0.3) + 0.25, 0, 1)
    half *= 1 + np.float32(0.22) * np.clip(waves, -1.5, 1.5)
    front = np.abs(x) - np.float32(0.6)
    walled = at.z + 43 + at.y * np.float32(0.35)  # lower down there is no bone round it
    inside = np.minimum.reduce([half - np.abs(layer), front, across, walled, -50 - at.y])
    blend_in(hu[region], soft(inside, grid.soft_mm), -900.0)


def _mastoid(base: _Base, side: float, more: float, rng: np.random.Generator) -> None:
    """Air cells in the mastoid and the lateral petrous bone."""
    centre = (side * 57 * base.scale[0], 28 * base.scale[1], -42.0)
    region = rod_region(base.grid, centre, centre, 0.0, (13 + MOST_BEND_MM, 14 + MOST_BEND_MM, 22 + MOST_BEND_MM))
    if is_empty(region):
        return
    inside = ellipsoid(base.at.at(region), centre, (11, 12, 19))
    cells = noise(rng, inside.shape, base.grid.step_mm, 4.5)
    share = np.clip((cells - np.float32(0.9 - 0.6 * more)) * np.float32(1.2), 0, 1) * soft(inside, 4.0)
    blend_in(base.hu[region], share, -800.0)
