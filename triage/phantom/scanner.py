"""What a scanner adds: point spread, beam hardening, streaks between the petrous bones, photon noise, padding."""

from math import ceil, exp

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from triage.phantom.grids import BoolArray, Coordinates, Grid, Point, is_empty, region_around, region_in, slabs
from triage.phantom.profile import Scanner
from triage.phantom.skull import Surface
from triage.records import FloatArray

REFERENCE_MM = 5.0
"""Slice thickness that `Scanner.noise_hu` is stated for."""


PYRAMID: Point = (34.0, 14.0, -36.0)
"""Middle of the left petrous pyramid of the average head, mm."""

BAND_BONE_MM = 4.0
"""Thickness of bone for which `Scanner.cupping_hu` is stated."""

MOST_BONE_MM = 8.0
"""Thicker bone hardens the beam no further."""

FIELD_RADIUS = (0.97, 1.04)
"""Of a round field against half the side of the image; a little more than one is a circle that the image cuts."""

Kernel = list[float]
"""Half of a symmetric kernel, from its middle outwards."""


def _gaussian(sigma: float, truncate: float) -> Kernel:
    """A kernel that sums to one."""
    half = [exp(-0.5 * (i / sigma) ** 2) for i in range(max(ceil(truncate * sigma), 1) + 1)]
    total = 2 * sum(half) - half[0]
    return [w / total for w in half]


def _filtered(image: FloatArray, kernel: Kernel) -> FloatArray:
    """A slice filtered along rows and columns by a symmetric kernel, where the kernel lies within it.

    Args:
        image: (rows, columns).
        kernel: The same along both.

    Returns:
        (rows, columns), each less by twice the kernel's reach.
    """
    r = len(kernel) - 1
    for _ in range(2):
        size = image.shape[0] - 2 * r
        out = image[r : r + size] * np.float32(kernel[0])
        for i, weight in enumerate(kernel[1:], 1):
            pair = image[r - i : r - i + size] + image[r + i : r + i + size]
            pair *= np.float32(weight)
            out += pair
        image = np.ascontiguousarray(out.T)
    return image


def blur(hu: FloatArray, grid: Grid, scanner: Scanner) -> FloatArray:
    """Point spread in the plane and slice profile across it.

    Args:
        hu: (n, rows, columns).
        grid: The voxels.
        scanner: Parameters.

    Returns:
        New array.
    """
    kernel = _gaussian(scanner.blur_mm / grid.step_mm[2], 3.0)
    r, (n, rows, columns) = len(kernel) - 1, hu.shape
    side = np.float32(0.05 * min(grid.thickness_mm / grid.step_mm[0], 2.0)) if n > 2 else np.float32(0)
    wide = np.empty((rows + 2 * r, columns + 2 * r), np.float32)
    mixed = np.empty_like(hu)
    for k in range(n):
        np.multiply(hu[k], 1 - 2 * side, out=wide[r : r + rows, r : r + columns])
        for neighbour in (max(k - 1, 0), min(k + 1, n - 1)):
            wide[r : r + rows, r : r + columns] += side * hu[neighbour]
        wide[:r], wide[r + rows :] = wide[r], wide[r + rows - 1]
        wide[:, :r], wide[:, r + columns :] = wide[:, r : r + 1], wide[:, r + columns - 1 : r + columns]
        mixed[k] = _filtered(wide, kernel)
    return mixed


def harden(hu: FloatArray, grid: Grid, s: Surface, scanner: Scanner, rng: np.random.Generator) -> None:
    """Residual beam hardening: brighter beside bone, dark and streaky between the petrous bones, in place.

    Args:
        hu: (n, rows, columns).
        grid: The voxels.
        s: Surfaces.
        scanner: Parameters.
        rng: Source of chance.
    """
    rows = hu.shape[1]
    lines: FloatArray = rng.standard_normal((hu.shape[0], rows, 1), dtype=np.float32)
    lines = ndimage.gaussian_filter1d(lines, 2.2 / grid.step_mm[1], axis=1)
    lines *= np.float32(0.8 * (2.2 / grid.step_mm[1]) ** 0.5 * 1.9)
    streak_hu = np.float32(scanner.streak_hu if _pyramids(grid, s) else 0.0)
    for part in slabs(hu.shape):
        hu[part] += _bright(s.depth[part], s.bone[part], scanner)
        region = region_in(part, region_around(grid.cropped(part), (-60, -25, -70), (60, 60, -14)))
        if not is_empty(region):
            hu[region] += streak_hu * _streaky(s.at.at(region), lines[region[0], region[1]])


def _bright(depth: FloatArray, bone_mm: FloatArray, scanner: Scanner) -> FloatArray:
    """HU to add: the band inside the skull that looks like a thin bleed, brighter under thicker bone."""
    band = depth * np.float32(1 / scanner.band_mm)
    band *= band
    band += np.float32(1)
    strong = np.minimum(bone_mm, np.float32(MOST_BONE_MM))
    strong *= np.float32(scanner.cupping_hu / BAND_BONE_MM)
    strong /= band
    strong *= depth > 0
    return strong


