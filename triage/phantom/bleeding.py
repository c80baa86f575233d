"""Bleeds in one head: places their shapes, keeps them apart, paints blood and oedema, matches the density drawn."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from triage.phantom import lesions as bleeds
from triage.phantom.anatomy import Brain, Deformation
from triage.phantom.clots import Patch, texture
from triage.phantom.extraaxial import outside_brain
from triage.phantom.fields import blend_in, soft
from triage.phantom.grids import BoolArray, Region
from triage.phantom.lesions import Plan, Shape, clear_of_bone
from triage.phantom.parenchyma import CONTUSIONS, intraparenchymal
from triage.phantom.profile import Scanner
from triage.phantom.scanner import blur
from triage.phantom.seepage import downwards, intraventricular, subarachnoid
from triage.phantom.skull import Site
from triage.phantom.spec import PhantomSpec
from triage.records import SUBTYPES, FloatArray

SOLID = (bleeds.EPIDURAL, bleeds.INTRAPARENCHYMAL, bleeds.SUBDURAL)
"""Bleeds that take room of their own; the others mix with fluid."""

PAIRS = ((bleeds.INTRAPARENCHYMAL, bleeds.INTRAVENTRICULAR), (bleeds.SUBDURAL, bleeds.SUBARACHNOID))
"""Bleeds that often come together: a deep bleed breaks into the ventricles; a blow tears both spaces."""

MOST_MORE = {bleeds.EPIDURAL: 1, bleeds.INTRAPARENCHYMAL: 2, bleeds.INTRAVENTRICULAR: 0, bleeds.SUBARACHNOID: 3,
             bleeds.SUBDURAL: 1}  # fmt: skip
"""How many bleeds of one subtype may come on top of the first."""

MORE_OFTEN = {bleeds.SUBARACHNOID: 2.4}
"""Blood in one sulcus seldom lies alone: BHSD has ten separate pieces of it a head."""

MOST = 4
"""Bleeds in one head."""

MORE_KINDS = {
    bleeds.SUBARACHNOID: ("convexity", "sylvian", "film", "interhemispheric"),
    bleeds.SUBDURAL: ("convexity", "film", "interhemispheric"),
    bleeds.EPIDURAL: ("temporal", "parietal", "frontal"),
}
"""Variants that a further bleed of a subtype may have."""

DENSE_HU = 95.0
"""No blood is brighter: bone, metal, a tube or a streak."""

DEEP = ("ganglia", "thalamus")
"""Variants beside the ventricles, which they may break into."""

DEEP_ML = 3.0
"""A smaller deep bleed does not reach the ventricles."""

CORE_HU = 85.0
"""Blood is hardly anywhere denser, so a small bleed's mean may stay below what was drawn."""

PAINTED_HU = 4.0
"""Blood is painted so much denser than planned, since blur takes as much from most bleeds."""

SEEN_HU = 8.0
"""Fresh blood is so much denser than what lies round it: what no reader could see has no label."""

TISSUE_HU = 48.0
"""What is denser than this before a bleed is painted holds bone or calcium."""

SHINE_MM = 4.0
"""Thick slices that cut the skull at a slant may shine so far into the cavity beyond its blurred edge."""

BESIDE_MM = 5.0
"""What lies within this of a bleed lies round it, where BESIDE_SHARE of it is not that or another bleed."""

BESIDE_SHARE = 0.05

OEDEMA_HU = 3.0
"""Oedema is so much darker than the tissue that it lies in, at least."""

EFFACED_MM = 14.0
"""How far from an extra-axial bleed sulci are pressed shut."""


def draw_plans(spec: PhantomSpec, rng: np.random.Generator) -> list[Plan]:
    """The bleeds of one study.

    Args:
        spec: What to make.
        rng: Source of chance.

    Returns:
        One plan for each, in the order of SUBTYPES; then more of one subtype, unless the volume is given.
    """
    profile = spec.profile
    drawn = _random_labels(spec.p_bleed, profile.p_pair, rng)
    labels = drawn if spec.subtypes is None else spec.subtypes
    every = [bleeds.draw_plan(label, rng, spec.volume_ml, spec.p_tiny, profile) for label in SUBTYPES]
    plans = [replace(plan, number=i) for i, plan in enumerate(every) if plan.label in labels]
    chance, pick = rng.random(2), rng.random(3)
    if chance[1] < profile.p_breakthrough:
        plans = _joined(plans)
    more = [rng.random(4) for _ in range(MOST - 1)]
    hosts = [plan for plan in plans if _may_repeat(plan)]
    host = hosts[int(pick[0] * len(hosts))] if hosts else None
    if host and spec.volume_ml is None and chance[0] < profile.p_more * MORE_OFTEN.get(host.label, 1.0):
        count = min(1 + int(pick[1] * MOST_MORE[host.label]), MOST - len(plans))
        plans += [_another(host, len(SUBTYPES) + i, more[i].tolist()) for i in range(count)]
    return plans


