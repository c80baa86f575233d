"""Received file -> Instance: the header facts that selection, grouping and completion need; never reads pixels.

Enhanced and Legacy Converted Enhanced CT (PS3.3 A.38, A.70) state per frame, in functional groups, what a single-frame
CT image states once; both become slices here, so nothing after this module knows the difference.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom import DataElement, Dataset

from triage.dicom.reading import (
    NATIVE,
    READ_FAULTS,
    Opened,
    find_dataset,
    integer_of,
    items_of,
    number_of,
    numbers_of,
    open_dataset,
    open_whole,
    short_of,
    silence,
    text_of,
    texts_of,
)
from triage.errors import MismatchedInstance, UnreadableInstance, UnsupportedInstance
from triage.records import Instance, Slice

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
LEGACY_ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.2"

CT_CLASSES = frozenset({CT_IMAGE, ENHANCED_CT, LEGACY_ENHANCED_CT})
"""The SOP classes this node takes."""

MULTI_FRAME = frozenset({ENHANCED_CT, LEGACY_ENHANCED_CT})

LOSSY = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 53, 55, 81, 91, 93, 203))
"""Transfer syntaxes that may lose information, whatever LossyImageCompression says."""

PIXEL_ENCODING = frozenset(
    {0x7FE00001, 0x7FE00002, 0x7FE00003, 0x7FE00010, 0x00280004, 0x00280006, 0x00280100, 0x00082111, 0x00089215}
)
"""Pixel data with its offset tables, photometric interpretation, planar configuration, bits allocated, derivation."""

UID = re.compile(r"[0-9]+(\.[0-9]+)*")
"""Digits and single points (PS3.5 9.1); leading zeros are let pass, being harmless and common."""

MAX_FRAMES = 10_000
"""More frames in one instance than any head CT has."""

MAX_COORDINATE_MM = 1e5
"""A position or size beyond this is a typing error or an attack."""

HEADER = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "ImageType", "ScanOptions",
    "StudyDescription", "SeriesDescription", "ProtocolName", "BodyPartExamined", "ContrastBolusAgent",
    "ContrastBolusAgentSequence", "ConvolutionKernel", "Manufacturer", "SeriesNumber", "AcquisitionNumber",
    "InstanceNumber", "AccessionNumber", "Rows", "Columns", "NumberOfFrames", "LossyImageCompression",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope",
    "RescaleIntercept", "RescaleType", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip


def valid_uid(text: str) -> bool:
    """Whether a text is a UID that may become part of a path: digits and single points, at most 64 characters."""
    return len(text) <= 64 and UID.fullmatch(text) is not None


def read_instance(path: Path, any_uid: bool = False) -> Instance:
    """Read the header facts of one file.

    Args:
        path: A Part 10 file, or a bare data set.
        any_uid: Take any text as a UID, and do without a SOP class, as public research data want it (RSNA 2019 has
            "ID_..."); never for what came over the network.

    Returns:
        The facts; what is missing, empty or no valid value of its kind is as if it were not there.

    Raises:
        UnreadableInstance: The bytes are no DICOM data set, or a mandatory UID is missing or invalid.
    """
    opened = open_dataset(path, HEADER)
    ds = opened.ds
    if not len(ds):
        raise UnreadableInstance("no DICOM data set")

    def text(keyword: str) -> str:
        return text_of(ds, keyword, opened.encodings)

    uid = _text_uid if any_uid else _uid
    groups = _Groups(ds)
    return Instance(
        path=path,
        sop_class_uid=text("SOPClassUID") if any_uid else _uid(ds, "SOPClassUID"),
        sop_instance_uid=uid(ds, "SOPInstanceUID"),
        study_uid=uid(ds, "StudyInstanceUID"),
        series_uid=uid(ds, "SeriesInstanceUID"),
        transfer_syntax_uid=opened.transfer_syntax_uid,
        modality=text("Modality").upper(),
        image_type=_image_type(ds, groups),
        scan_options=text("ScanOptions") or groups.text("CTAcquisitionTypeSequence", "AcquisitionType"),
        study_description=text("StudyDescription"),
        series_description=text("SeriesDescription"),
        protocol_name=text("ProtocolName"),
        body_part=text("BodyPartExamined") or _anatomy(groups),
        contrast_agent=_contrast_agent(opened, groups),
        kernel=(texts_of(ds, "ConvolutionKernel", opened.encodings) or [""])[0]
        or groups.text("CTReconstructionSequence", "ConvolutionKernel").split("\\")[0],
        manufacturer=text("Manufacturer"),
        series_number=integer_of(ds, "SeriesNumber"),
        accession_number=text("AccessionNumber"),
        rows=short_of(ds, "Rows") or 0,
        columns=short_of(ds, "Columns") or 0,
        has_pixels=opened.pixels is not None and opened.pixels.length > 0,
        lossy=text("LossyImageCompression") == "01" or opened.transfer_syntax_uid in LOSSY,
        slices=_slices(ds, groups),
        rescale_type=text("RescaleType") or groups.text("PixelValueTransformationSequence", "RescaleType"),
    )


def check_ct_image(instance: Instance) -> None:
    """Refuse what is no CT image.

    Raises:
        UnsupportedInstance: Another SOP class.
        MismatchedInstance: A CT SOP class without an image.
    """
    if instance.sop_class_uid not in CT_CLASSES:
        raise UnsupportedInstance("the SOP class is none of the three CT image classes")
    if not instance.rows or not instance.columns:
        raise MismatchedInstance(f"not an image: Rows {instance.rows}, Columns {instance.columns}")
    if not instance.has_pixels:
        raise MismatchedInstance("not an image: no pixel data")


def content_sha256(path: Path) -> str:
    """SHA-256 of a file's data set: what follows preamble and file meta information, which every receiver rewrites.

    Raises:
        UnreadableInstance: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            file.seek(find_dataset(file).dataset_at)
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as e:
        raise UnreadableInstance(f"the file cannot be read ({e.strerror})") from e


