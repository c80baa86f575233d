"""What a head lies on is a shell with air in it, of many kinds, and takes no place that a head has."""

from dataclasses import replace

import numpy as np
import pytest

from triage.phantom import USUAL
from triage.phantom.grids import BoolArray, Grid
from triage.phantom.profile import Head, draw_head
from triage.phantom.support import paint_headrest
from triage.records import FloatArray

GRID = Grid((6, 120, 120), (5.0, 2.0, 2.0), 5.0, np.eye(3), np.zeros(3))
NO_DRIFT = np.zeros(6, np.float32)


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def head() -> Head:
    return draw_head(rng(0), replace(USUAL, off_centre_mm=0.0))


def painted(seed: int, inside: float = -1000.0) -> FloatArray:
    hu = np.full(GRID.shape, -1000, np.float32)
    hu[:, 30:90, 35:85] = inside
    paint_headrest(hu, GRID, head(), NO_DRIFT, rng(seed))
    return hu


def test_it_lies_behind_and_beside_the_head_and_never_in_it() -> None:
    for seed in range(12):
        hu = painted(seed, 30.0)
        assert (hu[:, 30:90, 35:85] == 30).all()
        assert not (hu[:, :30] > -990).any()  # before the face there is nothing
        assert (hu > -900).any(axis=(1, 2)).all()


def walls(hu: FloatArray) -> BoolArray:
    """Of each column of the middle slice, how many separate layers lie in it."""
    dense = hu[3] > -500
    return np.asarray((dense[1:] & ~dense[:-1]).sum(axis=0))


def test_kinds_differ() -> None:
    layers = [walls(painted(seed)) for seed in range(40)]
    middle = [int(rows[58:62].max()) for rows in layers]
    assert 0 in middle  # open below
    assert middle.count(1) >= 8  # one shell
    assert sum(n >= 2 for n in middle) >= 8  # double, or with a pillow
    assert max(middle) >= 3


def test_cloth_and_foam_lie_inside_and_are_thinner_than_water() -> None:
    cloth = foam = 0
    for seed in range(40):
        hu = painted(seed)
        above = hu[:, 100:106, 50:70] if walls(hu)[58:62].max() else hu[:, :1]
        assert hu.max() < 700
        cloth += bool(((above > -170) & (above < -30)).any())
        foam += bool(((hu > -965) & (hu < -815)).mean() > 0.03)
    assert cloth >= 3
    assert 5 <= foam <= 35


def test_the_same_seed_gives_the_same_bits_and_drift_moves_it() -> None:
    assert np.array_equal(painted(5), painted(5))
    hu = np.full(GRID.shape, -1000, np.float32)
    paint_headrest(hu, GRID, head(), np.full(6, -20.0, np.float32), rng(5))
    assert np.array_equal(hu[:, :100], painted(5)[:, 10:110])


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 40, 200), (3, 300, 20)])
def test_any_grid_will_do(shape: tuple[int, int, int]) -> None:
    hu = np.full(shape, -1000, np.float32)
    grid = Grid(shape, (5.0, 1.0, 1.0), 5.0, np.eye(3), np.zeros(3))
    for seed in range(10):
        paint_headrest(hu, grid, head(), np.zeros(shape[0], np.float32), rng(seed))
    assert np.isfinite(hu).all()
