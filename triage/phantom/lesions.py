"""The five kinds of bleed: where each may lie, its shape, its density, and how it moves the brain."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from triage.phantom.anatomy import STILL, Brain, Deformation
from triage.phantom.fields import AnyField, BoolArray, Coordinates, Grid, noise, soft
from triage.phantom.profile import Head
from triage.phantom.skull import Surface
from triage.records import SUBTYPES, FloatArray

EPIDURAL, INTRAPARENCHYMAL, INTRAVENTRICULAR, SUBARACHNOID, SUBDURAL = SUBTYPES

MEAN_HU = {
    EPIDURAL: (56.0, 9.4, 36.0, 70.0),
    INTRAPARENCHYMAL: (47.5, 8.6, 31.0, 64.0),
    INTRAVENTRICULAR: (39.9, 8.9, 24.0, 58.0),
    SUBARACHNOID: (43.9, 7.9, 30.0, 60.0),
    SUBDURAL: (51.5, 11.0, 30.0, 70.0),
}
"""Mean, standard deviation, least and greatest of the mean HU measured over a bleed (BHSD's 1,873 lesions)."""

VOLUME_ML = {
    EPIDURAL: (2.0, 60.0),
    INTRAPARENCHYMAL: (0.8, 60.0),
    INTRAVENTRICULAR: (0.8, 20.0),
    SUBARACHNOID: (1.5, 25.0),
    SUBDURAL: (3.0, 90.0),
}
"""Volumes are drawn evenly on a logarithmic scale between these."""

TINY_ML = {EPIDURAL: (0.3, 1.5), INTRAPARENCHYMAL: (0.1, 0.8), INTRAVENTRICULAR: (0.1, 0.7),
           SUBARACHNOID: (0.15, 1.2), SUBDURAL: (0.4, 2.0)}  # fmt: skip
"""Volumes of the hard tail; half of BHSD's bleeds are smaller than 0.5 mL."""

CHRONIC_HU = (17.0, 32.0)
"""Mean density of a chronic subdural, labelled as a subdural all the same."""

CORONAL, LAMBDOID, SQUAMOSAL = -0.25, 0.62, 0.02
"""Sutures as planes: share of the half axis front to back (first two) and of the height (third, low at the side)."""

FAR = np.float32(-99.0)


@dataclass(frozen=True, slots=True)
class Plan:
    """One bleed as drawn, before its shape is computed."""

    label: str
    variant: str
    volume_ml: float
    mean_hu: float
    side: float
    """-1 right, +1 left."""
    chronic: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """One bleed on the grid."""

    plan: Plan
    share: FloatArray
    """(n, rows, columns) 0..1: how much of each voxel is blood of this bleed."""


VARIANTS: dict[str, tuple[tuple[str, float], ...]] = {
    EPIDURAL: (("temporal", 0.45), ("parietal", 0.25), ("frontal", 0.2), ("occipital", 0.1)),
    SUBDURAL: (("convexity", 0.78), ("interhemispheric", 0.12), ("tentorial", 0.1)),
    SUBARACHNOID: (("cistern", 0.4), ("sylvian", 0.2), ("convexity", 0.4)),
    INTRAVENTRICULAR: (("layered", 0.75), ("cast", 0.25)),
    INTRAPARENCHYMAL: (("ganglia", 0.38), ("lobar", 0.34), ("thalamus", 0.16), ("cerebellum", 0.08), ("pons", 0.04)),
}
"""Kinds of each bleed with their probabilities."""


def draw_plan(label: str, rng: np.random.Generator, volume_ml: tuple[float, float] | None, p_tiny: float) -> Plan:
    """What one bleed will be.

    Args:
        label: Subtype.
        rng: Source of chance.
        volume_ml: Range to draw the volume from; None for the label's own.
        p_tiny: Probability of a bleed from the hard tail (only without a range).

    Returns:
        The plan.
    """
    names, p = zip(*VARIANTS[label], strict=True)
    variant = str(names[int(np.searchsorted(np.cumsum(p), rng.random() * 0.9999))])
    tiny = rng.random() < p_tiny
    low, high = volume_ml or (TINY_ML[label] if tiny else VOLUME_ML[label])
    volume = float(low * (high / low) ** rng.random())
    mean, spread, least, most = MEAN_HU[label]
    hu = float(np.clip(rng.normal(mean, spread), least, most))
    side = 1.0 if rng.random() < 0.5 else -1.0
    chronic = bool(label == SUBDURAL and rng.random() < 0.1)
    if chronic:
        hu = float(rng.uniform(*CHRONIC_HU))
    if variant in ("interhemispheric", "tentorial"):
        volume = min(volume, 18.0)
    if variant == "pons":
        volume = min(volume, 8.0)
    return Plan(label, variant, volume, hu, side, chronic)


def _reach(level: AnyField, allowed: BoolArray, volume_ml: float, grid: Grid) -> float:
    """The level below which the allowed voxels hold the wanted volume; the greatest where there are too few."""
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
    half = max(_reach(level, allowed, plan.volume_ml, grid), 2.0)
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
    if plan.variant == "convexity":
        towards = _direction(float(rng.uniform(-0.55, 0.6)), float(rng.uniform(0.0, 0.65)), plan.side)
        thickest = float(rng.uniform(3.0, 6.5)) * (plan.volume_ml / 10) ** (1 / 3)
        arc = float(np.clip((plan.volume_ml * 1000 / (0.6 * np.pi * thickest)) ** 0.5, 9, 95))
        share = (_away(head, s.at, towards, float(rng.uniform(1.0, 1.35))) * np.float32(1 / arc)) ** 2
        profile = np.clip(1 - share * share, 0, None)
        profile *= 1 + np.float32(0.15) * noise(rng, grid.shape, grid.step_mm, 30)
        level = s.depth / (profile + np.float32(1e-3))
        allowed = (s.depth > 0) & (own_side > 0) & (level < 45) & (profile > 0.02) & (s.tentorium > 0)
        thick = _reach(level, allowed, plan.volume_ml, grid) * profile
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
    thick = min(_reach(level, allowed, plan.volume_ml, grid), 12.0) * spread
    found: FloatArray = np.minimum.reduce([thick - above, above + np.float32(0.5), bound])
    return found


def _centre(plan: Plan, rng: np.random.Generator) -> tuple[float, float, float]:
    if plan.variant == "lobar":
        return (plan.side * float(rng.uniform(22, 44)), float(rng.uniform(-52, 58)), float(rng.uniform(8, 48)))
    jitter = [float(v) for v in rng.uniform(-4, 4, 3)]
    x, y, z = {"ganglia": (25, -3, 4), "thalamus": (12, 12, 5), "cerebellum": (18, 46, -34), "pons": (1, 12, -32)}[
        plan.variant
    ]
    return (plan.side * x + jitter[0], y + 2 * jitter[1], z + jitter[2])


def intraparenchymal(
    head: Head, grid: Grid, s: Surface, plan: Plan, rng: np.random.Generator
) -> tuple[FloatArray, Deformation]:
    """Ragged lump within the brain.

    Args:
        head: Parameters.
        grid: The voxels.
        s: Surfaces.
        plan: What to make.
        rng: Source of chance.

    Returns:
        Signed distance to its surface in mm, positive inside, and how it pushes the brain.
    """
    centre = tuple(c * r / n for c, r, n in zip(_centre(plan, rng), head.radii_mm, (67, 84, 76), strict=True))
    cx, cy, cz = centre
    stretch = rng.uniform(0.75, 1.3, 3).tolist()
    x, y, z = (s.at.x - cx) / stretch[0], (s.at.y - cy) / stretch[1], (s.at.z - cz) / stretch[2]
    level = np.sqrt(x * x + y * y + z * z)
    ragged = 0.12 + 0.2 * float(rng.random())
    level *= 1 + np.float32(ragged) * noise(rng, grid.shape, grid.step_mm, 11)
    np.maximum(level, 0, out=level)
    bound = s.depth - 3
    if plan.variant == "lobar":
        bound = np.minimum(bound, np.float32(plan.side) * s.at.x - 2)
    tent = -s.tentorium if plan.variant in ("cerebellum", "pons") else s.tentorium
    bound = np.minimum(bound, np.maximum(tent - 1.5, 12 - np.sqrt(s.at.x * s.at.x + (s.at.y - 8) ** 2) * 0.5))
    radius = _reach(level, (bound > 0) & (level < 60), plan.volume_ml, grid)
    push = (plan.volume_ml * 1000 * 0.239) ** (1 / 3)
    shift = -plan.side * min(plan.volume_ml * 0.075 * float(rng.uniform(0.3, 1.2)), 10.0)
    if plan.variant in ("cerebellum", "pons"):
        shift = 0.0
    return np.minimum(radius - level, bound), Deformation(0.0, shift, (cx, cy, cz), push)


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
    distance = make(head, grid, s, plan, rng)
    shift = -plan.side * min(plan.volume_ml * 0.1 * float(rng.uniform(0.3, 1.2)), 14.0)
    if plan.variant in ("interhemispheric", "tentorial", "occipital"):
        return distance, Deformation(0.0, shift * 0.2, (0.0, 0.0, 0.0), 0.0)
    inward = np.clip(distance + np.clip(s.depth, 0, None), 0, 40) * (s.depth > -2)
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


def subarachnoid(grid: Grid, brain: Brain, plan: Plan, rng: np.random.Generator) -> FloatArray:
    """Blood in the fluid spaces round a source: an aneurysm's cisterns, a Sylvian fissure, or sulci after a blow.

    Args:
        grid: The voxels.
        brain: Tissue shares.
        plan: What to make.
        rng: Source of chance.

    Returns:
        Share of each voxel, 0..1.
    """
    at = brain.at
    centre = {
        "cistern": (plan.side * float(rng.uniform(0, 8)), float(rng.uniform(-18, 4)), -18.0),
        "sylvian": (plan.side * float(rng.uniform(30, 44)), float(rng.uniform(-20, -4)), float(rng.uniform(-10, 6))),
        "convexity": (plan.side * float(rng.uniform(15, 58)), float(rng.uniform(-55, 60)), float(rng.uniform(5, 55))),
    }[plan.variant]
    x, y, z = (a - c for a, c in zip((at.x, at.y, at.z), centre, strict=True))
    level = np.sqrt(x * x + y * y + np.float32(1.7) * z * z)
    level += 5 * noise(rng, grid.shape, grid.step_mm, 12)
    spaces = np.clip(brain.csf * np.float32(1.7), 0, 1) * (1 - np.clip(brain.dura, 0, 1))
    radius = _reach(level, spaces > 0.5, plan.volume_ml, grid)
    share: FloatArray = spaces * soft(radius - level, 4.0)
    return share


def intraventricular(grid: Grid, brain: Brain, s: Surface, plan: Plan, rng: np.random.Generator) -> FloatArray:
    """Blood in the ventricles: a level at the back of a patient who lies on it, or a cast.

    Args:
        grid: The voxels.
        brain: Tissue shares.
        s: Surfaces.
        plan: What to make.
        rng: Source of chance.

    Returns:
        Share of each voxel, 0..1.
    """
    at = brain.at
    if plan.variant == "layered":
        uneven = float(rng.uniform(0, 9)) if rng.random() < 0.6 else 40.0
        level = 90 - s.at.y + np.float32(uneven) * (s.at.x * np.float32(plan.side) < 0)
        edge = 2.5
    else:
        x, y, z = at.x - np.float32(plan.side * 12), at.y - np.float32(rng.uniform(-25, 30)), at.z - 10
        level = np.sqrt(x * x + y * y + z * z) + 3 * noise(rng, grid.shape, grid.step_mm, 12)
        edge = 4.0
    reach = _reach(level, brain.ventricle > 0.5, plan.volume_ml, grid)
    return brain.ventricle * soft(reach - level, edge)
