"""Pages of a positive result for a person to read: a summary and key slices; arrays in, arrays out, no data set.

Text stands outside the anatomy, and no page names a patient.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from triage.dicom import wording
from triage.dicom.canvas import (
    BLACK,
    CONTOUR,
    HEIGHT_PX,
    INNER_PX,
    LINE_PX,
    MARGIN_PX,
    MUTED,
    RULE,
    SMALL,
    TEXT,
    WARNING,
    WIDTH_PX,
    Colour,
    Pen,
    width_of,
    wrap,
    write,
    write_lines,
)
from triage.dicom.pictures import (
    WINDOW_CENTER_HU,
    WINDOW_WIDTH_HU,
    Box,
    Shown,
    draw_slice,
    extent_mm,
    orientation_letters,
)
from triage.records import ANY, LABELS, FloatArray, Outcome, Priority, Result, Volume

PixelArray = npt.NDArray[np.uint8]
"""(rows, columns, 3) RGB."""

GUTTER_PX = 36
"""Beside each picture, for the orientation letters."""

EDGE_PX = (WIDTH_PX - 4 * GUTTER_PX) // 2
"""Of the square that a key slice is fitted into."""

TOP_PX = 176
"""Upper edge of key slices."""

PLAIN_LEFT_PX, MARKED_LEFT_PX, ONLY_LEFT_PX = GUTTER_PX, EDGE_PX + 3 * GUTTER_PX, (WIDTH_PX - EDGE_PX) // 2
"""Left edge of the plain copy, of the copy with a contour, and of a plain picture that stands alone."""

FOOTER_PX = 84
"""Kept free at the bottom of every page for the warnings."""

SCALE_BAR_MM = 50.0

BAR_PX = (300, 790)
"""Left and right end of the bars that show probabilities."""

ROW_PX = 46
"""Height of a finding's row."""

TIMES_PX = 290
"""From the time line to the column of times."""

SUMMARY_EDGE_PX = 404
"""Of the picture on the summary page."""

FACTS_PX = INNER_PX - SUMMARY_EDGE_PX - 32
"""Width of the column of facts beside it."""

ALARM: dict[Priority, Colour] = {Priority.URGENT: (255, 96, 80), Priority.REVIEW: (255, 170, 50)}
"""Colour of the headline by priority class."""
DEMONSTRATION_COLOUR: Colour = (96, 200, 255)


@dataclass(frozen=True, slots=True)
class Contour:
    """Where a network looked for one label in one slice."""

    label: str
    outlines: tuple[FloatArray, ...]
    """As `triage.dicom.contours.outlines` gives them; may be none."""


@dataclass(frozen=True, slots=True)
class View:
    """What the pages of one result share."""

    key_slices: tuple[int, ...]
    """Indices into the volume, most suspicious first."""
    box: Box
    """Part of each slice that is shown."""
    series: str
    """Name of the series analysed, free of patient data."""
    software: str
    zone: str
    """Of the times, such as "UTC+01:00"."""
    timeline: tuple[tuple[str, str], ...]
    """What happened and when, in order."""
    contours: Mapping[int, Contour] = field(default_factory=dict)
    """By key slice; a slice without one has no activation map."""


def summary_lines(result: Result, view: View) -> tuple[str, ...]:
    """Facts below the findings on the summary page, one a line."""
    device = f" on {result.device}" if result.device else ""
    return (f"Series analysed: {view.series}", f"Model: {wording.model_line(result.model)}",
            f"Software: {view.software}, {result.duration_s:.0f} s{device}", *wording.technical_remarks(result))


def timeline_lines(view: View) -> tuple[str, ...]:
    """The time line in words, one event a line."""
    return tuple(f"{what}: {when}" for what, when in view.timeline) + (f"Times: {view.zone}",)


