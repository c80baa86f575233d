"""A scanner pads what lies outside a round field, or nothing; its slices cut the floor of the skull flat."""

from dataclasses import replace

import numpy as np

from triage.phantom import USUAL, PhantomSpec, generate
from triage.phantom.grids import Grid, coordinates
from triage.phantom.profile import draw_head
from triage.phantom.scanner import pad_corners
from triage.phantom.skull import surface
from triage.records import HU_MIN, SUBTYPES


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def test_padding_is_all_outside_a_circle_in_each_slice() -> None:
    hu = np.zeros((3, 101, 101), np.int16)
    padding = pad_corners(hu, -1024, 1.0, rng(1))
    assert (hu[:, padding] == -1024).all()
    assert not hu[:, ~padding].any()
    y, x = np.mgrid[-50:51, -50:51]
    r = np.sqrt(y * y + x * x)
    assert r[~padding].max() <= r[padding].min()
    assert 48 < r[padding].min() < 53


def test_about_as_many_fields_are_round_as_the_profile_says() -> None:
    round_ones = sum(bool(pad_corners(np.zeros((1, 9, 9), np.int16), 0, 0.35, rng(seed)).any()) for seed in range(400))
    assert 110 <= round_ones <= 170


def test_a_draw_of_the_field_does_not_hang_on_its_switch() -> None:
    a, b = rng(3), rng(3)
    pad_corners(np.zeros((1, 9, 9), np.int16), 0, 0.0, a)
    pad_corners(np.zeros((1, 9, 9), np.int16), 0, 1.0, b)
    assert a.random() == b.random()


def test_one_voxel_is_an_image_too() -> None:
    assert not pad_corners(np.zeros((2, 1, 1), np.int16), -1024, 1.0, rng(0)).any()


def test_studies_are_padded_and_nothing_padded_is_a_bleed() -> None:
    spec = PhantomSpec(size_px=64, n_slices=8, fov_mm=150.0, subtypes=("subdural", "epidural"))
    for seed in range(4):
        square, circle = (
            generate(seed, replace(spec, profile=replace(USUAL, p_motion=0.0, p_round_field=p))) for p in (0.0, 1.0)
        )
        padding = (circle.hu == HU_MIN).all(axis=0)
        assert padding[0, 0]
        assert not padding[32].all()
        assert np.array_equal(circle.hu[:, ~padding], square.hu[:, ~padding])
        for label in SUBTYPES:
            assert np.array_equal(circle.masks[label], square.masks[label] & ~padding)


def test_slices_cut_orbital_roofs_flat_and_walls_not() -> None:
    head = draw_head(rng(1), replace(USUAL, bend_mm=(0.1, 0.1)))
    matrix = np.array([[0, 0, 2.0], [0, 2.0, 0], [3.0, 0, 0]])
    grid = Grid((40, 110, 90), (3.0, 2.0, 2.0), 3.0, matrix, np.zeros(3))
    s = surface(head, grid, coordinates(grid), rng(1))
    edge = np.abs(s.depth) < 2
    x, y, z = np.abs(s.at.x), s.at.y, s.at.z
    roof = edge & (x > 15) & (x < 38) & (y > -62) & (y < -35) & (z < -12)
    wall = edge & (z > -8) & (z < 15)
    assert roof.sum() > 50
    assert np.median(s.rise[roof]) > 0.5
    assert np.percentile(s.rise[wall], 90) < 0.3
