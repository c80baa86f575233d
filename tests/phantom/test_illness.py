"""Illness without a bleed has the density and place it should, and never passes for blood in the truth."""

from dataclasses import fields, replace
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
from scipy import ndimage

from triage.phantom import USUAL, PhantomSpec, PhantomStudy, Profile, generate
from triage.phantom.illness import MASSES, Illness, draw_illness
from triage.phantom.profile import draw_head
from triage.phantom.study import STAGES
from triage.records import FloatArray

SWITCHES = {
    "p_white_disease": {"white_disease_hu"}, "p_infarct": {"infarct"}, "p_oedema": {"oedema", "oedema_hu"},
    "p_tumour": {"mass", "mass_mm"},
}  # fmt: skip
PLAIN = replace(
    USUAL, age=(85, 85), white_hu=(29, 29), contrast_hu=(7, 7), csf_hu=(6, 6), nod_deg=(0, 0), noise_hu=(0.3, 0.3),
    offset_hu=(0, 0), gain=(1, 1), streak_hu=(0, 0), cupping_hu=(0, 0), fov_mm=(240, 240), blur_mm=(0.4, 0.4),
    **dict.fromkeys([f.name for f in fields(Profile) if f.name.startswith("p_")], cast("Any", 0.0)),
)  # fmt: skip


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@cache
def study(seed: int, *switches: str) -> PhantomStudy:
    profile = replace(PLAIN, **dict.fromkeys(switches, cast("Any", 5.0)))
    return generate(seed, PhantomSpec(size_px=96, n_slices=22, spacing_mm=7, subtypes=(), profile=profile))


def ill(seed: int, switch: str) -> tuple[FloatArray, FloatArray, Illness]:
    """Densities before and after, where they differ, and the illness."""
    before, after = study(seed), study(seed, switch)
    where = np.abs(after.hu.astype(np.float32) - before.hu) > 2
    return before.hu[where].astype(np.float32), after.hu[where].astype(np.float32), after.illness


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_changes_no_other_illness(switch: str) -> None:
    for seed in range(20):
        head = draw_head(rng(seed), PLAIN)
        without = draw_illness(rng(seed), replace(USUAL, **{switch: cast("Any", 0.0)}), head)
        with_it = draw_illness(rng(seed), replace(USUAL, **{switch: cast("Any", 5.0)}), head)
        assert {f.name for f in fields(without) if getattr(without, f.name) != getattr(with_it, f.name)} <= SWITCHES[
            switch
        ]


def test_white_disease_lowers_white_matter_only() -> None:
    before, after, illness = ill(1, "p_white_disease")
    assert before.size > 500
    assert np.percentile(after - before, 99) <= 0
    assert (before - after).max() < illness.white_disease_hu + 2
    assert 22 < np.median(before) < 34


@pytest.mark.parametrize("seed", [1, 2, 4])
def test_oedema_and_fresh_infarct_are_darker_than_brain_and_brighter_than_fluid(seed: int) -> None:
    before, after, illness = ill(seed, "p_oedema")
    tissue = before > 26
    assert tissue.sum() > 30
    assert after[tissue].mean() < before[tissue].mean() - 1.5
    assert after[tissue].min() > 8
    assert 4 <= illness.oedema_hu <= 12


@pytest.mark.parametrize("switch", ["p_oedema", "p_white_disease", "p_infarct"])
@pytest.mark.parametrize("white_hu", [14, 20, 34])
def test_low_density_never_brightens_tissue_however_dark(switch: str, white_hu: float) -> None:
    dark = replace(PLAIN, white_hu=(white_hu + 2, white_hu + 2), csf_hu=(8, 8), blur_mm=(0.1, 0.1))
    lowest = 0.0
    for seed in range(1, 6):
        spec = PhantomSpec(size_px=64, n_slices=18, spacing_mm=8, subtypes=(), profile=dark)
        before = generate(seed, spec)
        after = generate(seed, replace(spec, profile=replace(dark, **{switch: cast("Any", 5.0)})))
        change = after.hu.astype(np.float32) - before.hu
        tissue = (before.hu > before.head.white_hu - 2) & (before.hu < before.head.grey_hu + 2)
        assert np.percentile(change[tissue], 99.9) <= 1  # rounding
        assert after.hu[(change < -2) & tissue].min(initial=99) > before.head.csf_hu - 5
        lowest = min(lowest, float(change.min()))
    assert lowest < (-2 if white_hu > 14 else -1)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_old_infarct_is_nearly_fluid(seed: int) -> None:
    before, after, _ = ill(seed, "p_infarct")
    assert before.size > 5
    assert np.mean(after < before) > 0.8
    assert np.percentile(after, 5) < 22


def test_masses_are_brighter_than_oedema_and_darker_than_blood() -> None:
    kinds = set()
    for seed in (1, 2, 4, 6):
        _, after, illness = ill(seed, "p_tumour")
        kinds.add(illness.mass)
        assert after.size > 10
        assert np.percentile(after, 80) < 56
    assert kinds <= set(MASSES)
    assert len(kinds) > 1


def drawn_mass(seed: int, profile: Profile) -> str:
    """The mass that a seed's head has."""
    stream = np.random.PCG64(np.random.SeedSequence([seed, STAGES.index("illness")]))
    return draw_illness(np.random.Generator(stream), profile, draw_head(rng(seed), profile)).mass


def test_every_meningioma_appears_against_bone_or_falx() -> None:
    profile = replace(PLAIN, age=(50, 50), p_tumour=cast("Any", 5.0), turn_deg=0.0, off_centre_mm=0.0)
    seeds = [seed for seed in range(60) if drawn_mass(seed, profile) == "meningioma"][:12]
    assert len(seeds) == 12
    for seed in seeds:
        spec = PhantomSpec(size_px=64, n_slices=24, spacing_mm=6, subtypes=(), profile=profile, tilt_deg=0)
        sick, well = generate(seed, spec), generate(seed, replace(spec, profile=replace(profile, p_tumour=0.0)))
        assert sick.illness.mass == "meningioma"
        mask = np.abs(sick.hu.astype(np.float32) - well.hu) > 2.5
        volume = float(mask.sum()) * sick.spacing_mm[0] ** 2 * sick.positions_mm[1]
        assert volume > 0.5 * sick.illness.mass_mm**3, seed
        to_bone = ndimage.distance_transform_edt(well.hu < 300, sampling=(6, *sick.spacing_mm))[mask]
        to_middle = np.abs(np.nonzero(mask)[2] - 31.5) * sick.spacing_mm[0]
        assert min(np.percentile(to_bone, 3), np.percentile(to_middle, 3)) < 8, seed


def test_a_meningioma_lies_where_a_low_stack_shows_brain() -> None:
    profile = replace(PLAIN, p_tumour=cast("Any", 5.0))
    seed = next(seed for seed in range(60) if drawn_mass(seed, profile) == "meningioma")
    spec = PhantomSpec(size_px=64, n_slices=4, spacing_mm=5, subtypes=(), profile=profile)
    sick, well = generate(seed, spec), generate(seed, replace(spec, profile=replace(profile, p_tumour=0.0)))
    assert (np.abs(sick.hu.astype(np.float32) - well.hu) > 2.5).sum() > 5


def test_illness_is_no_bleed() -> None:
    everything = study(2, *SWITCHES)
    assert not everything.labels()["any"]
    assert not everything.slice_labels().any()
