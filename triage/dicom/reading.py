"""DICOM file -> elements of its data set, silently and within limits; knows encodings, not what an element means.

Everything here is fed with bytes from the network. pydicom's own conversions warn with the offending value in the text
and fail on the faults that real scanners write, so values are taken as bytes and read by the tolerant functions below.
"""

import math
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, dcmread
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from triage.errors import UnreadableInstance

IMPLICIT_VR_LE, EXPLICIT_VR_LE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, EXPLICIT_VR_BE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"

NATIVE = {IMPLICIT_VR_LE, EXPLICIT_VR_LE, DEFLATED, EXPLICIT_VR_BE}
"""Transfer syntaxes whose pixels are not encapsulated (PS3.5 A.1, A.2, A.3, A.5)."""

MAX_INFLATED_BYTES = 1 << 30
"""A deflated data set that grows beyond this is refused."""

MAX_TEXT = 256
"""Characters kept of a text value."""

PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
"""Float, double float and integer pixel data."""

READ_FAULTS = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, EOFError, MemoryError,
               NotImplementedError, RecursionError, struct.error, zlib.error, InvalidDicomError)  # fmt: skip
"""What pydicom raises on damaged bytes."""

DELIMITERS = {ord(c) for c in "\\^=\r\n\t\f"}
"""Where the first character set is in force again (PS3.5 6.1.2.5.3)."""

DEFAULT_REPERTOIRE = "iso8859"
"""pydicom's name for ISO_IR 6."""

UNDEFINED_LENGTH = 0xFFFFFFFF

_filters = threading.RLock()
"""warnings.catch_warnings changes the whole process; without the lock threads would restore each other's filters."""


@dataclass(frozen=True, slots=True)
class PixelElement:
    """Where a file's pixel data lies."""

    tag: int
    value_at: int
    """Offset of the value in the file, or in the inflated data set."""
    length: int
    """As written; UNDEFINED_LENGTH where encapsulated."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The elements of one file before its pixel data."""

    path: Path
    ds: Dataset
    transfer_syntax_uid: str
    encodings: tuple[str, ...]
    """Python's names of SpecificCharacterSet."""
    pixels: PixelElement | None = None
    inflated: bytes | None = None
    """The whole data set where the file holds it deflated."""


@contextmanager
def silence() -> Iterator[None]:
    """Keep pydicom's warnings, which may quote values, from getting anywhere."""
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_dataset(path: Path, keywords: Iterable[str | int]) -> Opened:
    """Read the named elements of a file, up to its pixel data.

    Args:
        path: A Part 10 file, or a bare data set without preamble and file meta.
        keywords: Elements of the top level to read, by keyword or tag; sequences are read with all they hold.

    Returns:
        The elements, and where the pixel data lies.

    Raises:
        UnreadableInstance: The bytes are no DICOM data set.
    """
    tags = [k if isinstance(k, int) else tag_for_keyword(k) for k in (*keywords, "SpecificCharacterSet")]
    wanted: list[BaseTag | int] = [t for t in tags if t is not None]
    try:
        with silence(), path.open("rb") as file:
            meta = find_dataset(file)
            inflated = None
            if meta.transfer_syntax_uid == DEFLATED:
                file.seek(meta.dataset_at)
                inflated = inflate(file)
                source: BinaryIO = BytesIO(inflated)
                ds = read_dataset(source, False, True, stop_when=_at_pixels, specific_tags=wanted)
                syntax = DEFLATED
            else:
                source = file
                file.seek(0)
                read = dcmread(file, stop_before_pixels=True, force=True, specific_tags=wanted)
                syntax = meta.transfer_syntax_uid or _guessed_syntax(read)
                ds = read
            pixels = _pixel_element(source, implicit=syntax == IMPLICIT_VR_LE, big=syntax == EXPLICIT_VR_BE)
            encodings = tuple(convert_encodings(texts_of(ds, "SpecificCharacterSet", ("ascii",)) or [""]))
            if set(encodings) == {DEFAULT_REPERTOIRE}:
                encodings = ("utf-8",)  # nothing declared: what is not ASCII is most likely this, then Latin-1
    except OSError as e:
        raise UnreadableInstance(f"the file cannot be read ({e.strerror})") from e
    except READ_FAULTS as e:
        raise UnreadableInstance(f"no readable DICOM data set ({type(e).__name__})") from e
    return Opened(path, ds, syntax, encodings, pixels, inflated)


def open_whole(path: Path) -> Opened:
    """Read every element of a file, pixel data included.

    Raises:
        UnreadableInstance: The bytes are no DICOM data set.
    """
    opened = open_dataset(path, ())
    try:
        with silence():
            if opened.inflated is not None:
                return replace(opened, ds=read_dataset(BytesIO(opened.inflated), False, True))
            return replace(opened, ds=dcmread(path, force=True))
    except OSError as e:
        raise UnreadableInstance(f"the file cannot be read ({e.strerror})") from e
    except READ_FAULTS as e:
        raise UnreadableInstance(f"no readable DICOM data set ({type(e).__name__})") from e


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What the file meta information says, and where it ends (PS3.10 7.1)."""

    dataset_at: int
    """Offset of the data set's first byte; 0 for a bare data set. File meta information may stand without preamble."""
    transfer_syntax_uid: str = ""


