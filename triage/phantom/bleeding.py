"""Bleeds in one head: places their shapes, keeps them apart, paints blood and oedema, matches the density drawn."""

import numpy as np
from scipy import ndimage

from triage.phantom import lesions as bleeds
from triage.phantom.anatomy import Brain, Deformation
from triage.phantom.fields import Grid, blend_in, noise, soft
from triage.phantom.lesions import Plan, Shape
from triage.phantom.profile import Scanner
from triage.phantom.scanner import blur
from triage.phantom.skull import Site
from triage.phantom.spec import PhantomSpec
from triage.records import SUBTYPES, FloatArray

SOLID = (bleeds.EPIDURAL, bleeds.INTRAPARENCHYMAL, bleeds.SUBDURAL)
"""Bleeds that take room of their own; the others mix with fluid."""

PAIRS = ((bleeds.INTRAPARENCHYMAL, bleeds.INTRAVENTRICULAR), (bleeds.SUBDURAL, bleeds.SUBARACHNOID))
"""Bleeds that often come together: a deep bleed breaks into the ventricles; a blow tears both spaces."""


def draw_plans(spec: PhantomSpec, rng: np.random.Generator) -> list[Plan]:
    """The bleeds of one study.

    Args:
        spec: What to make.
        rng: Source of chance.

    Returns:
        One plan for each, in the order of SUBTYPES.
    """
    labels = spec.subtypes
    if labels is None:
        labels = _random_labels(spec.p_bleed, rng)
    return [bleeds.draw_plan(label, rng, spec.volume_ml, spec.p_tiny) for label in SUBTYPES if label in labels]


def _random_labels(p_bleed: float, rng: np.random.Generator) -> tuple[str, ...]:
    draw = rng.random(4)
    order = [SUBTYPES[i] for i in rng.permutation(len(SUBTYPES))]
    if draw[0] >= p_bleed:
        return ()
    chosen = order[: 1 + int(draw[1] > 0.72) + int(draw[1] > 0.94)]
    for one, other in PAIRS:
        if chosen[0] == one and draw[2] < 0.25:
            chosen.append(other)
    return tuple(chosen)


def solid(site: Site, plans: list[Plan], rng: np.random.Generator) -> tuple[list[Shape], list[Deformation]]:
    """Bleeds that take room of their own: epidural, subdural, intraparenchymal.

    Args:
        site: The head.
        plans: Of those kinds.
        rng: Source of chance.

    Returns:
        Their shapes, and how each moves the brain.
    """
    shapes, changes = [], []
    for plan in plans:
        make = bleeds.intraparenchymal if plan.label == bleeds.INTRAPARENCHYMAL else bleeds.outside_brain
        distance, change = make(site.head, site.grid, site.surface, plan, rng)
        edge = 2.0 if plan.label == bleeds.INTRAPARENCHYMAL else 0.0
        shapes.append(Shape(plan, soft(distance, site.grid.soft_mm + edge)))
        changes.append(change)
    return shapes, changes


def fluid(site: Site, plans: list[Plan], brain: Brain, rng: np.random.Generator) -> list[Shape]:
    """Bleeds that mix with fluid: intraventricular, subarachnoid.

    Args:
        site: The head.
        plans: Of those kinds.
        brain: Tissue shares.
        rng: Source of chance.

    Returns:
        Their shapes.
    """
    shapes = []
    for plan in plans:
        if plan.label == bleeds.SUBARACHNOID:
            share = bleeds.subarachnoid(site.grid, brain, plan, rng)
        else:
            share = bleeds.intraventricular(site.grid, brain, site.surface, plan, rng)
        shapes.append(Shape(plan, share))
    return shapes


