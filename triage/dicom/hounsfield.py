"""Stored pixel values -> Hounsfield units, with the known faults of vendors mended; arrays only, no files.

Each mend is confirmed by the pixels themselves before it is applied and named in the result.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from triage.errors import SliceError
from triage.records import HU_MAX, HU_MIN, FloatArray

IntegerArray = npt.NDArray[np.signedinteger[Any]]
BoolArray = npt.NDArray[np.bool_]

WRAP = 4096
"""Twelve bits: what the values of a wrapped image are modulo to."""

WRAP_MAX_INTERCEPT = -100.0
"""An image with a lower intercept has room for air and was not wrapped."""

WRAP_AIR = 1024
"""Values from WRAP - WRAP_AIR upwards are air and fat; what lies below is taken as it is, so that bone and metal
between 2048 and 3071 stay dense (a plain sign extension would turn them to air). The often copied repair has 1000 here,
which makes white dots of air below -1000 HU."""

WRAP_BRIGHT_HU, WRAP_BRIGHT_FRACTION = 2000.0, 0.2
"""More than this part of a wrapped image reads brighter than this: its air. No head holds so much metal."""

AIR_HU = (-1100.0, -900.0)
"""What the background of a sound image reads, where it is not padding."""

LOST_PAD = -2000 % WRAP
"""A padding of -2000, wrapped; it cannot be told from bone but by filling the corners evenly."""

PAD_BELOW_HU = -1100.0
"""Nothing in a CT image is less dense than air; what reads lower is padding."""

PAD_TISSUE_HU = (-900.0, HU_MAX)
"""A declared padding value that reads as tissue is believed only when the corners are filled with it."""

PLAUSIBLE_HU = (-4096.0, 8192.0)
"""Metal on an extended scale reaches the upper limit, odd paddings the lower."""

MAX_IMPLAUSIBLE_FRACTION = 0.02
"""A part larger than this outside PLAUSIBLE_HU, not counting single extreme values (padding, saturation), is what a
codestream looks like that was decoded into noise."""

CORNER = 16
"""Pixels along each side of the four corners that are taken as background, at most an eighth of the image."""


@dataclass(frozen=True, slots=True)
class PixelFacts:
    """How the stored values of one image are to be read (PS3.3 C.7.6.3, C.11.1)."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    slope: float
    intercept: float
    padding: int | None = None
    """PixelPaddingValue."""
    padding_limit: int | None = None
    """PixelPaddingRangeLimit."""
    overlay_in_pixels: bool = False
    """Bits above HighBit hold an overlay (retired)."""


def to_hu(stored: npt.NDArray[Any], facts: PixelFacts) -> tuple[FloatArray, tuple[str, ...]]:
    """Turn stored values into Hounsfield units.

    Args:
        stored: (rows, columns) integers as decoded.
        facts: How to read them.

    Returns:
        (rows, columns) HU, clipped to HU_MIN..HU_MAX, padding as air; and the names of the mends.

    Raises:
        SliceError: The image holds one value only, or values that no CT image has.
    """
    values, repairs = _with_sign(stored.astype(np.int64), facts)
    pad = _declared_padding(values, facts)
    if wrapped := _unwrapped(values, facts):
        values, pad = wrapped[0], pad | wrapped[1]
        repairs = ["wrap12"]
    hu = values * facts.slope + facts.intercept
    undeclared = (hu < PAD_BELOW_HU) & ~pad
    _check_plausible(hu, pad)
    if undeclared.any():
        repairs.append("pad2000")
    hu[pad | undeclared] = HU_MIN
    if hu.min() == hu.max():
        raise SliceError(f"every pixel has the same value ({values.flat[0]})")
    return cast(FloatArray, np.clip(hu, HU_MIN, HU_MAX).astype(np.float32)), tuple(repairs)


