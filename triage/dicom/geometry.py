"""Slices -> an ordered stack: normals, positions, gaps, duplicates and tilt; numbers only, no files.

Order comes from ImagePositionPatient along the slice normal, never from InstanceNumber or SliceLocation
(PS3.3 C.7.6.2.1.1). A tilted gantry moves the table along z while the normal leans, so tilt is read from both.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from triage.errors import StudyError
from triage.records import Slice, Stack

Vector = npt.NDArray[np.float64]

ORTHONORMAL_TOLERANCE = 0.01
"""Largest error of the direction cosines' lengths and of their dot product."""

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference of a direction cosine within one stack."""

DUPLICATE_MM = 0.05
"""Slices closer than this lie at the same position."""

MAX_AXIAL_DEG = 35.0
"""Largest angle between normal and z axis of an axial image: 30 degrees of gantry tilt and a tilted head."""

IRREGULAR_MM, IRREGULAR_FRACTION = 0.1, 0.1
"""A step that differs from the median by more than the larger of these is irregular."""

WIDE_STEP = 1.5
"""A step this many times the smaller of its neighbours may hide a slice."""


def normal(orientation: Sequence[float]) -> Vector:
    """Unit normal of a slice.

    Args:
        orientation: ImageOrientationPatient, six direction cosines: along a row, then along a column.

    Returns:
        (3,) row x column, towards the head for an axial slice of either handedness.

    Raises:
        StudyError: The direction cosines are not orthonormal.
    """
    row, column = np.array(orientation[:3], float), np.array(orientation[3:6], float)
    errors = (np.linalg.norm(row) - 1, np.linalg.norm(column) - 1, row @ column)
    worst = max(abs(float(e)) for e in errors)
    if not worst <= ORTHONORMAL_TOLERANCE:
        raise StudyError(f"the direction cosines of ImageOrientationPatient are not orthonormal (error {worst:.2f})")
    n = np.cross(row, column)
    n /= np.linalg.norm(n)
    return cast(Vector, -n if n[2] < 0 else n)


def axial_angle_deg(n: Vector) -> float:
    """Angle between a unit normal (3,) and the patient's z axis."""
    return float(np.degrees(np.arccos(min(1.0, abs(float(n[2]))))))


def projection_mm(plane: Slice) -> float | None:
    """Position of a slice on its own normal, towards the head; None without geometry or when it is not axial."""
    if plane.position_mm is None or plane.orientation is None:
        return None
    try:
        n = normal(plane.orientation)
    except StudyError:
        return None
    return float(np.array(plane.position_mm) @ n) if axial_angle_deg(n) <= MAX_AXIAL_DEG else None


def count_missing(positions_mm: Sequence[float], instance_numbers: Sequence[int | None]) -> int:
    """Count the slices that are missing between others.

    A wide step alone proves nothing: step-and-shoot protocols go from 4 to 7 mm on purpose. It hides a slice only if
    InstanceNumber jumps as well. Where the numbers tell nothing (missing or repeated), the step alone decides.

    Args:
        positions_mm: Positions along the normal, any order, repeated ones allowed.
        instance_numbers: InstanceNumber of each. Lists of different lengths (frames of one file) are never incomplete.

    Returns:
        Number of slices missing; none can be seen missing before the first and after the last.
    """
    if len(positions_mm) != len(instance_numbers):
        return 0
    pairs: list[tuple[float, int | None]] = []
    for position, number in sorted(zip(positions_mm, instance_numbers, strict=True), key=lambda p: p[0]):
        if not pairs or position - pairs[-1][0] >= DUPLICATE_MM:
            pairs.append((position, number))
    if len(pairs) < 3:
        return 0
    numbers = [n for _, n in pairs if n is not None]
    usable = len(set(numbers)) == len(pairs)
    steps = np.diff([p for p, _ in pairs])
    missing = 0
    for i, step in enumerate(steps):
        near = float(min(steps[max(0, i - 1) : i + 2]))
        if i == 0 or i == len(steps) - 1:  # one neighbour only: the typical step is the better witness
            near = min(near, float(np.median(steps))) if near < step else float(np.median(steps))
        if step <= WIDE_STEP * near:
            continue
        room = max(1, round(float(step) / near) - 1)
        missing += min(abs(numbers[i + 1] - numbers[i]) - 1, room) if usable else room
    return missing


def order(slices: Sequence[Slice]) -> Stack:
    """Order the slices of one series from the feet towards the head and measure the stack.

    Args:
        slices: Slices of one series, any order.

    Returns:
        The stack; of slices at one position the one with the lowest acquisition, instance and frame number is kept.

    Raises:
        StudyError: A slice has no geometry, or the slices are not parallel.
    """
    if not slices:
        raise StudyError("no slices")
    without = sum(s.position_mm is None or s.orientation is None for s in slices)
    if without:
        raise StudyError(
            f"{without} of {len(slices)} slices have no valid ImagePositionPatient or ImageOrientationPatient"
        )
    first = cast(Sequence[float], slices[0].orientation)
    n = normal(first)
    spread = float(np.abs(np.array([s.orientation for s in slices], float) - np.array(first, float)).max())
    if spread > ORIENTATION_TOLERANCE:
        raise StudyError(f"the slices are not parallel (direction cosines differ by {spread:.3g})")
    kept, duplicates = _without_duplicates(slices, n)
    return _measure(kept, duplicates, n)


def _without_duplicates(slices: Sequence[Slice], n: Vector) -> tuple[list[Slice], list[Slice]]:
    positions = np.array([s.position_mm for s in slices], float) @ n
    kept: list[Slice] = []
    duplicates: list[Slice] = []
    begin = -np.inf
    for i in np.argsort(positions, kind="stable"):
        plane = slices[i]
        if positions[i] - begin >= DUPLICATE_MM:
            kept.append(plane)
            begin = positions[i]
        elif _rank(plane) < _rank(kept[-1]):
            duplicates.append(kept[-1])
            kept[-1] = plane
        else:
            duplicates.append(plane)
    return kept, duplicates


def _rank(plane: Slice) -> tuple[float, float, int]:
    """Which of two slices at one position is kept: the lower."""
    acquisition, instance = plane.acquisition_number, plane.instance_number
    return (
        np.inf if acquisition is None else acquisition,
        np.inf if instance is None else instance,
        plane.frame,
    )


def _measure(slices: Sequence[Slice], duplicates: Sequence[Slice], n: Vector) -> Stack:
    origins = np.array([s.position_mm for s in slices], float)
    positions = origins @ n
    steps = np.diff(positions)
    spacing = float(np.median(steps)) if len(steps) else 0.0
    line = origins[-1] - origins[0]
    length = float(np.linalg.norm(line))
    cosine = min(1.0, abs(float(line @ n)) / length) if length > 0 else 1.0
    tolerance = max(IRREGULAR_MM, IRREGULAR_FRACTION * spacing)
    return Stack(
        slices=tuple(slices),
        positions_mm=tuple(float(p) for p in positions),
        normal=(float(n[0]), float(n[1]), float(n[2])),
        spacing_mm=spacing,
        coverage_mm=float(positions[-1] - positions[0]) + spacing,
        tilt_deg=float(np.degrees(np.arccos(cosine))),
        axial_deg=axial_angle_deg(n),
        duplicates=tuple(duplicates),
        missing=count_missing([float(p) for p in positions], [s.instance_number for s in slices]),
        irregular=int((np.abs(steps - spacing) > tolerance).sum()),
    )
