"""Slice -> (rows, columns) float32 HU, and a stack of them -> Volume; decodes and rescales, judges no anatomy.

Uncompressed frames are cut out of the file here; compressed ones are decoded in the child process of `Decoder`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import UID

from triage.dicom.decode_child import PLUGINS
from triage.dicom.decoder import Decoded, Decoder
from triage.dicom.headers import LOSSY
from triage.dicom.hounsfield import PixelFacts, to_hu
from triage.dicom.reading import (
    EXPLICIT_VR_BE,
    NATIVE,
    UNDEFINED_LENGTH,
    Opened,
    integer_of,
    items_of,
    number_of,
    open_dataset,
    short_of,
    text_of,
)
from triage.errors import SliceError, StudyError, UnreadableInstance
from triage.records import FloatArray, SetAside, Slice, Stack, Volume

__all__ = ["Decoder", "read_slice", "read_volume"]

MIN_USABLE = 10
"""Fewer usable slices are not analysed."""

MAX_SET_ASIDE_FRACTION = 0.2
"""A larger part of the slices set aside leaves too much of the head unseen."""

MAX_SIDE_PX = 4096
"""Rows or Columns beyond this are refused before anything is decoded."""

MAX_FILE_PIXELS = 1 << 31
"""Rows x Columns x NumberOfFrames beyond this likewise."""

MAX_VOLUME_PIXELS = 1 << 29
"""Pixels of a volume in memory (2 GiB as float32): 2048 slices of 512 x 512."""

INTEGER_PIXELS = 0x7FE00010

HEADER = (
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept",
    "LossyImageCompression", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip

OVERLAY_BIT_POSITIONS = tuple(0x60000102 + (group << 17) for group in range(16))
"""OverlayBitPosition of the sixteen overlay groups."""


@dataclass(frozen=True, slots=True)
class _Image:
    """One slice as read."""

    hu: FloatArray
    repairs: tuple[str, ...]
    lossy: bool


def read_slice(path: Path, plane: Slice, decoder: Decoder) -> tuple[FloatArray, tuple[str, ...]]:
    """Read one slice as Hounsfield units.

    Args:
        path: Its file.
        plane: Which of the file's frames.
        decoder: For compressed files.

    Returns:
        (rows, columns) HU clipped to HU_MIN..HU_MAX, and the names of the faults that were mended.

    Raises:
        SliceError: It cannot be used; the message is the reason that is stored.
    """
    image = _read(path, plane, decoder)
    return image.hu, image.repairs


def read_volume(stack: Stack, paths: Mapping[str, Path], decoder: Decoder) -> Volume:
    """Read the slices of a stack; those that cannot be used are set aside and the others go on.

    Args:
        stack: Ordered slices of one series.
        paths: Their files, by SOP Instance UID.
        decoder: For compressed files.

    Returns:
        The volume, caudal to cranial.

    Raises:
        StudyError: Too few slices can be used.
    """
    images: dict[int, _Image] = {}
    set_aside: list[SetAside] = []
    for i, plane in enumerate(stack.slices):
        try:
            images[i] = _read(paths[plane.sop_instance_uid], plane, decoder)
        except SliceError as e:
            set_aside.append(SetAside(plane.sop_instance_uid, plane.frame, str(e)))
            _check_not_hopeless(len(stack.slices), set_aside)
        if sum(image.hu.size for image in images.values()) > MAX_VOLUME_PIXELS:
            raise StudyError(f"the series has more than {MAX_VOLUME_PIXELS:.2g} pixels")
    shapes = Counter(image.hu.shape for image in images.values())
    usual = shapes.most_common(1)[0][0] if shapes else ()
    for i in [i for i, image in images.items() if image.hu.shape != usual]:
        rows, columns = images.pop(i).hu.shape
        plane = stack.slices[i]
        reason = f"{columns}x{rows} pixels, unlike the others ({usual[1]}x{usual[0]})"
        set_aside.append(SetAside(plane.sop_instance_uid, plane.frame, reason))
    _check_enough(len(stack.slices), set_aside)
    return _volume(stack, images, tuple(set_aside))


def _check_not_hopeless(n: int, set_aside: list[SetAside]) -> None:
    """End early: each slice of a damaged series may cost the decoder's whole time limit."""
    if len(set_aside) > MAX_SET_ASIDE_FRACTION * n:
        most = Counter(s.reason for s in set_aside).most_common(1)[0][0]
        raise StudyError(
            f"too many slices cannot be used: {len(set_aside)} so far of {n} "
            f"(at most {100 * MAX_SET_ASIDE_FRACTION:.0f} % may be set aside); most often: {most}"
        )


