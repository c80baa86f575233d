"""Pictures of a positive result for a person to read: a summary page and key slices; arrays in, arrays out, no DICOM.

Dark like a reading room, portrait like a phone; text stands outside the anatomy, and no page names a patient.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from triage.dicom import wording
from triage.records import ANY, LABELS, FloatArray, Outcome, Priority, Result, Slice, Volume

PixelArray = npt.NDArray[np.uint8]
"""(rows, columns, 3) RGB."""

WIDTH_PX, HEIGHT_PX = 896, 1152
"""Of every page; even, so that pixel data have an even length."""

MARGIN_PX = 40
"""Free space left and right; holds the orientation letters of a key slice."""

PICTURE_PX = WIDTH_PX - 2 * MARGIN_PX
"""Edge of the square that a key slice is fitted into."""

PICTURE_TOP_PX = 196

WINDOW_CENTER_HU, WINDOW_WIDTH_HU = 40.0, 80.0
"""Brain window."""

HEAD_HU = -200.0
"""Above it is head, table or headrest, never air."""

CROP_MARGIN = 0.04
"""Kept around the head on each side, as a fraction of the head's larger extent."""

CROP_WORTH = 0.9
"""The field of view is cropped only when that leaves less than this fraction of its edge."""

SCALE_BAR_MM = 50.0

BAR_PX = (290, 484)
"""Left and right end of the bars that show probabilities."""

SUMMARY_PICTURES = 3

FOOTER_PX = 84
"""Kept free at the bottom of every page for the warnings."""

FACT_SIZE, FACT_LINE_PX = 22.0, 29
"""Of the facts on the summary page; about 9 points when the page fills a phone's width."""

Colour = tuple[int, int, int]
BLACK: Colour = (0, 0, 0)
TEXT: Colour = (230, 230, 230)
MUTED: Colour = (150, 155, 160)
LINE: Colour = (58, 62, 68)
WARNING: Colour = (255, 214, 64)
ALARM: dict[Priority, Colour] = {Priority.URGENT: (255, 96, 80), Priority.REVIEW: (255, 170, 50)}
"""Colour of the headline by priority class."""
DEMONSTRATION_COLOUR: Colour = (96, 200, 255)

LETTERS = (("L", "R"), ("P", "A"), ("H", "F"))
"""Where the positive and the negative end of each patient axis lies (PS3.3 C.7.6.2.1.1, C.7.6.1.1.1)."""

PRINTABLE = {*map(chr, range(32, 127)), "·", "°", "±"}
"""Characters that the bundled font has."""


@dataclass(frozen=True, slots=True)
class Pen:
    """How a line of text looks."""

    size: float
    colour: Colour
    anchor: str = "la"
    """Which point of the text is placed, as Pillow says it: left, middle or right; ascender, middle."""
    weight: float = 0
    """Thickens the strokes, in pixels."""


@dataclass(frozen=True, slots=True)
class View:
    """What the pages of one result share."""

    key_slices: tuple[int, ...]
    """Indices into the volume, most suspicious first."""
    box: tuple[int, int, int, int]
    """Part of each slice that is shown: left, upper, right, lower, as Pillow counts."""
    series: str
    """Name of the series analysed, free of patient data."""
    finished: str
    """When the analysis ended, for a reader."""
    software: str


def head_box(volume: Volume, indices: Sequence[int]) -> tuple[int, int, int, int]:
    """Find the square part that holds everything but air in each of some slices.

    Args:
        volume: (n, rows, columns) Hounsfield units.
        indices: The slices that will be shown.

    Returns:
        Left, upper, right, lower; the whole slice where cropping would gain little.
    """
    rows, columns = volume.hu.shape[1:]
    solid = np.any(volume.hu[list(indices)] > HEAD_HU, axis=0)
    ys, xs = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    if not len(ys):
        return 0, 0, columns, rows
    row_mm, column_mm = _spacing(volume)
    extent_mm = max((ys[-1] - ys[0] + 1) * row_mm, (xs[-1] - xs[0] + 1) * column_mm) * (1 + 2 * CROP_MARGIN)
    if extent_mm > CROP_WORTH * max(rows * row_mm, columns * column_mm):
        return 0, 0, columns, rows
    left, right = _interval((xs[0] + xs[-1] + 1) / 2, extent_mm / column_mm, columns)
    upper, lower = _interval((ys[0] + ys[-1] + 1) / 2, extent_mm / row_mm, rows)
    return left, upper, right, lower


