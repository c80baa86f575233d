"""A real head as the lesion code sees it: where its cavity, its fluid and its axes lie; paints and reads nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from triage.phantom.anatomy import Brain
from triage.phantom.cavity import LEAST_SLICES, depth_below, find_cavity, within
from triage.phantom.fields import capsule, soft
from triage.phantom.grids import BoolArray, Coordinates, Grid, coordinates
from triage.phantom.profile import USUAL, Head, draw_head
from triage.phantom.skull import Site, Surface
from triage.records import FloatArray

SULCUS_MM2 = 14
"""A sulcus seen in cross section is no smaller."""

USUAL_MM = (67.0, 84.0, 76.0)
"""Half axes of the average cavity, of which the coordinates of the anatomy are stated."""

WORK_MM = 1.0
STEP_MM = 3.0
"""The working grid is no coarser across the slices."""

MARGIN_MM = 12.0

NOISE_LAGS = (1, 2)
"""Pixels between the points of second differences."""


@dataclass(frozen=True, slots=True)
class Frame:
    """How the head lies in its slices: a turn in the plane and a drift from slice to slice (gantry tilt)."""

    positions_mm: npt.NDArray[np.float64]
    """(n,) along the normal."""
    spacing_mm: tuple[float, float]
    middle_mm: npt.NDArray[np.float64]
    """(n, 2): row and column of the head's axis in mm from the first pixel."""
    turn: tuple[float, float]
    """Cosine and sine of the turn from columns to the head's x."""
    level_mm: float
    """Position of z = 0."""

    def pixels(self, index: int, x: FloatArray, y: FloatArray) -> FloatArray:
        """Row and column in one slice of points of the head.

        Args:
            index: Slice.
            x: mm to the left.
            y: mm to the back.

        Returns:
            (2, ...) as map_coordinates takes it.
        """
        cos, sin = self.turn
        row, column = self.middle_mm[index]
        return np.stack([
            (np.float32(row) + np.float32(sin) * x + np.float32(cos) * y) / np.float32(self.spacing_mm[0]),
            (np.float32(column) + np.float32(cos) * x - np.float32(sin) * y) / np.float32(self.spacing_mm[1]),
        ])  # fmt: skip

    def plane(self, index: int, shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
        """Coordinates x and y in mm of every pixel of one slice.

        Args:
            index: Slice.
            shape: Rows, columns.

        Returns:
            Two (rows, columns) arrays.
        """
        cos, sin = (np.float32(v) for v in self.turn)
        row, column = self.middle_mm[index]
        v = (np.arange(shape[0]) * self.spacing_mm[0] - row).astype(np.float32)[:, None]
        u = (np.arange(shape[1]) * self.spacing_mm[1] - column).astype(np.float32)[None, :]
        return cos * u + sin * v, cos * v - sin * u


@dataclass(frozen=True, slots=True)
class Recipient:
    """A real head that bleeds can be painted into."""

    hu: FloatArray
    """(n, rows, columns), caudal to cranial, as given."""
    frame: Frame
    site: Site
    brain: Brain
    nearest: npt.NDArray[np.int64]
    """(m,): the real slice that each slice of the working grid stands for."""
    cell_mm: npt.NDArray[np.float64]
    """(n,): height of the head that each real slice stands for; 0 outside the working grid."""
    noise_hu: FloatArray
    """(n,): standard deviation of each slice's noise."""
    grain_mm: float
    """Blur of white noise that looks like it."""
    brain_hu: float
    csf_hu: float

    @property
    def pixel_mm2(self) -> float:
        """Area of a pixel."""
        return self.frame.spacing_mm[0] * self.frame.spacing_mm[1]


def recipient(
    hu: FloatArray,
    positions_mm: Sequence[float],
    spacing_mm: tuple[float, float],
    thickness_mm: float,
) -> Recipient:
    """Measure a real head.

    Args:
        hu: (n, rows, columns) HU, caudal to cranial; columns run to the patient's left, rows to the back.
        positions_mm: (n,) of each slice along the normal, ascending; steps may differ.
        spacing_mm: Between rows, between columns.
        thickness_mm: Of a slice.

    Returns:
        What `implant` needs.

    Raises:
        ValueError: No skull, no cavity, or too few slices of it.
    """
    positions = np.asarray(positions_mm, np.float64)
    if len(hu) < LEAST_SLICES or len(positions) != len(hu):
        raise ValueError(f"{len(hu)} slices with {len(positions)} positions: at least {LEAST_SLICES} are needed")
    if (np.diff(positions) <= 0).any():
        raise ValueError("the positions of the slices do not ascend")
    hu = np.asarray(hu, np.float32)
    cell = _cells(positions)
    small, factor = _reduced(hu, spacing_mm)
    step = (spacing_mm[0] * factor, spacing_mm[1] * factor)
    cavity = find_cavity(small, step, cell)
    frame, half = _frame(small, cavity, positions, (spacing_mm, factor))
    radii, frame = _radii(cavity, frame, half)
    head = _head(radii)
    grid, nearest = _grid(frame, cavity, cell, thickness_mm, radii)
    at = coordinates(grid)
    work, inside = _worked(hu, cavity, frame, (at, nearest), factor)
    depth = depth_below(inside, grid, nearest, frame.positions_mm - frame.level_mm)
    depth = np.where(inside, np.maximum(depth, np.float32(0.3)), np.minimum(depth, np.float32(-0.3)))
    incline = np.float32(0.42) * np.abs(at.x) + np.float32(0.26) * np.clip(at.y - 22, 0, None)
    skin = depth + np.float32(head.skull_mm + head.scalp_mm)
    radial = np.clip(1 - depth * np.float32(1 / radii[0]), 0, 2)
    tentorium = at.z - (4 - incline)
    level = np.zeros_like(depth)
    surface = Surface(at=at, depth=depth, skin=skin, vault=depth, rise=level, radial=radial, tentorium=tentorium,
                      bone=np.full_like(depth, head.skull_mm), bent=at)  # fmt: skip
    site = Site(head, grid, surface)
    brain, brain_hu, csf_hu = _brain(work, inside, site)
    used = np.zeros_like(cell)
    used[np.unique(nearest)] = cell[np.unique(nearest)]
    noise_hu, grain_mm = _noise(work, site, brain, (hu, frame, nearest))
    return Recipient(hu, frame, site, brain, nearest, used, noise_hu, grain_mm, brain_hu, csf_hu)


def _cells(positions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Height that each slice stands for: half way to its neighbours."""
    edges = (positions[1:] + positions[:-1]) / 2
    first, last = 2 * positions[0] - edges[0], 2 * positions[-1] - edges[-1]
    return np.diff(np.concatenate([[first], edges, [last]]))


def _reduced(hu: FloatArray, spacing_mm: tuple[float, float]) -> tuple[FloatArray, int]:
    """Means over blocks of pixels about a millimetre wide, and the blocks' side in pixels."""
    factor = max(int(WORK_MM / max(spacing_mm) + 0.1), 1)
    n, rows, columns = (hu.shape[0], hu.shape[1] // factor, hu.shape[2] // factor)
    blocks = hu[:, : rows * factor, : columns * factor].reshape(n, rows, factor, columns, factor)
    return blocks.mean(axis=(2, 4), dtype=np.float32), factor


def _frame(
    hu: FloatArray,
    cavity: BoolArray,
    positions: npt.NDArray[np.float64],
    pixel: tuple[tuple[float, float], int],
) -> tuple[Frame, tuple[float, float]]:
    """Axis of the head through its slices and its turn in their plane, from the upper half of the cavity."""
    spacing, factor = pixel
    step = np.array(spacing) * factor
    area = cavity.sum(axis=(1, 2))
    shown = np.flatnonzero(area > 0.25 * area.max())
    upper = shown[positions[shown] > positions[shown[-1]] - 75]
    middles, halves = [], []
    for k in upper:
        ends = [np.flatnonzero(cavity[k].any(axis=1 - axis))[[0, -1]] for axis in (0, 1)]
        middles.append([(e.sum() / 2 + 0.5) * s - 0.5 * p for e, s, p in zip(ends, step, spacing, strict=True)])
        halves.append([(e[1] - e[0] + 1) / 2 * s for e, s in zip(ends, step, strict=True)])
    z = positions[upper] - positions[upper].mean()
    spots = np.array(middles)
    slope = (z[:, None] * spots).sum(axis=0) / max(float((z * z).sum()), 1e-6)
    middle = spots.mean(axis=0) + (positions - positions[upper].mean())[:, None] * slope
    angle, beside = _turn(hu, (step[0], step[1]), upper, middle)
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    middle = middle + np.array([sin * beside, cos * beside])
    half = np.max(np.array(halves), axis=0)
    return Frame(positions, spacing, middle, (cos, sin), 0.0), (float(half[1]), float(half[0]))


def _turn(
    hu: FloatArray, step: tuple[float, float], upper: npt.NDArray[np.int64], middle: npt.NDArray[np.float64]
) -> tuple[float, float]:
    """Angle (radians) and shift along x (mm) at which the head mirrors itself best."""
    x = np.arange(-84, 85, 3, dtype=np.float32)[None, :]
    y = np.arange(-96, 97, 3, dtype=np.float32)[:, None]
    x, y = (np.ascontiguousarray(a) for a in np.broadcast_arrays(x, y))
    soft_hu = ndimage.gaussian_filter(np.clip(hu[upper], -20, 120), (0, 1.5 / step[0], 1.5 / step[1]))
    best = (np.inf, 0.0, 0.0)
    for degrees in np.arange(-20.0, 20.5, 1.0):
        frame = Frame(np.zeros(len(upper)), step, middle[upper], _unit(float(degrees)), 0.0)
        planes = np.stack([ndimage.map_coordinates(plane, frame.pixels(i, x, y), order=1, mode="nearest")
                           for i, plane in enumerate(soft_hu)])  # fmt: skip
        for shift in range(-3, 4):  # twice the shift of the plane of symmetry, in steps of 3 mm
            moved = np.roll(planes[:, :, ::-1], shift, axis=2)[:, :, 4:-4]
            cost = float(np.abs(planes[:, :, 4:-4] - moved).mean(dtype=np.float64))
            if cost < best[0]:
                best = (cost, float(np.deg2rad(degrees)), shift * 1.5)
    return best[1], best[2]


def _unit(degrees: float) -> tuple[float, float]:
    return float(np.cos(np.deg2rad(degrees))), float(np.sin(np.deg2rad(degrees)))


def _radii(cavity: BoolArray, frame: Frame, half: tuple[float, float]) -> tuple[tuple[float, float, float], Frame]:
    """Half axes of the cavity; the level of z = 0 follows from its top."""
    rx, ry = half
    area = cavity.sum(axis=(1, 2))
    last = int(np.flatnonzero(area)[-1])
    positions = frame.positions_mm
    gap = positions[last] - positions[last - 1] if last else 1.0
    beyond = gap * area[last] / max(float(area[last - 1] - area[last]), 0.2 * float(area[last]) + 1)
    top = positions[last] + min(beyond, gap)
    size = float(np.sqrt(rx * ry / (USUAL_MM[0] * USUAL_MM[1])))
    rz = USUAL_MM[2] * float(np.clip(size, 0.8, 1.2))
    return (rx, ry, rz), Frame(positions, frame.spacing_mm, frame.middle_mm, frame.turn, float(top - rz))


def _head(radii: tuple[float, float, float]) -> Head:
    """A plausible head with these half axes."""
    drawn = draw_head(np.random.Generator(np.random.PCG64(0)), USUAL)
    values = {name: getattr(drawn, name) for name in Head.__slots__}
    values.update(radii_mm=radii, skew=0.0, turn_deg=(0.0, 0.0, 0.0), off_centre_mm=(0.0, 0.0), falx_bend_mm=0.0)
    return Head(**values)


def _grid(
    frame: Frame,
    cavity: BoolArray,
    cell: npt.NDArray[np.float64],
    thickness_mm: float,
    radii: tuple[float, float, float],
) -> tuple[Grid, npt.NDArray[np.int64]]:
    """Even voxels along the head's axes round the cavity, and the real slice nearest to each of their slices."""
    shown = np.flatnonzero(cavity.any(axis=(1, 2)))
    low = frame.positions_mm[shown[0]] - cell[shown[0]] / 2 - frame.level_mm
    high = frame.positions_mm[shown[-1]] + cell[shown[-1]] / 2 - frame.level_mm
    least = max(float(cell[shown].min()), 1.5)
    step = least / np.ceil(least / STEP_MM)
    n = max(round((high - low) / step), 1)
    step = (high - low) / n
    wide, long = (2 * int(np.ceil((r + MARGIN_MM) / WORK_MM)) + 1 for r in radii[:2])
    matrix = np.array([[0, 0, WORK_MM], [0, WORK_MM, 0], [step, 0, 0]])
    origin = np.array([0.0, 0.0, (low + high) / 2])
    grid = Grid((n, long, wide), (step, WORK_MM, WORK_MM), max(thickness_mm, step), matrix, origin)
    z = low + (np.arange(n) + 0.5) * step + frame.level_mm
    nearest = np.abs(z[:, None] - frame.positions_mm[None, :]).argmin(axis=1)
    return grid, nearest


def _worked(
    hu: FloatArray,
    cavity: BoolArray,
    frame: Frame,
    where: tuple[Coordinates, npt.NDArray[np.int64]],
    factor: int,
) -> tuple[FloatArray, BoolArray]:
    """HU, smoothed to a millimetre, and cavity on the working grid; each slice takes the nearest real one."""
    at, nearest = where
    sigma = [0.4 * WORK_MM / s for s in frame.spacing_mm]
    out = np.empty(at.x.shape, np.float32)
    inside = np.empty(at.x.shape, np.bool_)
    made: dict[int, tuple[FloatArray, BoolArray]] = {}
    for k, index in enumerate(nearest):
        if int(index) not in made:
            pixels = frame.pixels(int(index), at.x[k], at.y[k])
            plane = ndimage.gaussian_filter(hu[index], sigma)
            blocks = (pixels + np.float32(0.5)) / factor - np.float32(0.5)
            share = ndimage.map_coordinates(cavity[index].astype(np.float32), blocks, order=1)
            made[int(index)] = (ndimage.map_coordinates(plane, pixels, order=1, mode="nearest"), share > 0.5)
        out[k], inside[k] = made[int(index)]
    return out, inside


def _central(at: Coordinates) -> FloatArray:
    """Signed distance to where ventricles may be, in the average head; positive inside."""
    squat = Coordinates(np.abs(at.x), at.y, at.z)
    rods = (((6, -42, 2), (8, -8, 14), 15), ((8, -8, 14), (20, 34, 16), 15), ((20, 34, 12), (22, 42, 9), 6),
            ((22, 36, 4), (30, 8, -10), 8), ((0, -8, -6), (0, 14, 0), 7), ((0, 33, -16), (0, 36, -44), 9))  # fmt: skip
    inside: FloatArray = np.maximum.reduce([capsule(squat, a, b, (float(r), float(r))) for a, b, r in rods])
    return inside


def _brain(work: FloatArray, inside: BoolArray, site: Site) -> tuple[Brain, float, float]:
    """Fluid as the real voxels show it; HU of brain and of fluid."""
    s, grid = site.surface, site.grid
    deep = inside & (s.depth > 6)
    values = work[deep & (work > 0) & (work < 60)]
    if values.size == 0:
        raise ValueError("no cavity: nothing in it looks like brain")
    tissue = float(np.median(values))
    fluid_hu = float(np.clip(np.percentile(values, 2), 0, tissue - 18))
    edge = tissue - 6.0
    smooth = ndimage.gaussian_filter(work, (0, 0.6, 0.6))
    fluid = np.clip((edge - smooth) / np.float32(edge - fluid_hu), 0, 1) * inside * (smooth > -25)
    scale = [np.float32(u / r) for u, r in zip(USUAL_MM, site.head.radii_mm, strict=True)]
    at = Coordinates(s.at.x * scale[0], s.at.y * scale[1], s.at.z * scale[2])
    wet = fluid > 0.5
    central = _central(at)
    dark = ndimage.gaussian_filter(work, (0, 1.2, 1.2)) < np.float32(fluid_hu + 0.32 * (tissue - fluid_hu))
    names, count = ndimage.label(dark & (central > 0) & (s.depth > 12))
    sizes = np.bincount(names.ravel(), minlength=count + 1) * grid.voxel_ml
    sizes[0] = 0
    large = sizes >= 0.3
    room = ndimage.binary_dilation(large[names], iterations=2, structure=np.ones((1, 3, 3)))
    ventricle = fluid * room
    broad = within(within(wet & ~room, -4.0, (WORK_MM, WORK_MM)), 6.0, (WORK_MM, WORK_MM))
    basal = (at.z < 2) & (at.z > -32) & (np.abs(at.x) < 24) & (at.y > -36) & (at.y < 34)
    scar = broad & ~basal & (s.depth > 3)  # wide and dark but neither sulcus nor cistern: an old infarct
    csf = np.maximum(fluid * ((s.depth < 10) | basal), _sulci(smooth, s, inside, fluid_hu)) * (1 - room) * ~scar
    csf *= soft(s.depth - np.float32(0.5), 1.5)
    share = soft(s.depth, grid.soft_mm) * inside
    nothing = np.zeros_like(share)
    return Brain(share, csf.astype(np.float32), ventricle.astype(np.float32), nothing, at), tissue, fluid_hu


def _sulci(hu: FloatArray, s: Surface, inside: BoolArray, fluid_hu: float) -> FloatArray:
    """Share of fluid where the outer brain is darker than what surrounds it: sulci that fill no voxel."""
    brain = (inside & (hu > 0) & (hu < 60) & (s.depth > 1)).astype(np.float32)
    sums = [ndimage.gaussian_filter(a, (0, 5.0, 5.0)) for a in (hu * brain, brain)]
    around = sums[0] / np.maximum(sums[1], np.float32(0.05))
    below = around - np.float32(4.5) - hu
    share: FloatArray = np.clip(below / np.maximum(0.7 * (around - fluid_hu), 8), 0, 1).astype(np.float32)
    share *= soft(26 - s.depth, 4.0) * inside
    for plane in share:  # grains of noise
        names, _ = ndimage.label(plane > 0.25)
        sizes = np.bincount(names.ravel())
        plane *= (sizes >= SULCUS_MM2)[names] & (names > 0)
    return share


def _noise(
    work: FloatArray, site: Site, brain: Brain, real: tuple[FloatArray, Frame, npt.NDArray[np.int64]]
) -> tuple[FloatArray, float]:
    """Noise of each slice in even tissue (HU), and the blur of white noise that would look like it (mm).

    Second differences along rows see neither brightness nor slopes; at two distances they tell strength from grain.
    """
    hu, frame, nearest = real
    spreads = np.full((len(hu), 2), np.nan)
    for index in np.unique(nearest):
        k = int(np.flatnonzero(nearest == index)[0])
        calm = (site.surface.depth[k] > 8) & (brain.csf[k] + brain.ventricle[k] < 0.1) & (np.abs(work[k] - 28) < 18)
        x, y = frame.plane(int(index), (hu.shape[1], hu.shape[2]))
        where = np.stack([y + (site.grid.shape[1] - 1) / 2, x + (site.grid.shape[2] - 1) / 2])
        here = ndimage.map_coordinates(calm.astype(np.float32), where, order=1) > 0.99
        for i, lag in enumerate(NOISE_LAGS):
            bend = (hu[index, :, : -2 * lag] - 2 * hu[index, :, lag:-lag] + hu[index, :, 2 * lag :])[
                here[:, lag:-lag] & here[:, : -2 * lag] & here[:, 2 * lag :]
            ]
            if bend.size >= 200:
                most = 6 * float(np.median(np.abs(bend))) + 1
                spreads[index, i] = float(bend[np.abs(bend) < most].std(dtype=np.float64)) / 6**0.5
    if not np.isfinite(spreads).all(axis=1).any():
        return np.full(len(hu), 3.0, np.float32), 0.5
    ratio = float(np.nanmedian(spreads[:, 0] / spreads[:, 1]))
    sigmas = np.arange(0.25, 1.6, 0.02)
    seen = [_bending(float(s), NOISE_LAGS[0], frame) / _bending(float(s), NOISE_LAGS[1], frame) for s in sigmas]
    blur_mm = float(sigmas[int(np.abs(np.array(seen) - ratio).argmin())])
    level = spreads[:, 1] / _bending(blur_mm, NOISE_LAGS[1], frame)
    return np.where(np.isfinite(level), level, np.nanmedian(level)).astype(np.float32), blur_mm


def _bending(blur_mm: float, lag: int, frame: Frame) -> float:
    """What a second difference sees of white noise so blurred, as a share of its standard deviation."""
    far = (lag * frame.spacing_mm[1] / (2 * blur_mm)) ** 2
    return float(np.sqrt(1 - 4 / 3 * np.exp(-far) + 1 / 3 * np.exp(-4 * far)))
