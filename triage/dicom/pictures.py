"""Slices of a volume as pictures in the brain window, with outlines and orientation; arrays only, no data set."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from triage.dicom.canvas import BLACK, CONTOUR
from triage.records import FloatArray, Slice, Volume

WINDOW_CENTER_HU, WINDOW_WIDTH_HU = 40.0, 80.0
"""Brain window."""

HEAD_HU = -200.0
"""Above it is head, table or headrest, never air."""

CROP_MARGIN = 0.04
"""Kept around the head on each side, as a fraction of the head's larger extent."""

CROP_WORTH = 0.9
"""The field of view is cropped only when that leaves less than this fraction of its edge."""

LETTERS = (("L", "R"), ("P", "A"), ("H", "F"))
"""Where the positive and the negative end of each patient axis lies (PS3.3 C.7.6.2.1.1, C.7.6.1.1.1)."""

OUTLINE_PX = 2
"""Thickness of an outline: seen, but hiding little."""

SMOOTHING = 4
"""Outlines are drawn this much larger and reduced, so that they have no steps."""

Box = tuple[int, int, int, int]
"""Part of a slice: left, upper, right, lower, as Pillow counts."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One slice as it is to be shown."""

    volume: Volume
    index: int
    box: Box
    outlines: tuple[FloatArray, ...] = ()
    """Closed polygons, (k, 2) column and row in image coordinates (PS3.3 C.18.6.1.2)."""


def head_box(volume: Volume, indices: Sequence[int]) -> Box:
    """Find the square part that holds everything but air in each of some slices.

    Args:
        volume: (n, rows, columns) Hounsfield units.
        indices: The slices that will be shown.

    Returns:
        Left, upper, right, lower; the whole slice where cropping would gain little.
    """
    rows, columns = volume.hu.shape[1:]
    solid = np.any(volume.hu[list(indices)] > HEAD_HU, axis=0)
    ys, xs = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    if not len(ys):
        return 0, 0, columns, rows
    row_mm, column_mm = spacing_of(volume)
    extent_mm = max((ys[-1] - ys[0] + 1) * row_mm, (xs[-1] - xs[0] + 1) * column_mm) * (1 + 2 * CROP_MARGIN)
    if extent_mm > CROP_WORTH * max(rows * row_mm, columns * column_mm):
        return 0, 0, columns, rows
    left, right = _interval((xs[0] + xs[-1] + 1) / 2, extent_mm / column_mm, columns)
    upper, lower = _interval((ys[0] + ys[-1] + 1) / 2, extent_mm / row_mm, rows)
    return left, upper, right, lower


def orientation_letters(plane: Slice) -> tuple[str, str, str, str] | None:
    """Name the edges of a slice.

    Args:
        plane: With ImageOrientationPatient.

    Returns:
        Letters at the left, right, top and bottom edge (PS3.3 C.7.6.1.1.1), or None where the orientation is unknown.
    """
    if plane.orientation is None:
        return None
    right, left = _axis(plane.orientation[:3])
    bottom, top = _axis(plane.orientation[3:])
    return left, right, top, bottom


def draw_slice(shown: Shown, edge_px: int) -> Image.Image:
    """Draw a slice in the brain window, in true proportions, centred on a black square.

    Args:
        shown: What to draw; its outlines are thin lines over the picture.
        edge_px: Of the square.

    Returns:
        RGB.
    """
    volume, box = shown.volume, shown.box
    row_mm, column_mm = spacing_of(volume)
    scale = edge_px / extent_mm(volume, box)
    size = (max(1, round((box[2] - box[0]) * column_mm * scale)), max(1, round((box[3] - box[1]) * row_mm * scale)))
    # Interpolated as Hounsfield units of little more than the window: no halo of the skull over the brain's edge
    low, high = WINDOW_CENTER_HU - WINDOW_WIDTH_HU / 2, WINDOW_CENTER_HU + WINDOW_WIDTH_HU / 2
    hu: FloatArray = np.clip(volume.hu[shown.index], low - WINDOW_WIDTH_HU, high + WINDOW_WIDTH_HU)
    resized = np.asarray(Image.fromarray(hu).resize(size, Image.Resampling.BICUBIC, box))
    grey = np.clip((resized - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    picture = Image.fromarray(grey).convert("RGB")
    if shown.outlines:
        _draw_outlines(picture, shown.outlines, box)
    square = Image.new("RGB", (edge_px, edge_px), BLACK)
    square.paste(picture, ((edge_px - size[0]) // 2, (edge_px - size[1]) // 2))
    return square


def _draw_outlines(picture: Image.Image, outlines: Sequence[FloatArray], box: Box) -> None:
    width, height = picture.size[0] * SMOOTHING, picture.size[1] * SMOOTHING
    mask = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(mask)
    scale = np.array([width / (box[2] - box[0]), height / (box[3] - box[1])])
    for outline in outlines:
        points = (outline - box[:2]) * scale
        draw.line([(float(x), float(y)) for x, y in points], 255, OUTLINE_PX * SMOOTHING, joint="curve")
    picture.paste(CONTOUR, mask=mask.resize(picture.size, Image.Resampling.BOX))


def extent_mm(volume: Volume, box: Box) -> float:
    """Longer edge of a part of a slice."""
    row_mm, column_mm = spacing_of(volume)
    return max((box[2] - box[0]) * column_mm, (box[3] - box[1]) * row_mm)


def spacing_of(volume: Volume) -> tuple[float, float]:
    """Between rows, between columns; 1 mm each where the volume does not know."""
    row_mm, column_mm = volume.spacing_mm
    return (row_mm, column_mm) if row_mm > 0 and column_mm > 0 else (1.0, 1.0)


def _interval(centre: float, length: float, limit: int) -> tuple[int, int]:
    start = int(np.clip(round(centre - length / 2), 0, limit))
    return start, int(np.clip(round(centre + length / 2), start + 1, limit))


def _axis(direction: Sequence[float]) -> tuple[str, str]:
    """Letters of the ends that a direction points to and comes from, by its largest component."""
    axis = int(np.argmax(np.abs(direction)))
    positive, negative = LETTERS[axis]
    return (positive, negative) if direction[axis] > 0 else (negative, positive)
