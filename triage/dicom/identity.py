"""Whose study it is and which order it answers, for receivers that are no PACS; reads headers, never logs."""

from dataclasses import dataclass


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
    referring_physician: str = ""
    """As `patient_name`."""
