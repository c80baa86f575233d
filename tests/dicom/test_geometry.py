"""Order, gaps, duplicates and tilt of slices whose truth is known."""

from pathlib import Path

import numpy as np
import pytest

from triage.dicom.geometry import count_missing, normal, order, projection_mm
from triage.dicom.headers import read_instance
from triage.errors import StudyError
from triage.records import Slice, Stack

FLAT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def plane(
    z: float, number: int | None = None, orientation: tuple[float, ...] = FLAT, acquisition: int | None = None
) -> Slice:
    a, b, c, d, e, f = orientation
    return Slice(f"1.2.{z:.0f}", position_mm=(-100.0, -100.0, z), orientation=(a, b, c, d, e, f),
                 instance_number=number, acquisition_number=acquisition)  # fmt: skip


def leaning(degrees: float) -> tuple[float, ...]:
    t = np.deg2rad(degrees)
    return (1.0, 0.0, 0.0, 0.0, float(np.cos(t)), float(-np.sin(t)))


def stack_of(folder: Path) -> Stack:
    return order([s for path in folder.glob("*.dcm") for s in read_instance(path).slices])


@pytest.mark.parametrize("orientation", [FLAT, (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)])
def test_normal_points_to_the_head_whatever_the_image_is_flipped(orientation: tuple[float, ...]) -> None:
    assert normal(orientation) == pytest.approx([0, 0, 1])


@pytest.mark.parametrize("orientation", [(0.0,) * 6, (1.0, 0.0, 0.0, 1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.02, 0.0),
                                         (float("nan"), 0.0, 0.0, 0.0, 1.0, 0.0)])  # fmt: skip
def test_direction_cosines_must_be_orthonormal(orientation: tuple[float, ...]) -> None:
    with pytest.raises(StudyError, match="not orthonormal"):
        normal(orientation)


def test_order_is_by_position_not_by_number() -> None:
    numbers = [7, 3, 9, 1, 5]
    stack = order([plane(10.0 * k, n) for k, n in zip([3, 0, 4, 1, 2], numbers, strict=True)])
    assert stack.positions_mm == pytest.approx((0, 10, 20, 30, 40))
    assert [s.instance_number for s in stack.slices] == [3, 1, 5, 7, 9]
    assert (stack.spacing_mm, stack.coverage_mm, stack.missing, stack.irregular) == (10, 50, 0, 0)


@pytest.mark.parametrize("tilt", [-30.0, -18.5, 0.0, 16.5, 25.0])
def test_tilt_is_recovered_when_the_table_moves_along_z(tilt: float) -> None:
    stack = order([plane(5.0 * k, k, leaning(tilt)) for k in range(20)])
    assert stack.tilt_deg == pytest.approx(abs(tilt), abs=1e-4)
    assert stack.axial_deg == pytest.approx(abs(tilt), abs=1e-4)
    assert stack.spacing_mm == pytest.approx(5 * np.cos(np.deg2rad(tilt)))


def test_a_tilted_head_is_no_tilted_gantry() -> None:
    n = normal(leaning(20.0))
    slices = [Slice("1.2", position_mm=(0.0, float(5 * k * n[1]), float(5 * k * n[2])),
                    orientation=leaning(20.0), instance_number=k) for k in range(12)]  # type: ignore[arg-type]  # fmt: skip
    stack = order(slices)
    assert stack.tilt_deg == pytest.approx(0, abs=1e-4)
    assert stack.axial_deg == pytest.approx(20, abs=1e-4)


def test_of_two_slices_at_one_position_the_first_acquired_stays() -> None:
    slices = [plane(0.0, 1, acquisition=1), plane(5.03, 3, acquisition=2),
              plane(5.0, 2, acquisition=1), plane(10.0, 4, acquisition=1)]  # fmt: skip
    stack = order(slices)
    assert [s.instance_number for s in stack.slices] == [1, 2, 4]
    assert [s.instance_number for s in stack.duplicates] == [3]


@pytest.mark.parametrize(("distance", "kept"), [(0.049, 2), (0.051, 3)])
def test_duplicates_lie_within_a_twentieth_of_a_millimetre(distance: float, kept: int) -> None:
    assert len(order([plane(0.0), plane(distance), plane(5.0)]).slices) == kept


