"""The head has the parts a reader looks for, at the densities they have, and varies as asked."""

from dataclasses import replace

import numpy as np
import pytest

from triage.phantom import SHIFTED, USUAL, WIDE, PhantomSpec, PhantomStudy, Profile, generate
from triage.phantom.bleeding import draw_plans
from triage.phantom.fields import capsule, noise, resample, soft_slab
from triage.phantom.grids import SLAB_VOXELS, Grid, coordinates, is_empty, region_around, rod_region, slabs
from triage.phantom.profile import draw_head
from triage.phantom.scanner import photon_noise
from triage.phantom.skull import cavity_region, head_region, surface
from triage.records import FloatArray

STILL_HEAD = replace(USUAL, turn_deg=0.01, nod_deg=(0, 0), bumps_mm=(0.8, 0.8), off_centre_mm=0.01, noise_hu=(0.5, 0.6),
                     size=(1, 1), aspect=(1, 1), offset_hu=(0, 0), gain=(1, 1), air=(1, 1), p_infarct=0,
                     p_motion=0)  # fmt: skip


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@pytest.fixture(scope="module")
def study() -> PhantomStudy:
    return generate(6, PhantomSpec(size_px=192, subtypes=(), fov_mm=230, profile=STILL_HEAD))


def at(study: PhantomStudy, low: tuple[float, ...], high: tuple[float, ...]) -> FloatArray:
    """HU in a box of head coordinates (x, y, z in mm)."""
    top = study.head.radii_mm[2] + study.head.skull_mm + study.head.scalp_mm + 2
    n, rows, columns = study.hu.shape
    sizes = (study.spacing_mm[1], study.spacing_mm[0], study.positions_mm[1])
    middles = (columns / 2, rows / 2, n - top / sizes[2])
    x, y, z = (
        slice(round(a / size + middle), max(round(b / size + middle), round(a / size + middle) + 1))
        for a, b, size, middle in zip(low, high, sizes, middles, strict=True)
    )
    return study.hu[z, y, x].astype(np.float32)


def test_tissues_have_their_densities(study: PhantomStudy) -> None:
    assert np.median(at(study, (14, -10, 28), (30, 30, 45))) == pytest.approx(30, abs=8)  # white matter
    assert np.percentile(at(study, (-25, -40, 10), (25, 60, 22)), 1) < 16  # ventricles
    assert at(study, (-3, -110, 20), (3, -60, 22)).max() > 700  # forehead
    assert at(study, (-110, -110, 60), (-100, -100, 80)).max() < -900  # air


def test_skull_base_has_petrous_bone_orbits_and_air(study: PhantomStudy) -> None:
    for side in (-1, 1):
        low, high = sorted((side * 20, side * 36))
        assert np.percentile(at(study, (low, 6, -40), (high, 18, -34)), 60) > 500  # petrous pyramid
        low, high = sorted((side * 28, side * 34))
        assert -30 < np.median(at(study, (low, -80, -44), (high, -72, -38))) < 50  # eye
        low, high = sorted((side * 14, side * 24))
        assert np.percentile(at(study, (low, -56, -42), (high, -46, -38)), 30) < -20  # fat behind it
        low, high = sorted((side * 52, side * 64))
        assert at(study, (low, 20, -52), (high, 40, -40)).min() < 0  # mastoid cells
    assert np.median(at(study, (-9, -60, -42), (9, -36, -36))) < -100  # ethmoid
    assert at(study, (-10, -24, -46), (10, -12, -38)).min() < -400  # sphenoid sinus