def orientation_letters(plane: Slice) -> tuple[str, str, str, str] | None:
    """Name the edges of a slice.

    Args:
        plane: With ImageOrientationPatient.

    Returns:
        Letters at the left, right, top and bottom edge (PS3.3 C.7.6.1.1.1), or None where the orientation is unknown.
    """
    if plane.orientation is None:
        return None
    right, left = _axis(plane.orientation[:3])
    bottom, top = _axis(plane.orientation[3:])
    return left, right, top, bottom


def summary_lines(result: Result, view: View) -> tuple[str, ...]:
    """Facts below the findings on the summary page, one a line."""
    model = f"Model: {wording.model_line(result.model)}"
    device = f" on {result.device}" if result.device else ""
    return (f"Series analysed: {view.series}", model,
            f"Analysed: {view.finished}, {result.duration_s:.0f} s{device}; {view.software}",
            *wording.technical_remarks(result))


def summary_page(result: Result, volume: Volume, view: View) -> PixelArray:
    """Draw the findings with their probabilities and thresholds, the most suspicious slices and how they came about.

    Args:
        result: A positive result.
        volume: What was analysed.
        view: What the pages share.

    Returns:
        (HEIGHT_PX, WIDTH_PX, 3) RGB.
    """
    page = Image.new("RGB", (WIDTH_PX, HEIGHT_PX), BLACK)
    draw = ImageDraw.Draw(page)
    _write(draw, (MARGIN_PX, 22), "AI triage · CT head · intracranial hemorrhage", Pen(25, MUTED))
    _headline(draw, result, 60, 54)
    y = 148
    for label in LABELS:
        y = _finding_row(draw, result, label, y)
    y += 14
    shown = view.key_slices[:SUMMARY_PICTURES]
    if shown:
        gap = 16
        edge = (PICTURE_PX - gap * (SUMMARY_PICTURES - 1)) // SUMMARY_PICTURES
        for i, index in enumerate(shown):
            x = MARGIN_PX + i * (edge + gap)
            page.paste(_picture(volume, index, view.box, edge), (x, y))
            _caption(draw, volume, index, (x, y + edge + 6, edge))
        y += edge + 46
    draw.line((MARGIN_PX, y, WIDTH_PX - MARGIN_PX, y), LINE, 2)
    y += 10
    lines = [line for text in summary_lines(result, view) for line in _wrap(text, FACT_SIZE, PICTURE_PX)]
    room = (HEIGHT_PX - FOOTER_PX - y) // FACT_LINE_PX
    if len(lines) > room:
        lines[room - 1 :] = ["... more in the report"]
    for line in lines:
        _write(draw, (MARGIN_PX, y), line, Pen(FACT_SIZE, MUTED))
        y += FACT_LINE_PX
    _footer(draw, result)
    return np.asarray(page)


