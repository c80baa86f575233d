"""Brain of the phantom: grey and white matter, ventricles, cisterns, dura, vessels and harmless calcifications."""

from dataclasses import dataclass

import numpy as np

from triage.phantom.fields import Lattice, blend_in, capsule, ellipsoid, lattice, noise, smooth_step, soft, soft_slab
from triage.phantom.grids import (
    Coordinates,
    Grid,
    Point,
    Region,
    coordinates,
    held,
    is_empty,
    region_around,
    region_in,
    rod_region,
    slabs,
)
from triage.phantom.parts import CAUDATE, FAR_MM, brain_scale, chambers, placed, spaces
from triage.phantom.profile import Head
from triage.phantom.skull import BESIDE_MM, SMOOTH_MM, Surface
from triage.phantom.specks import paint_arteries, paint_calcium
from triage.records import FloatArray

FALX_HU = 50.0
"""Of falx and tentorium, without calcium."""


@dataclass(frozen=True, slots=True)
class Deformation:
    """How a lesion moves the brain; all zero for none."""

    inward: FloatArray | float
    """(n, rows, columns): thickness in mm of what lies between inner table and brain."""
    shift_mm: float
    """Shift of the midline; positive towards the left (+x)."""
    centre: Point
    """From where tissue is pushed aside."""
    push_mm: float
    """Radius of the ball whose volume is pushed aside."""


STILL = Deformation(0.0, 0.0, (0.0, 0.0, 0.0), 0.0)
"""Nothing moves."""


@dataclass(frozen=True, slots=True)
class Brain:
    """Tissue shares of each voxel, 0..1, (n, rows, columns)."""

    inside: FloatArray
    """Cranial cavity."""
    csf: FloatArray
    """Sulci, fissures and cisterns."""
    ventricle: FloatArray
    dura: FloatArray
    """Falx, tentorium, sinuses: no lesion lies in it."""
    at: Coordinates
    """Coordinates in the undeformed brain."""

    def at_region(self, region: Region) -> "Brain":
        """Views of one region."""
        return Brain(
            self.inside[region], self.csf[region], self.ventricle[region], self.dura[region], self.at.at(region)
        )


def _scaled(change: Deformation, scale: float) -> Deformation:
    """More or less of a mass effect; the same where the scale is 1."""
    inward = change.inward if scale else 0.0
    if not isinstance(inward, float) and scale != 1:
        inward = (inward * np.float32(scale)).astype(np.float32, copy=False)
    return Deformation(inward, change.shift_mm * scale, change.centre, change.push_mm * scale)


def deformed(head: Head, grid: Grid, s: Surface, change: Deformation, rng: np.random.Generator) -> Coordinates:
    """Where in the undeformed brain each voxel's tissue comes from.

    Args:
        head: Parameters.
        grid: The voxels.
        s: Surfaces.
        change: Mass effect.
        rng: Source of chance for each brain's own shape.

    Returns:
        Coordinates in mm.
    """
    scale, every = brain_scale(head), grid.rows_within(SMOOTH_MM)
    few = grid.thinned(every, 1)
    rows = np.minimum(np.arange(few.shape[1]) * every, grid.shape[1] - 1)
    noises = [(noise(rng, few.shape, few.step_mm, 36), noise(rng, few.shape, few.step_mm, 13)) for _ in range(3)]
    at = coordinates(few)
    for part in slabs(few.shape):
        here = at.at(part)
        axes = zip((here.x, here.y, here.z), scale, noises, strict=True)
        own = [axis * np.float32(f) + np.float32(1.4) * wide[part] + np.float32(0.8) * narrow[part]
               for axis, f, (wide, narrow) in axes]  # fmt: skip
        if change.shift_mm or change.push_mm:
            depths = (field[part[0]].take(rows, axis=1) for field in (s.depth, s.vault))
            _displace(own, here, change, tuple(depths))
        at.x[part], at.y[part], at.z[part] = own
    return at.with_rows(every, grid.shape[1])


