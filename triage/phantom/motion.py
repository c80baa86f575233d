"""A head that moves during the scan: double contours and steps between slices; truth stays where it was."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from triage.phantom.grids import Grid
from triage.phantom.profile import Scanner
from triage.phantom.scanner import blur
from triage.records import FloatArray

STEP_SHARE = 0.3
"""Part of the way by which slices are displaced; the rest shows as ghosts, so that masks still fit."""

TURN_DEG = 0.7
"""Turn a millimetre of motion."""


def moved(hu: FloatArray, rest: FloatArray, grid: Grid, scanner: Scanner, rng: np.random.Generator) -> FloatArray:
    """The same head, scanned while it moved: one block of slices is displaced and shows twice.

    Args:
        hu: (n, rows, columns), before noise; all of the image, so that what moves is cut nowhere.
        rest: Of the same shape: what a headrest, which does not move, adds to it before any blur; looked at only with
            motion.
        grid: The voxels.
        scanner: How far the head moved, and the blur.
        rng: Source of chance.

    Returns:
        New array; `hu` itself without motion.
    """
    motion_mm = scanner.motion_mm
    if motion_mm == 0:
        return hu
    n = hu.shape[0]
    length = min(n, 1 + int(n * rng.uniform(0.1, 0.5)))
    first = int(rng.integers(0, n - length + 1))
    angle = float(rng.uniform(0, 2 * np.pi))
    way = np.array([np.sin(angle), np.cos(angle)]) * (motion_mm / grid.step_mm[2])
    out, low = hu.copy(), max(first - 2, 0)
    still = blur(rest[low : first + length + 2], grid, scanner)  # with neighbours: slices blur into each other
    for k in range(first, first + length):
        ghost, lag = float(rng.uniform(0.2, 0.5)), float(rng.uniform(0.5, 1.0))
        turn = float(np.deg2rad(TURN_DEG * motion_mm * rng.normal(0, 0.5)))
        head = hu[k] - still[k - low]
        here = _turned(head, STEP_SHARE * way, STEP_SHARE * turn)
        there = _turned(head, lag * way, lag * turn)
        here += np.float32(ghost) * (there - here)
        np.add(here, still[k - low], out=out[k])
    return out


def _turned(image: FloatArray, shift_px: npt.NDArray[np.float64], turn: float) -> FloatArray:
    """One slice moved by (rows, columns) and turned about its middle, in radians."""
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    middle = (np.array(image.shape) - 1) / 2.0
    from_row = middle[0] - cos * (middle[0] + shift_px[0]) + sin * (middle[1] + shift_px[1])
    from_column = middle[1] - sin * (middle[0] + shift_px[0]) - cos * (middle[1] + shift_px[1])
    out: FloatArray = ndimage.affine_transform(
        image, np.array([[cos, -sin], [sin, cos]]), (from_row, from_column), order=1, mode="nearest", prefilter=False
    )
    return out
