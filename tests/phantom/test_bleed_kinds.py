"""Ages of blood, places, several bleeds at once: each switch does what it says and nothing else."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from triage.phantom import PhantomSpec, PhantomStudy, generate
from triage.phantom import lesions as bleeds
from triage.phantom.anatomy import Brain
from triage.phantom.bleeding import draw_plans, paint_blood
from triage.phantom.clots import Patch, texture
from triage.phantom.extraaxial import subdural
from triage.phantom.grids import Grid, coordinates
from triage.phantom.lesions import Plan, Shape
from triage.phantom.parenchyma import intraparenchymal
from triage.phantom.profile import USUAL, draw_head
from triage.phantom.seepage import downwards, intraventricular, subarachnoid
from triage.phantom.skull import Site, surface
from triage.records import SUBTYPES, FloatArray

PLAIN = replace(USUAL, p_hyperacute=0, p_isodense=0, p_chronic=0, p_acute_on_chronic=0, p_fluid_level=0, p_membranes=0,
                p_more=0, p_measured=0)  # fmt: skip


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@pytest.fixture(scope="module")
def site() -> Site:
    head = draw_head(rng(), USUAL)
    grid = Grid((26, 100, 100), (5.0, 2.1, 2.1), 5.0, np.array([[0, 0, 2.1], [0, 2.1, 0], [5.0, 0, 0]]),
                np.array([0.0, 0.0, 15.0]))  # fmt: skip
    return Site(head, grid, surface(head, grid, coordinates(grid), rng(2)))


@pytest.fixture(scope="module")
def brain(site: Site) -> Brain:
    """Folds everywhere, and a ventricle of wide halves joined in the middle."""
    at, depth = site.surface.at, site.surface.depth
    inside = (depth > 0).astype(np.float32)
    folds = (depth > 0) & (np.abs(at.x) < 4) | (depth > 0) & (depth < 15) & (np.abs(at.y % 12 - 6) < 1.6)
    ventricle = ((at.x / 32) ** 2 + ((at.y - 8) / 42) ** 2 + ((at.z + 8) / 32) ** 2 < 1).astype(np.float32)
    return Brain(inside, folds * (1 - ventricle), ventricle, np.zeros_like(inside), at)


def patch() -> Patch:
    grid = Grid((8, 40, 40), (5.0, 1.0, 1.0), 5.0, np.array([[0, 0, 1.0], [0, 1.0, 0], [5.0, 0, 0]]), np.zeros(3))
    return Patch(np.ones(grid.shape, np.float32), downwards(grid, coordinates(grid)), grid.step_mm)


def blood(stage: str = "acute", variant: str = "convexity", *, level: bool = False, septa: bool = False) -> FloatArray:
    """Deviations from the mean of one plan's blood."""
    plan = Plan("subdural", variant, 30.0, 45.0, 1.0, stage, fluid_level=level, membranes=septa)
    return texture(plan, patch(), rng(4))


def test_unclotted_blood_is_mixed() -> None:
    assert blood().std() < 4
    assert 6 < blood("hyperacute").std() < 18
    assert np.ptp(blood("hyperacute")) < 60


def test_settled_cells_lie_behind_a_sharp_horizontal_level() -> None:
    profile = blood(level=True).mean(axis=(0, 2))
    step = np.abs(profile[3:] - profile[:-3])
    assert profile[-8:].mean() - profile[:8].mean() > 15
    assert step.max() > 12
    assert np.median(step) < 2


def test_new_blood_within_old_and_membranes_are_denser_than_the_rest() -> None:
    assert np.ptp(blood("acute on chronic")) > 18
    septa = blood("chronic", septa=True) - blood("chronic")
    assert 8 < septa.max() < 27
    assert septa.min() >= 0
    assert (septa == 0).mean() > 0.4


def test_contusions_are_speckled() -> None:
    assert blood(variant="frontal base").std() > 1.3 * blood().std()


@pytest.mark.parametrize(("switch", "label", "shown"), [
    ("p_hyperacute", "epidural", lambda p: p.stage == "hyperacute"),
    ("p_isodense", "subdural", lambda p: p.stage == "isodense" and not p.chronic),
    ("p_chronic", "subdural", lambda p: p.stage == "chronic" and p.chronic),
    ("p_acute_on_chronic", "subdural", lambda p: p.stage == "acute on chronic" and p.chronic),
    ("p_fluid_level", "intraparenchymal", lambda p: p.fluid_level),
])  # fmt: skip
def test_a_switch_changes_its_own_bleeds_only(switch: str, label: str, shown: Callable[[Plan], bool]) -> None:
    on_profile = replace(PLAIN, **{switch: 1.0})  # type: ignore[arg-type]  # switches are floats
    for seed in range(12):
        spec = PhantomSpec(subtypes=(label, "intraventricular"), volume_ml=(4, 20))
        off, on = (draw_plans(replace(spec, profile=profile), rng(seed)) for profile in (PLAIN, on_profile))
        assert [shown(p) for p in off] == [False, False]
        assert [shown(p) for p in on] == [p.label == label for p in on]
        assert [p for p in on if p.label != label] == [p for p in off if p.label != label]


