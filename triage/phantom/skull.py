"""Head outline, skull, skull base and face of the phantom: where the brain may be, and bone, air and fat around it."""

from dataclasses import dataclass

import numpy as np

from triage.phantom.fields import capsule, noise, smooth_least, smooth_step
from triage.phantom.grids import (
    Coordinates,
    Grid,
    Point,
    Region,
    coordinates,
    held,
    is_empty,
    region_around,
    slabs,
    with_rows,
)
from triage.phantom.profile import Head
from triage.records import FloatArray

AIR_HU = -1000.0
FAT_HU = -95.0
SKIN_HU = 55.0
MUSCLE_HU = 52.0
"""Densities of what surrounds the brain, besides bone."""
BASE_MM = -14.0
"""Below this z there may be skull base or face."""
SMOOTH_MM = 2.8
"""Surfaces are so smooth that rows closer together are interpolated."""
FADE_MM = 25.0
"""As far above that the skull base still counts, ever less."""
MOST_BEND_MM = 6.0
"""The skull base bends no further than this."""
FACE_MM = -34.0
"""Below this z the head is face in front and neck behind."""
AROUND_MM = 10.0
"""How far beyond the skin a head's region reaches; longer hair, ears and tubes go on in the whole grid."""
BESIDE_MM = 6.0
"""How far beyond the inner table the cavity's region reaches."""
FLOOR_RISE = 0.75
"""Share of the normal along z of the floor of the skull: slices cut orbital roofs flat, which then look like blood."""
FLAT_MM = 9.0
"""How far from the floor that counts, and how far below the vault the floor must lie to be what counts."""
COARSE = 4
"""A head's region is looked for in every fourth row and column."""
NOSE: tuple[Point, Point] = ((0, -80, -36), (0, -88, -64))
"""Axis of the average nose."""
NOSE_MM = (8, 15)
"""Its radii at both ends."""

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
    """Share of the surface normal along z, for partial volume at the vertex and on the floor of the skull."""
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


@dataclass(frozen=True, slots=True)
class Space:
    """A head in all of the grid: what hangs and lies on it may reach beyond the block its surfaces are known on."""

    site: Site
    grid: Grid
    """The whole."""
    block: Region
    """Where the head's block lies in it."""

    def reaching(self, reach_mm: float) -> Region:
        """The head's block, grown where less than so many mm beside the skin belong to it.

        Args:
            reach_mm: From the skin.

        Returns:
            Slices into arrays of the whole grid.
        """
        skin, parts = self.site.surface.skin, []
        for axis, (part, size, step) in enumerate(zip(self.block, self.grid.shape, self.grid.step_mm, strict=True)):
            low, high = (max(int(np.ceil((reach_mm + float(skin.take(end, axis).max())) / step)), 0) for end in (0, -1))
            parts.append(slice(max(part.start - low, 0), min(part.stop + high, size)))
        return (parts[0], parts[1], parts[2])

    def touches(self, region: Region) -> bool:
        """Whether a region has voxels of the head's block."""
        return all(a.start < b.stop and b.start < a.stop for a, b in zip(region, self.block, strict=True))

    def carried(self, values: FloatArray, region: Region) -> FloatArray:
        """What is known on the head's block, on a region that touches it: carried on at the slope it has there.

        Args:
            values: On the head's block.
            region: Slices into arrays of the whole grid.

        Returns:
            Of the shape of the region; a view where the block holds it.
        """
        inner, pads = [], []
        for part, block in zip(region, self.block, strict=True):
            low, high = max(part.start, block.start), min(part.stop, block.stop)
            inner.append(slice(low - block.start, high - block.start))
            pads.append((low - part.start, part.stop - high))
        known = values[tuple(inner)]
        return np.pad(known, pads, mode="reflect", reflect_type="odd") if np.any(pads) else known


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
    flat = smooth_step((s.depth - above) * np.float32(1 / FLAT_MM)) * np.clip(
        1 - np.abs(above) * np.float32(1 / FLAT_MM), 0, 1
    )
    np.maximum(s.rise, np.float32(FLOOR_RISE) * flat, out=s.rise)
    cavity = np.maximum(smooth_least(s.depth, above, 9.0), _canal(at))
    scale = head.radii_mm[0] / 67
    mirrored = Coordinates(np.abs(bent.x), bent.y, bent.z)
    wide = scale * head.petrous
    for start, end, radii in PETROUS if head.petrous else ():
        rod = capsule(mirrored, scaled(start, head), scaled(end, head), (radii[0] * wide, radii[1] * wide))
        cavity = smooth_least(cavity, -rod, 4.0)
    s.depth[:] = cavity
    lower = smooth_step((FACE_MM - at.z) / 30)
    s.skin[:] -= lower * np.clip(at.y - 20, 0, None) * np.float32(0.16)  # the neck is slimmer than the head
    s.skin[:] -= lower * np.clip(-at.y - 40, 0, None) * np.clip(np.abs(at.x) - 12, 0, None) * np.float32(0.006)
    nose = capsule(at, scaled(NOSE[0], head), scaled(NOSE[1], head), NOSE_MM)
    s.skin[:] = -smooth_least(-s.skin, -nose, 10.0)
