import pytest
from pydicom.sr.codedict import codes as standard
from pydicom.sr.coding import Code

from triage.dicom import codes
from triage.records import LABELS, Priority

PINNED = {
    ("1386000", "SCT"): "Intracranial hemorrhage",
    ("50960005", "SCT"): "Hemorrhage",
    ("82999001", "SCT"): "Epidural intracranial hemorrhage",
    ("274100004", "SCT"): "Cerebral hemorrhage",
    ("21454007", "SCT"): "Subarachnoid intracranial hemorrhage",
    ("35486000", "SCT"): "Subdural intracranial hemorrhage",
    ("1101003", "SCT"): "Intracranial",
    ("12738006", "SCT"): "Brain",
    ("35764002", "SCT"): "Brain ventricle",
    ("33930006", "SCT"): "Cranial Subarachnoid Space",
    ("705057003", "SCT"): "Presence",
    ("52101004", "SCT"): "Present",
    ("272519000", "SCT"): "Absent",
    ("373068000", "SCT"): "Undetermined",
    ("260870009", "SCT"): "Priority",
    ("111012", "DCM"): "Certainty of Finding",
    ("121106", "DCM"): "Comment",
    ("126000", "DCM"): "Imaging Measurement Report",
    ("121007", "DCM"): "Device",
    ("109101", "DCM"): "Acquisition Equipment",
    ("109102", "DCM"): "Processing Equipment",
    ("121322", "DCM"): "Source image for image processing operation",
    ("113000", "DCM"): "Of Interest",
    ("113001", "DCM"): "Rejected for Quality Reasons",
    ("130402", "DCM"): "Class activation",
    ("1", "UCUM"): "no units",
    ("%", "UCUM"): "Percent",
    ("C0034375", "UMLS"): "Qualitative Evaluations",
    ("RID49480", "RADLEX"): "ACR Category 1 Actionable Finding",
    ("RID49481", "RADLEX"): "ACR Category 2 Actionable Finding",
    ("en-US", "RFC5646"): "English (United States)",
    ("25045-6", "LN"): "CT unspecified body region",
    ("24725-4", "LN"): "CT Head",
}
"""Every code that may leave this node, typed a second time: a slip in one of the two lists fails."""

FOUND = [v for v in vars(codes).values() if isinstance(v, Code)] + [*codes.ACTIONABLE.values()]

MULTIPLY = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 0, 6, 7, 8, 9, 5], [2, 3, 4, 0, 1, 7, 8, 9, 5, 6],
    [3, 4, 0, 1, 2, 8, 9, 5, 6, 7], [4, 0, 1, 2, 3, 9, 5, 6, 7, 8], [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
    [6, 5, 9, 8, 7, 1, 0, 4, 3, 2], [7, 6, 5, 9, 8, 2, 1, 0, 4, 3], [8, 7, 6, 5, 9, 3, 2, 1, 0, 4],
    [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
]  # fmt: skip
"""The dihedral group D5."""


def verhoeff(identifier: str) -> bool:
    """Check digit of SNOMED CT identifiers (SNOMED CT RF2, 6.3 check-digit)."""
    permutations = [list(range(10)), [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]]
    while len(permutations) < 8:
        permutations.append([permutations[-1][j] for j in permutations[1]])
    check = 0
    for place, digit in enumerate(reversed(identifier)):
        check = MULTIPLY[check][permutations[place % 8][int(digit)]]
    return check == 0


def luhn(identifier: str) -> bool:
    """Check digit of LOINC numbers."""
    digits = [int(d) for d in reversed(identifier.replace("-", ""))]
    doubled = [d if place % 2 == 0 else sum(divmod(2 * d, 10)) for place, d in enumerate(digits)]
    return sum(doubled) % 10 == 0


def test_the_check_digit_finds_codes_that_circulate_and_are_wrong() -> None:
    assert not any(map(verhoeff, ["83329005", "262052002", "95457006", "13830010", "396533000", "274400007"]))
    assert not verhoeff("1386001")
    assert not luhn("24725-5")


@pytest.mark.parametrize("code", FOUND, ids=lambda c: c.value)
def test_codes_are_as_pinned(code: Code) -> None:
    assert PINNED[code.value, code.scheme_designator] == code.meaning
    assert len(code.value) <= 16
    assert len(code.meaning) <= 64
    if code.scheme_designator == "SCT":
        assert verhoeff(code.value)
    if code.scheme_designator == "LN":
        assert luhn(code.value)


def test_nothing_pinned_is_forgotten() -> None:
    assert {(c.value, c.scheme_designator) for c in FOUND} == set(PINNED)


def test_every_label_has_a_finding_of_its_own() -> None:
    assert set(codes.FINDINGS) == set(LABELS)
    assert len({(f.finding, f.site) for f in codes.FINDINGS.values()}) == len(LABELS)


def test_the_unconfirmed_code_stays_out() -> None:
    code = codes.FINDINGS["intraventricular"]
    assert (code.finding.value, code.site and code.site.value) == ("50960005", "35764002")
    assert "23276006" not in {c.value for c in FOUND}


def test_only_raised_priorities_are_actionable() -> None:
    assert set(codes.ACTIONABLE) == {Priority.URGENT, Priority.REVIEW}


def test_codes_agree_with_the_standards_own_list() -> None:
    pairs = [
        (codes.CERTAINTY, standard.DCM.CertaintyOfFinding), (codes.COMMENT, standard.DCM.Comment),
        (codes.IMAGING_MEASUREMENT_REPORT, standard.DCM.ImagingMeasurementReport), (codes.DEVICE, standard.DCM.Device),
        (codes.PROCESSING_EQUIPMENT, standard.DCM.ProcessingEquipment),
        (codes.ACQUISITION_EQUIPMENT, standard.DCM.AcquisitionEquipment),
        (codes.SOURCE_IMAGE, standard.DCM.SourceImageForImageProcessingOperation),
        (codes.PERCENT, standard.UCUM.Percent), (codes.HEMORRHAGE, standard.SCT.Hemorrhage),
        (codes.INTRACRANIAL_HEMORRHAGE, standard.SCT.IntracranialHemorrhage),
        (codes.PRESENT, standard.cid240.Present), (codes.ABSENT, standard.cid240.Absent),
        (codes.UNDETERMINED, standard.cid240.Undetermined), (codes.BRAIN, standard.SCT.Brain),
        (codes.BRAIN_VENTRICLE, standard.SCT.BrainVentricle), (codes.PRIORITY, standard.SCT.Priority),
        (codes.ACTIONABLE[Priority.URGENT], standard.cid7035.ACRCategory1ActionableFinding),
        (codes.ACTIONABLE[Priority.REVIEW], standard.cid7035.ACRCategory2ActionableFinding),
        (codes.OF_INTEREST, standard.cid7010.OfInterest), (codes.REJECTED, standard.cid7010.RejectedForQualityReasons),
        (codes.CLASS_ACTIVATION, standard.cid7469.ClassActivation), (codes.NO_UNITS, standard.UCUM.NoUnits),
        (codes.CT_UNSPECIFIED, standard.cid100.CTUnspecifiedBodyRegion),
    ]  # fmt: skip
    for ours, theirs in pairs:
        assert (ours.value, ours.scheme_designator) == (theirs.value, theirs.scheme_designator)
