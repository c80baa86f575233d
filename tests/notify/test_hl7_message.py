import warnings

import hl7
import pytest
from dicom.results_data import STUDY, make_result, not_analysed, set_to
from hl7apy.exceptions import ValidationError
from hl7apy.parser import parse_message
from notify.conftest import OUTCOMES, MakeFacts
from pydicom import Dataset

from triage.config import Hl7Output
from triage.notify.facts import Facts
from triage.notify.hl7_message import control_id
from triage.notify.outputs import build, message_uid
from triage.records import Finding, Volume

RIS = Hl7Output(
    name="ris", host="ris", port=2575, receiving_application="RIS", receiving_facility="HOSP", sending_facility="RAD")


def read(facts: Facts) -> hl7.Message:
    return hl7.parse(build(RIS, facts).decode("utf-8"))


def observations(message: hl7.Message) -> list[list[str]]:
    """Fields of every OBX, by number."""
    return [[str(f) for f in s] + [""] * 8 for s in message.segments("OBX")]


def notes(message: hl7.Message) -> str:
    return "\n".join(str(s[3]) for s in message.segments("NTE"))


@pytest.mark.parametrize("kind", OUTCOMES)
def test_another_library_finds_it_valid(kind: str, outcomes: dict[str, Facts]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # hl7apy's own
        message = parse_message(build(RIS, outcomes[kind]).decode("utf-8"))
        assert message.validate()


def test_the_judge_finds_faults(facts: MakeFacts) -> None:
    text = build(RIS, facts()).decode("utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with pytest.raises(ValidationError, match=r"PID_3"):
            parse_message(text.replace("TEST-0001^^^^MR", "")).validate()


def test_the_header_names_version_characters_and_parties(facts: MakeFacts) -> None:
    made = facts()
    msh = read(made).segment("MSH")
    assert [str(msh[i]) for i in (2, 3, 4, 5, 6)] == ["^~\\&", "ICHTRIAGE", "RAD", "RIS", "HOSP"]
    assert [str(msh[i]) for i in (9, 11, 12, 18)] == ["ORU^R01^ORU_R01", "P", "2.5.1", "UNICODE UTF-8"]
    assert str(msh[7]) == made.finished.strftime("%Y%m%d%H%M%S%z")
    assert str(msh[10]) == control_id(message_uid("ris", made.result, made.node_name))
    assert len(str(msh[10])) == 20


def test_the_same_facts_make_the_same_bytes(facts: MakeFacts) -> None:
    assert build(RIS, facts()) == build(RIS, facts())


def test_patient_and_order(facts: MakeFacts) -> None:
    message = read(facts(
        set_to("IssuerOfPatientID", "HOSP"), set_to("PatientName", "Horv\u00e1th^Eva^M\u00e1ria^MUDr.^PhD."),
        set_to("PlacerOrderNumberImagingServiceRequest", "PL1"),
        set_to("FillerOrderNumberImagingServiceRequest", "FI1"),
    ))  # fmt: skip
    pid, orc, obr = message.segment("PID"), message.segment("ORC"), message.segment("OBR")
    assert str(pid[3]) == "TEST-0001^^^HOSP^MR"
    assert str(pid[5]) == "Horv\u00e1th^Eva^M\u00e1ria^PhD.^MUDr.^^^A"
    assert (str(pid[7]), str(pid[8])) == ("19500101", "F")
    assert [str(orc[i]) for i in (1, 2, 3)] == ["RE", "PL1", "FI1"]
    assert [str(obr[i]) for i in (2, 3, 4, 7, 18)] == ["PL1", "FI1", "24725-4^CT Head^LN", "20240105101500", "ACC0001"]
    assert str(obr[25]) == "P"


def test_a_zone_that_the_images_state_holds_for_the_time_of_the_study(facts: MakeFacts) -> None:
    zone = set_to("TimezoneOffsetFromUTC", "+0530")
    assert str(read(facts(zone)).segment("OBR")[7]) == "20240105101500+0530"
    assert str(read(facts(zone, set_to("StudyTime", ""))).segment("OBR")[7]) == "20240105"


def test_the_accession_number_fills_in_for_a_filler_number_and_the_study_for_both(outcomes: dict[str, Facts]) -> None:
    assert str(read(outcomes["urgent"]).segment("OBR")[3]) == "ACC0001"
    bare = read(outcomes["without anything"])
    assert str(bare.segment("PID")[5]) == "^^^^^^U"
    assert str(bare.segment("PID")[3]) == "study-4711^^^ICHTRIAGE node-07^U"
    assert str(bare.segment("OBR")[3]) == f"^^{STUDY}^ISO"
    assert str(bare.segment("OBR")[7]) == outcomes["without anything"].started.strftime("%Y%m%d%H%M%S%z")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Nov\u00e1kov\u00e1^\u013dubica", "Nov\u00e1kov\u00e1^\u013dubica^^^^^^A"),
        ("\u0418\u0432\u0430\u043d\u043e\u0432^\u042e\u0440\u0438\u0439",
         "\u0418\u0432\u0430\u043d\u043e\u0432^\u042e\u0440\u0438\u0439^^^^^^A"),
        ("Yamada^Tarou=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f\u308d\u3046",
         "Yamada^Tarou^^^^^^A~\u5c71\u7530^\u592a\u90ce^^^^^^I~\u3084\u307e\u3060^\u305f\u308d\u3046^^^^^^P"),
        ("=\u5c71\u7530^\u592a\u90ce", "\u5c71\u7530^\u592a\u90ce^^^^^^I"),
    ],
)  # fmt: skip
def test_names_of_every_script_arrive(name: str, expected: str, facts: MakeFacts) -> None:
    assert str(read(facts(set_to("PatientName", name))).segment("PID")[5]) == expected


