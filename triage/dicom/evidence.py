"""Headers of source images, cleaned so that results can be built on them; reads no pixels, changes no file.

What scanners send is often not what the Standard asks: missing type 2 attributes, dates that are none, names in another
character set than declared. A result copies patient and study attributes, so every fault copied would become ours.
Only the attributes named here are read; each is decoded to text, checked against its VR, and left out when it fails.
"""

import math
import re
import struct
import warnings
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.valuerep import format_number_as_ds

from triage.errors import StudyError

TYPE_2 = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
          "ReferringPhysicianName", "StudyID", "AccessionNumber")  # fmt: skip
"""Type 2 attributes of PS3.3 C.7.1.1 and C.7.2.1: empty when missing."""

PATIENT_AND_STUDY = (
    *TYPE_2, "StudyInstanceUID", "IssuerOfPatientID", "TypeOfPatientID", "PatientBirthTime", "OtherPatientNames",
    "PatientComments", "QualityControlSubject", "EthnicGroup", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence", "ClinicalTrialSponsorName", "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID", "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription",
    "StudyDescription", "IssuerOfAccessionNumberSequence", "ProcedureCodeSequence", "ConsultingPhysicianName",
    "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy", "RequestingService", "ReferencedStudySequence",
    "ReferencedPatientSequence", "ReasonForPerformedProcedureCodeSequence", "AdmittingDiagnosesDescription",
    "PatientAge", "PatientSize", "PatientWeight", "MedicalAlerts", "Allergies", "Occupation", "SmokingStatus",
    "AdditionalPatientHistory", "PatientState", "AdmissionID", "ServiceEpisodeID", "ServiceEpisodeDescription",
)  # fmt: skip
"""Attributes of the patient and study levels (PS3.3 C.7.1.1, C.7.1.3, C.7.2.1-3) that a result in the study repeats."""

OTHERS = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription",
    "InstanceNumber", "ImageType", "BodyPartExamined", "AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime",
    "TimezoneOffsetFromUTC", "Manufacturer", "ManufacturerModelName", "InstitutionName", "StationName",
    "DeviceSerialNumber", "SoftwareVersions", "FrameOfReferenceUID", "PixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "ImagePositionPatient", "ImageOrientationPatient", "Rows", "Columns", "BitsAllocated",
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod", "RequestAttributesSequence",
    "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest", "NumberOfFrames",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "PositionReferenceIndicator",
)  # fmt: skip
"""Attributes that the objects of a result use themselves."""

CODE_ITEM = ("CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning")

SEQUENCE_ITEMS = {
    "IssuerOfAccessionNumberSequence": ("LocalNamespaceEntityID", "UniversalEntityID", "UniversalEntityIDType"),
    "ReferencedStudySequence": ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"),
    "ReferencedPatientSequence": ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"),
    "RequestAttributesSequence": (
        "AccessionNumber", "RequestedProcedureID", "RequestedProcedureDescription", "RequestedProcedureCodeSequence"),
}  # fmt: skip
"""Attributes kept of the items of each sequence; every other sequence is one of codes."""

NEEDED_IN_ITEM = {"CodeValue", "CodingSchemeDesignator", "CodeMeaning", "ReferencedSOPClassUID",
                  "ReferencedSOPInstanceUID"}  # fmt: skip
"""An item whose kind has these must have them all, or it is left out."""

KEPT_AS_SENT = {"AccessionNumber", "PatientID", "StudyID", "RequestedProcedureID", "AdmissionID",
                "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest"}  # fmt: skip
"""Never cut to their VR's length: PACS and RIS find the study's order and patient by them."""

NEVER_CUT = {"CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion"}
"""Left out when longer than their VR allows: a part of a code is another code."""

MAX_LENGTH = {"LO": 64, "SH": 16, "ST": 1024, "LT": 10240, "UT": 10240, "CS": 16, "DS": 16, "IS": 12}
"""PS3.5 6.2, in characters; longer text is cut (UT: our own limit)."""

PARAGRAPH_VRS = {"ST", "LT", "UT"}
"""VRs of one value, in which a backslash is a character and lines may break."""

MULTIPLICITY = {"PixelSpacing": 2, "ImagePositionPatient": 3, "ImageOrientationPatient": 6}
"""Numbers of values; any other decimal string here has one, or any number when it is a compression ratio."""

PATTERNS = {
    "CS": re.compile(r"[A-Z0-9 _]{1,16}"),
    "UI": re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*"),
    "AS": re.compile(r"\d{3}[DWMY]"),
    "IS": re.compile(r"[+-]?\d{1,11}"),
}  # fmt: skip
"""PS3.5 6.2 and 9.1, but for leading zeros in a UID: forbidden and sent, and a result must name its source as sent."""

TIMEZONE = re.compile(r"[+-](0\d|1[0-4])[0-5]\d")
"""TimezoneOffsetFromUTC (PS3.3 C.12.1.1.8)."""

