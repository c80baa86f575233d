"""Whose study it is and which order it answers, for receivers that are no PACS; reads headers, never logs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset

from triage.dicom.evidence import load_evidence
from triage.errors import StudyError


@dataclass(frozen=True, slots=True)
class StudyIdentity:
    """Whose study it is and which order it answers, as its images say; for receivers that must match it. Never logged.

    Every field may be empty; text is Unicode.
    """

    study_uid: str
    accession_number: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_name: str = ""
    """As in DICOM (PS3.5 6.2.1): components by "^", groups by "="."""
    birth_date: str = ""
    """YYYYMMDD."""
    sex: str = ""
    """M, F or O."""
    placer_order_number: str = ""
    filler_order_number: str = ""
    requested_procedure_id: str = ""
    study_description: str = ""
    study_date: str = ""
    """YYYYMMDD."""
    study_time: str = ""
    """HHMMSS, perhaps shorter or with a fraction."""
    timezone_offset: str = ""
    """Of the study's time: +HHMM or -HHMM (TimezoneOffsetFromUTC); images seldom tell it."""
    referring_physician: str = ""
    """As `patient_name`."""


def study_identity(evidence: Sequence[Path]) -> StudyIdentity:
    """Read whose study it is from the first of its images.

    Args:
        evidence: Files of the study; only the first is read, for all must agree on their patient and study.

    Returns:
        The identity; a missing or invalid attribute is an empty text.

    Raises:
        StudyError: There is no file, or the first one is no DICOM data set or lacks a mandatory UID.
    """
    if not evidence:
        raise StudyError("no readable instance: nothing says whose study it is")
    (ds,) = load_evidence(evidence[:1])
    request = next(iter(ds.get("RequestAttributesSequence") or ()), Dataset())
    return StudyIdentity(
        study_uid=_text(ds, "StudyInstanceUID"),
        accession_number=_text(ds, "AccessionNumber") or _text(request, "AccessionNumber"),
        patient_id=_text(ds, "PatientID"),
        issuer_of_patient_id=_text(ds, "IssuerOfPatientID"),
        patient_name=_text(ds, "PatientName"),
        birth_date=_text(ds, "PatientBirthDate"),
        sex=_text(ds, "PatientSex"),
        placer_order_number=_text(ds, "PlacerOrderNumberImagingServiceRequest"),
        filler_order_number=_text(ds, "FillerOrderNumberImagingServiceRequest"),
        requested_procedure_id=_text(request, "RequestedProcedureID"),
        study_description=_text(ds, "StudyDescription"),
        study_date=_text(ds, "StudyDate"),
        study_time=_text(ds, "StudyTime"),
        timezone_offset=_text(ds, "TimezoneOffsetFromUTC"),
        referring_physician=_text(ds, "ReferringPhysicianName"),
    )


def _text(ds: Dataset, keyword: str) -> str:
    return str(ds.get(keyword) or "").strip()