def key_page(result: Result, volume: Volume, view: View, rank: int) -> PixelArray:
    """Draw one key slice in the brain window.

    Args:
        result: A positive result.
        volume: What was analysed.
        view: What the pages share.
        rank: Place of the slice among the key slices, from 0.

    Returns:
        (HEIGHT_PX, WIDTH_PX, 3) RGB.
    """
    index = view.key_slices[rank]
    page = Image.new("RGB", (WIDTH_PX, HEIGHT_PX), BLACK)
    draw = ImageDraw.Draw(page)
    _headline(draw, result, 16, 42)
    _write(draw, (MARGIN_PX, 82), "This slice: " + slice_scores(result, index), Pen(25, TEXT))
    place = slice_place(volume, index)
    _write(draw, (MARGIN_PX, 120), f"Key slice {rank + 1} of {len(view.key_slices)} · {place}", Pen(25, MUTED))
    picture = _picture(volume, index, view.box, PICTURE_PX)
    page.paste(picture, (MARGIN_PX, PICTURE_TOP_PX))
    if letters := orientation_letters(volume.slices[index]):
        middle_x, middle_y = WIDTH_PX // 2, PICTURE_TOP_PX + PICTURE_PX // 2
        places = ((MARGIN_PX // 2, middle_y), (WIDTH_PX - MARGIN_PX // 2, middle_y),
                  (middle_x, PICTURE_TOP_PX - 20), (middle_x, PICTURE_TOP_PX + PICTURE_PX + 20))  # fmt: skip
        for letter, where in zip(letters, places, strict=True):
            _write(draw, where, letter, Pen(30, TEXT, anchor="mm"))
    y = PICTURE_TOP_PX + PICTURE_PX + 8
    _write(draw, (MARGIN_PX, y), f"W {WINDOW_WIDTH_HU:.0f}  L {WINDOW_CENTER_HU:.0f}", Pen(23, MUTED))
    _scale_bar(draw, volume, view.box, y + 12)
    _footer(draw, result)
    return np.asarray(page)


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
    _write(draw, (MARGIN_PX, y), text + score, Pen(size, colour, weight=1))
    tag = result.priority.value.upper()
    font = ImageFont.load_default(size=size * 0.62)
    right, middle = WIDTH_PX - MARGIN_PX, y + size * 0.62
    left = right - font.getlength(tag) - size * 0.8
    draw.rounded_rectangle((left, middle - size * 0.52, right, middle + size * 0.52), size * 0.2, fill=colour)
    _write(draw, ((left + right) / 2, middle), tag, Pen(size * 0.62, BLACK, anchor="mm", weight=0.5))


def _finding_row(draw: ImageDraw.ImageDraw, result: Result, label: str, y: int) -> int:
    """One label: name, bar with its threshold as a tick, probability, verdict. Returns where the next row starts."""
    finding = result.finding(label)
    colour = MUTED if finding is None or not finding.present else ALARM.get(result.priority, WARNING)
    name = "Any hemorrhage" if label == ANY else wording.NAMES[label]
    _write(draw, (MARGIN_PX, y + 24), name, Pen(28, colour if finding and finding.present else TEXT, anchor="lm"))
    if finding is None:
        _write(draw, (BAR_PX[0], y + 24), "not judged", Pen(23, MUTED, anchor="lm"))
        return y + 48
    left, right, top, bottom = BAR_PX[0], BAR_PX[1], y + 15, y + 33
    draw.rectangle((left, top, right, bottom), outline=LINE, width=2)
    draw.rectangle((left, top, left + (right - left) * finding.p, bottom), fill=colour)
    tick = left + (right - left) * finding.threshold
    draw.line((tick, top - 6, tick, bottom + 6), TEXT, 3)
    _write(draw, (BAR_PX[1] + 92, y + 24), wording.percent(finding.p), Pen(28, colour, anchor="rm"))
    verdict = "present" if finding.present else "absent"
    text = f"{verdict} · threshold {wording.percent(finding.threshold)}"
    _write(draw, (WIDTH_PX - MARGIN_PX, y + 24), text, Pen(22, MUTED, anchor="rm"))
    return y + 48


def _footer(draw: ImageDraw.ImageDraw, result: Result) -> None:
    y = HEIGHT_PX - 40
    _write(draw, (MARGIN_PX, y - 34), wording.NOT_FOR_DIAGNOSIS, Pen(28, WARNING, weight=0.5))
    _write(draw, (MARGIN_PX, y), "Research use only. Not reviewed by a physician.", Pen(22, WARNING))
    if result.model.is_demonstration:
        font = ImageFont.load_default(size=24)
        left = WIDTH_PX - MARGIN_PX - font.getlength(wording.DEMONSTRATION) - 24
        draw.rounded_rectangle((left, y - 34, WIDTH_PX - MARGIN_PX, y + 4), 6, outline=DEMONSTRATION_COLOUR, width=3)
        _write(draw, (left + 12, y - 15), wording.DEMONSTRATION, Pen(24, DEMONSTRATION_COLOUR, anchor="lm"))


def _caption(draw: ImageDraw.ImageDraw, volume: Volume, index: int, place: tuple[int, int, int]) -> None:
    """Side letters and number below a small picture; `place` is its left edge, the line's top and the width."""
    x, y, width = place
    if letters := orientation_letters(volume.slices[index]):
        _write(draw, (x, y), letters[0], Pen(22, TEXT))
        _write(draw, (x + width, y), letters[1], Pen(22, TEXT, anchor="ra"))
    _write(draw, (x + width / 2, y), f"slice {index + 1} of {len(volume.slices)}", Pen(22, MUTED, anchor="ma"))


def _scale_bar(draw: ImageDraw.ImageDraw, volume: Volume, box: tuple[int, int, int, int], y: int) -> None:
    length = SCALE_BAR_MM / _extent_mm(volume, box) * PICTURE_PX
    right = WIDTH_PX - MARGIN_PX
    draw.line((right - length, y, right, y), MUTED, 3)
    for x in (right - length, right):
        draw.line((x, y - 7, x, y + 7), MUTED, 3)
    _write(draw, (right - length - 10, y), f"{SCALE_BAR_MM:.0f} mm", Pen(23, MUTED, anchor="rm"))


def _picture(volume: Volume, index: int, box: tuple[int, int, int, int], edge_px: int) -> Image.Image:
    """One slice in the brain window, in true proportions, centred on a black square."""
    row_mm, column_mm = _spacing(volume)
    scale = edge_px / _extent_mm(volume, box)
    size = (max(1, round((box[2] - box[0]) * column_mm * scale)), max(1, round((box[3] - box[1]) * row_mm * scale)))
    # Interpolated as Hounsfield units of little more than the window: no halo of the skull over the brain's edge
    low, high = WINDOW_CENTER_HU - WINDOW_WIDTH_HU / 2, WINDOW_CENTER_HU + WINDOW_WIDTH_HU / 2
    hu: FloatArray = np.clip(volume.hu[index], low - WINDOW_WIDTH_HU, high + WINDOW_WIDTH_HU)
    resized = np.asarray(Image.fromarray(hu).resize(size, Image.Resampling.BICUBIC, box))
    grey = np.clip((resized - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    square = Image.new("RGB", (edge_px, edge_px), BLACK)
    square.paste(Image.fromarray(grey).convert("RGB"), ((edge_px - size[0]) // 2, (edge_px - size[1]) // 2))
    return square


def _extent_mm(volume: Volume, box: tuple[int, int, int, int]) -> float:
    row_mm, column_mm = _spacing(volume)
    return max((box[2] - box[0]) * column_mm, (box[3] - box[1]) * row_mm)


def _spacing(volume: Volume) -> tuple[float, float]:
    row_mm, column_mm = volume.spacing_mm
    return (row_mm, column_mm) if row_mm > 0 and column_mm > 0 else (1.0, 1.0)


def _interval(centre: float, length: float, limit: int) -> tuple[int, int]:
    start = int(np.clip(round(centre - length / 2), 0, limit))
    return start, int(np.clip(round(centre + length / 2), start + 1, limit))


def _axis(direction: Sequence[float]) -> tuple[str, str]:
    """Letters of the ends that a direction points to and comes from, by its largest component."""
    axis = int(np.argmax(np.abs(direction)))
    positive, negative = LETTERS[axis]
    return (positive, negative) if direction[axis] > 0 else (negative, positive)


def _write(draw: ImageDraw.ImageDraw, where: tuple[float, float], text: str, pen: Pen) -> None:
    """Write one line, smaller when it would run out of the page."""
    text = plain(text)
    room = WIDTH_PX - MARGIN_PX - where[0] if pen.anchor[0] == "l" else WIDTH_PX
    length = ImageFont.load_default(size=pen.size).getlength(text)
    font = ImageFont.load_default(size=pen.size * min(1.0, max(0.5, room / length)) if length else pen.size)
    draw.text(where, text, pen.colour, font, pen.anchor, stroke_width=pen.weight, stroke_fill=pen.colour)


def _wrap(text: str, size: float, width: int) -> list[str]:
    font = ImageFont.load_default(size=size)
    lines = [""]
    for word in plain(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def plain(text: str) -> str:
    """Text in the characters that the font has: accents dropped, other scripts as question marks."""
    letters = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(c if c in PRINTABLE else "?" for c in letters)