def _joined(plans: list[Plan]) -> list[Plan]:
    """The same bleeds, a deep one and blood in the ventricles being one that broke through."""
    deep = [p for p in plans if p.label == bleeds.INTRAPARENCHYMAL and p.variant in DEEP and p.volume_ml > DEEP_ML]
    within = [p for p in plans if p.label == bleeds.INTRAVENTRICULAR]
    if not deep or not within:
        return plans
    return [replace(p, joined=True, side=deep[0].side) if p in deep + within else p for p in plans]


def _may_repeat(plan: Plan) -> bool:
    """Whether such bleeds come in numbers: no deep one does, nor blood in the ventricles."""
    if plan.label == bleeds.INTRAPARENCHYMAL:
        return plan.variant == "lobar" or plan.variant in CONTUSIONS
    return MOST_MORE[plan.label] > 0


def _another(host: Plan, number: int, chance: list[float]) -> Plan:
    """One more bleed of a subtype: the other contusion, the other side, a further sulcus."""
    kind, size, dense, side = chance
    variant = host.variant
    if variant in CONTUSIONS:
        variant = CONTUSIONS[1 - CONTUSIONS.index(variant)] if kind < 0.6 else variant
    elif host.label in MORE_KINDS:
        kinds = MORE_KINDS[host.label]
        variant = kinds[int(kind * len(kinds))]
    if host.chronic or host.stage == bleeds.ISODENSE:
        variant = "convexity"
    other = host.label == bleeds.SUBDURAL or side < 0.6
    volume = max(host.volume_ml * 0.1 * 9**size, 0.1)
    volume = min(volume, bleeds.MOST_ML.get(variant, volume))
    return replace(
        host, variant=variant, volume_ml=volume, mean_hu=host.mean_hu + 8 * (dense - 0.5),
        side=-host.side if other else host.side, fluid_level=host.fluid_level and volume > 2, number=number,
    )  # fmt: skip


def _random_labels(p_bleed: float, p_pair: float, rng: np.random.Generator) -> tuple[str, ...]:
    """Subtypes of one head: none, one, two or three, and at times what often comes with the first."""
    draw = rng.random(4)
    order = [SUBTYPES[i] for i in rng.permutation(len(SUBTYPES))]
    if draw[0] >= p_bleed:
        return ()
    chosen = order[: 1 + int(draw[1] > 0.72) + int(draw[1] > 0.94)]
    for one, other in PAIRS:
        if chosen[0] == one and draw[2] < p_pair:
            chosen.append(other)
    return tuple(chosen)


def _streams(rng: np.random.Generator) -> Callable[[Plan], np.random.Generator]:
    """A random stream for each bleed; takes one draw, so that no bleed changes another's."""
    base = int(rng.integers(2**62))
    return lambda plan: np.random.Generator(np.random.PCG64(np.random.SeedSequence([base, plan.number])))


def solid(site: Site, plans: list[Plan], rng: np.random.Generator) -> tuple[list[Shape], list[Deformation]]:
    """Bleeds that take room of their own: epidural, subdural, intraparenchymal.

    Args:
        site: The head.
        plans: Of those kinds.
        rng: Source of chance.

    Returns:
        Their shapes, and how each moves the brain.
    """
    shapes, changes, own = [], [], _streams(rng)
    for plan in plans:
        make = intraparenchymal if plan.label == bleeds.INTRAPARENCHYMAL else outside_brain
        distance, change = make(site.head, site.grid, site.surface, plan, own(plan))
        edge = 0.0
        if plan.label == bleeds.INTRAPARENCHYMAL:
            edge = 1.0 if plan.volume_ml < 1 else 2.0
        shapes.append(Shape(plan, soft(distance, site.grid.soft_mm + edge)))
        changes.append(change)
    return shapes, changes


