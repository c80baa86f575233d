"""Bleeds as drawn, how a shape is given its volume, and how several move the brain; makes no shape itself."""

from dataclasses import dataclass

import numpy as np

from triage.phantom.anatomy import STILL, Deformation
from triage.phantom.density import mean_hu, measured_ml
from triage.phantom.fields import AnyField
from triage.phantom.grids import BoolArray, Grid
from triage.phantom.profile import USUAL, Profile
from triage.phantom.skull import Surface
from triage.records import SUBTYPES, FloatArray

EPIDURAL, INTRAPARENCHYMAL, INTRAVENTRICULAR, SUBARACHNOID, SUBDURAL = SUBTYPES

VOLUME_ML = {
    EPIDURAL: (1.0, 60.0),
    INTRAPARENCHYMAL: (0.8, 60.0),
    INTRAVENTRICULAR: (0.8, 20.0),
    SUBARACHNOID: (1.5, 30.0),
    SUBDURAL: (3.0, 90.0),
}
"""Volumes that bring a patient to the scanner, drawn evenly on a logarithmic scale; others come from BHSD's table."""

TINY_ML = {EPIDURAL: (0.2, 1.5), INTRAPARENCHYMAL: (0.1, 0.8), INTRAVENTRICULAR: (0.1, 0.7),
           SUBARACHNOID: (0.1, 1.2), SUBDURAL: (0.1, 2.0)}  # fmt: skip
"""Volumes of the hard tail; half of BHSD's bleeds are smaller than 0.5 mL."""

ACUTE, HYPERACUTE, ISODENSE, CHRONIC, ACUTE_ON_CHRONIC = STAGES = (
    "acute", "hyperacute", "isodense", "chronic", "acute on chronic")  # fmt: skip
"""Ages of blood. Hyperacute: clotted in parts only. Isodense: as dense as cortex. Only subdurals grow old here."""

OLD_HU = {ISODENSE: (30.0, 40.0), CHRONIC: (8.0, 28.0), ACUTE_ON_CHRONIC: (22.0, 38.0)}
"""Mean density of old subdurals, labelled as subdurals all the same."""

OLD_SHARE = 0.1
"""The darkest tenth of BHSD's subdurals is old blood, so fresh ones are drawn above it."""

GLARE_MM = 0.5
"""So near to the edge of bone, as blurred by slices that cut it at a slant, nothing is outlined."""

LEAST_VOXELS = 2
"""No bleed is smaller."""

FAR = np.float32(-99.0)
"""Signed distance, mm, where a bleed is not looked for."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One bleed as drawn, before its shape is computed."""

    label: str
    variant: str
    volume_ml: float
    mean_hu: float
    side: float
    """-1 right, +1 left."""
    stage: str = ACUTE
    fluid_level: bool = False
    """Cells have settled: dense behind a sharp horizontal level, dark before it."""
    membranes: bool = False
    joined: bool = False
    """A deep bleed that has broken into the ventricle, and the blood in there."""
    number: int = 0
    """Tells the bleeds of one head apart: each has its own random stream."""

    @property
    def chronic(self) -> bool:
        """Old blood, dark on the whole."""
        return self.stage in (CHRONIC, ACUTE_ON_CHRONIC)


@dataclass(frozen=True, slots=True)
class Shape:
    """One bleed on the grid."""

    plan: Plan
    share: FloatArray
    """(n, rows, columns) 0..1: how much of each voxel is blood of this bleed."""


VARIANTS: dict[str, tuple[tuple[str, float], ...]] = {
    EPIDURAL: (("temporal", 0.45), ("parietal", 0.25), ("frontal", 0.2), ("occipital", 0.1)),
    SUBDURAL: (("convexity", 0.46), ("film", 0.3), ("interhemispheric", 0.13), ("tentorial", 0.11)),
    SUBARACHNOID: (("aneurysmal", 0.26), ("cistern", 0.1), ("sylvian", 0.12), ("convexity", 0.22),
                   ("interhemispheric", 0.09), ("perimesencephalic", 0.07), ("film", 0.14)),
    INTRAVENTRICULAR: (("layered", 0.66), ("cast", 0.2), ("third", 0.07), ("fourth", 0.07)),
    INTRAPARENCHYMAL: (("ganglia", 0.27), ("lobar", 0.25), ("thalamus", 0.13), ("cerebellum", 0.07), ("pons", 0.04),
                       ("frontal base", 0.14), ("temporal pole", 0.1)),
}  # fmt: skip
"""Kinds of each bleed with their probabilities. The last two of the brain are contusions."""

MOST_ML = {"interhemispheric": 18.0, "tentorial": 18.0, "pons": 8.0, "frontal base": 25.0, "temporal pole": 25.0,
           "perimesencephalic": 8.0}  # fmt: skip
"""What has room there."""

WIDESPREAD_ML = 5.0
"""Less from an aneurysm stays in the cisterns; more in the cisterns has spread from them."""

THICK_SHARE = 0.3
"""The least dense of large subarachnoid bleeds are thin films, not an aneurysm's clots, which are drawn above them."""