def test_membranes_grow_in_old_subdurals_only() -> None:
    old = replace(PLAIN, p_chronic=1.0)
    for seed in range(12):
        spec = PhantomSpec(subtypes=("epidural", "subdural"))
        off, on = (draw_plans(replace(spec, profile=replace(old, p_membranes=p)), rng(seed)) for p in (0.0, 1.0))
        assert [p.membranes for p in on] == [False, True]
        assert [replace(p, membranes=False) for p in on] == off


def test_measured_volumes_are_smaller_than_those_that_bring_a_patient() -> None:
    def volumes(p: float) -> list[float]:
        spec = PhantomSpec(subtypes=("subarachnoid",), p_tiny=0.0, profile=replace(PLAIN, p_measured=p))
        return [draw_plans(spec, rng(seed))[0].volume_ml for seed in range(60)]

    assert min(volumes(0.0)) >= bleeds.VOLUME_ML["subarachnoid"][0]
    assert 0.1 <= min(volumes(1.0)) < 0.2
    assert np.median(volumes(1.0)) < 0.6


def test_a_second_kind_of_bleed_comes_with_the_first() -> None:
    def labels(p: float, seed: int) -> list[str]:
        plans = draw_plans(PhantomSpec(p_bleed=1.0, profile=replace(PLAIN, p_pair=p)), rng(seed))
        return sorted(plan.label for plan in plans)

    paired = [(labels(0.0, seed), labels(1.0, seed)) for seed in range(40)]
    added = [set(on) - set(off) for off, on in paired]
    assert all(set(off) <= set(on) for off, on in paired)
    assert set().union(*added) == {"intraventricular", "subarachnoid"}
    assert sum(map(bool, added)) > 8


@pytest.mark.parametrize("stage", bleeds.OLD_HU)
def test_an_old_subdural_is_as_dark_as_it_was_drawn(stage: str) -> None:
    aged = replace(PLAIN, **{f"p_{stage.replace(' ', '_')}": 1.0})  # type: ignore[arg-type]  # switches are floats
    still = replace(aged, p_motion=0.0, p_clip=0.0, p_craniotomy=0.0, noise_hu=(1, 1), offset_hu=(0, 0), gain=(1, 1))
    spec = PhantomSpec(size_px=96, n_slices=20, spacing_mm=7, subtypes=("subdural",), volume_ml=(60, 60), profile=still)
    study = generate(4, spec)
    (truth,), (low, high) = study.truths, bleeds.OLD_HU[stage]
    assert truth.stage == stage
    assert low - 1 <= truth.mean_hu <= high + 1
    inner = ndimage.binary_erosion(study.masks["subdural"], np.ones((1, 3, 3)))
    assert study.hu[inner].mean() == pytest.approx(truth.mean_hu, abs=6)


def test_more_bleeds_of_one_kind_leave_the_first_alone() -> None:
    counts = dict.fromkeys(SUBTYPES, 0)
    for seed in range(60):
        label = SUBTYPES[seed % 5]
        off, on = (
            draw_plans(PhantomSpec(subtypes=(label,), profile=replace(PLAIN, p_more=p)), rng(seed)) for p in (0.0, 1.0)
        )
        assert on[: len(off)] == off
        assert {p.label for p in on} == {label}
        assert len({p.number for p in on}) == len(on) <= 4
        assert all(p.volume_ml >= 0.1 for p in on)
        if label == "subdural" and len(on) > 1:
            assert on[0].side == -on[1].side
        counts[label] = max(counts[label], len(on))
    assert counts == {"epidural": 2, "intraparenchymal": 3, "intraventricular": 1, "subarachnoid": 4, "subdural": 2}


@pytest.mark.parametrize("variant", ["frontal base", "temporal pole"])
def test_contusions_lie_near_bone(site: Site, variant: str) -> None:
    plan = Plan("intraparenchymal", variant, 6.0, 50.0, 1.0)
    for seed in range(3):
        distance, _ = intraparenchymal(site.head, site.grid, site.surface, plan, rng(seed))
        depth = site.surface.depth[distance > 0]
        assert depth.size > 50
        assert 1 < np.median(depth) < 15
        assert (site.surface.at.x[distance > 0] > 0).all()