def fluid(
    site: Site, plans: list[Plan], brain: Brain, rng: np.random.Generator, taken: Sequence[Shape] = ()
) -> list[Shape]:
    """Bleeds that mix with fluid: intraventricular, subarachnoid.

    Args:
        site: The head.
        plans: Of those kinds.
        brain: Tissue shares.
        rng: Source of chance.
        taken: Other bleeds, which keep their voxels.

    Returns:
        Their shapes.
    """
    shapes, own, room = [], _streams(rng), _free(brain)
    for shape in taken:
        room *= 1 - shape.share
    for plan in plans:
        make = subarachnoid if plan.label == bleeds.SUBARACHNOID else intraventricular
        share = make(site, brain, room, plan, own(plan))
        room -= room * share
        shapes.append(Shape(plan, share))
    return shapes


def _free(brain: Brain) -> FloatArray:
    """How much of each voxel blood may fill: what lies in the cavity and is not dura."""
    free: FloatArray = brain.inside * (1 - np.clip(brain.dura * np.float32(0.8), 0, 1))
    return free


def exclusive(shapes: list[Shape], brain: Brain) -> list[Shape]:
    """The same shapes without overlap, within the cranial cavity; the earlier one keeps the voxel.

    Args:
        shapes: Of all bleeds.
        brain: Tissue shares.

    Returns:
        As many shapes, those outside the brain first.
    """
    order = (bleeds.EPIDURAL, bleeds.SUBDURAL, bleeds.INTRAVENTRICULAR, bleeds.INTRAPARENCHYMAL, bleeds.SUBARACHNOID)
    free = _free(brain)
    kept = []
    for shape in sorted(shapes, key=lambda one: order.index(one.plan.label)):
        share = shape.share * free
        if shape.plan.label == bleeds.INTRAPARENCHYMAL:
            share *= 1 - brain.ventricle
        free = free - share
        kept.append(Shape(shape.plan, share))
    return kept


def paint_blood(hu: FloatArray, site: Site, shapes: list[Shape], brain: Brain, rng: np.random.Generator) -> None:
    """Effaced sulci, oedema and blood, in place; densities are corrected after blurring.

    Args:
        hu: (n, rows, columns).
        site: The head.
        shapes: Of all bleeds, without overlap.
        brain: Tissue shares.
        rng: Source of chance.
    """
    own = _streams(rng)
    for shape in shapes:
        if shape.plan.label == bleeds.INTRAPARENCHYMAL:
            _oedema(hu, site, shape, brain, own(shape.plan))
        elif shape.plan.label in SOLID:
            _efface(hu, site, shape, brain)
    for shape in shapes:
        box = _block(shape.share > 0, site, 0.0)
        if box is None:
            continue
        patch = Patch(shape.share[box], downwards(site.grid, site.surface.at.at(box)), site.grid.step_mm)
        value = np.float32(shape.plan.mean_hu + PAINTED_HU) + texture(shape.plan, patch, own(shape.plan))
        value += np.clip(hu[box] - np.float32(TISSUE_HU), 0, None)  # what is bone of a voxel stays
        blend_in(hu[box], patch.share, value)


def _block(where: BoolArray, site: Site, margin_mm: float) -> Region | None:
    """The smallest block round what is true, and a margin; None where nothing is."""
    ends = []
    for axis in range(3):
        hit = np.flatnonzero(where.any(axis=tuple(a for a in range(3) if a != axis)))
        if hit.size == 0:
            return None
        more = int(np.ceil(margin_mm / site.grid.step_mm[axis]))
        ends.append(slice(max(int(hit[0]) - more, 0), int(hit[-1]) + more + 1))
    return (ends[0], ends[1], ends[2])


def _efface(hu: FloatArray, site: Site, shape: Shape, brain: Brain) -> None:
    """Press the sulci beside a bleed shut, in place: brain where fluid was."""
    box = _block(shape.share > 0.5, site, EFFACED_MM)
    if box is None or shape.plan.variant in ("interhemispheric", "tentorial"):
        return
    press = shape.share[box]
    for axis, step in enumerate(site.grid.step_mm):
        press = ndimage.gaussian_filter1d(press, 0.5 * EFFACED_MM / step, axis=axis, mode="nearest", truncate=2.0)
    press = np.clip(press * np.float32(4.5), 0, 0.9) * brain.csf[box] * np.float32(min(site.head.mass_effect, 1.0))
    blend_in(hu[box], press * (1 - brain.dura[box]), site.head.grey_hu)


