"""Petrous bone, orbits and mass effect can be left out, each alone; frontal sinuses differ from head to head."""

from dataclasses import asdict, fields, replace
from functools import cache
from typing import Any, cast

import numpy as np
import pytest

from triage.phantom import USUAL, PhantomSpec, PhantomStudy, Profile, generate

PLAIN = replace(
    USUAL, age=(40, 40), nod_deg=(0, 0), turn_deg=0.0, off_centre_mm=0.0, size=(1, 1), aspect=(1, 1), fov_mm=(230, 230),
    noise_hu=(0.1, 0.1), offset_hu=(0, 0), gain=(1, 1), cupping_hu=(0, 0), streak_hu=(0, 0), bend_mm=(0.3, 0.3),
    skull_mm=(7, 7), **dict.fromkeys([f.name for f in fields(Profile) if f.name.startswith("p_")], cast("Any", 0.0)),
)  # fmt: skip
BLEED: dict[str, Any] = {"subtypes": ("subdural",), "volume_ml": (70.0, 70.0)}
DRAWN = ("head", "scanner", "marks", "illness")


@cache
def study(seed: int = 3, bleed: bool = False, **changes: Any) -> PhantomStudy:
    shape: dict[str, Any] = BLEED if bleed else {"subtypes": ()}
    profile = replace(PLAIN, **changes)
    return generate(seed, PhantomSpec(size_px=96, n_slices=32, spacing_mm=5, tilt_deg=0, profile=profile, **shape))


def box(made: PhantomStudy, low: tuple[float, ...], high: tuple[float, ...]) -> Any:
    """HU in a box of head coordinates (x, y, z in mm)."""
    top = made.head.radii_mm[2] + made.head.skull_mm + made.head.scalp_mm + 2
    sizes = (made.spacing_mm[1], made.spacing_mm[0], made.positions_mm[1])
    middles = (47.5, 47.5, 31.5 - top / sizes[2])
    x, y, z = (
        slice(round(a / s + m), round(b / s + m) + 1) for a, b, s, m in zip(low, high, sizes, middles, strict=True)
    )
    return made.hu[z, y, x].astype(np.float32)


def same_draws(one: PhantomStudy, other: PhantomStudy, switch: str) -> None:
    for part in DRAWN:
        first, second = asdict(getattr(one, part)), asdict(getattr(other, part))
        assert {name for name in first if first[name] != second[name]} <= {switch}


@pytest.mark.parametrize("side", [-1, 1])
def test_no_petrous_bone_and_nothing_else_moves(side: int) -> None:
    there, gone = study(), study(petrous=0.0)
    low, high = sorted((side * 22, side * 40))
    assert np.percentile(box(there, (low, 8, -40), (high, 20, -34)), 60) > 500
    assert np.percentile(box(gone, (low, 8, -40), (high, 20, -34)), 90) < 100
    same_draws(there, gone, "petrous")
    assert np.array_equal(there.hu[18:], gone.hu[18:])
    half = study(petrous=0.6)
    assert (
        0
        < (box(half, (low, 4, -44), (high, 24, -30)) > 400).sum()
        < (box(there, (low, 4, -44), (high, 24, -30)) > 400).sum()
    )


def test_no_petrous_bone_no_streaks() -> None:
    def streaks(petrous: float) -> float:
        with_them, without = (study(petrous=petrous, streak_hu=(v, v)) for v in (20.0, 0.0))
        return float(np.abs(with_them.hu.astype(np.float32) - without.hu).max())

    assert streaks(1.0) > 8
    assert streaks(0.0) <= 1


def test_no_orbits_and_nothing_else_moves() -> None:
    there, gone = study(), study(orbits=False)
    for side in (-1, 1):
        low, high = sorted((side * 14, side * 24))
        fat = (box(made, (low, -56, -44), (high, -46, -38)) for made in (there, gone))
        assert [bool(np.percentile(hu, 30) < -40) for hu in fat] == [True, False]
    same_draws(there, gone, "orbits")
    assert np.array_equal(there.hu[20:], gone.hu[20:])
    changed = np.argwhere(there.hu != gone.hu)
    assert changed[:, 1].max() < 48  # before the middle


def test_without_mass_effect_the_midline_stays() -> None:
    well, pushed, still = study(4), study(4, bleed=True), study(4, bleed=True, mass_effect=0.0)
    same_draws(pushed, still, "mass_effect")
    assert [t.volume_ml for t in pushed.truths] == pytest.approx([t.volume_ml for t in still.truths], rel=0.05)

    def middle(made: PhantomStudy) -> float:
        """Mean column of the ventricles' fluid, in mm."""
        fluid = (made.hu[17:24, 28:68, 34:62] < 17) & ~made.masks["subdural"][17:24, 28:68, 34:62]
        return float(np.nonzero(fluid)[2].mean()) * made.spacing_mm[1]

    assert abs(middle(still) - middle(well)) < 0.5
    assert abs(middle(pushed) - middle(well)) > 2
    outside = well.hu < -900
    assert np.array_equal(pushed.hu[outside], still.hu[outside])


def sinus(seed: int, air: float = 1.1) -> tuple[int, int]:
    """Voxels of air in the forehead, right and left of the middle."""
    hu = box(study(seed, air=(air, air)), (-30, -110, -34), (30, -70, 14))
    inside = (hu < -200) & (np.cumsum(hu > 0, axis=1) > 0)  # behind skin
    middle = hu.shape[2] // 2
    return int(inside[:, :, :middle].sum()), int(inside[:, :, middle:].sum())


def test_frontal_sinuses_differ_from_side_to_side_and_from_head_to_head() -> None:
    found = [sinus(seed) for seed in range(1, 9)]
    unlike = [abs(a - b) / (a + b) for a, b in found if a + b > 20]
    assert len(unlike) > 3
    assert max(unlike) > 0.25
    sizes = [a + b for a, b in found]
    assert max(sizes) > 2 * min(sizes)


def test_a_small_frontal_sinus_is_none() -> None:
    assert all(sum(sinus(seed, 0.2)) == 0 for seed in range(1, 4))
    assert any(sum(sinus(seed, 1.1)) for seed in range(1, 4))