def test_lumps_have_the_wanted_volume(site: Site) -> None:
    for variant, _ in bleeds.VARIANTS["intraparenchymal"]:
        plan = Plan("intraparenchymal", variant, 5.0, 50.0, -1.0)
        distance, _ = intraparenchymal(site.head, site.grid, site.surface, plan, rng(7))
        assert (distance > 0).sum() * site.grid.voxel_ml == pytest.approx(5.0, rel=0.15), variant


@pytest.mark.parametrize("variant", [name for name, _ in bleeds.VARIANTS["subarachnoid"]])
def test_subarachnoid_blood_lies_in_fluid(site: Site, brain: Brain, variant: str) -> None:
    share = subarachnoid(site, brain, brain.inside, Plan("subarachnoid", variant, 3.0, 45.0, 1.0), rng(3))
    assert share.max() > 0.5
    assert (brain.csf[share > 0] > 0).all()
    if variant == "interhemispheric":
        assert np.abs(brain.at.x[share > 0.5]).mean() < 6


@pytest.mark.parametrize(("variant", "middle"), [("third", (0, 2, -2)), ("fourth", (0, 34, -36))])
def test_blood_in_the_inner_ventricles(site: Site, brain: Brain, variant: str, middle: tuple[int, int, int]) -> None:
    plan = Plan("intraventricular", variant, 1.0, 45.0, 1.0)
    share = intraventricular(site, brain, brain.inside, plan, rng(3)) > 0.5
    where = [float(a[share].mean()) for a in (brain.at.x, brain.at.y, brain.at.z)]
    assert np.abs(np.subtract(where, middle)).max() < 8


def test_a_film_is_thin(site: Site) -> None:
    found = [
        subdural(site.head, site.grid, site.surface, Plan("subdural", "film", 30.0, 55.0, 1.0), rng(seed))
        for seed in range(3)
    ]
    for distance in found:
        depth = site.surface.depth[(distance > 0) & (site.surface.depth > 0)]
        assert depth.size > 200
        assert np.quantile(depth, 0.9) < 6


def test_sulci_beside_an_extra_axial_bleed_are_effaced(site: Site, brain: Brain) -> None:
    distance = subdural(
        site.head, site.grid, site.surface, Plan("subdural", "convexity", 60.0, 35.0, 1.0, "isodense"), rng(2)
    )
    share = (distance > 0).astype(np.float32) * brain.inside
    hu = np.where(brain.csf > 0.5, 8, 33).astype(np.float32)
    before = hu.copy()
    shape = Shape(Plan("subdural", "convexity", 60.0, 35.0, 1.0, "isodense"), share)
    paint_blood(hu, site, [shape], brain, rng(3))
    folds = (brain.csf > 0.5) & (share == 0)
    beside = folds & (distance > -5) & (site.surface.at.x > 6)
    assert hu[beside].mean() > before[beside].mean() + 4
    assert (hu[site.surface.at.x < -12] == before[site.surface.at.x < -12]).all()


def test_tiny_bleeds_are_small_and_never_denser_than_blood() -> None:
    quiet = replace(USUAL, noise_hu=(0.1, 0.1), offset_hu=(0.0, 0.0), gain=(1.0, 1.0), p_motion=0.0, p_clip=0.0)
    seen: list[PhantomStudy] = []
    for seed in range(5):
        spec = PhantomSpec(size_px=128, n_slices=24, subtypes=(SUBTYPES[seed],), p_tiny=1.0, profile=quiet)
        study = generate(60 + seed, spec)
        assert study.volumes_ml[SUBTYPES[seed]] < 4
        seen += [study] if study.volumes_ml[SUBTYPES[seed]] else []
    assert len(seen) >= 3
    for study in seen:
        for label, mask in study.masks.items():
            if mask.any() and label not in ("epidural", "subdural"):  # those lie in the glare of bone
                assert np.quantile(study.hu[mask], 0.9) <= 87


def test_a_deep_bleed_breaks_into_the_ventricle_beside_it(site: Site) -> None:
    spec = PhantomSpec(subtypes=("intraparenchymal", "intraventricular"), profile=replace(PLAIN, p_breakthrough=1.0))
    joined = [plans for seed in range(30) if (plans := draw_plans(spec, rng(seed)))[0].joined]
    assert 4 < len(joined) < 25
    assert all(deep.variant in ("ganglia", "thalamus") and deep.side == other.side for deep, other in joined)
    never = replace(spec, profile=replace(PLAIN, p_breakthrough=0.0))
    assert not any(plan.joined for seed in range(30) for plan in draw_plans(never, rng(seed)))
    plan = Plan("intraparenchymal", "ganglia", 8.0, 50.0, 1.0)
    reached = []
    for one in (plan, replace(plan, joined=True)):
        distance, _ = intraparenchymal(site.head, site.grid, site.surface, one, rng(2))
        reached.append(float(site.surface.at.x[distance > 0].min()))
    assert reached[1] < reached[0] - 2
