"""Paper and pen of the pages that captures show: sizes, colours, text that fits; knows no DICOM and no result.

Dark like a reading room. A page is wider than high, as two pictures beside each other are; its smallest text is about 9
points when the page fills a phone held sideways, height included.
"""

import unicodedata
from dataclasses import dataclass

from PIL import ImageDraw, ImageFont

WIDTH_PX, HEIGHT_PX = 1280, 960
"""Of every page; even, so that pixel data have an even length."""

MARGIN_PX = 36
"""Free space left and right."""

INNER_PX = WIDTH_PX - 2 * MARGIN_PX

SMALL, LINE_PX = 22.0, 29
"""Smallest size of text, and the distance of its lines; a phone is about 390 points wide, so 960 pixels high."""

Colour = tuple[int, int, int]
BLACK: Colour = (0, 0, 0)
TEXT: Colour = (230, 230, 230)
MUTED: Colour = (165, 170, 175)
RULE: Colour = (58, 62, 68)
WARNING: Colour = (255, 214, 64)
CONTOUR: Colour = (0, 235, 255)
"""No tissue in a grey window has it."""

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


def write(draw: ImageDraw.ImageDraw, where: tuple[float, float], text: str, pen: Pen) -> None:
    """Write one line, smaller when it would run out of the page.

    Args:
        draw: Of a page.
        where: Column and row of the pen's anchor.
        text: Shown in the characters that the font has.
        pen: How it looks.
    """
    text = plain(text)
    room = WIDTH_PX - MARGIN_PX - where[0] if pen.anchor[0] == "l" else WIDTH_PX
    length = width_of(text, pen.size)
    font = ImageFont.load_default(size=pen.size * min(1.0, max(0.5, room / length)) if length else pen.size)
    draw.text(where, text, pen.colour, font, pen.anchor, stroke_width=pen.weight, stroke_fill=pen.colour)


def width_of(text: str, size: float) -> float:
    """Length of a line in pixels."""
    return ImageFont.load_default(size=size).getlength(text)


def write_lines(draw: ImageDraw.ImageDraw, where: tuple[float, float], lines: list[str], colour: Colour) -> None:
    """Write lines of SMALL text below each other, from their upper left corner."""
    x, y = where
    for line in lines:
        write(draw, (x, y), line, Pen(SMALL, colour))
        y += LINE_PX


def wrap(text: str, width: float) -> list[str]:
    """Break SMALL text into lines.

    Args:
        text: Any.
        width: Of the longest line, in pixels; a single longer word is broken.

    Returns:
        At least one line.
    """
    lines = [""]
    for word in plain(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if width_of(longer, SMALL) <= width:
            lines[-1] = longer
            continue
        lines += [] if not lines[-1] else [""]
        for letter in word:
            if width_of(lines[-1] + letter, SMALL) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def plain(text: str) -> str:
    """Text in the characters that the font has: accents dropped, other scripts as question marks."""
    letters = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(c if c in PRINTABLE else "?" for c in letters)
