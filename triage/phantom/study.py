"""One seed -> one synthetic head CT with its truth: draws, builds, scans and measures; writes no file."""

from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from triage.phantom import lesions as bleeds
from triage.phantom.anatomy import Brain, Deformation, paint_brain
from triage.phantom.fields import BoolArray, Grid, blend_in, coordinates, noise, resample, soft
from triage.phantom.lesions import Plan, Shape
from triage.phantom.profile import USUAL, Head, Profile, Scanner, draw_head, draw_scanner
from triage.phantom.scanner import blur, harden, paint_headrest, photon_noise
from triage.phantom.skull import AIR_HU, Surface, paint_base_and_face, paint_scalp_and_vault, surface
from triage.records import ANY, HU_MAX, HU_MIN, SUBTYPES, FloatArray

VERSION = "1"
"""Raised whenever a seed gives other voxels than before; belongs in the card of a model trained on phantoms."""

RENDER_PX = 288
"""Larger images are built at this size and enlarged before noise is added."""

RENDER_STEP_MM = 2.5
"""Thinner slices are built at this distance and interpolated before noise is added."""

LABEL_MM2 = 25.0
"""A slice has a label when the bleed covers at least this much of it."""

BONE_EDGE_HU = 95.0
"""A voxel that bone makes brighter than this belongs to no bleed's mask: no reader could outline it."""

FULL_HEAD_MM = 130.0
"""A shorter stack is centred on the ventricles; a longer one ends above the vertex."""

STAGES = ("head", "scanner", "truth", "surface", "lesion", "brain", "base", "scan", "noise")
"""Each has its own random stream, so that a change in one leaves the others' draws alone."""


@dataclass(frozen=True, slots=True)
class PhantomSpec:
    """What to make; everything not stated here is drawn from the seed."""

    n_slices: int = 32
    size_px: int = 512
    """Rows and columns; 160 to 192 is meant for training."""
    spacing_mm: float = 5.0
    """Between slices, along their normal."""
    thickness_mm: float | None = None
    """Of a slice; None: the spacing."""
    fov_mm: float | None = None
    """Side of the image; None: drawn."""
    tilt_deg: float = 0.0
    """Of the gantry; slices stay as seen, their positions shear."""
    subtypes: tuple[str, ...] | None = None
    """Bleeds to have; () for none, None for a random choice."""
    p_bleed: float = 0.6
    """Probability of any bleed where `subtypes` is None."""
    volume_ml: tuple[float, float] | None = None
    """Range of each bleed's volume; None: each subtype's own, with a tail of tiny ones."""
    p_tiny: float = 0.12
    """Share of that tail."""
    profile: Profile = USUAL

    def __post_init__(self) -> None:
        """Refuse what cannot be made."""
        if self.n_slices < 1 or self.size_px < 32 or self.spacing_mm <= 0:
            raise ValueError("a phantom has at least one slice of 32 pixels and a positive spacing")
        if unknown := set(self.subtypes or ()) - set(SUBTYPES):
            raise ValueError(f"unknown subtype {min(unknown)}")


@dataclass(frozen=True, slots=True)
class Truth:
    """One bleed as it came out."""

    label: str
    variant: str
    volume_ml: float
    mean_hu: float
    """Measured over its mask, away from bone, before photon noise, offset and gain; NaN where that is nothing."""
    chronic: bool


@dataclass(frozen=True, slots=True)
class PhantomStudy:
    """A synthetic head CT and everything that is true of it."""

    seed: int
    spec: PhantomSpec
    hu: npt.NDArray[np.int16]
    """(n, rows, columns), caudal to cranial."""
    masks: dict[str, BoolArray]
    """By subtype, (n, rows, columns), mutually exclusive; all five are there."""
    positions_mm: tuple[float, ...]
    """Of each slice along the normal, ascending."""
    spacing_mm: tuple[float, float]
    """Between rows, between columns."""
    thickness_mm: float
    tilt_deg: float
    truths: tuple[Truth, ...]
    head: Head
    scanner: Scanner
    volumes_ml: dict[str, float] = field(default_factory=dict)
    """By subtype, from the masks."""

    def slice_labels(self) -> BoolArray:
        """Truth of each slice.

        Returns:
            (n, 6), columns as LABELS: any bleed, then the subtypes; see LABEL_MM2.
        """
        pixel = self.spacing_mm[0] * self.spacing_mm[1]
        area = np.stack([self.masks[label].sum(axis=(1, 2)) * pixel for label in SUBTYPES], axis=1)
        present = area >= LABEL_MM2
        return np.concatenate([present.any(axis=1, keepdims=True), present], axis=1)

    def labels(self) -> dict[str, bool]:
        """Truth of the study, by label: any voxel of it."""
        found = {label: bool(self.volumes_ml[label] > 0) for label in SUBTYPES}
        return {ANY: any(found.values()), **found}


