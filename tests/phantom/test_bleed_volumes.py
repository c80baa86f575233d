"""A bleed is as large as it was planned, can be seen where it is labelled, and lies where such blood spreads."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from triage.phantom import PhantomSpec, PhantomStudy, generate
from triage.phantom import lesions as bleeds
from triage.phantom.anatomy import Brain
from triage.phantom.bleeding import fluid
from triage.phantom.grids import Grid, coordinates
from triage.phantom.lesions import Plan, Shape, draw_plan, reach
from triage.phantom.profile import USUAL, draw_head
from triage.phantom.skull import Site, surface

STILL = replace(
    USUAL, p_isodense=0.0, p_chronic=0.0, p_acute_on_chronic=0.0, p_hyperacute=0.0, p_fluid_level=0.0, p_motion=0.0,
    p_clip=0.0, p_craniotomy=0.0, p_infarct=0.0, p_tumour=0.0, noise_hu=(0.1, 0.1), offset_hu=(0.0, 0.0),
    gain=(1.0, 1.0),
)  # fmt: skip


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def made(
    monkeypatch: pytest.MonkeyPatch, kind: tuple[str, str], volume_ml: float, seed: int, size_px: int = 192
) -> PhantomStudy:
    """A head with one bleed of one variant."""
    label, variant = kind
    monkeypatch.setitem(bleeds.VARIANTS, label, ((variant, 1.0),))
    spec = PhantomSpec(size_px=size_px, subtypes=(label,), volume_ml=(volume_ml, volume_ml), profile=STILL)
    return generate(seed, spec)


@pytest.mark.parametrize(("label", "variant", "volume_ml"), [
    ("subdural", "interhemispheric", 0.3),
    ("subdural", "interhemispheric", 6.0),
    ("subdural", "tentorial", 0.3),
    ("subdural", "convexity", 0.3),
    ("subdural", "film", 8.0),
    ("epidural", "parietal", 0.3),
    ("epidural", "frontal", 2.0),
    ("subarachnoid", "convexity", 0.3),
    ("subarachnoid", "film", 0.5),
])  # fmt: skip
def test_a_bleed_is_as_large_as_it_was_planned(
    monkeypatch: pytest.MonkeyPatch, label: str, variant: str, volume_ml: float
) -> None:
    for seed in (41, 42, 43):
        study = made(monkeypatch, (label, variant), volume_ml, seed)
        assert 0.6 < study.volumes_ml[label] / volume_ml < 1.6


def test_a_large_subarachnoid_bleed_is_as_large_as_it_was_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    for variant in ("film", "convexity", "aneurysmal"):
        study = made(monkeypatch, ("subarachnoid", variant), 18.0, 44)
        assert study.volumes_ml["subarachnoid"] == pytest.approx(18.0, rel=0.1), variant


def test_thick_slices_of_coarse_pixels_lose_no_bleed() -> None:
    for label in bleeds.VARIANTS:
        spec = PhantomSpec(size_px=96, n_slices=22, spacing_mm=7.5, subtypes=(label,), volume_ml=(0.1, 0.1))
        for seed in (51, 52):
            assert generate(seed, replace(spec, profile=STILL)).volumes_ml[label] > 0, label


def test_a_level_is_reached_by_as_many_voxels_as_the_volume_takes() -> None:
    grid = Grid((1, 4, 5), (5.0, 2.0, 2.0), 5.0, np.eye(3), np.zeros(3))  # 0.02 mL a voxel
    level = np.arange(20, dtype=np.float32).reshape(grid.shape)
    allowed = level > 3
    for volume_ml, count in ((0.001, 2), (0.02, 2), (0.1, 5), (0.32, 16), (9.0, 16)):
        assert ((level < reach(level, allowed, volume_ml, grid)) & allowed).sum() == count
    assert reach(level, level > 99, 1.0, grid) == bleeds.FAR


@pytest.fixture(scope="module")
def place() -> tuple[Site, Brain]:
    """A head whose outer brain is fluid, as it is to the eye of a bleed beneath a large subdural."""
    head = draw_head(rng(), USUAL)
    grid = Grid((26, 100, 100), (5.0, 2.1, 2.1), 5.0, np.array([[0, 0, 2.1], [0, 2.1, 0], [5.0, 0, 0]]),
                np.array([0.0, 0.0, 15.0]))  # fmt: skip
    s = surface(head, grid, coordinates(grid), rng(2))
    inside = (s.depth > 0).astype(np.float32)
    wet = inside * (s.depth < 20)
    return Site(head, grid, s), Brain(inside, wet, np.zeros_like(inside), np.zeros_like(inside), s.at)


def test_fluid_bleeds_keep_to_what_others_leave(place: tuple[Site, Brain]) -> None:
    site, brain = place
    crescent = Shape(Plan("subdural", "convexity", 40.0, 55.0, 1.0), brain.inside * (site.surface.depth < 10))
    plans = [Plan("subarachnoid", "convexity", 2.0, 45.0, 1.0, number=n) for n in range(3)]
    shapes = fluid(site, plans, brain, rng(3), [crescent])
    room = 1 - crescent.share
    for shape in shapes:
        seen = shape.share * room > 0.5
        assert seen.sum() * site.grid.voxel_ml == pytest.approx(2.0, rel=0.1)
        room -= room * shape.share


def contrast(study: PhantomStudy, label: str) -> float:
    """Mean of a mask less that of what lies beside it in its slices, both away from bone."""
    mask, hu = study.masks[label], study.hu
    bone = hu > 150
    for axis in (1, 2):
        bone = ndimage.maximum_filter1d(bone, 7, axis=axis)
    near = mask
    for axis in (1, 2):
        near = ndimage.maximum_filter1d(near, 9, axis=axis)
    close = ndimage.binary_dilation(mask, np.ones((1, 3, 3)))
    return float(hu[mask & ~bone].mean() - hu[near & ~close & ~bone].mean())


@pytest.mark.parametrize(("label", "variant", "volume_ml"), [
    ("subarachnoid", "convexity", 2.0),
    ("subarachnoid", "aneurysmal", 12.0),
    ("intraparenchymal", "lobar", 1.0),
    ("subdural", "convexity", 15.0),
])  # fmt: skip
def test_fresh_blood_is_denser_than_what_lies_beside_it(
    monkeypatch: pytest.MonkeyPatch, label: str, variant: str, volume_ml: float
) -> None:
    monkeypatch.setattr(bleeds, "mean_hu", lambda *_: 27.0)
    for seed in (61, 62):
        assert contrast(made(monkeypatch, (label, variant), volume_ml, seed), label) >= 6


def test_no_bleed_takes_the_glare_of_bone_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thin subdural is denser than the same place without it, beside bone too."""
    monkeypatch.setattr(bleeds, "mean_hu", lambda *_: 50.0)
    for seed in (64, 65, 66):
        study = made(monkeypatch, ("subdural", "film"), 8.0, seed)
        without = generate(seed, replace(study.spec, subtypes=()))
        more = (study.hu - without.hu)[study.masks["subdural"]]
        assert more.mean() > 3
        assert (more < 0).mean() < 0.4