def _check_enough(n: int, set_aside: list[SetAside]) -> None:
    left = n - len(set_aside)
    if left >= MIN_USABLE and len(set_aside) <= MAX_SET_ASIDE_FRACTION * n:
        return
    most = Counter(s.reason for s in set_aside).most_common(1)
    why = f"; most often: {most[0][0]}" if most else ""
    raise StudyError(
        f"only {left} of {n} slices can be used (at least {MIN_USABLE}, "
        f"and {100 - 100 * MAX_SET_ASIDE_FRACTION:.0f} % of all, needed){why}"
    )


def _volume(stack: Stack, images: dict[int, _Image], set_aside: tuple[SetAside, ...]) -> Volume:
    slices = tuple(stack.slices[i] for i in images)
    positions_mm = tuple(stack.positions_mm[i] for i in images)
    repairs = tuple(dict.fromkeys(r for image in images.values() for r in image.repairs))
    lossy = any(image.lossy for image in images.values())
    hu = np.empty((len(images), *next(iter(images.values())).hu.shape), np.float32)
    for k, i in enumerate(tuple(images)):
        hu[k] = images.pop(i).hu  # freed one by one: a thin series is not held twice
    thicknesses = [s.thickness_mm for s in slices if s.thickness_mm is not None]
    return Volume(
        hu=hu,
        slices=slices,
        positions_mm=positions_mm,
        spacing_mm=next((s.spacing_mm for s in slices if s.spacing_mm is not None), (1.0, 1.0)),
        thickness_mm=float(np.median(thicknesses)) if thicknesses else stack.spacing_mm,
        tilt_deg=stack.tilt_deg,
        set_aside=set_aside,
        repairs=repairs,
        lossy=lossy,
    )


def _read(path: Path, plane: Slice, decoder: Decoder) -> _Image:
    opened = _open(path)
    facts = _facts(opened.ds, plane.frame)
    if opened.transfer_syntax_uid in NATIVE:
        decoded = Decoded(_native_frame(opened, facts, plane.frame))
    else:
        decoded = _encapsulated_frame(opened, plane.frame, decoder)
    stored = decoded.values
    if stored.shape != (facts.rows, facts.columns):
        raise SliceError(f"decodes to {stored.shape}, not {facts.rows} rows of {facts.columns} columns")
    hu, repairs = to_hu(stored, facts)
    lossy = opened.transfer_syntax_uid in LOSSY or text_of(opened.ds, "LossyImageCompression", ("ascii",)) == "01"
    return _Image(hu, tuple(dict.fromkeys((*decoded.repairs, *repairs))), lossy)


def _open(path: Path) -> Opened:
    """The file's header; that of the last file is kept, since the frames of one file are read one after the other.

    Raises:
        SliceError: It is gone or damaged, or has no pixel data.
    """
    try:
        stat = path.stat()
        opened = _open_version(path, stat.st_mtime_ns, stat.st_size)
    except OSError as e:
        raise SliceError(f"the file cannot be read ({e.strerror})") from e
    except UnreadableInstance as e:
        raise SliceError(str(e)) from e
    if opened.pixels is None or opened.pixels.length == 0:
        raise SliceError("no pixel data")
    if opened.pixels.tag != INTEGER_PIXELS:
        raise SliceError("the pixel data are floating point numbers, which no CT image has")
    return opened


@lru_cache(maxsize=1)
def _open_version(path: Path, mtime_ns: int, size: int) -> Opened:  # noqa: ARG001 (the key tells a rewritten file)
    return open_dataset(path, (*HEADER, *OVERLAY_BIT_POSITIONS))


