"""Whether a thing is there or not leaves every other draw, and every voxel that it does not touch, as it was."""

from dataclasses import asdict, fields, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from triage.phantom import WIDE, PhantomSpec, PhantomStudy, Profile, generate

OWN: dict[str, tuple[set[str], float]] = {
    "p_calcified": ({"choroid", "pineal"}, 0.004),
    "p_falx_calcified": ({"falx_calcified"}, 0.002),
    "p_ganglia_calcified": ({"ganglia_calcified"}, 0.004),
    "p_cavum": ({"cavum_mm"}, 0.002),
    "p_infarct": ({"infarct"}, 0.02),
    "p_white_disease": ({"white_disease_hu"}, 0.03),
    "p_oedema": ({"oedema", "oedema_hu"}, 0.02),
    "p_tumour": ({"mass", "mass_mm"}, 0.04),
    "p_headrest": ({"headrest"}, 0.15),
    "p_hair": ({"hair_mm"}, 0.06),
    "p_tube": ({"tubes"}, 0.02),
    "p_clip": ({"clip_mm"}, 0.08),
    "p_shunt": ({"shunt_hu"}, 0.008),
    "p_craniotomy": ({"craniotomy"}, 0.08),
    "p_motion": ({"motion_mm"}, 0.25),
    "p_ears": ({"ears"}, 0.015),
    "p_scalp_swelling": ({"swelling_mm"}, 0.04),
    "p_round_field": (set(), 0.25),
}
"""Of each thing: what its switch changes among all that is drawn, and the greatest share of voxels that it touches."""

AIRY = ("p_headrest", "p_ears", "p_hair")
"""These lie in the air beside the head."""

BLEEDS = ("p_measured", "p_more", "p_pair", "p_breakthrough", "p_hyperacute", "p_isodense", "p_chronic",
          "p_acute_on_chronic", "p_fluid_level", "p_membranes")  # fmt: skip
"""These change bleeds, and so the brain round them."""

ALWAYS = 30.0
"""Some probabilities are weighed by age."""

HEADS = replace(WIDE, age=(60, 90), p_motion=0.0)
"""Any that lie still."""


@cache
def study(seed: int, subtypes: tuple[str, ...] | None, **switches: float) -> PhantomStudy:
    changes: dict[str, Any] = switches
    spec = PhantomSpec(
        size_px=64, n_slices=16, spacing_mm=10, subtypes=subtypes, p_bleed=1.0, profile=replace(HEADS, **changes)
    )
    return generate(seed, spec)


def drawn(made: PhantomStudy) -> dict[str, Any]:
    """All that was drawn but bleeds."""
    return {
        name: value
        for part in (made.head, made.scanner, made.marks, made.illness)
        for name, value in asdict(part).items()
    }


def test_every_switch_is_known() -> None:
    assert {f.name for f in fields(Profile) if f.name.startswith("p_")} == {*OWN, *BLEEDS}


@pytest.mark.parametrize("switch", OWN)
def test_a_thing_moves_no_other(switch: str) -> None:
    names, most = OWN[switch]
    shares = []
    for seed in (1, 2):
        off, on = study(seed, (), **{switch: 0.0}), study(seed, (), **{switch: ALWAYS})
        before, after = drawn(off), drawn(on)
        assert {name for name in before if before[name] != after[name]} <= names
        changed = off.hu != on.hu
        shares.append(float(changed.mean()))
        if switch in AIRY:
            assert np.percentile(off.hu[np.abs(on.hu.astype(int) - off.hu) > 40], 90) < 0
            assert changed[(off.hu > 10) & (off.hu < 45)].mean() < 0.002  # of brain, not one streak
    assert 0 < max(shares) < most


@pytest.mark.parametrize("switch", BLEEDS)
def test_a_kind_of_bleed_moves_nothing_outside_the_skull(switch: str) -> None:
    also = {"p_chronic": 1.0} if switch == "p_membranes" else {}
    subtypes = {"p_pair": None, "p_more": ("intraparenchymal",)}.get(
        switch, ("intraparenchymal", "intraventricular", "subdural")
    )
    differ = 0
    for seed in range(1, 30):
        off, on = study(seed, subtypes, **also, **{switch: 0.0}), study(seed, subtypes, **also, **{switch: 1.0})
        assert drawn(off) == drawn(on)
        changed = off.hu != on.hu
        assert np.abs(on.hu.astype(int) - off.hu)[off.hu < -700].max() <= 2  # thick slices show brain in air cells
        differ += bool(changed.any())
        if differ == 2:
            return
    pytest.fail(f"{switch} shows in fewer than two of 29 heads")
