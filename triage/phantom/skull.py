"""Head outline, skull, skull base and face of the phantom: where the brain may be, and bone, air and fat around it."""

from dataclasses import dataclass

import numpy as np

from triage.phantom.fields import (
    Coordinates,
    Grid,
    Point,
    Region,
    blend_in,
    capsule,
    coordinates,
    ellipsoid,
    held,
    is_empty,
    noise,
    region_around,
    region_in,
    rod_region,
    slabs,
    smooth_least,
    smooth_step,
    soft,
    soft_slab,
    with_rows,
)
from triage.phantom.profile import Head
from triage.records import FloatArray

AIR_HU = -1000.0
FAT_HU = -95.0
SKIN_HU = 55.0
MUSCLE_HU = 52.0
BASE_MM = -14.0
"""Below this z there may be skull base or face."""
LEAST_AIR = 0.1
"""Smaller air spaces are left out."""
SMOOTH_MM = 2.8
"""Surfaces are so smooth that rows closer together are interpolated."""
FADE_MM = 25.0
"""As far above that the skull base still counts, ever less."""
MOST_BEND_MM = 6.0
"""The skull base bends no further than this."""
FACE_MM = -34.0
"""Below this z the head is face in front and neck behind."""
AROUND_MM = 10.0
"""How far beyond the skin a head's region reaches: hair, tubes, and what the skull's shape adds at most."""
BESIDE_MM = 6.0
"""How far beyond the inner table the cavity's region reaches."""
COARSE = 4
"""A head's region is looked for in every fourth row and column."""
NOSE: tuple[Point, Point] = ((0, -80, -36), (0, -88, -64))
NOSE_MM = (8, 15)
"""Axis and radii of the average nose."""

PETROUS: tuple[tuple[Point, Point, tuple[float, float]], ...] = (
    ((11, 1, -37), (34, 14, -36), (5.0, 8.5)),
    ((34, 14, -36), (60, 27, -38), (8.5, 12.0)),
)
"""Axes and radii of the two parts of the left petrous pyramid."""


def scaled(point: Point, head: Head) -> Point:
    """A point of the average head's base in this one."""
    sideways = head.radii_mm[0] / 67
    return (point[0] * sideways, point[1] * head.radii_mm[1] / 84, point[2] * sideways)