def _streams(seed: int) -> dict[str, np.random.Generator]:
    return {
        stage: np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, i]))) for i, stage in enumerate(STAGES)
    }


def _grid(spec: PhantomSpec, head: Head, scanner: Scanner) -> tuple[Grid, FloatArray]:
    """The voxels to build on, and each slice's drift along the columns from gantry tilt."""
    fov = spec.fov_mm or scanner.fov_mm
    span = spec.n_slices * spec.spacing_mm
    n = spec.n_slices if spec.spacing_mm >= RENDER_STEP_MM else max(int(np.ceil(span / RENDER_STEP_MM)), 1)
    size = min(spec.size_px, RENDER_PX)
    step = (span / n, fov / size, fov / size)
    shear = float(np.tan(np.deg2rad(spec.tilt_deg)))
    slice_frame = np.array([[0, 0, step[2]], [-step[0] * shear, step[1], 0], [step[0], 0, 0]])
    a, b, c = np.deg2rad(head.turn_deg)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    turn = _product(_product(about_z, about_y), about_x)
    top = head.radii_mm[2] + head.skull_mm + head.scalp_mm + 2
    middle_z = top - span / 2 if span >= FULL_HEAD_MM else 8.0
    middle = np.array([-head.off_centre_mm[0], -head.off_centre_mm[1], middle_z])
    thickness = max(spec.thickness_mm or spec.spacing_mm, step[0])
    grid = Grid((n, size, size), step, thickness, _product(turn, slice_frame), (turn * middle).sum(axis=1))
    drift = ((np.arange(n) - (n - 1) / 2.0) * step[0] * shear).astype(np.float32)
    return grid, drift


