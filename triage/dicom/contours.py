"""Activation map -> outlines in image coordinates; arrays only, no data set."""

from itertools import pairwise

import numpy as np
from contourpy import FillType, contour_generator

from triage.records import ActivationMap, FloatArray

LEVEL = 0.5
"""Outlines run where a map has this fraction of its maximum."""

TINY_FRACTION = 0.05
"""Of the largest outline's area: smaller ones are dropped."""

TINY_PX2 = 4.0
"""An outline of less area is dropped whatever the others are."""


def outlines(activation: ActivationMap) -> tuple[FloatArray, ...]:
    """Outline the parts of a slice where a network looked most; nothing is said of a bleed's extent.

    Args:
        activation: Over one slice.

    Returns:
        Closed polygons, largest area first, each (k, 2) column and row in image coordinates (PS3.3 C.18.6.1.2: the
        upper left corner of the upper left pixel is 0, 0, its centre 0.5, 0.5), its last point the first one again.
        All within the image; of a part with holes only the outside. Empty where no value is above 0.
    """
    values = np.asarray(activation.values, dtype=np.float64)
    rows, columns = values.shape
    level = LEVEL * values.max()
    if not level > 0:
        return ()
    # A rim of 0 closes outlines at the edges: at half of the maximum they reach them at most, at a lower level, or by
    # rounding, they would lie beyond, hence the clipping
    padded = np.pad(values, 1)
    filled = contour_generator(z=padded, fill_type=FillType.OuterOffset).filled(level, np.inf)
    found = []
    for points, offsets in zip(*filled, strict=True):
        outside = np.asarray(points[: offsets[1]]) - 0.5  # without the rim, and from pixel centres to corners
        polygon = _without_repeats(np.clip(outside, 0, (columns, rows)).astype(np.float32))
        found.append((area(polygon), polygon))
    found.sort(key=lambda item: -item[0])
    smallest = max(TINY_PX2, TINY_FRACTION * found[0][0]) if found else 0.0
    return tuple(polygon for size, polygon in found if size >= smallest)


def area(polygon: FloatArray) -> float:
    """Area that a closed polygon of (k, 2) points encloses, in pixels."""
    x, y = polygon[:, 0].astype(np.float64), polygon[:, 1].astype(np.float64)
    return float(abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2)


def _without_repeats(polygon: FloatArray) -> FloatArray:
    """A closed polygon without points that repeat the one before, as clipping makes them."""
    kept = [polygon[0], *(b for a, b in pairwise(polygon) if not np.array_equal(a, b))]
    return np.stack(kept)
