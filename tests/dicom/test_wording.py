from dataclasses import replace

import pytest

from triage.dicom.wording import (
    compared,
    contour_legend,
    headline,
    nothing_spoke,
    outcome_remarks,
    percent,
    pictures_remark,
    run_remark,
    series_description,
    technical_remarks,
)
from triage.records import ANY, Finding, ModelIdentity, Outcome, Priority, Result, SetAside

DEMO = ModelIdentity("ich-demo", "0.1", "ab" * 32, "demonstration", "resnet18")
RESULT = Result("1.2", Outcome.POSITIVE, Priority.URGENT, "", DEMO, 0.0, 1.0, findings=(
    Finding("any", 0.973, 0.5, True, ()), Finding("subdural", 0.6, 0.4, True, ()),
    Finding("epidural", 0.9, 0.4, True, ()), Finding("subarachnoid", 0.1, 0.4, False, ())))  # fmt: skip


@pytest.mark.parametrize(("p", "text"), [
    (0.0, "<1 %"), (0.004, "<1 %"), (0.5, "50 %"), (0.99, "99 %"), (0.996, ">99 %"), (1.0, ">99 %"),
])  # fmt: skip
def test_no_probability_is_certain(p: float, text: str) -> None:
    assert percent(p) == text


@pytest.mark.parametrize(
    ("p", "threshold", "shown"),
    [
        (0.973, 0.5, ("97 %", "50 %")),
        (0.496, 0.5, ("49.6 %", "50.0 %")),
        (0.5, 0.5, ("50.0 %", "50.0 %")),
        (0.004, 0.006, ("0.4 %", "0.6 %")),
    ],
)
def test_rounding_never_hides_on_which_side_of_its_threshold_a_finding_is(
    p: float, threshold: float, shown: tuple[str, str]
) -> None:
    finding = Finding(ANY, p, threshold, p >= threshold, ())
    assert compared(finding) == shown
    told = headline(replace(RESULT, findings=(finding,)))
    assert told.endswith(f"({shown[0]}, threshold {shown[1]})")


def test_no_series_description_is_too_long() -> None:
    for what in ("AI ICH result", "AI ICH summary"):
        text = series_description(what, DEMO)
        assert len(text) <= 64
        assert text.startswith(what)
        assert text.endswith("NOT FOR DIAGNOSTIC USE - DEMONSTRATION MODEL")


def test_types_come_most_probable_first() -> None:
    assert outcome_remarks(RESULT) == (
        "Intracranial hemorrhage suspected (97 %, threshold 50 %). Types: epidural 90 %, subdural 60 %. "
        "Priority: urgent.",)


def test_positive_without_a_type_says_so() -> None:
    result = Result("1.2", Outcome.POSITIVE, Priority.REVIEW, "", DEMO, 0.0, 1.0, findings=RESULT.findings[:1])
    assert "Types: none above its threshold." in outcome_remarks(result)[0]


def test_nothing_is_remarked_where_nothing_was_analysed() -> None:
    result = Result("1.2", Outcome.NOT_ANALYSED, Priority.ROUTINE, "no axial series", DEMO, 0.0, 1.0)
    assert technical_remarks(result) == ()
    assert outcome_remarks(result)[0] == "NOT ANALYSED: no axial series"


def test_many_reasons_are_counted() -> None:
    aside = tuple(SetAside("1.2", 1, f"reason {i % 5}") for i in range(20))
    result = Result("1.2", Outcome.NEGATIVE, Priority.ROUTINE, "", DEMO, 0.0, 1.0, set_aside=aside)
    assert technical_remarks(result) == ("20 slices set aside: reason 0; reason 1; reason 2; 2 more reasons.",)


def test_first_analysis_needs_no_number() -> None:
    assert run_remark(RESULT, supersedes=False) == ""


def test_only_later_analyses_replace_pictures() -> None:
    assert pictures_remark(RESULT) == ""
    assert pictures_remark(replace(RESULT, run=3)) == "Analysis 3 of this study: supersedes earlier ones"


def test_a_contour_is_never_called_an_outline_of_a_bleed() -> None:
    assert contour_legend("any") == "Contour: where the network looked for any hemorrhage. No outline of a bleed."
    assert "for subdural hemorrhage." in contour_legend("subdural")
    assert nothing_spoke("epidural") == "No contour: no place in this slice spoke for epidural hemorrhage."
