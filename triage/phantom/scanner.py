"""What a scanner adds: headrest, point spread, beam hardening, streaks between the petrous bones, photon noise."""

import numpy as np
from scipy import ndimage

from triage.phantom.fields import Grid, region_around
from triage.phantom.profile import Head, Scanner
from triage.phantom.skull import Surface
from triage.records import FloatArray

REFERENCE_MM = 5.0
"""Slice thickness that `Scanner.noise_hu` is stated for."""


def paint_headrest(hu: FloatArray, grid: Grid, head: Head, drift_mm: FloatArray, rng: np.random.Generator) -> None:
    """A thin curved shell under the head, in place.

    Args:
        hu: (n, rows, columns).
        grid: The voxels.
        head: Parameters.
        drift_mm: (n,): how far each slice's middle has moved along the columns, from gantry tilt.
        rng: Source of chance.
    """
    _, rows, columns = hu.shape
    v = (np.arange(rows) - (rows - 1) / 2.0) * grid.step_mm[1]
    u = (np.arange(columns) - (columns - 1) / 2.0) * grid.step_mm[2]
    back = head.radii_mm[1] + head.skull_mm + head.scalp_mm + head.off_centre_mm[1] + float(rng.uniform(3, 8))
    wide, start = float(rng.uniform(98, 116)), float(rng.uniform(-15, 25))
    value, half = float(rng.uniform(-250, 600)), float(rng.uniform(0.7, 2.2))
    curve = float(rng.uniform(0.75, 1.0))
    for k in range(hu.shape[0]):
        w = (v - drift_mm[k])[:, None]
        across = np.sqrt((u[None, :] / wide) ** 2 + (np.clip(w - start, 0, None) / (back - start)) ** 2)
        away = np.abs(across - 1) * wide * curve
        share = np.clip((half - away) / grid.step_mm[2] + 0.5, 0, min(1.0, 2 * half / grid.step_mm[2]))
        share = (share * (w > start - 20) * (hu[k] < -600)).astype(np.float32)
        hu[k] += share * (np.float32(value) - hu[k])


def blur(hu: FloatArray, grid: Grid, scanner: Scanner) -> FloatArray:
    """Point spread in the plane and slice profile across it.

    Args:
        hu: (n, rows, columns).
        grid: The voxels.
        scanner: Parameters.

    Returns:
        New array.
    """
    sigma = scanner.blur_mm / grid.step_mm[2]
    out: FloatArray = ndimage.gaussian_filter1d(hu, sigma, axis=2, truncate=3.0)
    out = ndimage.gaussian_filter1d(out, sigma, axis=1, truncate=3.0)
    side = np.float32(0.05 * min(grid.thickness_mm / grid.step_mm[0], 2.0))
    if out.shape[0] > 2:
        mixed = out * (1 - 2 * side)
        mixed[1:] += side * out[:-1]
        mixed[:-1] += side * out[1:]
        mixed[0] += side * out[0]
        mixed[-1] += side * out[-1]
        return mixed
    return out


def harden(hu: FloatArray, grid: Grid, s: Surface, scanner: Scanner, rng: np.random.Generator) -> None:
    """Residual beam hardening: brighter beside bone, dark and streaky between the petrous bones, in place.

    Args:
        hu: (n, rows, columns).
        grid: The voxels.
        s: Surfaces.
        scanner: Parameters.
        rng: Source of chance.
    """
    inside = np.clip(s.depth, 0, None)
    hu += np.float32(scanner.cupping_hu) / (1 + (inside * np.float32(1 / 9.0)) ** 2) * (s.depth > 0)
    region = region_around(grid, (-60, -25, -70), (60, 60, -14))
    if any(part.stop <= part.start for part in region):
        return
    at = s.at.at(region)
    n, rows, _ = at.x.shape
    lines = ndimage.gaussian_filter1d(rng.standard_normal((n, rows, 1)), 2.2 / grid.step_mm[1], axis=1)
    lines = (lines * (0.8 * np.sqrt(2.2 / grid.step_mm[1]) * 1.9)).astype(np.float32)
    height = 1 / (1 + ((at.z + 36) / 8) ** 2)
    across = 1 / (1 + (at.x / 34) ** 4)
    along = 1 / (1 + ((at.y - 14) / 9) ** 2)
    wide = 1 / (1 + ((at.y - 16) / 26) ** 4)
    hu[region] += np.float32(scanner.streak_hu) * height * across * (np.float32(0.55) * lines * wide - along)


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
    grain: FloatArray = rng.standard_normal(shape, dtype=np.float32)
    pixel = step_mm[2]
    fine = max(0.85 * scanner.blur_mm, 0.3) / pixel
    for axis in (1, 2):
        grain = ndimage.gaussian_filter1d(grain, fine, axis=axis, truncate=2.5)
    coarse = grain
    for axis in (1, 2):
        coarse = ndimage.uniform_filter1d(coarse, max(round(4.5 / pixel), 2), axis=axis)
    grain -= np.float32(scanner.sharpness) * coarse
    level = scanner.noise_hu * (REFERENCE_MM / thickness_mm) ** 0.5 / float(grain.std(dtype=np.float64))
    grain *= np.float32(level)
    return grain


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
