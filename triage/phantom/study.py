"""One seed -> one synthetic head CT with its truth: draws, builds, scans and measures; writes no file."""

from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from triage.phantom import lesions as bleeds
from triage.phantom.anatomy import paint_brain
from triage.phantom.bleeding import SOLID, draw_plans, exclusive, fluid, match_density, paint_blood, solid
from triage.phantom.bones import paint_base_and_face, paint_scalp_and_vault
from triage.phantom.fields import resample
from triage.phantom.grids import BoolArray, Grid, Region, coordinates, region_in, slabs
from triage.phantom.hardware import Marks, draw_marks, paint_marks, paint_surgery, streaks
from triage.phantom.illness import Illness, draw_illness, paint_illness
from triage.phantom.lesions import Shape
from triage.phantom.motion import moved
from triage.phantom.profile import Head, Scanner, draw_head, draw_scanner
from triage.phantom.scanner import blur, harden, pad_corners, photon_noise, scaled_hu
from triage.phantom.skull import AIR_HU, Site, Space, cavity_region, head_region, surface
from triage.phantom.spec import PhantomSpec, Stack, draw_stack
from triage.phantom.support import paint_headrest
from triage.records import ANY, HU_MAX, HU_MIN, SUBTYPES, FloatArray

VERSION = "3"
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

STAGES = ("head", "scanner", "truth", "surface", "lesion", "brain", "base", "scan", "noise", "stack",
          "marks", "illness", "motion", "headrest", "field")  # fmt: skip
"""Each has its own random stream, so that a change in one leaves the others' draws alone."""


@dataclass(frozen=True, slots=True)
class Truth:
    """One bleed as it came out."""

    label: str
    variant: str
    volume_ml: float
    mean_hu: float
    """Measured over its mask, away from bone, before photon noise, offset and gain; NaN where that is nothing."""
    chronic: bool
    stage: str = "acute"
    """Age of the blood, one of lesions.STAGES."""


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
    marks: Marks
    illness: Illness
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
    """A random stream for each of STAGES."""
    return {
        stage: np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, i]))) for i, stage in enumerate(STAGES)
    }


def _grid(stack: Stack, head: Head) -> tuple[Grid, FloatArray]:
    """The voxels to build on, and each slice's drift along the columns from gantry tilt."""
    span = stack.n_slices * stack.spacing_mm
    n = stack.n_slices if stack.spacing_mm >= RENDER_STEP_MM else max(int(np.ceil(span / RENDER_STEP_MM)), 1)
    size = min(stack.size_px, RENDER_PX)
    step = (span / n, stack.fov_mm / size, stack.fov_mm / size)
    shear = float(np.tan(np.deg2rad(stack.tilt_deg)))
    slice_frame = np.array([[0, 0, step[2]], [-step[0] * shear, step[1], 0], [step[0], 0, 0]])
    a, b, c = np.deg2rad(head.turn_deg)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    turn = _product(_product(about_z, about_y), about_x)
    top = head.radii_mm[2] + head.skull_mm + head.scalp_mm + 2
    middle_z = top - span / 2 if span >= FULL_HEAD_MM else 8.0
    middle = np.array([-head.off_centre_mm[0], -head.off_centre_mm[1], middle_z])
    thickness = max(stack.thickness_mm, step[0])
    grid = Grid((n, size, size), step, thickness, _product(turn, slice_frame), (turn * middle).sum(axis=1))
    drift = ((np.arange(n) - (n - 1) / 2.0) * step[0] * shear).astype(np.float32)
    return grid, drift