def _product(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Matrix product without BLAS, whose order of summation varies."""
    out: npt.NDArray[np.float64] = (a[:, :, None] * b[None, :, :]).sum(axis=1)
    return out


PAIRS = ((bleeds.INTRAPARENCHYMAL, bleeds.INTRAVENTRICULAR), (bleeds.SUBDURAL, bleeds.SUBARACHNOID))
"""Bleeds that often come together: a deep bleed breaks into the ventricles; a blow tears both spaces."""


def _plans(spec: PhantomSpec, rng: np.random.Generator) -> list[Plan]:
    """The bleeds of one study."""
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


@dataclass(frozen=True, slots=True)
class _Site:
    """What every bleed of one head is built on."""

    head: Head
    grid: Grid
    surface: Surface


def _solid(site: _Site, plans: list[Plan], rng: np.random.Generator) -> tuple[list[Shape], list[Deformation]]:
    """Bleeds that take room of their own: epidural, subdural, intraparenchymal."""
    shapes, changes = [], []
    for plan in plans:
        make = bleeds.intraparenchymal if plan.label == bleeds.INTRAPARENCHYMAL else bleeds.outside_brain
        distance, change = make(site.head, site.grid, site.surface, plan, rng)
        edge = 2.0 if plan.label == bleeds.INTRAPARENCHYMAL else 0.0
        shapes.append(Shape(plan, soft(distance, site.grid.soft_mm + edge)))
        changes.append(change)
    return shapes, changes


def _fluid(site: _Site, plans: list[Plan], brain: Brain, rng: np.random.Generator) -> list[Shape]:
    """Bleeds that mix with fluid: intraventricular, subarachnoid."""
    shapes = []
    for plan in plans:
        if plan.label == bleeds.SUBARACHNOID:
            share = bleeds.subarachnoid(site.grid, brain, plan, rng)
        else:
            share = bleeds.intraventricular(site.grid, brain, site.surface, plan, rng)
        shapes.append(Shape(plan, share))
    return shapes


def _exclusive(shapes: list[Shape], brain: Brain) -> list[Shape]:
    """The same shapes without overlap, within the cranial cavity; the earlier one keeps the voxel."""
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


def _paint_blood(hu: FloatArray, site: _Site, shapes: list[Shape], brain: Brain, rng: np.random.Generator) -> None:
    """Oedema and blood, in place; densities are corrected after blurring."""
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


def _match_density(hu: FloatArray, site: _Site, scanner: Scanner, shapes: list[Shape]) -> list[float]:
    """Shift each bleed so that its measured mean is what was drawn, partial volume or not, in place.

    Voxels that the skull shines into are left out of the mean, as a reader would leave them out of a region.
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


def generate(seed: int, spec: PhantomSpec | None = None) -> PhantomStudy:
    """Make one synthetic head CT.

    Args:
        seed: Any integer from 0; the same seed and spec give the same bits.
        spec: What to make.

    Returns:
        The study with its truth.
    """
    spec = spec or PhantomSpec()
    rng = _streams(seed)
    head, scanner = draw_head(rng["head"], spec.profile), draw_scanner(rng["scanner"], spec.profile)
    plans = _plans(spec, rng["truth"])
    grid, drift = _grid(spec, head, scanner)
    site = _Site(head, grid, surface(head, grid, coordinates(grid), rng["surface"]))
    solid = [p for p in plans if p.label in (bleeds.EPIDURAL, bleeds.SUBDURAL, bleeds.INTRAPARENCHYMAL)]
    shapes, changes = _solid(site, solid, rng["lesion"])
    hu = np.full(grid.shape, AIR_HU, np.float32)
    paint_scalp_and_vault(hu, head, grid, site.surface)
    paint_base_and_face(hu, head, grid, site.surface, rng["base"])
    brain = paint_brain(hu, head, grid, site.surface, (rng["brain"], bleeds.together(changes)))
    shapes += _fluid(site, [p for p in plans if p not in solid], brain, rng["lesion"])
    shapes = _exclusive(shapes, brain)
    _paint_blood(hu, site, shapes, brain, rng["lesion"])
    if scanner.headrest:
        paint_headrest(hu, grid, head, drift, rng["scan"])
    hu = blur(hu, grid, scanner)
    harden(hu, grid, site.surface, scanner, rng["scan"])
    means = _match_density(hu, site, scanner, shapes)
    return _finish(seed, spec, (head, scanner), (hu, list(zip(shapes, means, strict=True))), rng["noise"])


def _finish(
    seed: int,
    spec: PhantomSpec,
    drawn: tuple[Head, Scanner],
    built: tuple[FloatArray, list[tuple[Shape, float]]],
    rng: np.random.Generator,
) -> PhantomStudy:
    """Enlarge to the wanted size, add noise, measure the truth."""
    head, scanner = drawn
    clean, shapes = built
    shape = (spec.n_slices, spec.size_px, spec.size_px)
    pixel = (spec.fov_mm or scanner.fov_mm) / spec.size_px
    thickness = spec.thickness_mm or spec.spacing_mm
    clean = resample(clean, shape)
    masks = {label: np.zeros(shape, np.bool_) for label in SUBTYPES}
    truths = []
    voxel_ml = pixel * pixel * spec.spacing_mm / 1000.0
    for one, mean in shapes:
        mask = (resample(one.share, shape) > 0.5) & (clean < BONE_EDGE_HU)
        masks[one.plan.label] |= mask
        volume = float(mask.sum()) * voxel_ml
        truths.append(Truth(one.plan.label, one.plan.variant, volume, mean, one.plan.chronic))
    hu = clean
    hu += photon_noise(shape, (spec.spacing_mm, pixel, pixel), scanner, thickness, rng)
    hu *= np.float32(scanner.gain)
    hu += np.float32(scanner.offset_hu)
    stored = np.clip(np.rint(hu), HU_MIN, HU_MAX).astype(np.int16)
    steps = accumulate([spec.spacing_mm] * (spec.n_slices - 1), initial=0.0)
    return PhantomStudy(
        seed=seed, spec=spec, hu=stored, masks=masks, positions_mm=tuple(steps), spacing_mm=(pixel, pixel),
        thickness_mm=thickness, tilt_deg=spec.tilt_deg, truths=tuple(truths), head=head, scanner=scanner,
        volumes_ml={label: float(masks[label].sum()) * voxel_ml for label in SUBTYPES},
    )  # fmt: skip
