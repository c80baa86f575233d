from dataclasses import replace

import numpy as np
import pytest
from dicom.results_data import make_result

from triage.dicom.pages import HEIGHT_PX, WIDTH_PX, View, head_box, key_page, orientation_letters, plain, summary_page
from triage.records import Priority, SetAside, Slice, Volume


def volume(rows: int = 200, columns: int = 200, spacing_mm: tuple[float, float] = (1.0, 1.0)) -> Volume:
    """A ball of brain, 40 mm in radius, in the middle of air."""
    y = (np.arange(rows) - rows / 2 + 0.5)[:, None] * spacing_mm[0]
    x = (np.arange(columns) - columns / 2 + 0.5)[None] * spacing_mm[1]
    hu = np.where(np.hypot(x, y) < 40, 40.0, -1000.0).astype(np.float32)
    slices = tuple(Slice(f"1.2.{i}", orientation=(1, 0, 0, 0, 1, 0), instance_number=i) for i in range(6))
    return Volume(np.repeat(hu[None], 6, axis=0), slices, tuple(5.0 * i for i in range(6)), spacing_mm, 5.0)


VIEW = View((3, 4), (0, 0, 200, 200), "2 - Head", "2026-09-21 14:13:32 UTC+00:00", "ich-triage 0.1.0")


@pytest.mark.parametrize(("orientation", "letters"), [
    ((1, 0, 0, 0, 1, 0), ("R", "L", "A", "P")),
    ((-1, 0, 0, 0, -1, 0), ("L", "R", "P", "A")),
    ((1, 0, 0, 0, 0.948, -0.317), ("R", "L", "A", "P")),
    ((0, 1, 0, 0, 0, -1), ("A", "P", "H", "F")),
    (None, None),
])  # fmt: skip
def test_orientation_letters(orientation: tuple[float, ...] | None, letters: tuple[str, ...] | None) -> None:
    assert orientation_letters(Slice("1.2", orientation=orientation)) == letters  # type: ignore[arg-type]  # 6 long


def test_a_small_head_fills_the_picture() -> None:
    left, upper, right, lower = head_box(volume(), (3, 4))
    assert (right - left, lower - upper) == (86, 86)
    assert (left + right, upper + lower) == (200, 200)


def test_a_head_that_fills_the_slice_is_not_cropped() -> None:
    full = volume(80, 80)
    assert head_box(full, (0,)) == (0, 0, 80, 80)
    assert head_box(replace(full, hu=np.full_like(full.hu, -1000)), (0,)) == (0, 0, 80, 80)
    assert head_box(full, ()) == (0, 0, 80, 80)


def test_oblong_pixels_keep_the_heads_shape() -> None:
    oblong = volume(100, 200, (2.0, 1.0))
    page = key_page(make_result(oblong), oblong, replace(VIEW, box=head_box(oblong, (3,))), 0)
    brain = (page[196:1012, 40:856] == 127).all(axis=2)
    rows, columns = np.flatnonzero(brain.any(axis=1)), np.flatnonzero(brain.any(axis=0))
    assert (rows[-1] - rows[0]) / (columns[-1] - columns[0]) == pytest.approx(1, abs=0.03)
    assert columns[-1] - columns[0] > 700


def test_pages_say_what_differs() -> None:
    """Score, priority, kind of model and remarks each change the picture."""
    scan = volume()
    result = make_result(scan)
    validated = replace(result.model, intended_use="site-validated")
    pages = [summary_page(r, scan, VIEW) for r in (
        result, replace(result, priority=Priority.REVIEW), replace(result, findings=result.findings[:1]),
        replace(result, model=validated), replace(result, lossy=True))]  # fmt: skip
    assert all(page.shape == (HEIGHT_PX, WIDTH_PX, 3) for page in pages)
    assert all((page != pages[0]).any() for page in pages[1:])


def test_many_remarks_leave_the_warnings_readable() -> None:
    scan = volume()
    aside = tuple(SetAside("1.2", 1, f"reason {i} " + "word " * 60) for i in range(9))
    page = summary_page(make_result(scan, set_aside=aside), scan, VIEW)
    usual = summary_page(make_result(scan), scan, VIEW)
    assert np.array_equal(page[HEIGHT_PX - 80 :], usual[HEIGHT_PX - 80 :])


def test_letters_the_font_lacks() -> None:
    assert plain("Hlava natív, Ďurčová · 5 mm 山") == "Hlava nativ, Durcova · 5 mm ?"
