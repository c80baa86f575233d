"""The conformance statement says what the code does."""

from pathlib import Path

import pytest

from triage import conformance
from triage.records import ObjectKind

STATEMENT = Path(__file__).parents[1] / "deploy" / "CONFORMANCE.md"


def test_the_statement_is_up_to_date() -> None:
    text = STATEMENT.read_text(encoding="utf-8")
    assert conformance.fill(text) == text, "run: python -m triage.conformance deploy/CONFORMANCE.md"


def test_every_table_stands_in_the_statement_once() -> None:
    marks = [found["name"] for found in conformance.BLOCK.finditer(STATEMENT.read_text(encoding="utf-8"))]
    assert sorted(marks) == sorted(conformance.TABLES)


def test_every_kind_of_object_is_told() -> None:
    assert set(conformance.WHEN) == set(ObjectKind) - {ObjectKind.MESSAGE}
    text = conformance.TABLES["objects"]()
    for kind in conformance.WHEN:
        assert f"| `{kind.value}` |" in text


def test_the_tables_tell_what_the_code_has() -> None:
    services = conformance.TABLES["services"]()
    assert "| CT Image Storage | 1.2.840.10008.5.1.4.1.1.2 |  | yes |" in services
    assert "| Comprehensive 3D SR Storage | 1.2.840.10008.5.1.4.1.1.88.34 | yes |  |" in services
    assert "| Storage Commitment Push Model SOP Class | 1.2.840.10008.1.20.1 | yes |  |" in services
    assert "| Verification SOP Class | 1.2.840.10008.1.1 | yes | yes |" in services
    report = conformance.TABLES["report"]()
    assert report.count("Measurement Group") == 1
    assert "      CONTAINS NUM (111012, DCM, \"Certainty of Finding\")" in report


def test_a_table_that_says_something_else_is_made_anew() -> None:
    stale = "before\n<!-- table: implementation -->\n| What | Value |\n<!-- end -->\nafter\n"
    fresh = conformance.fill(stale)
    assert fresh.startswith("before\n<!-- table: implementation -->\n| What | Value |\n| --- | --- |\n")
    assert fresh.endswith("<!-- end -->\nafter\n")
    assert conformance.fill(fresh) == fresh


def test_an_unknown_table_is_named() -> None:
    with pytest.raises(KeyError, match="nonsense"):
        conformance.fill("<!-- table: nonsense -->\n<!-- end -->")
