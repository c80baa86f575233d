"""What a head carries looks as it should, stays where it belongs, and moves nothing else."""

from dataclasses import fields, replace
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
from scipy import ndimage

from triage.phantom import USUAL, PhantomSpec, PhantomStudy, Profile, generate
from triage.phantom.grids import BoolArray, Grid, coordinates, held
from triage.phantom.hardware import draw_marks, paint_marks, streaks
from triage.phantom.profile import draw_head
from triage.phantom.skull import AIR_HU, Site, Space, surface
from triage.records import FloatArray

SWITCHES = ("p_ears", "p_hair", "p_scalp_swelling", "p_craniotomy", "p_shunt", "p_tube", "p_clip")
PLAIN = replace(
    USUAL, nod_deg=(0, 0), turn_deg=0.0, off_centre_mm=0.0, fov_mm=(240, 240), noise_hu=(0.5, 0.5), offset_hu=(0, 0),
    gain=(1, 1), streak_hu=(0, 0),
    **dict.fromkeys([f.name for f in fields(Profile) if f.name.startswith("p_")], cast("Any", 0.0)),
)  # fmt: skip
SEEDS = (1, 2, 3)


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@cache
def image(seed: int, *switches: str) -> FloatArray:
    profile = replace(PLAIN, **dict.fromkeys(switches, cast("Any", 1.0)))
    study = generate(seed, PhantomSpec(size_px=96, n_slices=22, spacing_mm=7, subtypes=(), profile=profile))
    return study.hu.astype(np.float32)


def changed(seed: int, switch: str) -> tuple[FloatArray, FloatArray, BoolArray]:
    """The head without and with a mark, and where it shows."""
    without, with_it = image(seed), image(seed, switch)
    return without, with_it, np.abs(with_it - without) > 5


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_changes_no_other_mark(switch: str) -> None:
    for seed in range(20):
        without = draw_marks(rng(seed), replace(USUAL, **{switch: cast("Any", 0.0)}))
        with_it = draw_marks(rng(seed), replace(USUAL, **{switch: cast("Any", 1.0)}))
        differing = [f.name for f in fields(without) if getattr(without, f.name) != getattr(with_it, f.name)]
        assert len(differing) <= 1


@pytest.mark.parametrize("switch", ["p_ears", "p_hair"])
def test_ears_and_hair_lie_in_the_air(switch: str) -> None:
    without, with_it, where = changed(SEEDS[0], switch)
    assert where.sum() > 50
    assert np.percentile(without[where], 90) < 0  # of the head only the edge of its skin
    assert np.median(without[where]) < -700
    assert np.percentile(with_it[where], 90) < (-150 if switch == "p_hair" else 60)


@cache
def smooth_head(seed: int) -> tuple[Grid, Site]:
    """A head known on all of its grid."""
    head = draw_head(rng(seed), PLAIN)
    matrix = np.array([[0, 0, 2.0], [0, 2.0, 0], [7.0, 0, 0]])
    grid = Grid((24, 150, 150), (7.0, 2.0, 2.0), 7.0, matrix, np.zeros(3))
    return grid, Site(head, grid, surface(head, grid, coordinates(grid), rng(seed)))


def surrounded(seed: int, beside_mm: float) -> Space:
    """The same head, known only so far beside its skin."""
    grid, site = smooth_head(seed)
    block = held(site.surface.skin > -beside_mm, (0, 0, 0))
    return Space(Site(site.head, grid.cropped(block), site.surface.at_region(block)), grid, block)


BARE = draw_marks(rng(0), PLAIN)


@pytest.mark.parametrize(
    "marks",
    [{"ears": True}, {"hair_mm": 9.0}, {"swelling_mm": 13.5}, {"tubes": 6}],
    ids=lambda marks: next(iter(marks)),
)
def test_what_hangs_on_a_head_is_cut_nowhere(marks: dict[str, Any]) -> None:
    worn = replace(BARE, **marks)
    reaches = 0
    for seed in range(6):
        tight, wide = surrounded(seed, 2.0), surrounded(seed, 60.0)
        cut, free = (np.full(tight.grid.shape, AIR_HU, np.float32) for _ in range(2))
        paint_marks(cut, tight, worn, rng(seed))
        paint_marks(free, wide, worn, rng(seed))
        beyond = np.ones(cut.shape, np.bool_)
        beyond[tight.block] = False
        painted = [(hu > AIR_HU + 50) & beyond for hu in (cut, free)]
        assert painted[0].sum() == pytest.approx(painted[1].sum(), rel=0.15, abs=12)
        assert (painted[0] & ndimage.maximum_filter(painted[1], 3)).sum() >= 0.9 * painted[0].sum()
        reaches += bool(painted[0].sum() > 20)
    assert reaches >= 1