@dataclass(frozen=True, slots=True)
class Surface:
    """Distances to the surfaces that everything else hangs on; all (n, rows, columns) in mm."""

    at: Coordinates
    depth: FloatArray
    """Below the inner table or the floor of the skull; positive inside the cranial cavity."""
    skin: FloatArray
    """Below the skin, positive inside the head."""
    vault: FloatArray
    """Below the inner table of the vault, prolonged downwards through face and neck."""
    rise: FloatArray
    """Share of the surface normal along z, for partial volume at the vertex."""
    radial: FloatArray
    """1 on the inner table of the vault, 0 in the middle."""
    tentorium: FloatArray
    """Height above the tentorium (or its prolongation)."""
    bone: FloatArray
    """Thickness of the vault's bone."""
    bent: Coordinates
    """Coordinates that the skull base follows: bent a little, since no two sides and no two heads are alike."""

    def at_region(self, region: Region) -> "Surface":
        """Views of one region."""
        return Surface(
            self.at.at(region), self.depth[region], self.skin[region], self.vault[region], self.rise[region],
            self.radial[region], self.tentorium[region], self.bone[region], self.bent.at(region),
        )  # fmt: skip

    def within(self, region: Region) -> "Surface":
        """One region; copies of what is worked on most, which are quicker than views."""
        s = self.at_region(region)
        packed = np.ascontiguousarray
        return Surface(
            s.at.packed(), packed(s.depth), s.skin, packed(s.vault), packed(s.rise), s.radial, packed(s.tentorium),
            s.bone, s.bent,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Site:
    """One head on its grid: what everything in it is built on."""

    head: Head
    grid: Grid
    surface: Surface

    def within(self, region: Region) -> "Site":
        """The same head on one region of the grid."""
        return Site(self.head, self.grid.cropped(region), self.surface.within(region))


def head_region(head: Head, grid: Grid) -> Region:
    """The block of a grid that holds the head and what lies on it; everything else is air or headrest.

    Args:
        head: Parameters.
        grid: The voxels.

    Returns:
        Slices, never empty.
    """
    here = coordinates(grid.thinned(COARSE, COARSE))
    most = 1.6 * head.skull_mm + head.scalp_mm + 3 * head.bumps_mm + AROUND_MM
    nose = capsule(here, scaled(NOSE[0], head), scaled(NOSE[1], head), NOSE_MM)
    near = (_vault(head, here)[1] > -most) | (nose > -AROUND_MM)
    k, *rest = held(near, (0, 1, 1))
    j, i = (slice(COARSE * a.start, min(COARSE * a.stop, size)) for a, size in zip(rest, grid.shape[1:], strict=True))
    return (k, j, i)


def cavity_region(s: Surface) -> Region:
    """The block of a grid that holds the cranial cavity and what blurs into it.

    Args:
        s: Surfaces.

    Returns:
        Slices; all of the grid where it holds no cavity.
    """
    return held(s.depth > -BESIDE_MM, (0, 0, 0))


def _vault(head: Head, at: Coordinates) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Radial share, depth below the vault and vertical share of its normal."""
    rx, ry, rz = head.radii_mm
    up = np.float32(0.5 / rz) * (1 + (at.z > 0).astype(np.float32))
    v = at.y * np.float32(1 / ry)
    narrow = 1 + np.float32(head.taper) * v - np.float32(0.05) * v * v  # heads are widest behind the ears
    u = (at.x + np.float32(head.skew) * at.y) / (np.float32(rx) * narrow)
    w = at.z * up
    u2, v2, w2 = u * u, v * v, w * w
    flat2 = np.sqrt(u2 * u2 + v2 * v2 + np.float32(head.roundness) * u2 * v2)  # 2: an ellipse; less: a rounded box
    q = np.sqrt(np.sqrt(flat2 * flat2 + w2 * w2 + np.float32(1.5) * flat2 * w2))
    q += np.float32(1e-4)
    gx, gy, gz = u * np.float32(1 / rx), v * np.float32(1 / ry), w * up
    slope = np.sqrt(gx * gx + gy * gy + gz * gz) / q + np.float32(1e-4)
    return q, (1 - q) / slope, np.abs(gz) / (slope * q)


def _floor(head: Head, at: Coordinates) -> FloatArray:
    """Height of the floor of the cranial cavity: anterior, middle and posterior fossa, clivus between."""
    scale = np.float32(head.radii_mm[0] / 67)
    x, y = np.abs(at.x) / scale, at.y * np.float32(84 / head.radii_mm[1])
    roof = 1 / (1 + ((x - 28) / 15) ** 2)
    anterior = -29 + 9 * roof
    side = smooth_step((x - 9) / 13)
    middle = -25 - 21 * side + np.float32(0.0040) * np.clip(x - 36, 0, None) ** 2
    posterior = -64 + 20 * ((x / 46) ** 2 + ((y - 40) / 44) ** 2)
    clivus = -24 - np.float32(1.9) * np.clip(y + 6, 0, 22)
    hole = smooth_step((15 - x) / 6) * smooth_step((30 - y) / 8)
    posterior = posterior + hole * (np.maximum(clivus, -66) - posterior)
    wing = smooth_step((y + 24 + np.float32(0.28) * x) / 9 + 0.5)
    ridge = smooth_step((y + 6 - np.float32(0.56) * x) / 9 + 0.5)
    behind = middle + ridge * (posterior - middle)
    floor: FloatArray = (anterior + wing * (behind - anterior)) * scale
    return floor


def _canal(at: Coordinates) -> FloatArray:
    """Depth inside the foramen magnum and spinal canal."""
    wide = np.sqrt((at.x / 13) ** 2 + ((at.y - 21) / 15) ** 2)
    inside: FloatArray = np.minimum((1 - wide) * 13, -52 - at.z)
    return inside


def surface(head: Head, grid: Grid, at: Coordinates, rng: np.random.Generator) -> Surface:
    """All reference surfaces of one head.

    Args:
        head: Its parameters.
        grid: The voxels.
        at: Their coordinates.
        rng: Source of chance for the irregularity of the surfaces.

    Returns:
        The distances.
    """
    every = grid.rows_within(SMOOTH_MM)
    few = grid.thinned(every, 1)
    bumps, uneven = noise(rng, few.shape, few.step_mm, 55), noise(rng, few.shape, few.step_mm, 38)
    bent = Coordinates(*(noise(rng, few.shape, few.step_mm, 30) for _ in range(3)))
    depth, skin, rise, radial, tentorium = (np.empty(few.shape, np.float32) for _ in range(5))
    coarse = Surface(coordinates(few), depth, skin, bumps, rise, radial, tentorium, uneven, bent)
    for part in slabs(few.shape):
        _shape(head, few.cropped(part), coarse.at_region(part))
    whole = [
        with_rows(values, every, grid.shape[1]) for values in (depth, skin, bumps, rise, radial, tentorium, uneven)
    ]
    depth, skin, bumps, rise, radial, tentorium, uneven = whole
    return Surface(at, depth, skin, bumps, rise, radial, tentorium, uneven, bent.with_rows(every, grid.shape[1]))


def _shape(head: Head, grid: Grid, s: Surface) -> None:
    """Compute all distances of a block of slices, in place; `vault`, `bone` and `bent` hold noise before."""
    at = s.at
    s.radial[:], vault, s.rise[:] = _vault(head, at)
    s.vault[:] = vault + s.vault * np.float32(head.bumps_mm)
    s.depth[:] = s.vault
    bone = np.float32(head.skull_mm) * (1 + np.float32(0.16) * s.bone)
    bone += np.float32(0.35 * head.skull_mm) * smooth_step((np.abs(at.y) - 50) / 25)  # forehead and occiput are thicker
    np.maximum(bone, np.float32(2), out=s.bone)
    s.skin[:] = s.vault + s.bone + np.float32(head.scalp_mm)
    incline = np.float32(0.42) * np.abs(at.x) + np.float32(0.26) * np.clip(at.y - 22, 0, None)
    s.tentorium[:] = at.z - (4 - incline)
    _bend(head, s)
    low = region_around(grid, (-120, -140, -400), (120, 140, BASE_MM + FADE_MM))
    if not is_empty(low):
        _shape_base(head, s.at_region(low))


def _bend(head: Head, s: Surface) -> None:
    """Turn noise into the coordinates that the skull base follows: bent below BASE_MM only, and less towards it."""
    fade = smooth_step((BASE_MM - s.at.z) / 10) if float(s.at.z.min()) < BASE_MM else np.float32(0)
    for bent, axis in ((s.bent.x, s.at.x), (s.bent.y, s.at.y), (s.bent.z, s.at.z)):
        if not np.any(fade):
            bent[:] = axis
            continue
        bent *= np.float32(head.bend_mm)
        np.clip(bent, -MOST_BEND_MM, MOST_BEND_MM, out=bent)
        bent *= fade
        bent += axis


def _shape_base(head: Head, s: Surface) -> None:
    """Floor of the cavity, canal, petrous ridges, neck, face and nose, in place."""
    at, bent = s.at, s.bent
    above = (at.z - _floor(head, bent)) * np.float32(0.8)
    above += 3 * np.clip(at.z - BASE_MM, 0, None)  # in the middle of the brain the vault is what counts
    cavity = np.maximum(smooth_least(s.depth, above, 9.0), _canal(at))
    scale = head.radii_mm[0] / 67
    mirrored = Coordinates(np.abs(bent.x), bent.y, bent.z)
    for start, end, radii in PETROUS:
        rod = capsule(mirrored, scaled(start, head), scaled(end, head), (radii[0] * scale, radii[1] * scale))
        cavity = smooth_least(cavity, -rod, 4.0)
    s.depth[:] = cavity
    lower = smooth_step((FACE_MM - at.z) / 30)
    s.skin[:] -= lower * np.clip(at.y - 20, 0, None) * np.float32(0.16)  # the neck is slimmer than the head
    s.skin[:] -= lower * np.clip(-at.y - 40, 0, None) * np.clip(np.abs(at.x) - 12, 0, None) * np.float32(0.006)
    nose = capsule(at, scaled(NOSE[0], head), scaled(NOSE[1], head), NOSE_MM)
    s.skin[:] = -smooth_least(-s.skin, -nose, 10.0)


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
        region = rod_region(self.grid, _point(a), _point(b), reach, (MOST_BEND_MM, MOST_BEND_MM, MOST_BEND_MM))
        if is_empty(region):
            return
        here = self.at.at(region)
        if shape == "rod":
            inside = capsule(here, _point(a), _point(b), (r[0], r[1]))
        else:
            inside = ellipsoid(here, _point(a), _point(r))
        blend_in(self.hu[region], soft(inside, self.grid.soft_mm), value)

    def egg(self, centre: Point, radii: Point, value: float) -> None:
        """Paint one ellipsoid."""
        self.lay("egg", (centre, centre), radii, value)

    def rod(self, start: Point, end: Point, radii: tuple[float, float], value: float) -> None:
        """Paint one tapering rod."""
        self.lay("rod", (start, end), (*radii, 0.0), value)


def _point(values: tuple[float, ...]) -> Point:
    x, y, z = values
    return (x, y, z)


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
        _orbit(base, side)
    sinus, forehead, *mastoids = (float(v) * head.air for v in rng.uniform(0.4, 1.1, 4))
    _nose(base, rng)
    if sinus > LEAST_AIR:
        _sinuses(base, sinus, rng)
    if forehead > LEAST_AIR:
        _frontal_sinus(hu, grid, s, forehead)
    for side, air in zip((-1.0, 1.0), mastoids, strict=True):
        if air > LEAST_AIR:
            _mastoid(base, side, air, rng)


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
    bone = base.bone_hu
    dense = bone * 1.15
    for start, end, radii in PETROUS:
        a, b = ((side * p[0], p[1], p[2]) for p in (start, end))
        base.rod(a, b, radii, dense)
    base.egg((side * 62, 32, -52), (9, 13, 17), bone * 0.9)  # mastoid process
    base.egg((side * 62, 12, -50), (10, 2.2, 2.2), -850.0)  # ear canal
    base.rod((side * 14, -27, -30), (side * 50, -38, -30), (2.2, 2.6), bone)  # sphenoid wing
    base.rod((side * 50, -38, -30), (side * 53, -56, -36), (3.0, 3.0), bone)
    base.rod((side * 53, -56, -36), (side * 54, -62, -52), (3.5, 4.0), bone)  # cheek
    base.rod((side * 54, -60, -54), (side * 66, -8, -54), (2.5, 2.5), bone)  # zygomatic arch
    base.rod((side * 54, 2, -52), (side * 49, -6, -90), (6.0, 5.5), bone)  # jaw
    base.rod((side * 19, 12, -66), (side * 22, 16, -90), (8.0, 9.0), bone * 0.8)  # condyle, atlas
    base.rod((side * 12, -22, -56), (side * 13, -22, -90), (2.0, 2.0), bone)  # pterygoid
    base.egg((side * 15, 6, -35), (1.3, 1.3, 3.0), 40.0)  # carotid canal
    base.egg((side * 25, 9, -36), (4.0, 1.6, 1.8), 15.0)  # inner ear canal
    base.egg((side * 41, 16, -37), (2.6, 2.4, 3.0), -500.0)  # middle ear


def _orbit(base: _Base, side: float) -> None:
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
    if all(part.stop > part.start for part in low):
        here = base.at.at(low)
        cut = np.abs((here.y + np.float32(0.5) * np.abs(here.x) + np.float32(0.3) * here.z) % 9.0 - 4.5)
        walls = np.maximum(soft_slab(np.abs(here.x), 0.6, base.grid.soft_mm), soft_slab(cut, 0.35, base.grid.soft_mm))
        blend_in(base.hu[low], walls * (np.abs(here.x) < 12) * float(rng.uniform(0.2, 0.8)), bone * 0.5)


def _sinuses(base: _Base, wide: float, rng: np.random.Generator) -> None:
    """Sphenoid sinus: air, or now and then fluid."""
    for side in (-1.0, 1.0):
        value = -980.0 if rng.random() < 0.85 else float(rng.uniform(5, 45))
        base.egg((side * 6, -17, -42), (5.5 * wide, 9.5 * wide, 8.5 * wide), value)


def _frontal_sinus(hu: FloatArray, grid: Grid, s: Surface, wide: float) -> None:
    """Air between the tables of the forehead, in place."""
    region = region_around(grid, (-40, -150, -40), (40, -40, 16))
    if any(part.stop <= part.start for part in region):
        return
    at, layer = s.at.at(region), s.vault[region] + np.float32(0.52) * s.bone[region]
    half = np.float32(0.28) * s.bone[region] + np.float32(0.6)
    front = np.abs(at.x) - np.float32(1)  # a septum in the midline
    across = 1 - np.sqrt((at.x / (24 * wide)) ** 2 + ((at.z + 14) / (18 * wide)) ** 2)
    inside = np.minimum.reduce([half - np.abs(layer), front, across * 12, -50 - at.y])
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