def _displace(axes: list[FloatArray], at: Coordinates, change: Deformation, depths: tuple[FloatArray, ...]) -> None:
    """Mass effect on coordinates x, y, z, in the list; depths below the inner table, and below the vault's."""
    depth, vault = depths
    if change.shift_mm:
        inner = smooth_step(vault / 30)
        falling = 1 / (1 + (at.y / 55) ** 2 + ((at.z - 8) / 45) ** 2)
        axes[0] -= np.float32(change.shift_mm) * inner * falling
    if change.push_mm:
        away = [axis - np.float32(c) for axis, c in zip(axes, change.centre, strict=True)]
        r2 = away[0] * away[0] + away[1] * away[1] + away[2] * away[2] + np.float32(1e-3)
        back = np.clip(1 - np.float32(0.5 * change.push_mm**2) / r2, 0.25, 1)
        back = 1 - (1 - back) * smooth_step(depth / 15)
        axes[:] = [np.float32(c) + a * back for a, c in zip(away, change.centre, strict=True)]


def _ventricles(head: Head, grid: Grid, at: Coordinates, chambers: FloatArray, out: FloatArray) -> None:
    """Lateral, third and fourth ventricles as shares, in place."""
    region = region_around(grid, (-58, -62, -60), (58, 80, 48))
    here, inside = at.at(region), chambers[region]
    septum = np.abs(here.x) - np.float32(0.5 * head.cavum_mm)
    inside = np.minimum(inside, np.abs(septum) - np.float32(0.4))
    if head.cavum_mm:
        cavum = np.minimum(-septum, ellipsoid(here, (0, -20, 10), (9, 20, 10)))
        inside = np.maximum(inside, cavum)
    third = np.minimum(np.float32(1.6 * head.ventricles) - np.abs(here.x), ellipsoid(here, (0, 1, -2), (12, 14, 11)))
    fourth = ellipsoid(here, (0, 34, -36), (6.5 * head.ventricles + 1.5, 5.5 * head.ventricles, 11))
    np.maximum(inside, np.maximum(third, fourth), out=inside)
    out[region] = soft(inside, grid.soft_mm)


def _cisterns(head: Head, piece: "_Piece", csf: FloatArray) -> None:
    """Basal cisterns and Sylvian fissures as shares, in place."""
    grid, a = piece.grid, head.atrophy
    wide = 1.0 + 2.2 * a
    region = region_around(grid, (-66, -60, -75), (66, 72, 28))
    here, uneven = piece.at.at(region), piece.uneven[region]
    magna = ellipsoid(here, (0, 56, -54), (10 + 4 * a, 9 + 3 * a, 10))
    share = soft(np.maximum(piece.spaces[region], magna), grid.soft_mm)
    for sign in (-1.0, 1.0):  # the insular cleft and its way out to the side
        half = 0.35 + 0.75 * wide * (1 + 0.15 * sign * head.asymmetry * 10)
        half *= np.clip(1 + np.float32(0.7) * uneven, 0.2, 2.2)
        x = here.x * np.float32(sign) + np.float32(1.2) * uneven
        curve = x - (41 - ((here.y + 6) / 12) ** 2)
        extent = soft(ellipsoid(here, (sign * 41, -7, 0), (30, 23, 15)), 4)
        cleft = soft_slab(np.abs(curve), half, grid.soft_mm) * extent
        bow = np.float32(0.014) * (x - 41) ** 2
        way = np.abs(here.y + 15 - bow - np.float32(0.9) * (here.z + 2))
        out = soft_slab(way, half, grid.soft_mm) * soft(x - 40, 3) * soft(14 - np.abs(here.z), 3)
        share = np.maximum(share, np.maximum(cleft, out))
    csf[region] = np.maximum(csf[region], share)
    _basal(head, piece, csf)


