"""Every coded concept that results carry, in one place; builds nothing.

SNOMED CT identifiers are pinned by a check-digit test. "Intraventricular hemorrhage" 23276006 is left out on purpose:
its check digit is right, but no source confirms its meaning and one contradicts it, so that subtype is coded as
Hemorrhage found in a brain ventricle.
"""

from dataclasses import dataclass

from pydicom.sr.coding import Code

from triage.records import ANY, Priority


@dataclass(frozen=True, slots=True)
class FindingCode:
    """How one label is coded."""

    finding: Code
    """Value of (121071, DCM, "Finding")."""
    site: Code | None = None
    """Value of (363698007, SCT, "Finding Site"); None where no DICOM CID has the place."""


INTRACRANIAL_HEMORRHAGE = Code("1386000", "SCT", "Intracranial hemorrhage")
HEMORRHAGE = Code("50960005", "SCT", "Hemorrhage")
"""PS3.16 CID 7151 and others."""
EPIDURAL = Code("82999001", "SCT", "Epidural intracranial hemorrhage")
INTRAPARENCHYMAL = Code("274100004", "SCT", "Cerebral hemorrhage")
SUBARACHNOID = Code("21454007", "SCT", "Subarachnoid intracranial hemorrhage")
SUBDURAL = Code("35486000", "SCT", "Subdural intracranial hemorrhage")

INTRACRANIAL = Code("1101003", "SCT", "Intracranial")
BRAIN = Code("12738006", "SCT", "Brain")
BRAIN_VENTRICLE = Code("35764002", "SCT", "Brain ventricle")
SUBARACHNOID_SPACE = Code("33930006", "SCT", "Cranial Subarachnoid Space")

FINDINGS = {
    ANY: FindingCode(INTRACRANIAL_HEMORRHAGE, INTRACRANIAL),
    "epidural": FindingCode(EPIDURAL),
    "intraparenchymal": FindingCode(INTRAPARENCHYMAL, BRAIN),
    "intraventricular": FindingCode(HEMORRHAGE, BRAIN_VENTRICLE),
    "subarachnoid": FindingCode(SUBARACHNOID, SUBARACHNOID_SPACE),
    "subdural": FindingCode(SUBDURAL),
}
"""By label (triage.records.LABELS)."""

PRESENCE = Code("705057003", "SCT", "Presence")
PRESENT = Code("52101004", "SCT", "Present")
"""PS3.16 CID 240, as the two below."""
ABSENT = Code("272519000", "SCT", "Absent")
UNDETERMINED = Code("373068000", "SCT", "Undetermined")

CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
PERCENT = Code("%", "UCUM", "Percent")

QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
"""PS3.16 TID 1500, row 12."""
COMMENT = Code("121106", "DCM", "Comment")
PRIORITY = Code("260870009", "SCT", "Priority")
ACTIONABLE = {
    Priority.URGENT: Code("RID49480", "RADLEX", "ACR Category 1 Actionable Finding"),
    Priority.REVIEW: Code("RID49481", "RADLEX", "ACR Category 2 Actionable Finding"),
}
"""PS3.16 CID 7035, by priority class; a routine study has none. DICOM has no concept for a triage priority itself."""

IMAGING_MEASUREMENT_REPORT = Code("126000", "DCM", "Imaging Measurement Report")
DEVICE = Code("121007", "DCM", "Device")
ENGLISH = Code("en-US", "RFC5646", "English (United States)")
CT_UNSPECIFIED = Code("25045-6", "LN", "CT unspecified body region")
"""Procedure reported: PS3.16 CID 100 has no CT of the head."""
CT_HEAD = Code("24725-4", "LN", "CT Head")
"""Performed Procedure Code Sequence, which has no fixed value set."""

PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")
"""PS3.16 CID 7005, as the one below."""
ACQUISITION_EQUIPMENT = Code("109101", "DCM", "Acquisition Equipment")
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
"""PS3.16 CID 7202."""

OF_INTEREST = Code("113000", "DCM", "Of Interest")
"""PS3.16 CID 7010, as the one below."""
REJECTED = Code("113001", "DCM", "Rejected for Quality Reasons")

CLASS_ACTIVATION = Code("130402", "DCM", "Class activation")
"""PS3.16 CID 7469: contributions of places to a network's answer, by the weights of its last layer."""
NO_UNITS = Code("1", "UCUM", "no units")