def test_falx_and_sinus_are_brighter_than_brain(study: PhantomStudy) -> None:
    brain = np.median(at(study, (14, -10, 28), (30, 30, 45)))
    assert np.median(at(study, (-1, 60, 30), (1, 64, 40)).max(axis=2)) > brain + 3


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_young_have_fluid_round_the_brain_stem_too(seed: int) -> None:
    young = replace(STILL_HEAD, age=(20, 20), csf_hu=(6, 6), streak_hu=(0, 0), white_hu=(30, 30))
    spec = PhantomSpec(size_px=192, n_slices=40, spacing_mm=4, subtypes=(), fov_mm=230, profile=young, tilt_deg=0)
    made = generate(seed, spec)
    above_sella = at(made, (-7, -14, -20), (7, 2, -16))
    assert (above_sella < 20).mean() > 0.2
    behind_clivus = at(made, (-5, -4, -36), (5, 12, -32)).min(axis=1)
    assert np.median(behind_clivus) < 21
    beside = [at(made, (low, 8, -16), (low + 7, 22, -10)).min(axis=2) for low in (-20, 13)]
    assert all(np.median(least) < 24 for least in beside)  # a line on either side of the midbrain


def test_age_widens_fluid_spaces() -> None:
    def fluid(age: float) -> float:
        profile = replace(STILL_HEAD, age=(age, age + 1))
        heads = [generate(s, PhantomSpec(size_px=96, subtypes=(), profile=profile)) for s in range(4)]
        return float(np.mean([np.mean(h.hu[14:24, 24:72, 30:66] < 20) for h in heads]))

    assert fluid(85) > 1.5 * fluid(20)


def test_gantry_tilt_and_pose_vary_between_seeds() -> None:
    heads = [draw_head(rng(seed), USUAL) for seed in range(20)]
    assert len({round(h.turn_deg[2], 3) for h in heads}) == 20
    assert max(abs(h.turn_deg[2]) for h in heads) <= USUAL.turn_deg
    assert USUAL.turn_deg < max(abs(h.turn_deg[0]) for h in heads) <= USUAL.nod_deg[1]


@pytest.mark.parametrize("profile", [USUAL, SHIFTED])
def test_brain_fills_the_middle_whatever_the_draw(profile: Profile) -> None:
    for seed in range(60, 68):
        study = generate(seed, PhantomSpec(size_px=64, subtypes=(), profile=profile))
        middle = study.hu[16:20, 24:40, 24:40]
        assert 8 < np.median(middle) < 50, seed
        assert study.hu[31].max() < 3000
        assert (study.hu > 600).any()


def test_headrest_can_be_there_or_not() -> None:
    def behind(p: float) -> int:
        profile = replace(STILL_HEAD, p_headrest=p)
        hu = generate(4, PhantomSpec(size_px=128, subtypes=(), fov_mm=250, profile=profile)).hu[28:]
        return int((hu[:, 100:] > -900).sum())

    assert behind(1.0) > behind(0.0) + 50


def test_noise_level_and_slice_thickness() -> None:
    thick = generate(9, PhantomSpec(size_px=128, n_slices=32, subtypes=()))
    grain = photon_noise((4, 200, 200), (5.0, 1.0, 1.0), thick.scanner, 5.0, rng())
    assert grain.std() == pytest.approx(thick.scanner.noise_hu, rel=0.02)
    thin = photon_noise((4, 200, 200), (1.25, 1.0, 1.0), thick.scanner, 1.25, rng())
    assert thin.std() == pytest.approx(2 * grain.std(), rel=0.02)


def test_random_truth_has_negatives_and_every_label() -> None:
    draws = [[p.label for p in draw_plans(PhantomSpec(), rng(seed))] for seed in range(400)]
    empty = sum(not d for d in draws)
    assert 110 < empty < 210
    assert {label for d in draws for label in d} == {"epidural", "intraparenchymal", "intraventricular",
                                                     "subarachnoid", "subdural"}  # fmt: skip
    assert any(len(d) > 1 for d in draws)


def test_region_holds_its_box() -> None:
    grid = turned_grid()
    points = coordinates(grid)
    within = (np.abs(points.x - 5) < 12) & (np.abs(points.y + 6) < 9) & (np.abs(points.z - 10) < 14)
    region = region_around(grid, (-7, -15, -4), (17, 3, 24))
    assert within.sum() > 100
    assert within[region].sum() == within.sum()
    assert within[region].size < within.size / 4