def _basal(head: Head, piece: "_Piece", csf: FloatArray) -> None:
    """Fluid that every age has round the brain stem, in place: above the sella, round the midbrain, before the pons."""
    grid, a = piece.grid, head.atrophy
    region = region_around(grid, (-30, -32, -70), (30, 44, 6))
    if is_empty(region):
        return
    at, uneven = piece.at.at(region), piece.uneven[region]
    y, z = at.y + 6, (at.z + 18) * np.float32(1 / (6.5 + 2 * a))
    r2 = at.x * at.x + y * y + np.float32(0.01)
    c = y / -np.sqrt(r2)  # cosine of the angle from straight ahead; five points, one of them there
    c2 = c * c
    wide = (8.5 + 2.5 * a) * (1 + np.float32(0.3) * c * ((16 * c2 - 20) * c2 + 5)) + uneven
    star = (1 - np.sqrt(r2 / (wide * wide) + z * z)) * np.float32(7)
    round_stem = np.sqrt((at.x / 17) ** 2 + ((at.y - 13) / 14) ** 2) + np.float32(0.07) * uneven
    half = (0.7 + 0.9 * a) * np.clip(0.9 + np.float32(0.55) * piece.leaves[region], 0.2, 1.8)
    sheet = soft_slab(np.abs(round_stem - 1) * np.float32(15), half, grid.soft_mm)
    sheet *= soft(7 - np.abs(at.z + 10 + np.float32(0.25) * np.abs(at.x)), 4) * soft(at.y - 4, 5)
    film = np.float32(7 + 3 * a) + uneven - piece.s.depth[region]  # on the clivus, whose depths are too large by half
    film = soft(film * np.float32(0.6), grid.soft_mm)
    film *= soft(15 - np.abs(at.x), 4) * soft(16 - at.y, 4) * soft(-22 - at.z, 4)
    share = soft(star, grid.soft_mm)
    csf[region] = np.maximum.reduce([csf[region], share, sheet, film])


def _cortex(
    head: Head, grid: Grid, at: Coordinates, sunk: FloatArray, fields: tuple[Lattice, Lattice]
) -> tuple[FloatArray, FloatArray]:
    """Shares of sulcal fluid and of grey matter within the outer 24 mm of the brain; flat arrays.

    Args:
        head: Parameters.
        grid: The voxels.
        at: Undeformed coordinates, flat.
        sunk: Depth below the brain's own surface, flat.
        fields: Random fields: folding, and how deep folds reach.

    Returns:
        CSF and grey shares, flat.
    """
    fold, reach = fields
    r = np.sqrt(at.x * at.x + at.y * at.y + at.z * at.z) + np.float32(1)
    outwards = (80 + 0.25 * (r - 80)) / r  # folds stand on the surface, so a column of depth sees one place
    slope = np.float32(1 / (1.41 * head.sulcus_mm))
    deeper = reach(at.x * outwards, at.y * outwards, at.z * outwards)
    far = np.float32(16 + 2 * head.atrophy) + 5 * deeper
    below = (at.z < -14) & (at.y > 10)  # the cerebellum's are finer and shallower
    far *= 1 - np.float32(0.35) * below
    left = np.clip(1 - sunk / np.maximum(far, 1), 0, 1)
    half = np.float32(0.45 + 1.5 * head.atrophy) * np.minimum(2 * left, 1) * np.clip(1 + 0.3 * deeper, 0.4, 1.7)
    normal = grid.matrix[:, 0] / grid.step_mm[0]
    sulcus, away = np.zeros_like(sunk), np.zeros_like(sunk)
    for part in (-0.27, 0.27):  # a slice is thick: it blurs folds that it cuts at a slant
        dx, dy, dz = (float(v) * part * grid.thickness_mm for v in normal)
        near = np.abs(fold((at.x + dx) * outwards, (at.y + dy) * outwards, (at.z + dz) * outwards)) / slope
        away += near * np.float32(0.5)  # about mm from the nearest fold
        sulcus += soft_slab(near, half, grid.soft_mm) * np.float32(0.5)
    sulcus *= left > 0
    film = np.float32(0.25 + 2.4 * head.atrophy) * np.clip(1 + 0.4 * deeper, 0.3, 2)
    sulcus = np.maximum(sulcus, soft(film - sunk, grid.soft_mm))
    ribbon = np.maximum(soft(half + 3 - away, grid.soft_mm) * soft(far + 2 - sunk, 5), soft(film + 3.4 - sunk, 2))
    return sulcus, ribbon


@dataclass(frozen=True, slots=True)
class _Piece:
    """A block of slices of the cavity and what is known of it before it is painted."""

    grid: Grid
    s: Surface
    at: Coordinates
    """Undeformed."""
    inward: FloatArray | float
    """As in the deformation."""
    leaves: FloatArray
    uneven: FloatArray
    tone: FloatArray
    """Random fields: cerebellar folia, width of fissures, density."""
    chambers: FloatArray
    spaces: FloatArray
    caudate: FloatArray
    """Signed distances in mm."""