def _with_sign(values: IntegerArray, facts: PixelFacts) -> tuple[IntegerArray, list[str]]:
    """Undo what the allocated bits above the stored ones do to the value."""
    half, full = 1 << (facts.bits_stored - 1), 1 << facts.bits_stored
    if facts.bits_stored == facts.bits_allocated:
        return values, []
    if not facts.signed:
        if values.max() < full:
            return values, []
        if facts.overlay_in_pixels:
            return values & (full - 1), []
        # negative if all allocated bits are read as signed: padding written into an unsigned image
        negative = values >= 1 << (facts.bits_allocated - 1)
        return np.where(negative, values - (1 << facts.bits_allocated), values), ["sign"] if negative.any() else []
    if values.min() < 0 or values.max() < half or values.max() >= full or _air_in_corners(values, facts):
        return values, []
    return np.where(values >= half, values - full, values), ["sign"]


def _air_in_corners(values: IntegerArray, facts: PixelFacts) -> bool:
    background = float(np.median(_corners(values))) * facts.slope + facts.intercept
    return AIR_HU[0] <= background <= AIR_HU[1]


def _corners(values: IntegerArray) -> IntegerArray:
    """Pixels of the four corners, flat."""
    n = max(1, min(CORNER, min(values.shape) // 8))
    ends = (slice(n), slice(-n, None))
    return np.concatenate([values[rows, columns].ravel() for rows in ends for columns in ends])


def _declared_padding(values: IntegerArray, facts: PixelFacts) -> BoolArray:
    """Where PixelPaddingValue, or the range up to its limit, stands (PS3.3 C.7.5.1.1.2).

    Its VR follows PixelRepresentation and is often wrong, so it is compared as so many bits.
    """
    if facts.padding is None:
        return np.zeros(values.shape, np.bool_)
    bits = facts.bits_allocated

    def read(value: int) -> int:
        value %= 1 << bits
        return value - (1 << bits) if values.min() < 0 and value >= 1 << (bits - 1) else value

    ends = sorted((read(facts.padding), read(facts.padding if facts.padding_limit is None else facts.padding_limit)))
    pad = (values >= ends[0]) & (values <= ends[1])
    reads = [e * facts.slope + facts.intercept for e in ends]
    if max(reads) > PAD_TISSUE_HU[0] and min(reads) < PAD_TISSUE_HU[1]:
        corners = _corners(values)
        if not ((corners >= ends[0]) & (corners <= ends[1])).mean() > 0.5:
            return np.zeros(values.shape, np.bool_)
    return pad


def _unwrapped(values: IntegerArray, facts: PixelFacts) -> tuple[IntegerArray, BoolArray] | None:
    """Values of a 12-bit image stored modulo 4096 as they were, and where its padding is; None for a sound image."""
    if facts.bits_stored != 12 or facts.signed or facts.intercept <= WRAP_MAX_INTERCEPT or values.min() < 0:
        return None
    hu = values * facts.slope + facts.intercept
    corners = _corners(values)
    levels, counts = np.unique(corners, return_counts=True)
    background = int(levels[counts.argmax()])
    reads = background * facts.slope + facts.intercept
    if AIR_HU[0] <= reads <= AIR_HU[1] or (hu > WRAP_BRIGHT_HU).mean() <= WRAP_BRIGHT_FRACTION:
        return None
    pads = {LOST_PAD} if counts.max() > len(corners) // 2 and background == LOST_PAD else set()
    if facts.padding is not None and facts.padding % (1 << facts.bits_allocated) >= WRAP:
        pads.add(facts.padding % WRAP)
    return (values + WRAP_AIR) % WRAP - WRAP_AIR, np.isin(values, list(pads))


def _check_plausible(hu: npt.NDArray[np.floating[Any]], pad: BoolArray) -> None:
    """Refuse noise.

    Raises:
        SliceError: Too many pixels hold different values that no CT image has.
    """
    beyond = hu[((hu < PLAUSIBLE_HU[0]) | (hu > PLAUSIBLE_HU[1])) & ~pad]
    if not beyond.size:
        return
    _, counts = np.unique(beyond, return_counts=True)
    scattered = beyond.size - int(np.sort(counts)[-2:].sum())
    if scattered > MAX_IMPLAUSIBLE_FRACTION * hu.size:
        raise SliceError(
            f"{100 * scattered / hu.size:.0f} % of the pixels hold values that no CT image has "
            f"({hu.min():.0f} to {hu.max():.0f} HU): the image is damaged"
        )