def test_surfaces_are_carried_on_at_their_slope() -> None:
    space = surrounded(1, 10.0)
    block = space.block
    wide = (block[0], slice(block[1].start - 6, block[1].stop + 6), slice(block[2].start - 4, block[2].stop + 4))
    x = space.carried(space.site.surface.at.x, wide)
    assert np.abs(x - coordinates(space.grid.cropped(wide)).x).max() < 1e-3
    skin = space.carried(space.site.surface.skin, wide)
    middle = skin.shape[1] // 2
    assert (np.diff(skin[12, middle, :12]) > 0.3).all()  # deeper and deeper, from outside
    assert space.carried(space.site.surface.skin, block) is not skin
    assert np.array_equal(space.carried(space.site.surface.skin, block), space.site.surface.skin)
    assert space.reaching(0.0) == block
    grown = space.reaching(60.0)
    assert all(a.start <= b.start and a.stop >= b.stop for a, b in zip(grown, block, strict=True))
    assert grown != block


def test_a_strap_lies_on_forehead_and_temples() -> None:
    heads = [(seed, image(seed), image(seed, "p_tube")) for seed in range(12)]
    found = 0
    for _, without, with_it in heads:
        where = (with_it - without > 150) & (without < -700)
        found += bool((where[:, :48].sum(axis=(1, 2)) > 30).sum() >= 3)
    assert 1 <= found < 9


def test_a_swollen_scalp_is_soft_and_outside_the_skull() -> None:
    for seed in SEEDS:
        without, with_it, where = changed(seed, "p_scalp_swelling")
        gained = where & (without < -500)
        assert gained.any()
        assert with_it[gained].max() < 120
        assert not (where & (without > 10) & (without < 45)).mean() > 0.001  # the brain stays


def test_a_shunt_is_a_dense_rod_through_brain() -> None:
    without, with_it, where = changed(SEEDS[1], "p_shunt")
    inside = where & (without > -20) & (without < 70) & (with_it > without + 40)
    assert inside.any(axis=(1, 2)).sum() >= 3
    assert with_it[inside].max() < 900


def test_a_craniotomy_opens_bone() -> None:
    for seed in SEEDS:
        without, with_it, where = changed(seed, "p_craniotomy")
        opened = where & (without > 400) & (with_it < without - 150)
        metal = where & (with_it > 1100) & (with_it > without + 200)
        assert opened.any() or metal.any()


def test_tubes_and_lines_are_thin() -> None:
    shares = [float(changed(seed, "p_tube")[2].mean()) for seed in SEEDS]
    assert max(shares) > 0
    assert max(shares) < 0.01


def test_a_clip_saturates_and_streaks_only_in_its_own_slices() -> None:
    without, with_it, where = changed(SEEDS[0], "p_clip")
    slices = where.any(axis=(1, 2))
    assert with_it.max() > 2500
    assert 1 <= slices.sum() <= 5
    k = int(where.sum(axis=(1, 2)).argmax())
    change = (with_it - without)[k][np.abs(without[k] - 30) < 20]
    assert change.max() > 20
    assert change.min() < -20


def test_streaks_fade_and_need_metal() -> None:
    grid = Grid((3, 80, 80), (5.0, 2.0, 2.0), 5.0, np.eye(3), np.zeros(3))
    hu, metal = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    streaks(hu, grid, None, rng(1))
    assert not hu.any()
    metal[1, 38:42, 38:42] = 1
    streaks(hu, grid, metal, rng(1))
    assert not hu[0].any()
    assert not hu[2].any()
    assert np.abs(hu[1, 30:50, 30:50]).mean() > 3 * np.abs(hu[1, :8]).mean() > 0


def test_metal_spoils_no_bleeds_density() -> None:
    def study(p: float) -> PhantomStudy:
        spec = PhantomSpec(size_px=96, n_slices=22, spacing_mm=7, subtypes=("subarachnoid",), volume_ml=(15, 15),
                           profile=replace(PLAIN, p_clip=p))  # fmt: skip
        return generate(5, spec)

    without, with_it = study(0), study(1)
    assert with_it.marks.clip_mm > 0
    assert with_it.truths[0].mean_hu == pytest.approx(without.truths[0].mean_hu, abs=5)
    assert with_it.volumes_ml["subarachnoid"] == pytest.approx(without.volumes_ml["subarachnoid"], rel=0.25)


@pytest.mark.parametrize(
    "asked",
    [{"n_slices": 1}, {"n_slices": 9, "tilt_deg": 22.0}, {"n_slices": 12, "spacing_mm": 0.7}, {"fov_mm": 180.0}],
    ids=lambda asked: next(iter(reversed(asked))),
)
def test_everything_at_once_fits_any_stack(asked: dict[str, Any]) -> None:
    on = replace(USUAL, **dict.fromkeys([f.name for f in fields(Profile) if f.name.startswith("p_")], cast("Any", 1.0)))
    study = generate(3, PhantomSpec(**{"size_px": 64, "n_slices": 10, "profile": on, "subtypes": (), **asked}))
    assert study.hu.min() >= -1100
    assert not any(mask.any() for mask in study.masks.values())