def test_delimiters_and_line_breaks_are_escaped(facts: MakeFacts) -> None:
    made = facts(set_to("PatientName", "O|Neil & Co~\u0160^Ann"), set_to("AccessionNumber", "A|1&2\x0b3"))
    text = build(RIS, made).decode("utf-8")
    message = hl7.parse(text)
    assert str(message.segment("PID")[5]) == "O\\F\\Neil \\T\\ Co\\R\\\u0160^Ann^^^^^^A"
    assert message.unescape(str(message.segment("PID")[5][0][0])) == "O|Neil & Co~\u0160"
    assert str(message.segment("OBR")[18]).startswith("A\\F\\1\\T\\2")
    assert not set("\n\x0b\x1c") & set(text)
    assert len(message.segments("PID")) == 1


def test_reasons_of_several_lines_stay_one_note(facts: MakeFacts) -> None:
    message = read(facts(result=not_analysed("first\r\nPID|1||forged\nthird")))
    assert len(message.segments("PID")) == 1
    assert "Not analysed: first\\.br\\PID\\F\\1\\F\\\\F\\forged\\.br\\third" in notes(message)


def test_nothing_breaks_the_frame(facts: MakeFacts) -> None:
    text = build(RIS, facts(result=not_analysed("a\x0bb\x1cc\x00d\u2028e\x85f\ud800g"))).decode("utf-8")
    assert "Not analysed: a b c d\\.br\\e\\.br\\f g" in text
    assert not set("\n\x0b\x1c\x00\u2028\x85") & set(text)


def test_every_finding_is_a_group_with_presence_and_certainty(outcomes: dict[str, Facts]) -> None:
    rows = observations(read(outcomes["urgent"]))
    assert [r[1] for r in rows] == [str(i) for i in range(1, len(rows) + 1)]
    groups = {s: [r for r in rows if r[4] == s] for s in "123456"}
    assert groups["1"][0][3].startswith("1386000^Intracranial hemorrhage^SCT^any^")
    assert groups["1"][0][5] == "52101004^Present^SCT"
    assert groups["1"][0][8] == "AA"
    assert groups["1"][1][2:7] == ["NM", "111012^Certainty of Finding^DCM", "1", "97.3", "%^percent^UCUM"]
    present = {s: g[0][5].split("^")[1] for s, g in groups.items()}
    assert present == {"1": "Present", "2": "Present", "3": "Absent", "4": "Present", "5": "Absent", "6": "Present"}
    assert {s: g[0][8] for s, g in groups.items() if present[s] == "Absent"} == {"3": "", "5": ""}
    assert all(r[11] == "P" for r in rows)


def test_an_intraventricular_hemorrhage_is_unambiguous(outcomes: dict[str, Facts]) -> None:
    group = [r for r in observations(read(outcomes["urgent"])) if r[4] == "4"]
    assert group[0][3] == "50960005^Hemorrhage^SCT^intraventricular^Intraventricular hemorrhage^99ICH"
    assert [r[5] for r in group if r[3].startswith("363698007")] == ["35764002^Brain ventricle^SCT"]


