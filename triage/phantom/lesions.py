"""Bleeds as drawn, and the shapes of those between bone and brain: epidural and subdural; what moves the brain."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from triage.phantom.anatomy import STILL, Deformation
from triage.phantom.density import mean_hu, measured_ml
from triage.phantom.fields import AnyField, noise
from triage.phantom.grids import BoolArray, Coordinates, Grid, Point, is_empty, region_around
from triage.phantom.profile import USUAL, Head, Profile
from triage.phantom.skull import Surface
from triage.records import SUBTYPES, FloatArray

EPIDURAL, INTRAPARENCHYMAL, INTRAVENTRICULAR, SUBARACHNOID, SUBDURAL = SUBTYPES

VOLUME_ML = {
    EPIDURAL: (2.0, 60.0),
    INTRAPARENCHYMAL: (0.8, 60.0),
    INTRAVENTRICULAR: (0.8, 20.0),
    SUBARACHNOID: (1.5, 25.0),
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

CORONAL, LAMBDOID, SQUAMOSAL = -0.25, 0.62, 0.02
"""Sutures as planes: share of the half axis front to back (first two) and of the height (third, low at the side)."""

GLARE_MM = 1.0
"""So near to bone nothing is outlined: it does not count towards a volume."""

FAR = np.float32(-99.0)
"""Signed distance, mm, where a bleed is not looked for."""

SIDES: tuple[tuple[Point, Point], tuple[Point, Point]] = (
    ((-100.0, -125.0, -80.0), (6.0, 125.0, 110.0)),
    ((-6.0, -125.0, -80.0), (100.0, 125.0, 110.0)),
)
"""Corners of a box round the right and the left half of any cranial cavity."""


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
    SUBDURAL: (("convexity", 0.56), ("film", 0.2), ("interhemispheric", 0.13), ("tentorial", 0.11)),
    SUBARACHNOID: (("cistern", 0.27), ("sylvian", 0.15), ("convexity", 0.24), ("interhemispheric", 0.1),
                   ("perimesencephalic", 0.08), ("film", 0.16)),
    INTRAVENTRICULAR: (("layered", 0.66), ("cast", 0.2), ("third", 0.07), ("fourth", 0.07)),
    INTRAPARENCHYMAL: (("ganglia", 0.27), ("lobar", 0.25), ("thalamus", 0.13), ("cerebellum", 0.07), ("pons", 0.04),
                       ("frontal base", 0.14), ("temporal pole", 0.1)),
}  # fmt: skip
"""Kinds of each bleed with their probabilities. The last two of the brain are contusions."""

MOST_ML = {"interhemispheric": 18.0, "tentorial": 18.0, "pons": 8.0, "frontal base": 25.0, "temporal pole": 25.0,
           "perimesencephalic": 8.0}  # fmt: skip
"""What has room there."""

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
    volume = min(volume, MOST_ML.get(variant, volume))
    hu = mean_hu(label, volume, OLD_SHARE + (1 - OLD_SHARE) * dense if label == SUBDURAL else dense)
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
    """The level below which the allowed voxels hold the wanted volume; the greatest where there are too few.

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
    wanted = min(max(round(volume_ml / grid.voxel_ml), 1), values.size)
    return float(np.partition(values, wanted - 1)[wanted - 1])


def _away(head: Head, at: Coordinates, towards: tuple[float, float, float], squeeze: float) -> FloatArray:
    """Distance in mm along the inner table from a direction; `squeeze` > 1 shortens reach in height."""
    rx, ry, rz = head.radii_mm
    x, y, z = at.x * np.float32(1 / rx), at.y * np.float32(1 / ry), at.z * np.float32(1 / rz)
    r = np.float32(1) / (np.sqrt(x * x + y * y + z * z) + np.float32(1e-3))
    px, py, pz = towards
    dx, dy, dz = x * r - px, y * r - py, (z * r - pz) * np.float32(squeeze)
    found: FloatArray = np.sqrt(dx * dx + dy * dy + dz * dz) * np.float32((rx + ry + rz) / 3)
    return found


def _direction(azimuth: float, rise: float, side: float) -> tuple[float, float, float]:
    """Unit vector: azimuth from the side (0) to the back (+) or front (-), rise above the horizontal; radians."""
    c = float(np.cos(rise))
    return (side * float(np.cos(azimuth)) * c, float(np.sin(azimuth)) * c, float(np.sin(rise)))


PLATES = {"temporal": (-0.2, 0.25, -0.28, 0.02), "parietal": (-0.1, 0.5, 0.35, 0.85),
          "frontal": (-1.25, -0.65, 0.05, 0.6), "occipital": (0.95, 1.3, -0.15, 0.2)}  # fmt: skip
"""Range of azimuth and of rise of an epidural's middle on each plate."""