def summary_page(result: Result, volume: Volume, view: View) -> PixelArray:
    """Draw the findings with their probabilities and thresholds, the time line and the most suspicious slice.

    Args:
        result: A positive result.
        volume: What was analysed.
        view: What the pages share.

    Returns:
        (HEIGHT_PX, WIDTH_PX, 3) RGB.
    """
    page = Image.new("RGB", (WIDTH_PX, HEIGHT_PX), BLACK)
    draw = ImageDraw.Draw(page)
    write(draw, (MARGIN_PX, 14), "AI triage · CT head · intracranial hemorrhage", Pen(24, MUTED))
    _headline(draw, result, 46, 54)
    y = 130
    for label in LABELS:
        _finding_row(draw, result, label, y + ROW_PX // 2)
        y += ROW_PX
    y += 10
    draw.line((MARGIN_PX, y, WIDTH_PX - MARGIN_PX, y), RULE, 2)
    y += 14
    if view.key_slices:
        index, left = view.key_slices[0], WIDTH_PX - MARGIN_PX - SUMMARY_EDGE_PX
        page.paste(draw_slice(Shown(volume, index, view.box), SUMMARY_EDGE_PX), (left, y))
        _caption(draw, volume, index, (left, y + SUMMARY_EDGE_PX + 4))
    y = _timeline(draw, view, y)
    lines = [line for text in summary_lines(result, view) for line in wrap(text, FACTS_PX)]
    room = (HEIGHT_PX - FOOTER_PX - y) // LINE_PX
    if len(lines) > room:
        lines[room - 1 :] = ["... more in the report"]
    write_lines(draw, (MARGIN_PX, y), lines, MUTED)
    _footer(draw, result)
    return np.asarray(page)


def key_page(result: Result, volume: Volume, view: View, rank: int) -> PixelArray:
    """Draw one key slice in the brain window: a plain copy, and beside it one with the contour of the activation map.

    Args:
        result: A positive result.
        volume: What was analysed.
        view: What the pages share.
        rank: Place of the slice among the key slices, from 0.

    Returns:
        (HEIGHT_PX, WIDTH_PX, 3) RGB.
    """
    index = view.key_slices[rank]
    contour = view.contours.get(index)
    page = Image.new("RGB", (WIDTH_PX, HEIGHT_PX), BLACK)
    draw = ImageDraw.Draw(page)
    _headline(draw, result, 12, 42)
    write(draw, (MARGIN_PX, 72), "This slice: " + slice_scores(result, index), Pen(26, TEXT))
    place = slice_place(volume, index)
    write(draw, (MARGIN_PX, 110), f"Key slice {rank + 1} of {len(view.key_slices)} · {place}", Pen(24, MUTED))
    is_marked = contour is not None and bool(contour.outlines)
    plain_left = PLAIN_LEFT_PX if is_marked else ONLY_LEFT_PX
    shown = Shown(volume, index, view.box)
    _key_picture(page, shown, plain_left)
    y = TOP_PX + EDGE_PX + 8
    window = f"Window {WINDOW_WIDTH_HU:.0f}, level {WINDOW_CENTER_HU:.0f} HU"
    write(draw, (plain_left, y + 28), window, Pen(SMALL, MUTED))
    _scale_bar(draw, shown, plain_left + EDGE_PX, y + 42)
    if contour is not None and contour.outlines:
        _key_picture(page, Shown(volume, index, view.box, contour.outlines), MARKED_LEFT_PX)
    where = (MARKED_LEFT_PX, y + 28) if is_marked else (plain_left, y + 28 + LINE_PX)
    write_lines(draw, where, wrap(legend(view, index), EDGE_PX), CONTOUR)
    _footer(draw, result)
    return np.asarray(page)


def legend(view: View, index: int) -> str:
    """What the contour on a key slice is, or why there is none."""
    contour = view.contours.get(index)
    if contour is None:
        return wording.NO_MAP
    return wording.contour_legend(contour.label) if contour.outlines else wording.nothing_spoke(contour.label)


def slice_scores(result: Result, index: int) -> str:
    """Probabilities of one slice: any hemorrhage, then the types found present in the study."""
    p = result.slice_scores[index].p
    parts = [f"any {wording.percent(p[ANY])}"] if ANY in p else []
    parts += [f"{wording.NAMES[f.label].lower()} {wording.percent(p[f.label])}"
              for f in wording.present_subtypes(result) if f.label in p]  # fmt: skip
    return " · ".join(parts)


def slice_place(volume: Volume, index: int) -> str:
    """Where one slice lies: its place in the stack from below, its InstanceNumber, its position."""
    plane = volume.slices[index]
    parts = [f"slice {index + 1} of {len(volume.slices)} from below"]
    if plane.instance_number is not None:
        parts.append(f"image no. {plane.instance_number}")
    if plane.frame > 1:
        parts.append(f"frame {plane.frame}")
    if plane.position_mm is not None:
        parts.append(f"z {plane.position_mm[2]:.1f} mm")
    return " · ".join(parts)


def _headline(draw: ImageDraw.ImageDraw, result: Result, y: int, size: int) -> None:
    """Suspicion and score to the left, priority as a filled tag to the right."""
    colour = ALARM.get(result.priority, WARNING)
    finding = result.finding(ANY)
    score = f"  {wording.percent(finding.p)}" if finding is not None else ""
    text = "ICH suspected" if result.outcome is Outcome.POSITIVE else wording.headline(result)
    write(draw, (MARGIN_PX, y), text + score, Pen(size, colour, weight=1))
    tag = result.priority.value.upper()
    right, middle = WIDTH_PX - MARGIN_PX, y + size * 0.62
    left = right - width_of(tag, size * 0.62) - size * 0.8
    draw.rounded_rectangle((left, middle - size * 0.52, right, middle + size * 0.52), size * 0.2, fill=colour)
    write(draw, ((left + right) / 2, middle), tag, Pen(size * 0.62, BLACK, anchor="mm", weight=0.5))


def _finding_row(draw: ImageDraw.ImageDraw, result: Result, label: str, y: int) -> None:
    """One label: name, bar with its threshold as a tick, probability, verdict; y is the row's middle."""
    finding = result.finding(label)
    colour = MUTED if finding is None or not finding.present else ALARM.get(result.priority, WARNING)
    name = "Any hemorrhage" if label == ANY else wording.NAMES[label]
    write(draw, (MARGIN_PX, y), name, Pen(28, colour if finding and finding.present else TEXT, anchor="lm"))
    left, right, top, bottom = BAR_PX[0], BAR_PX[1], y - 9, y + 9
    if finding is None:
        write(draw, (left, y), "not judged", Pen(24, MUTED, anchor="lm"))
        return
    draw.rectangle((left, top, right, bottom), outline=RULE, width=2)
    draw.rectangle((left, top, left + (right - left) * finding.p, bottom), fill=colour)
    tick = left + (right - left) * finding.threshold
    draw.line((tick, top - 6, tick, bottom + 6), TEXT, 3)
    p, threshold = wording.compared(finding)
    write(draw, (right + 100, y), p, Pen(28, colour, anchor="rm"))
    side = "above" if finding.present else "below"  # never "absent": that is for a reader to say
    text = f"{side} threshold {threshold}"
    write(draw, (WIDTH_PX - MARGIN_PX, y), text, Pen(24, TEXT if finding.present else MUTED, anchor="rm"))


def _timeline(draw: ImageDraw.ImageDraw, view: View, y: int) -> int:
    """Events as dots on a line. Returns where the next text starts."""
    write(draw, (MARGIN_PX, y), f"Time line ({view.zone})", Pen(SMALL, TEXT))
    y += LINE_PX + 2
    x, half = MARGIN_PX + 8, LINE_PX // 2
    draw.line((x, y + half, x, y + half + LINE_PX * (len(view.timeline) - 1)), RULE, 3)
    for what, when in view.timeline:
        draw.ellipse((x - 5, y + half - 5, x + 5, y + half + 5), fill=MUTED)
        write(draw, (x + 20, y), what, Pen(SMALL, MUTED))
        write(draw, (x + TIMES_PX, y), when, Pen(SMALL, TEXT))
        y += LINE_PX
    return y + 12


def _footer(draw: ImageDraw.ImageDraw, result: Result) -> None:
    y = HEIGHT_PX - 40
    write(draw, (MARGIN_PX, y - 34), wording.NOT_FOR_DIAGNOSIS, Pen(28, WARNING, weight=0.5))
    write(draw, (MARGIN_PX, y), "Research use only. Not reviewed by a physician.", Pen(SMALL, WARNING))
    if remark := wording.pictures_remark(result):
        which, _, what = remark.partition(": ")
        write(draw, (WIDTH_PX // 2 - 60, y - 30), which + ":", Pen(SMALL, WARNING))
        write(draw, (WIDTH_PX // 2 - 60, y), what, Pen(SMALL, WARNING))
    if result.model.is_demonstration:
        left = WIDTH_PX - MARGIN_PX - width_of(wording.DEMONSTRATION, 24) - 24
        draw.rounded_rectangle((left, y - 34, WIDTH_PX - MARGIN_PX, y + 4), 6, outline=DEMONSTRATION_COLOUR, width=3)
        write(draw, (left + 12, y - 15), wording.DEMONSTRATION, Pen(24, DEMONSTRATION_COLOUR, anchor="lm"))


def _key_picture(page: Image.Image, shown: Shown, left: int) -> None:
    """One picture of a key page with the letters around it."""
    draw = ImageDraw.Draw(page)
    page.paste(draw_slice(shown, EDGE_PX), (left, TOP_PX))
    letters = orientation_letters(shown.volume.slices[shown.index])
    if letters is None:
        return
    middle_x, middle_y, off = left + EDGE_PX // 2, TOP_PX + EDGE_PX // 2, GUTTER_PX // 2
    places = ((left - off, middle_y), (left + EDGE_PX + off, middle_y),
              (middle_x, TOP_PX - off), (middle_x, TOP_PX + EDGE_PX + off))  # fmt: skip
    for letter, where in zip(letters, places, strict=True):
        write(draw, where, letter, Pen(28, TEXT, anchor="mm"))


def _caption(draw: ImageDraw.ImageDraw, volume: Volume, index: int, place: tuple[int, int]) -> None:
    """Side letters and number below the summary's picture, from its left edge on."""
    x, y = place
    if letters := orientation_letters(volume.slices[index]):
        write(draw, (x, y), letters[0], Pen(SMALL, TEXT))
        write(draw, (x + SUMMARY_EDGE_PX, y), letters[1], Pen(SMALL, TEXT, anchor="ra"))
    text = f"slice {index + 1} of {len(volume.slices)}, most suspicious"
    write(draw, (x + SUMMARY_EDGE_PX / 2, y), text, Pen(SMALL, MUTED, anchor="ma"))


def _scale_bar(draw: ImageDraw.ImageDraw, shown: Shown, right: int, y: int) -> None:
    length = SCALE_BAR_MM / extent_mm(shown.volume, shown.box) * EDGE_PX
    draw.line((right - length, y, right, y), MUTED, 3)
    for x in (right - length, right):
        draw.line((x, y - 7, x, y + 7), MUTED, 3)
    write(draw, (right - length - 10, y), f"{SCALE_BAR_MM:.0f} mm", Pen(SMALL, MUTED, anchor="rm"))