def test_beam_hardening_hides_no_fresh_bleed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pale bleed under a bright band is not darkened to its planned mean, below what brain would be there."""
    monkeypatch.setattr(bleeds, "mean_hu", lambda *_: 45.0)
    monkeypatch.setitem(bleeds.VARIANTS, "subdural", (("convexity", 1.0),))
    bright = replace(STILL, cupping_hu=(14, 14), band_mm=(22, 22), skull_mm=(8, 8))
    spec = PhantomSpec(size_px=160, subtypes=("subdural",), volume_ml=(40, 40), profile=bright)
    study, without = generate(67, spec), generate(67, replace(spec, subtypes=()))
    more = (study.hu.astype(float) - without.hu)[study.masks["subdural"]]
    assert np.median(more) > 6


def test_old_blood_may_be_as_dense_as_the_brain_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bleeds.OLD_HU, bleeds.CHRONIC, (15.0, 15.0))
    spec = PhantomSpec(size_px=128, subtypes=("subdural",), volume_ml=(50, 50), profile=replace(STILL, p_chronic=1.0))
    assert contrast(generate(63, spec), "subdural") < 0


def test_an_aneurysm_bleeds_into_the_cisterns_of_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    level = replace(STILL, turn_deg=0.0, nod_deg=(0.0, 0.0), off_centre_mm=0.0)
    monkeypatch.setitem(bleeds.VARIANTS, "subarachnoid", (("aneurysmal", 1.0),))
    for seed in (71, 72, 73):
        study = generate(seed, PhantomSpec(size_px=192, subtypes=("subarachnoid",), volume_ml=(20, 20), profile=level))
        assert study.truths[0].variant == "aneurysmal"
        _, rows, columns = np.nonzero(study.masks["subarachnoid"])
        across = (columns - 95.5) * study.spacing_mm[1]
        assert 0.15 < (across > 4).sum() / (np.abs(across) > 4).sum() < 0.85
        assert across.min() < -28  # Sylvian fissures
        assert across.max() > 28
        middle = (rows[np.abs(across) < 4] - 95.5) * study.spacing_mm[0]
        assert middle.min() < -28  # between the frontal lobes
        assert middle.max() > 0  # before and behind the midbrain


def test_small_bleeds_of_the_cisterns_stay_there_and_large_ones_spread() -> None:
    for volume_ml, variant in ((2.0, "cistern"), (20.0, "aneurysmal")):
        drawn = [draw_plan("subarachnoid", rng(seed), (volume_ml, volume_ml), 0.0) for seed in range(120)]
        basal = [plan for plan in drawn if plan.variant in ("cistern", "aneurysmal")]
        assert len(basal) > 30
        assert {plan.variant for plan in basal} == {variant}


def test_thin_subdurals_and_small_epidurals_are_no_rarity() -> None:
    subdurals = [draw_plan("subdural", rng(seed), None, 0.12, STILL) for seed in range(300)]
    assert sum(plan.variant == "film" for plan in subdurals) > 70
    epidurals = [draw_plan("epidural", rng(seed), None, 0.0, replace(STILL, p_measured=0.0)) for seed in range(300)]
    assert sum(1 <= plan.volume_ml <= 5 for plan in epidurals) > 95
