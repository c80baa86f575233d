import pytest

from triage.config import Destination
from triage.records import ObjectKind, Outcome
from triage.store.routing import Situation, destinations_of

POSITIVE, NEGATIVE, NOT_ANALYSED = (Situation(outcome) for outcome in Outcome)
DEFAULT_KINDS = [k for k in ObjectKind if k not in (ObjectKind.MESSAGE, ObjectKind.REJECTION)]


def peer(name: str = "pacs", **values: object) -> Destination:
    return Destination(name=name, ae_title="PACS", host="h", port=104, **values)  # type: ignore[arg-type]  # as it takes them


def test_each_destination_gets_what_it_wants() -> None:
    peers = [peer("all"), peer("reports", objects=("report",)), peer("pictures", objects=("capture",))]
    assert destinations_of("report", POSITIVE, peers) == ("all", "reports")
    assert destinations_of("capture", POSITIVE, peers) == ("all", "pictures")
    assert destinations_of("key_object", POSITIVE, peers) == ("all",)


@pytest.mark.parametrize("situation", [NEGATIVE, NOT_ANALYSED])
def test_who_wants_positives_gets_nothing_else(situation: Situation) -> None:
    peers = [peer("all"), peer("alarms", only_positive=True)]
    assert destinations_of("report", POSITIVE, peers) == ("all", "alarms")
    assert destinations_of("report", situation, peers) == ("all",)


@pytest.mark.parametrize("kind", DEFAULT_KINDS)
def test_a_destination_takes_every_kind_unless_it_says_otherwise(kind: ObjectKind) -> None:
    assert destinations_of(kind, POSITIVE, [peer()]) == ("pacs",)


def test_a_correction_reaches_who_has_what_it_corrects() -> None:
    """The study was positive, and is negative after late slices."""
    before = {"alarms": frozenset({"report", "capture"}), "pictures": frozenset({"capture"})}
    now = Situation(Outcome.NEGATIVE, before, frozenset({"report", "rejection"}))
    peers = [
        peer("alarms", only_positive=True), peer("pictures", objects=("capture",)), peer("new"),
        peer("other", only_positive=True),
    ]  # fmt: skip
    assert destinations_of("report", now, peers) == ("alarms", "new")
    assert destinations_of("rejection", now, peers) == ("alarms", "pictures")


def test_without_a_rejection_the_report_is_the_link() -> None:
    before = {"pictures": frozenset({"capture"})}
    now = Situation(Outcome.NEGATIVE, before, frozenset({"report"}))
    assert destinations_of("report", now, [peer("pictures", objects=("capture",))]) == ("pictures",)


def test_nobody_gets_the_rejection_of_what_he_does_not_have() -> None:
    now = Situation(Outcome.POSITIVE, {"reports": frozenset({"report"})}, frozenset({"report", "rejection"}))
    assert destinations_of("rejection", now, [peer("reports"), peer("new")]) == ()