DELIMITERS = {ord(c) for c in "\\^=\r\n\t\f"}
"""Where the first character set is in force again (PS3.5 6.1.2.5.3)."""

DEFAULT_REPERTOIRE = "iso8859"
"""pydicom's name for ISO_IR 6; it has another one for Latin-1 declared as such."""

LOSSY_METHODS = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1", "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1", "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
}  # fmt: skip
"""LossyImageCompressionMethod by lossy transfer syntax (PS3.3 C.7.6.1.1.5.1)."""

READ_FAULTS = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, EOFError,
               NotImplementedError, struct.error, InvalidDicomError)  # fmt: skip
"""What pydicom raises on damaged elements."""


def load_evidence(paths: Sequence[Path]) -> list[Dataset]:
    """Read the headers of source images, of any SOP class, in a form that results can be built on.

    Args:
        paths: DICOM files, with or without preamble.

    Returns:
        One data set a file, same order: the attributes of PATIENT_AND_STUDY and OTHERS that are valid, text as Unicode
        under ISO_IR 192 (PS3.3 C.12.1.1.2), every type 2 attribute there.

    Raises:
        StudyError: A file is no DICOM data set, or lacks a mandatory UID.
    """
    return [_load(path) for path in paths]


def copy_patient_and_study(source: Dataset, target: Dataset) -> None:
    """Give a result the patient and study of its evidence.

    Args:
        source: An item of `load_evidence`.
        target: The result; its character set becomes the source's.
    """
    target.SpecificCharacterSet = source.SpecificCharacterSet
    for keyword in PATIENT_AND_STUDY:
        if keyword in source:
            target.add(source[keyword])