def same_content(a: Path, b: Path) -> bool:
    """Whether two files of one SOP Instance UID hold the same data set, be it encoded differently.

    Where either is compressed, the elements that describe the encoding of its pixels are left out.

    Raises:
        UnreadableInstance: A file cannot be read.
    """
    if content_sha256(a) == content_sha256(b):
        return True
    one, other = open_whole(a), open_whole(b)
    native = one.transfer_syntax_uid in NATIVE and other.transfer_syntax_uid in NATIVE
    left_out = frozenset() if native else PIXEL_ENCODING
    try:
        with silence():
            return _equal(one.ds, other.ds, left_out)
    except READ_FAULTS as e:
        raise UnreadableInstance(f"an element cannot be read ({type(e).__name__})") from e


def _equal(one: Dataset, other: Dataset, left_out: frozenset[int]) -> bool:
    def tags(ds: Dataset) -> set[int]:  # iterating a Dataset gives elements; element 0 is the retired group length
        return {int(t) for t in ds.keys() if t.element != 0 and t not in left_out}  # noqa: SIM118

    shared = tags(one)
    return shared == tags(other) and all(_equal_element(one, other, t, left_out) for t in shared)


def _equal_element(one: Dataset, other: Dataset, tag: int, left_out: frozenset[int]) -> bool:
    a, b = one[tag], other[tag]
    if (a.VR == "SQ") != (b.VR == "SQ") or (a.VR != b.VR and "UN" in (a.VR, b.VR)):
        return a.tag.is_private  # implicit VR tells no VR, and a dictionary of private elements is nobody's duty
    if a.VR == "SQ":
        return len(a.value) == len(b.value) and all(
            _equal(x, y, left_out) for x, y in zip(a.value, b.value, strict=True)
        )
    if isinstance(a.value, bytes) and isinstance(b.value, bytes):
        return _in_little_endian(a, one) == _in_little_endian(b, other)
    return bool(a.value == b.value)


def _in_little_endian(element: DataElement, ds: Dataset) -> bytes:
    """A byte value without padding, in one order: OW is swapped in the retired big endian syntax (PS3.5 7.3)."""
    value: bytes = element.value
    if ds.original_encoding[1] is False and element.VR == "OW" and len(value) % 2 == 0:
        return np.frombuffer(value, ">u2").astype("<u2").tobytes()
    return value if element.VR == "OW" else value.rstrip(b"\0 ")


class _Groups:
    """Functional groups of a multi-frame instance (PS3.3 C.7.6.16); empty for a single-frame one."""

    def __init__(self, ds: Dataset) -> None:
        self.shared: Dataset | None = next(iter(items_of(ds, "SharedFunctionalGroupsSequence")), None)
        self.frames: Sequence[Dataset] = items_of(ds, "PerFrameFunctionalGroupsSequence")
        if len(self.frames) > MAX_FRAMES:
            raise UnreadableInstance(f"{len(self.frames)} frames, more than the limit of {MAX_FRAMES}")

    def macro(self, frame: int, keyword: str) -> Dataset | None:
        """The macro of a frame (index from 0): its own, else the shared one."""
        own = self.frames[frame] if frame < len(self.frames) else None
        return next(iter(items_of(own, keyword)), None) or next(iter(items_of(self.shared, keyword)), None)

    def text(self, keyword: str, inner: str) -> str:
        """A text of the first frame's macro; empty without it."""
        macro = self.macro(0, keyword)
        return text_of(macro, inner, ("utf-8",)) if macro is not None else ""


def _text_uid(ds: Dataset, keyword: str) -> str:
    text = text_of(ds, keyword, ("ascii",))
    if not text:
        raise UnreadableInstance(f"no {keyword}")
    return text