def test_a_wide_step_without_a_jump_in_number_is_on_purpose() -> None:
    positions = [4.0 * k for k in range(10)] + [36 + 7.0 * k for k in range(1, 10)]
    stack = order([plane(z, k) for k, z in enumerate(positions)])
    assert stack.missing == 0
    assert stack.irregular > 0


@pytest.mark.parametrize("gone", [{5}, {5, 6, 7}, {2, 11}, {1}, {18}])
@pytest.mark.parametrize("backwards", [False, True])
def test_missing_slices_are_counted(gone: set[int], backwards: bool) -> None:
    left = [k for k in range(20) if k not in gone]
    numbers = [20 - k if backwards else k for k in left]
    assert count_missing([5.0 * k for k in left], numbers) == len(gone)
    shuffled = np.random.default_rng(1).permutation(len(left))
    assert count_missing([5.0 * left[i] for i in shuffled], [numbers[i] for i in shuffled]) == len(gone)


def test_a_slice_is_missed_among_thin_ones_of_a_mostly_thick_series() -> None:
    positions = [4.0 * k for k in range(8) if k != 4] + [28 + 7.0 * k for k in range(1, 15)]
    numbers = [k for k in range(22) if k != 4]
    assert count_missing(positions, numbers) == 1


def test_numbers_that_skip_evenly_hide_nothing() -> None:
    assert count_missing([5.0 * k for k in range(10)], [2 * k for k in range(10)]) == 0


def test_without_usable_numbers_the_step_alone_decides() -> None:
    positions = [5.0 * k for k in range(10) if k != 4]
    assert count_missing(positions, [None] * 9) == 1
    assert count_missing(positions, [1] * 9) == 1


def test_repeated_positions_are_no_gap_and_frames_of_one_file_are_never_incomplete() -> None:
    assert count_missing([0.0, 0.0, 5.0, 5.0, 10.0], [1, 4, 2, 5, 3]) == 0
    assert count_missing([0.0, 5.0, 30.0], [1]) == 0
    assert count_missing([], []) == 0


def test_projection_is_none_for_what_is_not_axial() -> None:
    assert projection_mm(plane(12.5)) == pytest.approx(12.5)
    assert projection_mm(plane(12.5, orientation=SAGITTAL)) is None
    assert projection_mm(plane(12.5, orientation=(1.0,) * 6)) is None
    assert projection_mm(Slice("1.2")) is None


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (Slice("1.2"), "1 of 4 slices have no valid ImagePositionPatient"),
        (plane(3.0, orientation=leaning(1.0)), "not parallel"),
    ],
)
def test_slices_that_cannot_be_ordered_say_why(odd: Slice, reason: str) -> None:
    with pytest.raises(StudyError, match=reason):
        order([plane(0.0), plane(1.0), plane(2.0), odd])


def test_real_head_tilted_with_two_steps(shared_data: Path) -> None:
    stack = stack_of(shared_data / "ge_head")
    assert len(stack.slices) == 28
    assert stack.tilt_deg == pytest.approx(18.5, abs=0.1)
    assert stack.missing == 0


def test_real_head_phantom_tilted_the_other_way(shared_data: Path) -> None:
    slices = [s for p in (shared_data / "philips_phantom" / "S21610" / "S2010").glob("I*")
              for s in read_instance(p).slices]  # fmt: skip
    stack = order(slices)
    assert (len(stack.slices), stack.missing) == (54, 0)
    assert stack.tilt_deg == pytest.approx(18.5, abs=0.1)


@pytest.mark.parametrize(
    ("folder", "tilt", "missing", "irregular", "kept"),
    [
        ("gantrytilting/001", 14.0, 0, 0, 4),
        ("notavolume/001", 0.0, 0, 0, 1),
        ("sliceincrement/001", 0.0, 0, 1, 4),
        ("sliceincrement/002", 15.5, 1, 1, 4),
    ],
)
def test_real_geometry(shared_data: Path, folder: str, tilt: float, missing: int, irregular: int, kept: int) -> None:
    stack = stack_of(shared_data / "geometry" / folder)
    assert stack.tilt_deg == pytest.approx(tilt, abs=0.01)
    assert (stack.missing, stack.irregular, len(stack.slices)) == (missing, irregular, kept)
    assert len(stack.slices) + len(stack.duplicates) == 4