SMALL_VENTRICLE_ML = 1.5
"""More than this does not stay in the third or fourth ventricle alone."""

LEAST_ML = {CHRONIC: 15.0, ACUTE_ON_CHRONIC: 15.0, ISODENSE: 12.0}
"""Old subdurals that are seen at all have grown."""


def draw_plan(
    label: str,
    rng: np.random.Generator,
    volume_ml: tuple[float, float] | None,
    p_tiny: float,
    profile: Profile = USUAL,
) -> Plan:
    """What one bleed will be.

    Args:
        label: Subtype.
        rng: Source of chance; draws as much whatever comes out.
        volume_ml: Range to draw the volume from; None for the label's own.
        p_tiny: Probability of a bleed from the hard tail (only without a range).
        profile: Probabilities of the kinds of blood.

    Returns:
        The plan.
    """
    kind, tiny, measured, size, dense, side, level, membrane = (float(v) for v in rng.random(8))
    names, p = zip(*VARIANTS[label], strict=True)
    variant = str(names[int(np.searchsorted(np.cumsum(p), kind * 0.9999))])
    stage = _stage(label, rng.random(4), profile)
    low, high = volume_ml or (TINY_ML[label] if tiny < p_tiny else VOLUME_ML[label])
    volume = low * (high / low) ** size
    if volume_ml is None and tiny >= p_tiny and measured < profile.p_measured:
        volume = measured_ml(label, size)
    if stage in OLD_HU:
        variant = "convexity"
        volume = volume if volume_ml else max(volume, LEAST_ML[stage])
    if variant in ("third", "fourth") and volume > SMALL_VENTRICLE_ML:
        variant = "layered"
    if variant in ("aneurysmal", "cistern"):
        variant = "aneurysmal" if volume > WIDESPREAD_ML else "cistern"
    volume = min(volume, MOST_ML.get(variant, volume))
    least = OLD_SHARE if label == SUBDURAL else THICK_SHARE if variant == "aneurysmal" else 0.0
    hu = mean_hu(label, volume, least + (1 - least) * dense)
    if stage in OLD_HU:
        least, most = OLD_HU[stage]
        hu = least + (most - least) * dense**0.6
    settles = label == INTRAPARENCHYMAL or (
        label == SUBDURAL and variant == "convexity" and stage not in (ISODENSE, CHRONIC)
    )
    p_level = profile.p_fluid_level * (4 if stage == ACUTE_ON_CHRONIC else 1)
    return Plan(
        label, variant, volume, hu, 1.0 if side < 0.5 else -1.0, stage,
        fluid_level=settles and volume > 2 and level < p_level,
        membranes=stage in (CHRONIC, ACUTE_ON_CHRONIC) and membrane < profile.p_membranes,
    )  # fmt: skip


def _stage(label: str, chance: FloatArray | AnyField, profile: Profile) -> str:
    """Age of the blood, from four even draws."""
    if label == SUBDURAL:
        old = (profile.p_chronic, profile.p_acute_on_chronic, profile.p_isodense)
        for stage, p, drawn in zip((CHRONIC, ACUTE_ON_CHRONIC, ISODENSE), old, chance, strict=False):
            if drawn < p:
                return stage
    mixed = label in (EPIDURAL, INTRAPARENCHYMAL, SUBDURAL) and chance[3] < profile.p_hyperacute
    return HYPERACUTE if mixed else ACUTE


def reach(level: AnyField, allowed: BoolArray, volume_ml: float, grid: Grid) -> float:
    """The level below which the allowed voxels hold the wanted volume; above the greatest where there are too few.

    Args:
        level: Any shape.
        allowed: Of that shape.
        volume_ml: Wanted.
        grid: Tells the volume of a voxel.

    Returns:
        A level; FAR where no voxel is allowed.
    """
    values = level[allowed]
    if values.size == 0:
        return float(FAR)
    wanted = max(round(volume_ml / grid.voxel_ml), LEAST_VOXELS)
    if wanted >= values.size:
        return float(values.max()) + 0.01
    return float(np.partition(values, wanted)[wanted])


def clear_of_bone(grid: Grid, s: Surface) -> FloatArray:
    """How far voxels lie from where bone shines into them, which is farther where slices cut it at a slant.

    Args:
        grid: The voxels.
        s: Surfaces.

    Returns:
        mm, positive where a bleed can be outlined.
    """
    half = np.float32(0.32 * grid.thickness_mm) * s.rise
    half += np.float32(0.4 * grid.step_mm[2] + GLARE_MM)
    found: FloatArray = s.depth - half
    return found


def together(changes: list[Deformation]) -> Deformation:
    """One mass effect of several: thicknesses by the greatest, shifts added, the largest push kept."""
    if not changes:
        return STILL
    inward: FloatArray | float = 0.0
    for change in changes:
        inward = change.inward if isinstance(inward, float) else np.maximum(inward, change.inward)
    biggest = max(changes, key=lambda c: c.push_mm)
    shift = float(np.clip(sum(c.shift_mm for c in changes), -15, 15))
    return Deformation(inward, shift, biggest.centre, biggest.push_mm)
