from dataclasses import replace

import numpy as np
import pytest
from dicom.results_data import make_result

from triage.dicom.canvas import HEIGHT_PX, SMALL, WIDTH_PX, plain, width_of, wrap
from triage.dicom.pages import EDGE_PX, ONLY_LEFT_PX, TOP_PX, View, key_page, summary_page
from triage.dicom.pictures import head_box, orientation_letters
from triage.records import SUBTYPES, Priority, SetAside, Slice, Volume


def volume(rows: int = 200, columns: int = 200, spacing_mm: tuple[float, float] = (1.0, 1.0)) -> Volume:
    """A ball of brain, 40 mm in radius, in the middle of air."""
    y = (np.arange(rows) - rows / 2 + 0.5)[:, None] * spacing_mm[0]
    x = (np.arange(columns) - columns / 2 + 0.5)[None] * spacing_mm[1]
    hu = np.where(np.hypot(x, y) < 40, 40.0, -1000.0).astype(np.float32)
    slices = tuple(Slice(f"1.2.{i}", orientation=(1, 0, 0, 0, 1, 0), instance_number=i) for i in range(6))
    return Volume(np.repeat(hu[None], 6, axis=0), slices, tuple(5.0 * i for i in range(6)), spacing_mm, 5.0)


TIMES = (("Acquired", "2026-09-21 14:00:00"), ("Images", "read from files"),
         ("Analysis began", "2026-09-21 14:13:30"), ("Analysis ended", "2026-09-21 14:13:32"))  # fmt: skip
VIEW = View((3, 4), (0, 0, 200, 200), "2 - Head", "ich-triage 0.1.0", "UTC+00:00", TIMES)


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
    picture = page[TOP_PX : TOP_PX + EDGE_PX, ONLY_LEFT_PX : ONLY_LEFT_PX + EDGE_PX]
    brain = (picture == 127).all(axis=2)
    rows, columns = np.flatnonzero(brain.any(axis=1)), np.flatnonzero(brain.any(axis=0))
    assert (rows[-1] - rows[0]) / (columns[-1] - columns[0]) == pytest.approx(1, abs=0.05)
    assert columns[-1] - columns[0] > 0.85 * EDGE_PX


def test_pages_say_what_differs() -> None:
    """Score, priority, kind of model and remarks each change the picture."""
    scan = volume()
    result = make_result(scan)
    validated = replace(result.model, intended_use="site-validated")
    pages = [summary_page(r, scan, VIEW) for r in (
        result, replace(result, priority=Priority.REVIEW), replace(result, findings=result.findings[:1]),
        replace(result, model=validated), replace(result, lossy=True),
        replace(result, run=2))]  # fmt: skip
    pages += [summary_page(result, scan, replace(VIEW, timeline=TIMES[1:]))]
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


def test_long_words_are_broken_and_nothing_is_lost() -> None:
    text = "Series " + "x" * 150 + " of the head"
    lines = wrap(text, 300)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert max(width_of(line, SMALL) for line in lines) <= 300
    assert wrap("", 300) == [""]


@pytest.mark.parametrize("index", [0, 123])
def test_text_stays_on_the_page(index: int) -> None:
    """Six findings, long places, the longest remarks: a border of black remains."""
    scan = volume()
    plane = Slice("1.2", 123, (0.0, 0.0, -1234.5), (1, 0, 0, 0, 1, 0), instance_number=12345)
    scan = replace(scan, slices=(plane,) * 300, hu=np.full((300, 200, 200), -1000, np.float32))
    aside = tuple(SetAside("1.2", 1, "reason" * 40) for _ in range(3))
    result = make_result(scan, SUBTYPES, set_aside=aside, run=12, missing=12, lossy=True, repairs=("wrap12", "sign"))
    view = replace(VIEW, key_slices=(index,), series="2 - " + "W" * 64)
    for page in (summary_page(result, scan, view), key_page(result, scan, view, 0)):
        assert page[20:-20, 20:-20].any()
        for border in (page[:8], page[-8:], page[:, :10], page[:, -10:]):
            assert not border.any()