def _facts(ds: Dataset, frame: int) -> PixelFacts:
    """How to read the pixels of one frame (from 1).

    Raises:
        SliceError: Something needed is missing, or has a value that no CT image has.
    """
    _check_kind(ds)
    rows, columns = short_of(ds, "Rows") or 0, short_of(ds, "Columns") or 0
    frames = integer_of(ds, "NumberOfFrames") or 1
    if not (0 < rows <= MAX_SIDE_PX and 0 < columns <= MAX_SIDE_PX and 0 < rows * columns * frames <= MAX_FILE_PIXELS):
        raise SliceError(f"{rows} rows x {columns} columns x {frames} frames: beyond the limits of this node")
    if not 1 <= frame <= frames:
        raise SliceError(f"frame {frame} of a file that says it has {frames}")
    allocated = short_of(ds, "BitsAllocated") or 0
    stored = short_of(ds, "BitsStored") or allocated
    high_bit = short_of(ds, "HighBit")
    high_bit = stored - 1 if high_bit is None else high_bit
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated or not stored - 1 <= high_bit < allocated:
        raise SliceError(f"BitsAllocated {allocated}, BitsStored {stored}, HighBit {high_bit} do not fit together")
    slope, intercept = _rescale(ds, frame)
    return PixelFacts(
        rows=rows,
        columns=columns,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high_bit,
        signed=short_of(ds, "PixelRepresentation") == 1,
        slope=slope,
        intercept=intercept,
        padding=short_of(ds, "PixelPaddingValue"),
        padding_limit=short_of(ds, "PixelPaddingRangeLimit"),
        overlay_in_pixels=any((short_of(ds, tag) or 0) > high_bit for tag in OVERLAY_BIT_POSITIONS),
    )


def _check_kind(ds: Dataset) -> None:
    samples = short_of(ds, "SamplesPerPixel") or 1
    photometric = text_of(ds, "PhotometricInterpretation", ("ascii",)) or "MONOCHROME2"
    # MONOCHROME1 says how to display, not what is stored: the rescale to HU comes before it (PS3.3 C.11.1, C.7.6.3.1.2)
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise SliceError(f"PhotometricInterpretation {photometric[:16]}, {samples} samples a pixel: not a CT image")


def _rescale(ds: Dataset, frame: int) -> tuple[float, float]:
    source: Dataset | None = ds
    per_frame = items_of(ds, "PerFrameFunctionalGroupsSequence")
    if per_frame:
        shared = next(iter(items_of(ds, "SharedFunctionalGroupsSequence")), None)
        own = per_frame[frame - 1] if frame <= len(per_frame) else None
        keyword = "PixelValueTransformationSequence"
        found = (*items_of(own, keyword), *items_of(shared, keyword))
        source = next(iter(found), None)
    slope = number_of(source, "RescaleSlope") if source is not None else None
    intercept = number_of(source, "RescaleIntercept") if source is not None else None
    if slope is None or intercept is None or slope == 0:
        raise SliceError("no RescaleSlope and RescaleIntercept to Hounsfield units")
    return slope, intercept


def _native_frame(opened: Opened, facts: PixelFacts, frame: int) -> npt.NDArray[Any]:
    """Cut one uncompressed frame out of the file (PS3.5 8.1.1, 8.2)."""
    pixels = opened.pixels
    assert pixels is not None
    if pixels.length == UNDEFINED_LENGTH:
        raise SliceError("the pixel data are encapsulated although the transfer syntax is an uncompressed one")
    size = facts.rows * facts.columns * facts.bits_allocated // 8
    begin, end = size * (frame - 1), size * frame
    if opened.inflated is not None:
        data = opened.inflated[pixels.value_at : pixels.value_at + min(end, pixels.length)][begin:]
    else:
        with opened.path.open("rb") as file:
            file.seek(pixels.value_at + begin)
            data = file.read(max(0, min(end, pixels.length) - begin))
    if len(data) < size:
        raise SliceError(f"the pixel data are too short: {begin + len(data)} of {end} bytes")
    order = ">" if opened.transfer_syntax_uid == EXPLICIT_VR_BE else "<"
    shift = facts.high_bit + 1 - facts.bits_stored
    kind = "i" if facts.signed and not shift else "u"
    stored = np.frombuffer(data, f"{order}{kind}{facts.bits_allocated // 8}").reshape(facts.rows, facts.columns)
    # bits below the stored ones are no pixel; the sign bit, now below the top, is extended with the others' signs later
    return stored >> shift if shift else stored


def _encapsulated_frame(opened: Opened, frame: int, decoder: Decoder) -> Decoded:
    syntax = opened.transfer_syntax_uid
    name = UID(syntax).name
    if syntax not in PLUGINS:
        known = name if name != syntax else "an unknown transfer syntax"
        raise SliceError(f"cannot be decoded: no decoder for {known}")
    if opened.pixels is not None and opened.pixels.length != UNDEFINED_LENGTH:
        raise SliceError(f"the pixel data are not encapsulated although the transfer syntax is {name}")
    try:
        return decoder.decode(opened.path, frame)
    except SliceError as e:
        raise SliceError(f"{e} ({name})") from e