def _deep_grey(grid: Grid, at: Coordinates, caudate: FloatArray, grey: FloatArray) -> None:
    """Caudate, lentiform nucleus and thalamus as shares, in place."""
    region = region_around(grid, (-50, -48, -30), (50, 44, 40))
    here = at.at(region)
    squat = Coordinates(np.abs(here.x), here.y, here.z)
    lens = ellipsoid(squat, (26, -4, 4), (7.5, 17, 12))
    thalamus = ellipsoid(squat, (10.5, 12, 5), (8.5, 14, 10))
    share = soft(np.maximum.reduce([caudate[region], lens, thalamus]), 4.5)
    insula = soft_slab(np.abs(squat.x - (37.5 - ((squat.y + 6) / 12) ** 2)), 2, 2.0)
    insula *= soft(ellipsoid(squat, (38, -7, 0), (30, 23, 15)), 4)
    grey[region] = np.maximum(grey[region], np.maximum(share, insula))


def paint_brain(
    hu: FloatArray, head: Head, grid: Grid, s: Surface, chance: tuple[np.random.Generator, Deformation]
) -> Brain:
    """Everything inside the cranial cavity, in place.

    Args:
        hu: (n, rows, columns).
        head: Parameters.
        grid: The voxels.
        s: Surfaces.
        chance: Source of chance, and the mass effect to draw the brain with.

    Returns:
        Tissue shares.
    """
    rng, change = chance
    change = _scaled(change, head.mass_effect)
    at = deformed(head, grid, s, change, rng)
    folds = lattice(rng, head.sulcus_mm, 96), lattice(rng, 9.0, 96)
    leaf_mm = (grid.step_mm[0], grid.step_mm[1] * 2.2, grid.step_mm[2])  # folia run from side to side
    fields = [noise(rng, grid.shape, leaf_mm, 7)] + [noise(rng, grid.shape, grid.step_mm, mm) for mm in (9, 22)]
    place = placed(head, grid, s, at)
    caudate = np.full(grid.shape, FAR_MM, np.float32)
    place.both(caudate, CAUDATE, 2.25)
    fields += [chambers(head, place), spaces(head, place), caudate]
    inside, csf, ventricle, dura = (np.zeros(grid.shape, np.float32) for _ in range(4))
    brain = Brain(inside, csf, ventricle, dura, at)
    for part in slabs(grid.shape):
        block = region_in(part, held(s.depth[part] > -BESIDE_MM, (0, 0, 0)))
        inward = change.inward if isinstance(change.inward, float) else change.inward[block]
        packed = (np.ascontiguousarray(field[block]) for field in fields)
        piece = _Piece(grid.cropped(block), s.within(block), at.at(block).packed(), inward, *packed)
        _paint_piece(hu[block], head, piece, brain.at_region(block), folds)
    paint_arteries(hu, head, grid, s, brain.inside)
    paint_calcium(hu, head, grid, at, rng)
    return brain