def turned_grid() -> Grid:
    turn = np.array([[0.1, 0.2, 1.5], [0.3, 1.4, -0.2], [4.9, -0.3, 0.1]])
    return Grid((20, 60, 61), (5.0, 1.5, 1.5), 5.0, turn, np.array([3.0, -2.0, 8.0]))


def test_a_cropped_grid_lies_where_it_lay() -> None:
    grid, region = turned_grid(), (slice(3, 11), slice(20, 59), slice(0, 14))
    whole, part = coordinates(grid).at(region), coordinates(grid.cropped(region))
    for one, other in ((whole.x, part.x), (whole.y, part.y), (whole.z, part.z)):
        assert np.allclose(one, other, atol=1e-4)


def test_a_thinned_grid_spans_the_whole_and_its_rows_come_back() -> None:
    grid = turned_grid()
    whole, few = coordinates(grid), coordinates(grid.thinned(3, 4))
    assert np.allclose(whole.y[:, ::3, ::4], few.y[:, :20, :16], atol=1e-4)
    assert few.y.shape == (20, 21, 16)
    again = coordinates(grid.thinned(3, 1)).with_rows(3, 60)
    assert np.allclose(whole.x, again.x, atol=1e-4)


def test_rod_region_holds_all_within_reach() -> None:
    grid = turned_grid()
    start, end = (-10.0, 5.0, -20.0), (12.0, -14.0, 25.0)
    near = capsule(coordinates(grid), start, end, (0.0, 0.0)) > -6
    region = rod_region(grid, start, end, 6.0)
    assert near[region].sum() == near.sum() > 100
    assert near[region].size < near.size / 3
    assert is_empty(rod_region(grid, (900.0, 0.0, 0.0), (910.0, 0.0, 0.0), 6.0))


def test_slabs_cover_each_slice_once() -> None:
    count = np.zeros((23, 150, 200), np.int8)
    for part in slabs(count.shape):
        assert count[part].size <= SLAB_VOXELS
        count[part] += 1
    assert (count == 1).all()


def test_head_and_cavity_lie_within_their_regions() -> None:
    for seed in range(5):
        head = draw_head(rng(seed), WIDE)
        grid = Grid(
            (16, 96, 96), (10.0, 3.0, 3.0), 10.0, np.array([[0, 0, 3.0], [0, 3.0, 0], [10.0, 0, 0]]), np.zeros(3)
        )
        s = surface(head, grid, coordinates(grid), rng(seed))
        outside = np.ones(grid.shape, np.bool_)
        outside[head_region(head, grid)] = False
        assert not (s.skin[outside] > -1).any()
        outside[...] = True
        outside[cavity_region(s)] = False
        assert not (s.depth[outside] > 0).any()
        assert outside.any()


def test_thin_sheet_never_fills_a_voxel() -> None:
    share = soft_slab(np.linspace(0, 5, 50, dtype=np.float32), 0.4, 2.0)
    assert share.max() == pytest.approx(0.4)


def test_noise_field_has_unit_variance_and_its_scale() -> None:
    field = noise(rng(), (40, 160, 160), (5.0, 1.0, 1.0), 20.0)
    assert field.std() == pytest.approx(1.0, abs=0.15)
    near = np.corrcoef(field[:, :, :-4].ravel(), field[:, :, 4:].ravel())[0, 1]
    far = np.corrcoef(field[:, :, :-60].ravel(), field[:, :, 60:].ravel())[0, 1]
    assert near > 0.85
    assert abs(far) < 0.3


def test_resampling_keeps_means() -> None:
    field = noise(rng(), (8, 32, 32), (5.0, 1.0, 1.0), 12.0)
    assert resample(field, (8, 96, 96)).mean() == pytest.approx(field.mean(), abs=0.03)
    assert resample(field, (8, 32, 32)) is field