def epidural(head: Head, grid: Grid, s: Surface, plan: Plan, rng: np.random.Generator) -> FloatArray:
    """Lens between bone and dura, held by the sutures round its plate.

    Args:
        head: Parameters.
        grid: The voxels.
        s: Surfaces.
        plan: What to make.
        rng: Source of chance.

    Returns:
        Signed distance to its surface in mm, positive inside.
    """
    az0, az1, rise0, rise1 = PLATES[plan.variant]
    away = _away(head, s.at, _direction(float(rng.uniform(az0, az1)), float(rng.uniform(rise0, rise1)), plan.side), 1.0)
    _, ry, rz = head.radii_mm
    y, z = s.at.y, s.at.z
    front, back, up = CORONAL * ry, LAMBDOID * ry, SQUAMOSAL * rz
    arch = z - up + np.float32(0.012) * (y - 5) ** 2  # the squamosal suture arches over the ear
    to_suture = {
        "temporal": np.minimum.reduce([-arch + 16, y + 52, back - y]),
        "parietal": np.minimum.reduce([y - front, back - y, plan.side * s.at.x]),
        "frontal": np.minimum(front - y, plan.side * s.at.x),
        "occipital": np.minimum(y - back, plan.side * s.at.x + 2),
    }[plan.variant]
    to_suture *= np.float32(0.8)
    bulge = float(rng.uniform(0.38, 0.7))
    depth = np.clip(s.depth, 0, None) * np.float32(1 / bulge)
    level = (depth + np.sqrt(depth * depth + 4 * away * away)) * np.float32(0.5)
    allowed = (s.depth > 0) & (to_suture > 0) & (level < 75) & (away < 70)
    half = max(reach(level, allowed & (s.depth > GLARE_MM), plan.volume_ml, grid), 2.0)
    thick = np.float32(bulge) * (half - away * away / half)
    found: FloatArray = np.minimum(np.minimum(thick - s.depth, to_suture), s.depth + 1)
    return found


def subdural(head: Head, grid: Grid, s: Surface, plan: Plan, rng: np.random.Generator) -> FloatArray:
    """Crescent under the dura on one side of the midline: convexity, along the falx or on the tentorium.

    Args:
        head: Parameters.
        grid: The voxels.
        s: Surfaces.
        plan: What to make.
        rng: Source of chance.

    Returns:
        Signed distance to its surface in mm, positive inside.
    """
    own_side = np.float32(plan.side) * s.at.x - np.float32(0.8)
    if plan.variant in ("convexity", "film"):
        towards = _direction(float(rng.uniform(-0.55, 0.6)), float(rng.uniform(0.0, 0.65)), plan.side)
        thickest = float(rng.uniform(3.0, 6.5)) * (plan.volume_ml / 10) ** (1 / 3)
        if plan.variant == "film":
            thickest = float(rng.uniform(2.2, 3.6))
        arc = float(np.clip((plan.volume_ml * 1000 / (0.6 * np.pi * thickest)) ** 0.5, 9, 95))
        share = (_away(head, s.at, towards, float(rng.uniform(1.0, 1.35))) * np.float32(1 / arc)) ** 2
        profile = np.clip(1 - share if plan.chronic else 1 - share * share, 0, None)  # old ones bulge
        profile *= 1 + np.float32(0.15) * noise(rng, s.depth.shape, grid.step_mm, 30)
        level = s.depth / (profile + np.float32(1e-3))
        allowed = (s.depth > 0) & (own_side > 0) & (level < 45) & (profile > 0.02) & (s.tentorium > 0)
        thick = reach(level, allowed & (s.depth > GLARE_MM), plan.volume_ml, grid) * profile
        crescent: FloatArray = np.minimum.reduce([thick - s.depth, own_side, s.depth + 1, s.tentorium + 1])
        return crescent
    middle_y, middle_z = float(rng.uniform(-45, 55)), float(rng.uniform(20, 55))
    if plan.variant == "interhemispheric":
        spread = 1 - ((s.at.y - middle_y) / 52) ** 2 - ((s.at.z - middle_z) / 38) ** 2
        above, bound = own_side, np.minimum(s.tentorium, s.depth)
    else:
        spread = 1 - ((s.at.y - 42) / 34) ** 2 - ((s.at.x - plan.side * 24) / 34) ** 2
        above, bound = s.tentorium, np.minimum.reduce([own_side, s.depth, s.at.y - 4])
    spread = np.clip(spread, 0, None)
    level = above / (spread + np.float32(1e-3))
    allowed = (above > 0) & (bound > 0) & (level < 14) & (spread > 0.03)
    thick = min(reach(level, allowed, plan.volume_ml, grid), 12.0) * spread
    found: FloatArray = np.minimum.reduce([thick - above, above + np.float32(0.5), bound])
    return found


def outside_brain(
    head: Head, grid: Grid, s: Surface, plan: Plan, rng: np.random.Generator
) -> tuple[FloatArray, Deformation]:
    """An epidural or subdural bleed and how it presses the brain.

    Args:
        head: Parameters.
        grid: The voxels.
        s: Surfaces.
        plan: What to make.
        rng: Source of chance.

    Returns:
        Signed distance in mm, positive inside, and the mass effect.
    """
    make: Callable[..., FloatArray] = epidural if plan.label == EPIDURAL else subdural
    region = region_around(grid, *SIDES[plan.side > 0])
    if is_empty(region):
        return np.full(grid.shape, FAR, np.float32), STILL
    here = replace(s, at=s.at.at(region), depth=s.depth[region], tentorium=s.tentorium[region])
    found = make(head, grid, here, plan, rng)
    distance = np.full(grid.shape, FAR, np.float32)
    distance[region] = found
    shift = -plan.side * min(plan.volume_ml * 0.1 * float(rng.uniform(0.4, 1.5)), 14.0)
    if plan.variant in ("interhemispheric", "tentorial", "occipital"):
        return distance, Deformation(0.0, shift * 0.2, (0.0, 0.0, 0.0), 0.0)
    inward = np.zeros(grid.shape, np.float32)
    inward[region] = np.clip(found + np.clip(here.depth, 0, None), 0, 40) * (here.depth > -2)
    return distance, Deformation(inward, shift, (0.0, 0.0, 0.0), 0.0)


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