def find_dataset(file: BinaryIO) -> FileMeta:
    """Skip preamble and file meta information, element by element: its group length is wrong too often."""
    file.seek(128)
    at, syntax = (132 if file.read(4) == b"DICM" else 0), ""
    file.seek(at)
    while len(head := file.read(8)) == 8:
        group, element, vr, length = struct.unpack("<HH2sH", head)
        if group != 0x0002:
            break
        if vr in (b"OB", b"UN"):
            (length,) = struct.unpack("<L", file.read(4).ljust(4, b"\0"))
        value = file.read(length) if element == 0x0010 else b""
        if element == 0x0010:
            syntax = value.decode("latin-1").strip("\0 ")
        else:
            file.seek(length, 1)
        at = file.tell()
    return FileMeta(at, syntax)


def inflate(file: BinaryIO) -> bytes:
    """The rest of a file, inflated (PS3.5 A.5).

    Raises:
        ValueError: It grows beyond MAX_INFLATED_BYTES.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflater.decompress(file.read(), MAX_INFLATED_BYTES)
    if inflater.unconsumed_tail:
        raise ValueError("deflated data set too large")
    return data


def element_bytes(ds: Dataset, keyword: str | int) -> tuple[bytes, bool] | None:
    """The bytes of an element as they stand in the file, and whether they are little endian; None without it."""
    tag = tag_for_keyword(keyword) if isinstance(keyword, str) else keyword
    if tag is None or tag not in ds:
        return None
    element = ds.get_item(tag)
    if isinstance(element, RawDataElement) and isinstance(element.value, bytes):
        return element.value, element.is_little_endian
    return None


def texts_of(ds: Dataset, keyword: str, encodings: Sequence[str]) -> list[str]:
    """The values of a text element, printable characters only; empty without it."""
    raw = element_bytes(ds, keyword)
    if raw is not None:
        text = _decode(raw[0], encodings)
    else:
        value = ds[keyword].value if keyword in ds else None
        values = value if isinstance(value, list | tuple | MultiValue) else [] if value is None else [value]
        text = "\\".join(map(str, values))
    if not text.strip("\0 "):
        return []
    return ["".join(c for c in v if c.isprintable()).strip()[:MAX_TEXT] for v in text.split("\\")]


def text_of(ds: Dataset, keyword: str, encodings: Sequence[str]) -> str:
    """The values of a text element joined by a backslash; empty without it."""
    return "\\".join(texts_of(ds, keyword, encodings))[:MAX_TEXT]


def numbers_of(ds: Dataset, keyword: str) -> list[float] | None:
    """The values of a decimal or integer string; None when there are none or one is no finite number."""
    try:
        numbers = [float(v) for v in texts_of(ds, keyword, ("ascii",))]
    except ValueError:
        return None
    return numbers if numbers and all(math.isfinite(n) for n in numbers) else None


def number_of(ds: Dataset, keyword: str) -> float | None:
    """The first value of a decimal string, or None."""
    values = texts_of(ds, keyword, ("ascii",))[:1]
    try:
        number = float(values[0]) if values else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def integer_of(ds: Dataset, keyword: str) -> int | None:
    """The first value of an integer string, also where it is written as 3.0; None when it is no 32-bit number."""
    number = number_of(ds, keyword)
    return int(number) if number is not None and abs(number) < 1 << 31 and number == int(number) else None


def short_of(ds: Dataset, keyword: str | int) -> int | None:
    """The first value of a US or SS element, whatever VR it was written with; None without it."""
    raw = element_bytes(ds, keyword)
    if raw is None:
        value = ds[keyword].value if keyword in ds else None
        return value if isinstance(value, int) else None
    value, little = raw
    if len(value) < 2:
        return None
    return int.from_bytes(value[:2], "little" if little else "big")


def items_of(ds: Dataset | None, keyword: str) -> Sequence[Dataset]:
    """The items of a sequence; empty where it is missing or damaged."""
    if ds is None or keyword not in ds:
        return ()
    try:
        with silence():
            value = ds[keyword].value
    except READ_FAULTS:
        return ()
    return [item for item in value or () if isinstance(item, Dataset)] if not isinstance(value, bytes | str) else ()


def _decode(value: bytes, encodings: Sequence[str]) -> str:
    """Text from bytes: by the declared character sets, else as UTF-8, else as Latin-1."""
    value = value.rstrip(b"\0 ")
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    for attempt in (list(encodings), ["utf-8"]):
        try:
            with silence():
                text = decode_bytes(value, attempt, DELIMITERS) if b"\x1b" in value else value.decode(attempt[0])
        except (UnicodeError, LookupError, IndexError):
            continue
        if "\ufffd" not in text:
            return text
    return value.decode("latin-1")


def _at_pixels(tag: int, vr: str | None, length: int) -> bool:  # noqa: ARG001 (signature given by pydicom)
    return tag in PIXEL_TAGS


def _guessed_syntax(ds: Dataset) -> str:
    """Transfer syntax of a bare data set, by what pydicom found it to be."""
    implicit, little = ds.original_encoding
    if not little:
        return EXPLICIT_VR_BE
    return IMPLICIT_VR_LE if implicit else EXPLICIT_VR_LE


def _pixel_element(file: BinaryIO, implicit: bool, big: bool) -> PixelElement | None:
    """The element a reader that stops before pixels stands at, if there is one."""
    order = ">" if big else "<"
    head = file.read(12)
    if len(head) < 8:
        return None
    group, element = struct.unpack(f"{order}HH", head[:4])
    tag = group << 16 | element
    if tag not in PIXEL_TAGS:
        return None
    if implicit or not re.fullmatch(rb"[A-Z]{2}", head[4:6]):
        (length,) = struct.unpack(f"{order}L", head[4:8])
        return PixelElement(tag, file.tell() - len(head) + 8, length)
    if len(head) < 12:
        return None
    (length,) = struct.unpack(f"{order}L", head[8:12])
    return PixelElement(tag, file.tell(), length)
