"""Small things are as bright as the share of a slice's thickness that they fill, and none moves another."""

from dataclasses import replace

import numpy as np
import pytest

from triage.phantom.grids import Grid, coordinates
from triage.phantom.profile import USUAL, Head, draw_head
from triage.phantom.skull import surface
from triage.phantom.specks import paint_arteries, paint_calcium
from triage.records import FloatArray

NOTHING: dict[str, float | bool] = {"pineal": 0.0, "choroid": 0.0, "falx_calcified": False, "ganglia_calcified": False}
THERE: dict[str, float | bool] = {"pineal": 1.5, "choroid": 2.5, "falx_calcified": True, "ganglia_calcified": True}


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def head(**changes: float | bool) -> Head:
    return replace(draw_head(rng(), USUAL), **{**NOTHING, **changes})  # type: ignore[arg-type]  # fields of Head, checked by use


def grid(thickness_mm: float, height_mm: float = 0.0) -> Grid:
    """A stack of touching slices about the pineal gland, moved up a little."""
    step = (thickness_mm, 1.0, 1.0)
    matrix = np.array([[0, 0, step[2]], [0, step[1], 0], [step[0], 0, 0]])
    return Grid((11, 140, 80), step, thickness_mm, matrix, np.array([0.0, 0.0, height_mm]))


def calcium(one: Head, stack: Grid) -> FloatArray:
    hu = np.zeros(stack.shape, np.float32)
    paint_calcium(hu, one, stack, coordinates(stack), rng(4))
    return hu


@pytest.mark.parametrize("other", [name for name in THERE if name != "pineal"])
def test_one_calcification_moves_no_other(other: str) -> None:
    stack = grid(5.0)
    alone, more = (calcium(head(pineal=1.5, **{other: v}), stack) for v in (NOTHING[other], THERE[other]))
    own = calcium(head(**{other: THERE[other]}), stack)
    assert alone.max() > 40
    assert own.max() > 40
    apart = (alone > 0) & (own == 0)
    assert apart.any()
    assert np.array_equal(more[apart], alone[apart])
    assert np.array_equal(more[alone == 0], own[alone == 0])


def test_a_small_calcification_shows_as_much_wherever_slices_lie() -> None:
    thick = [calcium(head(pineal=1.5), grid(10.0, up)) for up in (0.0, 2.5, 5.0)]
    sums = [float(hu.sum()) for hu in thick]
    assert max(sums) < 1.25 * min(sums)
    thin = calcium(head(pineal=1.5), grid(1.25))
    assert sums[0] * 10 == pytest.approx(float(thin.sum()) * 1.25, rel=0.25)
    assert max(float(hu.max()) for hu in thick) < 0.65 * thin.max()
    assert min(float(hu.max()) for hu in thick) > 0.1 * thin.max()


def test_arteries_fade_in_thick_slices_and_never_vanish() -> None:
    one = replace(head(), arteries=1.0)

    def vessels(thickness_mm: float, height_mm: float) -> FloatArray:
        stack = grid(thickness_mm, height_mm)
        hu = np.zeros(stack.shape, np.float32)
        paint_arteries(hu, one, stack, surface(one, stack, coordinates(stack), rng(2)), np.ones_like(hu))
        return hu[:, 45:60, 45:]  # a middle artery on its way to the side

    sums = [float(vessels(8.0, up).sum()) for up in (0.0, 2.0, 4.0)]
    assert max(sums) < 1.3 * min(sums)
    assert vessels(8.0, 0.0).max() < 0.75 * vessels(1.25, -15.0).max()


def test_no_arteries_leave_the_image_alone() -> None:
    stack = grid(5.0)
    hu = np.zeros(stack.shape, np.float32)
    one = replace(head(), arteries=0.0)
    paint_arteries(hu, one, stack, surface(one, stack, coordinates(stack), rng(2)), np.ones_like(hu))
    assert not hu.any()