def _oedema(hu: FloatArray, site: Site, shape: Shape, brain: Brain, rng: np.random.Generator) -> None:
    """Low density round a bleed in the brain, in place; a fresh one has hardly any."""
    plan = shape.plan
    widest = 2.0 + 1.8 * plan.volume_ml ** (1 / 3)
    rim_mm, value = float(rng.uniform(1.0, widest)), float(rng.uniform(16, 26))
    if plan.stage == bleeds.HYPERACUTE:
        rim_mm = min(rim_mm, 1.0)
    box = _block(shape.share > 0.5, site, 2.5 * rim_mm + 1) if plan.volume_ml > 0.5 else None
    if box is None:
        return
    near = ndimage.distance_transform_edt(shape.share[box] < 0.5, sampling=site.grid.step_mm).astype(np.float32)
    tissue = brain.inside[box] * (1 - brain.csf[box]) * (1 - brain.ventricle[box]) * (1 - brain.dura[box])
    blend_in(hu[box], soft(rim_mm - near, 5.0) * tissue, np.minimum(hu[box] - OEDEMA_HU, value))


def match_density(hu: FloatArray, site: Site, scanner: Scanner, shapes: list[Shape]) -> list[float]:
    """Shift each bleed so that its measured mean is what was drawn, partial volume or not, in place.

    Voxels that the skull or metal shines into are left out of the mean, as a reader would leave them out of a region;
    of what lies beside bone the deeper half counts at least.
    What is not old is made SEEN_HU denser than what lies round it, and than brain in its place, at least.

    Args:
        hu: (n, rows, columns), blurred.
        site: The head.
        scanner: Whose blur it was.
        shapes: Of all bleeds, without overlap.

    Returns:
        Mean HU of each bleed; NaN where nothing of it is clear of bone.
    """
    means: list[float] = []
    if not shapes:
        return means
    clear = clear_of_bone(site.grid, site.surface) - np.float32(1.5 * scanner.blur_mm - 0.5)
    for shape in shapes:
        box = _block(shape.share > 0, site, 4 * scanner.blur_mm + BESIDE_MM)
        countable = (clear[box] > 0) & (hu[box] < DENSE_HU) if box else np.zeros(0, np.bool_)
        mask = (shape.share[box] > 0.5) & countable if box else countable
        if box is None or not mask.any():
            means.append(float("nan"))
            continue
        if shape.plan.label in (bleeds.EPIDURAL, bleeds.SUBDURAL):
            mask &= clear[box] >= min(float(np.median(clear[box][mask])), SHINE_MM)
        spread = blur(shape.share[box], site.grid, scanner)
        own = float(spread[mask].mean(dtype=np.float64))
        values = hu[box][mask]
        before = float(values.mean(dtype=np.float64))
        wanted, least = shape.plan.mean_hu, -25.0
        if shape.plan.stage not in bleeds.OLD_HU:
            countable &= spread < BESIDE_SHARE
            for other in shapes:
                countable &= other.share[box] < BESIDE_SHARE
            wanted = max(wanted, _beside(hu[box], mask, countable, site.grid.step_mm[2]) + SEEN_HU)
            least = max(least, site.head.grey_hu + SEEN_HU - shape.plan.mean_hu - PAINTED_HU)
        top = int(0.9 * values.size)
        room = max(CORE_HU - float(np.partition(values, top)[top]), 0.0)
        change = float(np.clip((wanted - before) / max(own, 0.4), least, max(min(25.0, room), least)))
        hu[box] += np.float32(change) * spread
        means.append(before + change * own)
    return means


def _beside(hu: FloatArray, mask: BoolArray, countable: BoolArray, step_mm: float) -> float:
    """Mean HU of the countable voxels within BESIDE_MM of a bleed in its slices; 0 where there are none."""
    width = 2 * max(round(BESIDE_MM / step_mm), 1) + 1
    near = mask
    for axis in (1, 2):
        near = ndimage.maximum_filter1d(near, width, axis=axis)
    values = hu[near & countable]
    return float(values.mean(dtype=np.float64)) if values.size else 0.0
