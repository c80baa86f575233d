from io import StringIO

from rich.console import Console

from triage import screen
from triage.records import ModelIdentity, Outcome, Priority, Result, StudyState
from triage.store.queries import WorklistRow

TYPED_AT_THE_SCANNER = "series 1: 'CT [/b] [HEAD]'"


def test_what_looks_like_markup_is_shown_as_it_is() -> None:
    console = Console(file=StringIO(), width=200)
    row = WorklistRow(
        study_id=1, priority=Priority.ROUTINE, p_any=None, subtypes=(), waiting_s=1.0, state=StudyState.NOT_ANALYSED,
        accession_number="A[/x]", outcome=Outcome.NOT_ANALYSED, reason=TYPED_AT_THE_SCANNER, first_arrival_at=0.0,
        demonstration=False)  # fmt: skip
    screen.print_worklist(console, [row])
    model = ModelIdentity("m", "1", "0" * 64, "site-validated", "resnet152")
    screen.print_result(
        console, Result("1.2", Outcome.NOT_ANALYSED, Priority.ROUTINE, TYPED_AT_THE_SCANNER, model, 0.0, 1.0))
    assert isinstance(console.file, StringIO)
    text = console.file.getvalue()
    assert text.count(TYPED_AT_THE_SCANNER) == 2
    assert "A[/x]" in text