def exclusive(shapes: list[Shape], brain: Brain) -> list[Shape]:
    """The same shapes without overlap, within the cranial cavity; the earlier one keeps the voxel.

    Args:
        shapes: Of all bleeds.
        brain: Tissue shares.

    Returns:
        As many shapes, those outside the brain first.
    """
    order = (bleeds.EPIDURAL, bleeds.SUBDURAL, bleeds.INTRAVENTRICULAR, bleeds.INTRAPARENCHYMAL, bleeds.SUBARACHNOID)
    free = brain.inside * (1 - np.clip(brain.dura * np.float32(0.8), 0, 1))
    kept = []
    for shape in sorted(shapes, key=lambda one: order.index(one.plan.label)):
        share = shape.share * free
        if shape.plan.label == bleeds.INTRAPARENCHYMAL:
            share *= 1 - brain.ventricle
        free = free - share
        kept.append(Shape(shape.plan, share))
    return kept


def paint_blood(hu: FloatArray, site: Site, shapes: list[Shape], brain: Brain, rng: np.random.Generator) -> None:
    """Oedema and blood, in place; densities are corrected after blurring.

    Args:
        hu: (n, rows, columns).
        site: The head.
        shapes: Of all bleeds, without overlap.
        brain: Tissue shares.
        rng: Source of chance.
    """
    grid = site.grid
    for shape in shapes:
        plan = shape.plan
        texture = noise(rng, grid.shape, grid.step_mm, 7) * np.float32(2.5)
        if plan.label == bleeds.INTRAPARENCHYMAL and plan.volume_ml > 0.5:
            rim_mm = float(rng.uniform(1.0, 2.0 + 1.8 * plan.volume_ml ** (1 / 3)))
            _oedema(hu, grid, shape, brain, (rim_mm, float(rng.uniform(16, 26))))
        if plan.chronic or (plan.label in (bleeds.INTRAPARENCHYMAL, bleeds.SUBDURAL) and rng.random() < 0.12):
            texture += np.clip(site.surface.at.y * np.float32(0.12), -8, 8)  # cells settle to the back
        if plan.label in (bleeds.EPIDURAL, bleeds.SUBDURAL) and not plan.chronic and rng.random() < 0.15:
            # Fresh blood has not clotted everywhere.
            texture -= 14 * np.clip(noise(rng, grid.shape, grid.step_mm, 12) - np.float32(0.5), 0, 1)
        blend_in(hu, shape.share, np.float32(plan.mean_hu + 4) + texture)


def _oedema(hu: FloatArray, grid: Grid, shape: Shape, brain: Brain, rim: tuple[float, float]) -> None:
    """Low density round a bleed in the brain, in place."""
    rim_mm, value = rim
    where = np.nonzero(shape.share > 0.5)
    if where[0].size == 0:
        return
    margin = [int(np.ceil(2.5 * rim_mm / step)) + 1 for step in grid.step_mm]
    block = tuple(slice(max(int(w.min()) - m, 0), int(w.max()) + m + 1) for w, m in zip(where, margin, strict=True))
    near = ndimage.distance_transform_edt(shape.share[block] < 0.5, sampling=grid.step_mm).astype(np.float32)
    tissue = brain.inside[block] * (1 - brain.csf[block]) * (1 - brain.ventricle[block]) * (1 - brain.dura[block])
    blend_in(hu[block], soft(rim_mm - near, 5.0) * tissue, value)


def match_density(hu: FloatArray, site: Site, scanner: Scanner, shapes: list[Shape]) -> list[float]:
    """Shift each bleed so that its measured mean is what was drawn, partial volume or not, in place.

    Voxels that the skull shines into are left out of the mean, as a reader would leave them out of a region.

    Args:
        hu: (n, rows, columns), blurred.
        site: The head.
        scanner: Whose blur it was.
        shapes: Of all bleeds, without overlap.

    Returns:
        Mean HU of each bleed; NaN where nothing of it is clear of bone.
    """
    means = []
    clear = site.surface.depth > np.float32(0.5 * site.grid.soft_mm + 1.5 * scanner.blur_mm)
    for shape in shapes:
        mask = (shape.share > 0.5) & clear
        if not mask.any():
            means.append(float("nan"))
            continue
        spread = blur(shape.share, site.grid, scanner)
        own = float(spread[mask].mean(dtype=np.float64))
        before = float(hu[mask].mean(dtype=np.float64))
        change = float(np.clip((shape.plan.mean_hu - before) / max(own, 0.4), -25, 25))
        hu += np.float32(change) * spread
        means.append(before + change * own)
    return means
