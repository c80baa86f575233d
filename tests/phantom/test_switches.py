"""Each trait of heads and scanners has a switch that changes what it should and leaves the rest as it was."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, cast

import numpy as np
import pytest

from triage.phantom import PROFILES, SHIFTED, USUAL, WIDE, PhantomSpec, PhantomStudy, Profile, generate
from triage.phantom.profile import draw_scanner
from triage.phantom.scanner import photon_noise
from triage.records import FloatArray

PLAIN = replace(
    USUAL, age=(60, 60), nod_deg=(0, 0), turn_deg=0.0, off_centre_mm=0.0, size=(1, 1), aspect=(1, 1), fov_mm=(230, 230),
    noise_hu=(0.5, 0.5), offset_hu=(0, 0), gain=(1, 1), streak_hu=(0, 0), cupping_hu=(0, 0), blur_mm=(0.5, 0.5),
    ventricles=(1, 1), asymmetry=(0, 0), bumps_mm=(0.5, 0.5), bend_mm=(0.3, 0.3),
    **dict.fromkeys([f.name for f in fields(Profile) if f.name.startswith("p_")], cast("Any", 0.0)),
)  # fmt: skip
"""One head without anything special."""

SIZE, SEED = 96, 12
BRAIN = (slice(14, 26), slice(30, 66), slice(34, 62))
"""Well inside the brain whatever the seed, above the skull base."""


def study(profile: Profile = PLAIN, seed: int = SEED, **spec: Any) -> PhantomStudy:
    return generate(seed, PhantomSpec(size_px=SIZE, subtypes=(), profile=profile, **spec))


def hu(profile: Profile = PLAIN, seed: int = SEED) -> FloatArray:
    return study(profile, seed).hu.astype(np.float32)


@pytest.fixture(scope="module")
def plain() -> FloatArray:
    return hu()


def fluid(image: FloatArray) -> float:
    return float((image[BRAIN] < 18).mean())


def calcium(image: FloatArray) -> float:
    return float((image[BRAIN] > 70).sum())


def spread(image: FloatArray) -> float:
    return float(image[BRAIN].std())


def air(image: FloatArray) -> float:
    """Voxels of air within the lower half of the head, where only sinuses and ears hold any."""
    return float((image[3:13, 30:80, 36:60] < -400).sum())


@pytest.mark.parametrize(
    ("change", "measure", "least"),
    [
        ({"contrast_hu": (10, 10)}, spread, 0.3),
        ({"csf_hu": (-8, -8)}, spread, 0.3),
        ({"ventricles": (1.6, 1.6)}, fluid, 0.01),
        ({"age": (92, 92)}, fluid, 0.01),
        ({"p_cavum": 1.0}, fluid, 0.0005),
        ({"p_calcified": 1.0}, calcium, 1),
        ({"p_ganglia_calcified": 100.0}, calcium, 1),
        ({"p_falx_calcified": 100.0}, calcium, 1),
        ({"noise_hu": (6, 6)}, spread, 1.0),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_more_of_a_trait_is_more_of_what_it_does(
    plain: FloatArray, change: dict[str, Any], measure: Callable[[FloatArray], float], least: float
) -> None:
    base: dict[str, Any] = {"contrast_hu": (5, 5), "csf_hu": (6, 6)}
    less = replace(PLAIN, **{k: v for k, v in base.items() if k in change})
    before = measure(hu(less)) if less != PLAIN else measure(plain)
    assert measure(hu(replace(less, **change))) - before >= least


def test_air_of_sinuses_and_mastoids_can_be_left_out() -> None:
    assert air(hu(replace(PLAIN, air=(1.1, 1.1)))) > air(hu(replace(PLAIN, air=(0.0, 0.0)))) + 20


def test_dura_and_arteries_are_brighter_than_brain_or_absent() -> None:
    none = hu(replace(PLAIN, dura_mm=(0.01, 0.01), arteries=(0, 0), blood_hu=(50, 50)))
    falx = hu(replace(PLAIN, dura_mm=(2.0, 2.0), arteries=(0, 0), blood_hu=(50, 50))) - none
    assert falx[18:26, 60:76, 46:50].max() > 3  # behind, in the midline
    assert np.abs(falx[18:26, 40:56, 62:70]).max() < 2  # beside
    vessels = hu(replace(PLAIN, dura_mm=(0.01, 0.01), arteries=(1, 1), blood_hu=(50, 50))) - none
    assert vessels.max() > 6
    assert (np.abs(vessels) > 2).sum() < 400


@pytest.mark.parametrize("field", ["bumps_mm", "bend_mm"])
def test_outline_and_skull_base_can_be_made_irregular(plain: FloatArray, field: str) -> None:
    moved = np.abs(hu(replace(PLAIN, **{field: cast("Any", (3.0, 3.0))})) - plain) > 100
    assert moved.sum() > 200
    if field == "bend_mm":
        assert not moved[18:].any()


def test_gyri_are_as_wide_as_the_profile_says() -> None:
    def turns(width: float) -> float:
        heads = (hu(replace(PLAIN, age=(85, 85), sulcus_mm=(width, width)), seed)[20:26] for seed in range(3))
        return float(np.mean([(np.abs(np.diff((h < 20).astype(int), axis=2))).sum() for h in heads]))

    assert turns(2.3) > 1.15 * turns(4.2)


def test_a_nodding_head_shows_another_base(plain: FloatArray) -> None:
    assert (np.abs(hu(replace(PLAIN, nod_deg=(20, 20))) - plain)[:16] > 200).sum() > 1000


def test_asymmetric_ventricles_differ_by_side() -> None:
    lopsided = hu(replace(PLAIN, asymmetry=(0.35, 0.35), ventricles=(1.4, 1.4)))[BRAIN] < 18
    middle = lopsided.shape[2] // 2
    assert lopsided[:, :, middle:].sum() > 1.15 * lopsided[:, :, :middle].sum()


def test_offset_and_scale_of_a_scanner_move_every_density() -> None:
    offset = hu(replace(PLAIN, offset_hu=(4, 4))) - hu()
    assert np.median(offset[BRAIN]) == 4
    scaled = hu(replace(PLAIN, gain=(1.1, 1.1)))
    assert np.median(scaled[BRAIN]) == pytest.approx(1.1 * np.median(hu()[BRAIN]), abs=1)


def test_cupping_and_streaks_can_be_turned_off(plain: FloatArray) -> None:
    cup = hu(replace(PLAIN, cupping_hu=(4, 4))) - plain
    assert 2 < cup[20].max() <= 11  # beside bone
    assert np.abs(cup[20, 46:50, 46:50]).max() <= 2  # in the middle
    streaks = hu(replace(PLAIN, streak_hu=(20, 20))) - plain
    assert streaks[:13].min() < -5
    assert np.abs(streaks[20:]).max() <= 1


def test_the_band_inside_the_skull_is_brighter_under_thick_bone_and_reaches_as_deep_as_asked() -> None:
    def band(skull_mm: float, band_mm: float) -> FloatArray:
        head = replace(PLAIN, skull_mm=(skull_mm, skull_mm), band_mm=(band_mm, band_mm))
        without, with_it = (hu(replace(head, cupping_hu=(c, c))) for c in (0.0, 6.0))
        return np.asarray(with_it - without)[12:24]

    thin, thick, wide = band(4.0, 10.0), band(8.0, 10.0), band(4.0, 20.0)
    assert thick.max() == 12  # 6 HU beside 4 mm of bone, and no more than 8 mm count
    assert thick.mean() > 1.3 * thin.mean()
    middle = np.s_[:, 40:56, 40:56]
    assert wide[middle].mean() > 1.8 * thin[middle].mean() > 0
    assert abs(wide.max() - thin.max()) <= 1


def test_kernels_from_soft_to_sharp(plain: FloatArray) -> None:
    soft = hu(replace(PLAIN, blur_mm=(1.3, 1.3)))
    edge = np.s_[16:24, :, 46:50]
    assert np.abs(np.diff(plain[edge], axis=1)).max() > 1.1 * np.abs(np.diff(soft[edge], axis=1)).max()


def test_sharp_kernels_leave_no_coarse_noise() -> None:
    def coarse(sharpness: float) -> float:
        scanner = draw_scanner(np.random.default_rng(1), replace(PLAIN, sharpness=(sharpness, sharpness)))
        grain = photon_noise((4, 160, 160), (5.0, 0.5, 0.5), scanner, 5.0, np.random.default_rng(2))
        return float(grain.reshape(4, 20, 8, 20, 8).mean(axis=(2, 4)).std() / grain.std())

    assert coarse(1.0) < 0.6 * coarse(0.0)


def test_sinuses_are_as_dense_as_blood() -> None:
    pale, dense = (hu(replace(PLAIN, arteries=(0, 0), blood_hu=(v, v))) for v in (40.0, 66.0))
    where = dense - pale > 6
    assert where.sum() > 10
    assert (np.abs(dense - pale) > 2).mean() < 0.005
    assert np.median(np.nonzero(where)[1]) > 60  # most of them lie behind


@pytest.mark.parametrize(
    ("field", "few", "many", "above_hu", "ratio"),
    [
        ("size", 0.92, 1.08, -500, 1.25),
        ("fov_mm", 260.0, 210.0, -500, 1.4),
        ("scalp_mm", 3.0, 11.0, -500, 1.1),
        ("skull_mm", 3.5, 9.0, 400, 1.5),
        ("bone_hu", 850.0, 1700.0, 900, 3.0),
    ],
)
def test_heads_differ_in_size_and_in_what_covers_them(
    field: str, few: float, many: float, above_hu: float, ratio: float
) -> None:
    less, more = (hu(replace(PLAIN, **{field: cast("Any", (v, v))}))[16:24] > above_hu for v in (few, many))
    assert more.sum() > ratio * less.sum()


def test_heads_turn_and_lie_beside_the_middle() -> None:
    def lie(made: PhantomStudy) -> tuple[FloatArray, float]:
        """Middle of the head in mm, and the angle of its long axis in degrees."""
        y, x = np.nonzero(made.hu[20] > -500)
        points = np.stack([x, y]) * made.spacing_mm[0]
        (xx, xy), (_, yy) = np.cov(points)
        return points.mean(axis=1), float(np.rad2deg(0.5 * np.arctan2(2 * xy, xx - yy)))

    straight, _ = lie(study())
    aside = study(replace(PLAIN, off_centre_mm=20.0))
    assert lie(aside)[0] - straight == pytest.approx(aside.head.off_centre_mm, abs=2)
    for seed in (1, 3):
        turned = study(replace(PLAIN, turn_deg=25.0), seed)
        angle = lie(turned)[1] - lie(study(seed=seed))[1]
        assert abs((angle + 90) % 180 - 90) == pytest.approx(abs(turned.head.turn_deg[2]), abs=5)


def test_stack_is_drawn_where_the_spec_leaves_it_open() -> None:
    stacks = [study(WIDE, seed, n_slices=None, spacing_mm=None, tilt_deg=None) for seed in range(8)]
    low, high = WIDE.spacing_mm
    assert all(low <= s.thickness_mm <= high for s in stacks)
    assert len({s.thickness_mm for s in stacks}) == 8
    assert all(150 <= s.thickness_mm * len(s.hu) <= 170 for s in stacks)
    assert max(abs(s.tilt_deg) for s in stacks) > 10
    assert all(-25 <= s.tilt_deg <= 25 for s in stacks)


def test_profiles_have_names_and_the_test_profile_has_gyri_that_none_trains_on() -> None:
    assert PROFILES == {"usual": USUAL, "shifted": SHIFTED, "wide": WIDE}
    assert SHIFTED.sulcus_mm[0] > max(USUAL.sulcus_mm[1], WIDE.sulcus_mm[1])