def test_the_study_and_the_category_are_told(outcomes: dict[str, Facts]) -> None:
    urgent, review, none = (observations(read(outcomes[k])) for k in ("urgent", "review", "negative"))
    assert [r[5] for r in urgent if r[3].startswith("110180^Study Instance UID^DCM")] == [STUDY]
    category = [r[5] for rows in (urgent, review, none) for r in rows if r[3].startswith("260870009")]
    assert [c.partition("^")[0] for c in category] == ["RID49480", "RID49481"]


def test_review_is_abnormal_and_negative_is_never_called_normal(outcomes: dict[str, Facts]) -> None:
    assert {r[8] for r in observations(read(outcomes["review"]))} == {"A", ""}
    message = read(outcomes["negative"])
    assert {r[8] for r in observations(message)} == {""}
    assert "does not exclude a hemorrhage" in notes(message)


def test_not_analysed_says_that_there_is_no_result(outcomes: dict[str, Facts]) -> None:
    message = read(outcomes["not analysed"])
    first = observations(message)[0]
    assert (first[5], first[8], first[11]) == ("", "", "X")
    assert "Not analysed: no usable series: series 1: localizer" in notes(message)
    assert str(message.segment("OBR")[25]) == "P"  # X would cancel the order


def test_warnings_stand_in_every_message(outcomes: dict[str, Facts]) -> None:
    for kind, made in outcomes.items():
        text = notes(read(made))
        assert "NOT FOR DIAGNOSTIC USE" in text
        assert ("DEMONSTRATION MODEL" in text) == (kind != "validated")


def test_a_correction_says_what_it_supersedes(outcomes: dict[str, Facts]) -> None:
    assert "Analysis 2 of this study; it supersedes the previous report" in notes(read(outcomes["superseding"]))
    assert "supersedes" not in notes(read(outcomes["negative"]))


@pytest.mark.parametrize("later", ["superseding", "not analysed any more"])
def test_a_correction_leaves_no_value_of_the_analysis_before(later: str, outcomes: dict[str, Facts]) -> None:
    """A receiver keeps an observation by identifier and sub-id until it gets another one."""
    kept = {(r[3], r[4]): r for kind in ("urgent", later) for r in observations(read(outcomes[kind])) if r[4]}
    values = {s: [r for r in kept.values() if r[4] == s and not r[3].startswith("363698007")] for s in "123456"}
    assert all(len(rows) == 2 for rows in values.values())
    for sub_id, rows in values.items():
        if sub_id == "1" and later == "superseding":
            assert [(r[8], r[11]) for r in rows] == [("", "P")] * 2
        else:
            assert [(r[5], r[8], r[11]) for r in rows] == [("", "", "X")] * 2


def test_a_value_that_would_order_a_deletion_is_left_out(facts: MakeFacts) -> None:
    null = [set_to(k, '""') for k in ("PatientID", "PatientName", "AccessionNumber", "IssuerOfPatientID")]
    assert '""' not in build(RIS, facts(*null)).decode("utf-8")


def test_an_order_number_keeps_its_issuer(facts: MakeFacts) -> None:
    numbers = [set_to(f"{who}OrderNumberImagingServiceRequest", f"{who[0]}1^R&D") for who in ("Placer", "Filler")]
    message = read(facts(*numbers))
    for segment in (message.segment("ORC"), message.segment("OBR")):
        assert [str(segment[i]) for i in (2, 3)] == ["P1^R\\T\\D", "F1^R\\T\\D"]


def test_an_order_that_only_its_request_names_is_found(facts: MakeFacts) -> None:
    """Where one examination answers several orders, scanners leave the study's accession number empty."""
    requests = []
    for number in ("1", "2"):
        requests.append(Dataset())
        requests[-1].AccessionNumber, requests[-1].RequestedProcedureID = f"ACC{number}", f"RP{number}"
    obr = read(facts(set_to("AccessionNumber", ""), set_to("RequestAttributesSequence", requests))).segment("OBR")
    assert [str(obr[i]) for i in (3, 18, 19)] == ["ACC1", "ACC1", "RP1"]


def test_certainty_is_never_0_or_100(facts: MakeFacts, volume: Volume) -> None:
    sure = [Finding(label, p, 0.5, p > 0.5, ()) for label, p in (("any", 0.99999), ("epidural", 0.00001))]
    rows = observations(read(facts(result=make_result(volume, findings=tuple(sure)))))
    assert [r[5] for r in rows if r[2] == "NM"] == ["99.9", "0.1"]
