"""A moving head shows twice in some slices, and moves no truth."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from triage.phantom import USUAL, PhantomSpec, Profile, generate
from triage.phantom.grids import Grid
from triage.phantom.motion import moved
from triage.phantom.profile import Scanner, draw_scanner
from triage.phantom.scanner import blur
from triage.records import SUBTYPES, FloatArray

GRID = Grid((12, 64, 64), (5.0, 2.0, 2.0), 5.0, np.eye(3), np.zeros(3))
NOTHING = np.zeros(GRID.shape, np.float32)


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def scanner(motion_mm: float) -> Scanner:
    return replace(draw_scanner(rng(), USUAL), motion_mm=motion_mm)


def disc() -> FloatArray:
    y, x = np.mgrid[-31.5:32, -31.5:32]
    image = np.where(x * x + y * y < 400, 40, -1000).astype(np.float32)
    return np.repeat(image[None], 12, axis=0)


def test_no_motion_is_the_same_array() -> None:
    still = disc()
    assert moved(still, NOTHING, GRID, scanner(0.0), rng()) is still


def test_some_slices_move_in_one_block_and_show_twice() -> None:
    still = disc()
    out = moved(still, NOTHING, GRID, scanner(5.0), rng())
    touched = np.flatnonzero((out != still).any(axis=(1, 2)))
    assert 1 <= touched.size < 12
    assert np.array_equal(touched, np.arange(touched[0], touched[-1] + 1))
    edge = out[touched[0]]
    assert ((edge > -900) & (edge < -50)).sum() > 40  # ghosts beside the contour
    assert out.min() >= -1000
    assert out.max() <= 40


@pytest.mark.parametrize("n_slices", [1, 2])
def test_short_stacks_can_move(n_slices: int) -> None:
    assert moved(disc()[:n_slices], NOTHING, GRID, scanner(3.0), rng()).shape == (n_slices, 64, 64)


def test_what_lies_still_stays_sharp_beside_a_head_that_moves() -> None:
    rest = NOTHING.copy()
    rest[:, 58:60, 8:56] = 1200
    rest[4] = 0
    for seed in range(6):
        before = disc() + blur(rest, GRID, scanner(5.0))
        out = moved(before, rest, GRID, scanner(5.0), rng(seed))
        assert (out != before).any()
        assert np.abs(out - before)[:, 56:62].max() < 1e-3


def test_a_headrest_stays_where_it_is_and_the_head_moves_from_edge_to_edge() -> None:
    spec = PhantomSpec(size_px=96, n_slices=10, subtypes=(), fov_mm=260.0)
    quiet: dict[str, Any] = {f.name: 0.0 for f in fields(Profile) if f.name.startswith("p_")}
    lying = replace(USUAL, **{**quiet, "p_headrest": 1.0}, noise_hu=(0.0, 0.0), off_centre_mm=0.0)
    for seed in (2, 3, 4):
        still = generate(seed, replace(spec, profile=lying)).hu.astype(int)
        shaken = generate(seed, replace(spec, profile=replace(lying, p_motion=1.0))).hu.astype(int)
        bare = generate(seed, replace(spec, profile=replace(lying, p_headrest=0.0))).hu.astype(int)
        rest = (still - bare > 100) & (ndimage.minimum_filter(-bare, (1, 17, 17)) > 950)
        assert rest.sum() > 100
        assert np.abs(shaken - still)[rest].max() <= 1
        assert np.abs(shaken - still).max() > 100


def test_motion_leaves_the_truth_alone() -> None:
    spec = PhantomSpec(size_px=96, n_slices=10, subtypes=("intraparenchymal",), volume_ml=(20, 20))
    still = generate(3, replace(spec, profile=replace(USUAL, p_motion=0.0)))
    shaken = generate(3, replace(spec, profile=replace(USUAL, p_motion=1.0)))
    assert shaken.scanner.motion_mm > 0
    assert not np.array_equal(still.hu, shaken.hu)
    for label in SUBTYPES:
        both = still.masks[label] & shaken.masks[label]
        assert both.sum() >= 0.9 * still.masks[label].sum()