def _paint_piece(hu: FloatArray, head: Head, piece: _Piece, out: Brain, folds: tuple[Lattice, Lattice]) -> None:
    """One block of slices: brain, fluid and dura, and their shares, in place."""
    grid, s, at = piece.grid, piece.s, piece.at
    inside = np.clip(s.depth / (grid.soft_mm + s.rise * np.float32(0.8 * grid.thickness_mm)) + np.float32(0.5), 0, 1)
    grey, csf = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    leaf = _tentorium_extent(s)
    fissure, falx = _falx_extents(s)
    sunk = s.depth - np.asarray(piece.inward, np.float32)
    sunk = np.minimum(sunk, np.abs(at.x) + 60 * (1 - fissure))  # gyri also face each other across the midline
    closed = np.float32(1.5 + 2.6 * head.atrophy)  # folds end at the tentorium, but no film of fluid lies on it
    sunk = np.minimum(sunk, np.abs(s.tentorium) * np.float32(0.8) + closed + 60 * (1 - leaf))
    edge = np.flatnonzero((sunk < 26) & (s.depth > -2))
    flat = Coordinates(*(axis.ravel().take(edge) for axis in (at.x, at.y, at.z)))
    csf.ravel()[edge], grey.ravel()[edge] = _cortex(head, grid, flat, sunk.ravel().take(edge), folds)
    _deep_grey(grid, at, piece.caudate, grey)
    below = soft(-s.tentorium, 3) * soft(at.y - 12, 8)
    np.maximum(grey, below * np.clip(0.7 + 0.3 * piece.leaves, 0, 1.2), out=grey)
    gap = 0.5 + 1.6 * head.atrophy
    cut = soft_slab(np.abs(at.x), gap, grid.soft_mm) * fissure
    np.maximum(csf, cut, out=csf)
    _cisterns(head, piece, csf)
    _ventricles(head, grid, at, piece.chambers, out.ventricle)
    csf *= 1 - out.ventricle
    tissue = np.float32(head.white_hu) + grey * np.float32(head.grey_hu - head.white_hu)
    tissue += piece.tone * np.float32(0.7)
    tissue += (csf + out.ventricle) * (np.float32(head.csf_hu) - tissue)
    blend_in(hu, inside, tissue)
    out.inside[:] = inside
    out.csf[:] = csf * inside
    out.ventricle[:] *= inside
    out.dura[:] = _dura(hu, head, piece, inside, (falx, leaf))


def _falx_extents(s: Surface) -> tuple[FloatArray, FloatArray]:
    """Shares of the midline plane that the fissure round the falx and the falx itself fill."""
    y, z = s.at.y, s.at.z
    bound = soft(s.tentorium, 3.0) * soft(s.depth + 1, 2.0)
    bound *= np.maximum(soft(z + 20, 4.0) * (y < 0), y >= 0)
    y2, z2 = (y - 4) ** 2, (z - 2) ** 2
    extents = []
    for margin_mm in (3.0, 0.0):
        above_callosum = np.sqrt(y2 * np.float32((47 - margin_mm) ** -2) + z2 * np.float32((31 - margin_mm) ** -2))
        extents.append(soft((above_callosum - 1) * 30, 3.0) * bound)
    return extents[0], extents[1]


def _tentorium_extent(s: Surface) -> FloatArray:
    """Share of the tentorium's surface that is there: all but the notch and what lies before it."""
    notch = np.sqrt((s.at.x / 21) ** 2 + ((s.at.y - 8) / 26) ** 2)
    return soft((notch - 1) * 20, 3) * soft(s.at.y - 2, 4)


def _dura(
    hu: FloatArray, head: Head, piece: _Piece, inside: FloatArray, extents: tuple[FloatArray, FloatArray]
) -> FloatArray:
    """Falx, tentorium and venous sinuses, in place; their share is returned."""
    s, at, width = piece.s, piece.s.at, piece.grid.soft_mm
    thick = head.dura_mm / 2
    bent = at.x - np.float32(head.falx_bend_mm) * (1 - (at.y / 80) ** 2)
    falx = soft_slab(np.abs(bent), thick, width) * extents[0]
    leaf = soft_slab(np.abs(s.tentorium), thick * 0.8, width + 0.8) * extents[1]
    sheet = np.maximum(falx, leaf) * inside
    blend_in(hu, sheet, FALX_HU)
    crest = soft(4.2 - np.abs(at.x) - np.float32(0.7) * np.abs(s.depth - 1), width) * soft(at.z - 2 + at.y * 0.3, 6)
    side = soft(3.8 - np.float32(0.7) * np.abs(s.tentorium - 1) - np.abs(s.depth - 1) * np.float32(0.8), width)
    side *= soft(at.y - 28, 6)
    sinus = np.maximum(crest, side)
    region = rod_region(piece.grid, (0, 34, 3), (0, 82, -10), 2.4 + width)
    straight = soft(capsule(at.at(region), (0, 34, 3), (0, 82, -10), (1.6, 2.4)), width)
    np.maximum(sinus[region], straight, out=sinus[region])
    sinus *= inside
    blend_in(hu, sinus, head.blood_hu)
    dura: FloatArray = np.maximum(sheet, sinus)
    return dura