def _load(path: Path) -> Dataset:
    keywords = (*PATIENT_AND_STUDY, *OTHERS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # every value is checked below; pydicom's remarks may quote it
        try:
            raw = dcmread(path, stop_before_pixels=True, force=True, specific_tags=[*keywords, "SpecificCharacterSet"])
            clean = _clean(raw, keywords, _encodings(raw))
        except READ_FAULTS as e:
            raise StudyError(f"a source file cannot be read again ({type(e).__name__})") from e
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if keyword not in clean:
            raise StudyError(f"a source file has no valid {keyword}")
    for keyword in TYPE_2:
        if keyword not in clean:
            _put(clean, keyword, "")
    removed = clean.get("PatientIdentityRemoved") == "YES"
    if removed and not any(k in clean for k in ("DeidentificationMethod", "DeidentificationMethodCodeSequence")):
        clean.DeidentificationMethod = "Not stated in the source images"  # type 1C (PS3.3 C.7.1.1)
    _complete_compression(clean, str(getattr(raw.file_meta, "TransferSyntaxUID", "")), path)
    clean.SpecificCharacterSet = "ISO_IR 192"
    return clean


def _complete_compression(ds: Dataset, transfer_syntax_uid: str, path: Path) -> None:
    """Name method and ratio of a lossy source that does not do so itself; type 1C (PS3.3 C.7.6.1.1.5)."""
    method = LOSSY_METHODS.get(transfer_syntax_uid)
    if method is None and ds.get("LossyImageCompression") != "01":
        return
    ds.LossyImageCompression = "01"
    if "LossyImageCompressionMethod" not in ds and method is not None:
        ds.LossyImageCompressionMethod = method
    if "LossyImageCompressionRatio" not in ds and method is not None:
        size = ds.get("Rows", 0) * ds.get("Columns", 0) * ds.get("BitsAllocated", 16) / 8
        ds.LossyImageCompressionRatio = f"{max(1.0, size / path.stat().st_size):.1f}"


def _clean(raw: Dataset, keywords: Iterable[str], encodings: list[str]) -> Dataset:
    clean = Dataset()
    for keyword in keywords:
        vr = dictionary_VR(keyword)
        try:
            if keyword not in raw:
                continue
            value = _clean_sequence(raw, keyword, encodings) if vr == "SQ" else _clean_value(raw, keyword, encodings)
        except READ_FAULTS:
            continue
        if value is not None:
            _put(clean, keyword, value)
    return clean


def _clean_sequence(raw: Dataset, keyword: str, encodings: list[str]) -> list[Dataset] | None:
    wanted = SEQUENCE_ITEMS.get(keyword, CODE_ITEM)
    items = []
    for item in raw[keyword].value or ():
        kept = _clean(item, wanted, _encodings(item) if "SpecificCharacterSet" in item else encodings)
        if len(kept) and all(need in kept for need in NEEDED_IN_ITEM.intersection(wanted)):
            items.append(kept)
    return items or None


def _clean_value(raw: Dataset, keyword: str, encodings: list[str]) -> Any:
    vr = dictionary_VR(keyword)
    if vr == "US":
        return int(raw[keyword].value)
    text = _text(raw, keyword, encodings)
    if vr in PARAGRAPH_VRS:
        return _printable(text, keep="\r\n\f\t").rstrip()[: MAX_LENGTH[vr]] or None
    if vr in ("LO", "SH", "PN") and dictionary_VM(keyword) == "1" and keyword not in KEPT_AS_SENT:
        text = text.replace("\\", " ")  # typed as a character; written on, it would part one value into two
    values = [_valid(v, keyword, vr) for v in _printable(text).split("\\")]
    wanted = MULTIPLICITY.get(keyword)
    if wanted is not None and len(values) != wanted:
        return None
    if keyword in KEPT_AS_SENT or vr == "PN":
        return "\\".join(v or "" for v in values).strip("\\") or None
    if any(v is None for v in values):
        return None
    return values[0] if len(values) == 1 else values


def _valid(text: str, keyword: str, vr: str) -> str | None:
    """One value as its VR wants it, or None."""
    value = text.strip(" ")
    if vr in ("DA", "TM", "DT"):
        return _date_or_time(value, vr)
    if keyword == "PatientSex":
        return value.upper() if value.upper() in ("M", "F", "O") else None
    if keyword == "TimezoneOffsetFromUTC":
        return value if TIMEZONE.fullmatch(value) else None
    if vr == "DS":
        number = float(value)  # nothing, where it is empty
        if not math.isfinite(number):
            return None
        return value if len(value) <= MAX_LENGTH["DS"] else format_number_as_ds(number)
    if vr in PATTERNS:
        return value if PATTERNS[vr].fullmatch(value) else None
    if keyword in KEPT_AS_SENT:
        return value
    if keyword in NEVER_CUT and len(value) > MAX_LENGTH[vr]:
        return None
    return value[: MAX_LENGTH.get(vr, len(value))] or None


def _date_or_time(value: str, vr: str) -> str | None:
    """A date or time in DICOM's form (also from ACR-NEMA's with points and colons), or None when it is none."""
    compact = value.replace(":", "") if vr == "TM" else value.replace(".", "") if vr == "DA" else value
    whole, _, fraction = compact.partition(".")
    forms = {"DA": ["%Y%m%d"], "TM": ["%H%M%S", "%H%M", "%H"], "DT": ["%Y%m%d%H%M%S"]}[vr]
    lengths = {"%Y%m%d": 8, "%H%M%S": 6, "%H%M": 4, "%H": 2, "%Y%m%d%H%M%S": 14}
    if fraction and not (fraction.isdigit() and fraction.isascii() and len(fraction) <= 6):
        return None
    for form in forms:
        if len(whole) == lengths[form] and whole.isdigit() and whole.isascii():
            try:
                datetime.strptime(whole, form)
            except ValueError:
                return None
            return compact.rstrip(".")
    return None


def _printable(text: str, keep: str = "") -> str:
    return "".join(c for c in text if c in keep or (c >= " " and c != "\x7f"))


def _text(raw: Dataset, keyword: str, encodings: list[str]) -> str:
    element = raw.get_item(keyword)
    value = element.value if element is not None else None
    if not isinstance(element, RawDataElement) or not isinstance(value, bytes):
        values = value if isinstance(value, list | tuple | MultiValue) else [] if value is None else [value]
        return "\\".join(map(str, values)).rstrip("\0 ")
    return _decode(value, encodings).rstrip("\0 ")


def _decode(value: bytes, encodings: list[str]) -> str:
    """Text from bytes, never with replacement characters: where the declared sets fail, UTF-8, then Latin-1."""
    escaped = b"\x1b" in value
    if value.isascii() and not escaped:
        return value.decode("ascii")
    attempts = [encodings, ["utf-8"], ["latin_1"]]
    if encodings[0] == DEFAULT_REPERTOIRE and len(encodings) > 1 and not escaped:
        attempts.insert(0, encodings[1:])  # the first set has no such bytes: the sender forgot the escape sequence
    for attempt in attempts:
        try:
            text = decode_bytes(value, attempt, DELIMITERS) if escaped else value.decode(attempt[0])
        except (UnicodeError, LookupError):
            continue
        if "\ufffd" not in text and "\x1b" not in text:
            return text
    return value.decode("ascii", errors="ignore")


def _encodings(raw: Dataset) -> list[str]:
    """Python's names for SpecificCharacterSet; UTF-8 where no set is declared, or none that is known."""
    declared = _text(raw, "SpecificCharacterSet", ["ascii"]) if "SpecificCharacterSet" in raw else ""
    values = [v.strip() for v in declared.split("\\")]
    encodings = convert_encodings(values)
    return ["utf-8"] if set(encodings) == {DEFAULT_REPERTOIRE} else encodings


def _put(ds: Dataset, keyword: str, value: Any) -> None:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    ds.add(DataElement(tag, dictionary_VR(keyword), value, validation_mode=IGNORE))
