"""Bleeds between bone and brain, epidural and subdural: their shapes, and how each presses the brain."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from triage.phantom.anatomy import STILL, Deformation
from triage.phantom.fields import noise
from triage.phantom.grids import Coordinates, Grid, Point, is_empty, region_around
from triage.phantom.lesions import EPIDURAL, FAR, Plan, clear_of_bone, reach
from triage.phantom.profile import Head
from triage.phantom.skull import Surface
from triage.records import FloatArray

CORONAL, LAMBDOID, SQUAMOSAL = -0.25, 0.62, 0.02
"""Sutures as planes: share of the half axis front to back (first two) and of the height (third, low at the side)."""

SIDES: tuple[tuple[Point, Point], tuple[Point, Point]] = (
    ((-100.0, -125.0, -80.0), (6.0, 125.0, 110.0)),
    ((-6.0, -125.0, -80.0), (100.0, 125.0, 110.0)),
)
"""Corners of a box round the right and the left half of any cranial cavity."""

FILM_MM = (2.0, 5.0)
"""Thickness of a thin subdural."""

BESIDE_DURA_MM = 0.25
"""So near to falx or tentorium voxels are more dura than blood, and not counted."""

SHEET_MM = 2.2
"""Least thickness of a subdural along falx or tentorium."""

PLATES = {"temporal": (-0.2, 0.25, -0.28, 0.02), "parietal": (-0.1, 0.5, 0.35, 0.85),
          "frontal": (-1.25, -0.65, 0.05, 0.6), "occipital": (0.95, 1.3, -0.15, 0.2)}  # fmt: skip
"""Range of azimuth and of rise of an epidural's middle on each plate."""


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
    half = max(reach(level, allowed & (clear_of_bone(grid, s) > 0), plan.volume_ml, grid), 2.0)
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
    clear = clear_of_bone(grid, s)
    if plan.variant in ("interhemispheric", "tentorial"):
        return _on_a_sheet(grid, s, plan, (own_side, clear), rng)
    towards = _direction(float(rng.uniform(-0.55, 0.6)), float(rng.uniform(0.0, 0.65)), plan.side)
    thickest = float(rng.uniform(3.0, 6.5)) * (plan.volume_ml / 10) ** (1 / 3)
    if plan.variant == "film":
        thickest = float(rng.uniform(*FILM_MM)) - 1  # so much of it is lost in the glare of bone
    arc = float(np.clip((plan.volume_ml * 1000 / (0.6 * np.pi * thickest)) ** 0.5, 9, 95))
    share = (_away(head, s.at, towards, float(rng.uniform(1.0, 1.35))) * np.float32(1 / arc)) ** 2
    profile = np.clip(1 - share if plan.chronic else 1 - share * share, 0, None)  # old ones bulge
    profile *= 1 + np.float32(0.15) * noise(rng, s.depth.shape, grid.step_mm, 30)
    level = s.depth / np.maximum(profile, np.float32(1e-3))
    allowed = (clear > 0) & (own_side > 0) & (level < 45) & (profile > 0.02) & (s.tentorium > 0)
    thick = reach(level, allowed, plan.volume_ml, grid) * profile
    found: FloatArray = np.minimum.reduce([thick - s.depth, own_side, s.depth + 1, s.tentorium])
    return found


def _on_a_sheet(
    grid: Grid, s: Surface, plan: Plan, bounds: tuple[FloatArray, FloatArray], rng: np.random.Generator
) -> FloatArray:
    """A subdural along the falx or on the tentorium, as wide as it must be for its thickness.

    Args:
        grid: The voxels.
        s: Surfaces.
        plan: What to make.
        bounds: Distances from the midline and from the glare of bone, mm, positive where it may lie.
        rng: Source of chance.

    Returns:
        Signed distance to its surface in mm, positive inside.
    """
    own_side, clear = bounds
    u, v, thickness = (float(w) for w in rng.random(3))
    thickest = max((2.5 + 2.5 * thickness) * (plan.volume_ml / 4) ** (1 / 3), SHEET_MM)
    wide = (2000 * plan.volume_ml / (np.pi * thickest)) ** 0.5
    x, y, z = s.at.x, s.at.y, s.at.z
    if plan.variant == "interhemispheric":
        callosum = np.sqrt(((y - 4) / 47) ** 2 + ((z - 2) / 31) ** 2)
        above, bound = own_side, np.minimum.reduce([s.tentorium, clear, (callosum - 1) * 30])
        middle_y = 105 * u - 50
        lowest = 2 + 31 * max(1 - ((middle_y - 4) / 47) ** 2, 0) ** 0.5  # edge of the falx
        across, along = y - middle_y, z - (lowest + 4 + (54 - lowest) * v)
        across, along = across * np.float32(0.85 / wide), along * np.float32(1.18 / wide)
    else:
        notch = np.sqrt((x / 21) ** 2 + ((y - 8) / 26) ** 2)
        above, bound = s.tentorium - np.float32(0.5), np.minimum.reduce([own_side, clear, (notch - 1) * 20])
        across, along = x - plan.side * (16 + 18 * u), y - (32 + 20 * v)
        across, along = across * np.float32(1 / wide), along * np.float32(1 / wide)
    spread = np.clip(1 - across * across - along * along, 0, None)
    level = above / np.maximum(spread, np.float32(1e-3))
    allowed = (above > BESIDE_DURA_MM) & (bound > 0) & (level < 16) & (spread > 0.03)
    thick = reach(level, allowed, plan.volume_ml, grid) * spread
    found: FloatArray = np.minimum.reduce([thick - above, above, bound])
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
    here = replace(s, at=s.at.at(region), depth=s.depth[region], rise=s.rise[region], tentorium=s.tentorium[region])
    found = make(head, grid, here, plan, rng)
    distance = np.full(grid.shape, FAR, np.float32)
    distance[region] = found
    shift = -plan.side * min(plan.volume_ml * 0.1 * float(rng.uniform(0.4, 1.5)), 14.0)
    if plan.variant in ("interhemispheric", "tentorial", "occipital"):
        return distance, Deformation(0.0, shift * 0.2, (0.0, 0.0, 0.0), 0.0)
    inward = np.zeros(grid.shape, np.float32)
    inward[region] = np.clip(found + np.clip(here.depth, 0, None), 0, 40) * (here.depth > -2)
    return distance, Deformation(inward, shift, (0.0, 0.0, 0.0), 0.0)