def _product(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Matrix product without BLAS, whose order of summation varies."""
    out: npt.NDArray[np.float64] = (a[:, :, None] * b[None, :, :]).sum(axis=1)
    return out


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
    stack = draw_stack(spec, scanner, rng["stack"])
    plans = draw_plans(spec, rng["truth"])
    marks, illness = draw_marks(rng["marks"], spec.profile), draw_illness(rng["illness"], spec.profile, head)
    grid, drift = _grid(stack, head)
    around = head_region(head, grid)
    near = grid.cropped(around)
    outer = Site(head, near, surface(head, near, coordinates(near), rng["surface"]))
    cavity = cavity_region(outer.surface)
    site = outer.within(cavity)
    shapes, changes = solid(site, [p for p in plans if p.label in SOLID], rng["lesion"])
    whole = np.full(grid.shape, AIR_HU, np.float32)
    hu = whole[around]
    paint_scalp_and_vault(hu, head, near, outer.surface)
    paint_base_and_face(hu, head, near, outer.surface, rng["base"])
    brain = paint_brain(hu[cavity], head, site.grid, site.surface, (rng["brain"], bleeds.together(changes)))
    paint_surgery(hu, outer, marks, rng["marks"])
    paint_illness(hu[cavity], site, brain, illness, rng["illness"])
    shapes += fluid(site, [p for p in plans if p.label not in SOLID], brain, rng["lesion"], shapes)
    shapes = exclusive(shapes, brain)
    paint_blood(hu[cavity], site, shapes, brain, rng["lesion"])
    metal = paint_marks(whole, Space(outer, grid, around), marks, rng["marks"])
    bare = whole.copy() if scanner.motion_mm else whole
    if scanner.headrest:
        paint_headrest(whole, grid, head, drift, rng["headrest"])
    rest = np.subtract(whole, bare, out=bare) if scanner.motion_mm else whole
    whole = blur(whole, grid, scanner)
    hu = whole[around]
    harden(hu[cavity], site.grid, site.surface, scanner, rng["scan"])
    streaks(hu, near, metal, rng["marks"])
    means = match_density(hu[cavity], site, scanner, shapes)
    whole = moved(whole, rest, grid, scanner, rng["motion"])
    told, where = list(zip(shapes, means, strict=True)), region_in(around, cavity)
    clear = bleeds.clear_of_bone(site.grid, site.surface) > 0
    built = _Built(head, scanner, (marks, illness), stack, whole, told, where, clear)
    return _finish(seed, spec, built, rng)


@dataclass(frozen=True, slots=True)
class _Built:
    """A head on the grid it was built on, blurred, before noise."""

    head: Head
    scanner: Scanner
    extras: tuple[Marks, Illness]
    """What else is in and on the head."""
    stack: Stack
    hu: FloatArray
    shapes: list[tuple[Shape, float]]
    """Each bleed and its mean HU."""
    cavity: Region
    """Where the bleeds' arrays lie."""
    clear: BoolArray
    """Of the cavity: voxels that bone does not shine into; nothing else is outlined, as nothing else is planned."""

    def mask(self, shape: Shape) -> BoolArray:
        """Where a bleed fills more than half of a voxel, on the slices asked for."""
        size = (self.stack.n_slices, self.stack.size_px, self.stack.size_px)
        share = np.zeros(self.hu.shape, np.float32)
        beside_bone = shape.plan.label in (bleeds.EPIDURAL, bleeds.SUBDURAL)
        share[self.cavity] = shape.share * self.clear if beside_bone else shape.share
        return resample(share, size) > 0.5


def _finish(seed: int, spec: PhantomSpec, built: _Built, rng: dict[str, np.random.Generator]) -> PhantomStudy:
    """Enlarge to the wanted size, add noise and padding, measure the truth."""
    stack, scanner = built.stack, built.scanner
    shape = (stack.n_slices, stack.size_px, stack.size_px)
    pixel = stack.pixel_mm
    hu = resample(built.hu, shape)
    grain = photon_noise(shape, (stack.spacing_mm, pixel, pixel), scanner, stack.thickness_mm, rng["noise"])
    stored = np.empty(shape, np.int16)
    for part in slabs(shape):
        grain[part] += hu[part]
        stored[part] = np.clip(np.rint(scaled_hu(grain[part], scanner)), HU_MIN, HU_MAX)
    padding = pad_corners(stored, HU_MIN, spec.profile.p_round_field, rng["field"])
    masks = {label: np.zeros(shape, np.bool_) for label in SUBTYPES}
    truths = []
    for one, mean in built.shapes:
        mask = built.mask(one) & (hu < BONE_EDGE_HU) & ~padding
        masks[one.plan.label] |= mask
        volume = float(mask.sum()) * stack.voxel_ml
        truths.append(Truth(one.plan.label, one.plan.variant, volume, mean, one.plan.chronic, one.plan.stage))
    steps = accumulate([stack.spacing_mm] * (stack.n_slices - 1), initial=0.0)
    return PhantomStudy(
        seed=seed, spec=spec, hu=stored, masks=masks, positions_mm=tuple(steps), spacing_mm=(pixel, pixel),
        thickness_mm=stack.thickness_mm, tilt_deg=stack.tilt_deg, truths=tuple(truths), head=built.head,
        scanner=scanner, marks=built.extras[0], illness=built.extras[1],
        volumes_ml={label: float(masks[label].sum()) * stack.voxel_ml for label in SUBTYPES},
    )  # fmt: skip