def _pyramids(grid: Grid, s: Surface) -> bool:
    """Whether the stack shows petrous bone that could make streaks: it lies outside the cavity, which is round it."""
    for x, y, z in (PYRAMID, (-PYRAMID[0], *PYRAMID[1:])):
        region = region_around(grid, (x - 5, y - 5, z - 4), (x + 5, y + 5, z + 4))
        if not is_empty(region) and float((s.depth[region] < 0).mean()) > 0.3:
            return True
    return False


def _streaky(at: Coordinates, lines: FloatArray) -> FloatArray:
    """Bright and dark between the petrous bones: about -1 to 1."""
    height = 1 / (1 + ((at.z + 36) * np.float32(1 / 8)) ** 2)
    across = 1 / (1 + ((at.x * np.float32(1 / 34)) ** 2) ** 2)
    along = 1 / (1 + ((at.y - 14) * np.float32(1 / 9)) ** 2)
    wide = 1 / (1 + (((at.y - 16) * np.float32(1 / 26)) ** 2) ** 2)
    lined = np.float32(0.55) * lines
    found: FloatArray = np.asarray(height * across * (lined * wide - along), np.float32)
    return found


def photon_noise(shape: tuple[int, int, int], step_mm: tuple[float, float, float], scanner: Scanner,
                 thickness_mm: float, rng: np.random.Generator) -> FloatArray:  # fmt: skip
    """Noise of the kernel's texture, slices independent.

    Args:
        shape: (n, rows, columns).
        step_mm: Voxel.
        scanner: Parameters.
        thickness_mm: Of the slices; thinner ones are noisier.
        rng: Source of chance.

    Returns:
        HU to add.
    """
    _, rows, columns = shape
    pixel = step_mm[2]
    fine = _gaussian(max(0.85 * scanner.blur_mm, 0.3) / pixel, 2.5)
    reach = max(round(2.25 / pixel), 1)
    coarse = [1 / (2 * reach + 1)] * (reach + 1)
    power = _power(fine, coarse, scanner.sharpness) / 6  # of the sum of two even draws
    level = scanner.noise_hu * (REFERENCE_MM / thickness_mm) ** 0.5 / power**0.5
    margin = 2 * (len(fine) - 1 + reach)
    out = np.empty(shape, np.float32)
    for image in out:
        raw = rng.random((rows + margin, columns + margin), dtype=np.float32)  # two make a triangle, blur a bell
        raw += rng.random(raw.shape, dtype=np.float32)
        raw -= np.float32(1)
        raw *= np.float32(level)
        grain = _filtered(raw, fine)
        np.multiply(_filtered(grain, coarse), np.float32(-scanner.sharpness), out=image)
        image += grain[reach:-reach, reach:-reach]
    return out


def _power(fine: Kernel, coarse: Kernel, sharpness: float) -> float:
    """Variance of white noise of unit variance after `fine`, less a share of the same after `coarse` too."""
    one, other = (np.array(kernel[:0:-1] + kernel) for kernel in (fine, coarse))
    both = np.convolve(one, other)
    one = np.pad(one, len(coarse) - 1)
    alike, mixed, blurred = (float((a * b).sum()) for a, b in ((one, one), (one, both), (both, both)))
    return alike**2 - 2 * sharpness * mixed**2 + sharpness**2 * blurred**2


def scaled_hu(hu: FloatArray, scanner: Scanner) -> FloatArray:
    """The same image from a scanner whose HU scale is slightly wrong; air and water err alike by the offset.

    Args:
        hu: Any shape.
        scanner: Parameters; the gain works about water (0 HU), as a wrong slope does.

    Returns:
        The same array, changed in place.
    """
    hu *= np.float32(scanner.gain)
    hu += np.float32(scanner.offset_hu)
    return hu


def pad_corners(hu: npt.NDArray[np.int16], value: float, p_round: float, rng: np.random.Generator) -> BoolArray:
    """Padding outside a round field of reconstruction, as many scanners store, in place.

    Args:
        hu: (n, rows, columns), square slices.
        value: Of the padding.
        p_round: Probability of a round field.
        rng: Source of chance.

    Returns:
        (rows, columns): what is padding, the same in each slice; nothing where the field is the whole square.
    """
    chance, radius = rng.random(), float(rng.uniform(*FIELD_RADIUS))
    rows, columns = hu.shape[1:]
    y, x = (np.arange(size) * (2.0 / (size - 1)) - 1.0 if size > 1 else np.zeros(1) for size in (rows, columns))
    padding: BoolArray = (y[:, None] ** 2 + x[None, :] ** 2 > radius**2) & (chance < p_round)
    hu[:, padding] = value
    return padding