def _uid(ds: Dataset, keyword: str) -> str:
    text = _text_uid(ds, keyword)
    if not valid_uid(text):
        raise UnreadableInstance(f"{keyword} is no valid UID")
    return text


def _image_type(ds: Dataset, groups: _Groups) -> tuple[str, ...]:
    """ImageType, and what any frame's own type adds to it."""
    values = texts_of(ds, "ImageType", ("ascii",))
    for frame in range(len(groups.frames)):
        if (macro := groups.macro(frame, "CTImageFrameTypeSequence")) is not None:
            values += texts_of(macro, "FrameType", ("ascii",))
    return tuple(dict.fromkeys(v.upper() for v in values if v))


def _anatomy(groups: _Groups) -> str:
    anatomy = groups.macro(0, "FrameAnatomySequence")
    region = next(iter(items_of(anatomy, "AnatomicRegionSequence")), None)
    return text_of(region, "CodeMeaning", ("utf-8",)) if region is not None else ""


def _contrast_agent(opened: Opened, groups: _Groups) -> str:
    """The agent's name, or that one was given; empty when neither is said."""
    ds = opened.ds
    if agent := text_of(ds, "ContrastBolusAgent", opened.encodings):
        return agent
    usage = groups.macro(0, "ContrastBolusUsageSequence")
    given = "YES" if usage is None else text_of(usage, "ContrastBolusAgentAdministered", ("ascii",))
    if given == "NO":
        return ""
    names = [text_of(item, "CodeMeaning", opened.encodings) for item in items_of(ds, "ContrastBolusAgentSequence")]
    return "\\".join(n for n in names if n) or ("administered" if usage is not None and given == "YES" else "")


def _slices(ds: Dataset, groups: _Groups) -> tuple[Slice, ...]:
    if not short_of(ds, "Rows"):
        return ()
    uid = text_of(ds, "SOPInstanceUID", ("ascii",))
    if groups.frames:
        return tuple(_frame(ds, groups, uid, k) for k in range(len(groups.frames)))
    return (
        Slice(
            sop_instance_uid=uid,
            position_mm=_triple(ds),
            orientation=_sextuple(ds),
            spacing_mm=_spacing(ds),
            thickness_mm=_thickness(ds),
            instance_number=integer_of(ds, "InstanceNumber"),
            acquisition_number=integer_of(ds, "AcquisitionNumber"),
            has_rescale=_has_rescale(ds),
        ),
    )


def _frame(ds: Dataset, groups: _Groups, uid: str, k: int) -> Slice:
    measures = groups.macro(k, "PixelMeasuresSequence")
    content = groups.macro(k, "FrameContentSequence")
    acquisition = integer_of(ds, "AcquisitionNumber")
    number: int | None = k + 1
    if content is not None:
        acquisition = short_of(content, "FrameAcquisitionNumber") or acquisition
        number = short_of(content, "InStackPositionNumber") or number
    return Slice(
        sop_instance_uid=uid,
        frame=k + 1,
        position_mm=_triple(groups.macro(k, "PlanePositionSequence")),
        orientation=_sextuple(groups.macro(k, "PlaneOrientationSequence")),
        spacing_mm=_spacing(measures),
        thickness_mm=_thickness(measures),
        instance_number=number,
        acquisition_number=acquisition,
        has_rescale=_has_rescale(groups.macro(k, "PixelValueTransformationSequence")),
    )


def _numbers(ds: Dataset | None, keyword: str, count: int) -> list[float] | None:
    values = numbers_of(ds, keyword) if ds is not None else None
    if values is None or len(values) != count or any(abs(v) > MAX_COORDINATE_MM for v in values):
        return None
    return values


def _triple(ds: Dataset | None) -> tuple[float, float, float] | None:
    v = _numbers(ds, "ImagePositionPatient", 3)
    return (v[0], v[1], v[2]) if v is not None else None


def _sextuple(ds: Dataset | None) -> tuple[float, float, float, float, float, float] | None:
    v = _numbers(ds, "ImageOrientationPatient", 6)
    return (v[0], v[1], v[2], v[3], v[4], v[5]) if v is not None else None


def _spacing(ds: Dataset | None) -> tuple[float, float] | None:
    v = _numbers(ds, "PixelSpacing", 2)
    return (v[0], v[1]) if v is not None and min(v) > 0 else None


def _thickness(ds: Dataset | None) -> float | None:
    value = number_of(ds, "SliceThickness") if ds is not None else None
    return value if value is not None and 0 < value < MAX_COORDINATE_MM else None


def _has_rescale(ds: Dataset | None) -> bool:
    if ds is None:
        return False
    return bool(number_of(ds, "RescaleSlope")) and number_of(ds, "RescaleIntercept") is not None
