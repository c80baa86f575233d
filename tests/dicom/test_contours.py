from itertools import pairwise

import numpy as np
import pytest

from triage.dicom.contours import LEVEL, area, outlines
from triage.records import ActivationMap, FloatArray


def hill(rows: int, columns: int, center: tuple[float, float], sigma_px: float) -> FloatArray:
    """A Gaussian of height 1 around a point in image coordinates, column and row."""
    y, x = np.mgrid[:rows, :columns] + 0.5
    values: FloatArray = np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / (2 * sigma_px**2)).astype(np.float32)
    return values


def of(values: FloatArray) -> tuple[FloatArray, ...]:
    return outlines(ActivationMap("any", 0, values))


def contains(polygon: FloatArray, point: tuple[float, float]) -> bool:
    """By the number of edges that a ray crosses: a second reader of the polygon."""
    x, y = point
    inside = False
    for (x0, y0), (x1, y1) in pairwise(polygon):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
            inside = not inside
    return inside


def test_an_outline_runs_at_half_of_the_maximum_in_image_coordinates() -> None:
    (polygon,) = of(5 * hill(60, 90, (50.0, 20.0), 6.0))
    radius = 6.0 * np.sqrt(2 * np.log(1 / LEVEL))
    assert np.hypot(*(polygon - (50.0, 20.0)).T) == pytest.approx(radius, abs=0.1)
    assert area(polygon) == pytest.approx(np.pi * radius**2, rel=0.02)
    assert polygon.dtype == np.float32


def test_a_single_pixel_is_outlined_around_its_centre() -> None:
    values = np.zeros((20, 30), np.float32)
    values[4:8, 10:14] = 1.0
    (polygon,) = of(values)
    assert (polygon.min(axis=0).tolist(), polygon.max(axis=0).tolist()) == ([10.0, 4.0], [14.0, 8.0])


def test_outlines_are_closed_and_the_largest_comes_first() -> None:
    values = hill(100, 100, (20.0, 30.0), 5.0) + hill(100, 100, (70.0, 60.0), 9.0)
    first, second = of(values)
    assert contains(first, (70.0, 60.0))
    assert contains(second, (20.0, 30.0))
    for polygon in (first, second):
        assert polygon[0].tolist() == polygon[-1].tolist()
        assert not (np.diff(polygon, axis=0) == 0).all(axis=1).any()


@pytest.mark.parametrize("center", [(0.0, 0.0), (90.0, 30.0), (45.0, 60.0)])
def test_an_outline_ends_at_the_edge_of_the_image(center: tuple[float, float]) -> None:
    (polygon,) = of(hill(60, 90, center, 8.0))
    assert polygon.min() >= 0
    assert polygon[:, 0].max() <= 90
    assert polygon[:, 1].max() <= 60
    assert polygon[0].tolist() == polygon[-1].tolist()
    whole = np.pi * 64 * 2 * np.log(1 / LEVEL)
    assert 0.2 * whole < area(polygon) < 0.6 * whole


def test_a_map_at_its_maximum_everywhere_is_the_whole_image() -> None:
    (polygon,) = of(np.full((40, 50), 3.0, np.float32))
    assert area(polygon) == pytest.approx(2000, abs=1)  # less its bevelled corners


def test_only_the_outside_of_a_ring_is_told() -> None:
    ring = hill(80, 80, (40.0, 40.0), 14.0) - hill(80, 80, (40.0, 40.0), 8.0)
    (polygon,) = of(ring)
    assert contains(polygon, (40.0, 40.0))


@pytest.mark.parametrize("values", [np.zeros((8, 9)), np.full((8, 9), -2.0)])
def test_nothing_above_zero_has_no_outline(values: np.ndarray) -> None:
    assert of(values.astype(np.float32)) == ()


def test_specks_are_dropped() -> None:
    values = hill(80, 80, (50.0, 50.0), 10.0)
    values[5, 5] = 1.0
    (polygon,) = of(values)
    assert contains(polygon, (50.0, 50.0))
    alone = np.zeros((80, 80), np.float32)
    alone[5, 5] = 1.0
    assert of(alone) == ()


def test_negative_values_around_move_no_outline() -> None:
    """Half of the maximum, not half of the range."""
    base = hill(60, 60, (30.0, 30.0), 6.0)
    (plain,) = of(base)
    (sunk,) = of(np.where(base < 0.2, base - 3, base).astype(np.float32))
    assert area(sunk) == pytest.approx(area(plain), rel=1e-3)
