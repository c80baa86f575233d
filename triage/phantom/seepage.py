"""Bleeds that mix with fluid: subarachnoid in sulci and cisterns, intraventricular as a level or a cast."""

import numpy as np

from triage.phantom.anatomy import Brain
from triage.phantom.fields import noise, soft
from triage.phantom.grids import Coordinates, Grid, Point
from triage.phantom.lesions import Plan, reach
from triage.phantom.skull import Surface
from triage.records import FloatArray

Box = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]

SOURCES: dict[str, Box] = {
    "cistern": ((0, 8), (-18, 4), (-18, -18)),
    "sylvian": ((30, 44), (-20, -4), (-10, 6)),
    "convexity": ((15, 58), (-55, 60), (5, 55)),
    "film": ((20, 58), (-50, 60), (5, 55)),
    "interhemispheric": ((0, 1), (-62, 40), (18, 52)),
    "perimesencephalic": ((0, 6), (0, 10), (-22, -16)),
}
"""Where the blood comes from, on the left of the average brain: ranges of x, y, z in mm."""

WEIGHTS: dict[str, Point] = {
    "cistern": (1.0, 1.0, 1.7), "sylvian": (1.0, 1.0, 1.7), "convexity": (1.0, 1.0, 1.7), "film": (0.4, 0.4, 0.6),
    "interhemispheric": (14.0, 0.7, 1.0), "perimesencephalic": (1.0, 1.0, 2.0),
}  # fmt: skip
"""How fast the blood thins out along each axis."""


def downwards(grid: Grid, at: Coordinates) -> FloatArray:
    """Height below the middle in a patient who lies on the back, mm.

    Args:
        grid: Whose columns run towards the table.
        at: Head coordinates of voxels, any shape.

    Returns:
        Of that shape.
    """
    x, y, z = (float(v) / grid.step_mm[1] for v in grid.matrix[:, 1])
    found: FloatArray = at.x * np.float32(x) + at.y * np.float32(y) + at.z * np.float32(z)
    return found


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
    cx, cy, cz = (float(rng.uniform(*ends)) for ends in SOURCES[plan.variant])
    wx, wy, wz = (np.float32(w) for w in WEIGHTS[plan.variant])
    x, y, z = at.x - np.float32(plan.side * cx), at.y - np.float32(cy), at.z - np.float32(cz)
    level = np.sqrt(wx * x * x + wy * y * y + wz * z * z)
    thin = plan.variant == "film"
    level += np.float32(9 if thin else 5) * noise(rng, grid.shape, grid.step_mm, 10 if thin else 12)
    if plan.variant not in ("cistern", "perimesencephalic"):
        level += np.float32(25) * (at.x * np.float32(plan.side) < -2)  # the falx keeps it on one side
    widened = float(rng.uniform(1.6, 2.4))  # blood holds sulci open
    spaces = np.clip(brain.csf * np.float32(widened), 0, 1) * (1 - np.clip(brain.dura, 0, 1))
    radius = reach(level, spaces > 0.6, plan.volume_ml, grid)
    share: FloatArray = spaces * soft(radius - level, min(4.0, 1 + 2 * plan.volume_ml ** (1 / 3)))
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
        level = 90 - downwards(grid, s.at) + np.float32(uneven) * (s.at.x * np.float32(plan.side) < 0)
        edge = 2.0
    else:
        side = plan.side * (6 if plan.joined else 12)
        centre = {"third": (0.0, 2.0, -2.0), "fourth": (0.0, 34.0, -36.0)}.get(
            plan.variant, (side, float(rng.uniform(-25, 30)), 10.0)
        )
        x, y, z = (a - np.float32(c) for a, c in zip((at.x, at.y, at.z), centre, strict=True))
        level = np.sqrt(x * x + y * y + z * z) + 3 * noise(rng, grid.shape, grid.step_mm, 12)
        edge = 4.0
    radius = reach(level, brain.ventricle > 0.5, plan.volume_ml, grid)
    return brain.ventricle * soft(radius - level, edge)
