import json
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import func, select, text
from store.store_bench import T0, Bench, make_result

from triage.records import DeliveryState, Outcome
from triage.store import commitment, outbox, queries
from triage.store.outbox import Delivery
from triage.store.schema import commitment as commitment_table

NO_SUCH_INSTANCE = 0x0112


def accepted(bench: Bench, outcome: Outcome = Outcome.POSITIVE) -> list[Delivery]:
    """SR and capture of one study, or the SR alone, accepted at T0."""
    bench.analysed("1.2.3", T0, make_result(outcome))
    return bench.deliver(T0, asks_commitment=True)


def due(bench: Bench, now: float, destination: str = "pacs") -> list[Delivery]:
    return commitment.due_for_commitment(bench.db, destination, now, 50)


def ask(bench: Bench, transaction_uid: str, now: float = T0 + 1, wait_s: float = 600.0) -> list[Delivery]:
    asked = due(bench, now)
    commitment.commitment_requested(bench.db, transaction_uid, asked, now, now + wait_s)
    return asked


def answer(
    bench: Bench, transaction_uid: str, reasons: dict[str, int | None], now: float = T0 + 2
) -> commitment.Answered | None:
    return commitment.commitment_answered(bench.db, transaction_uid, reasons, now, lambda d: now + 5 * (d.attempts + 1))


def rows(bench: Bench) -> list[dict[str, object]]:
    return [d for o in queries.show(bench.db, 1)["objects"] for d in o["deliveries"]]


def states(bench: Bench) -> list[str]:
    return [str(d["state"]) for d in rows(bench)]


def test_what_is_committed_is_done(bench: Bench) -> None:
    accepted(bench)
    assert [d.sop_instance_uid for d in due(bench, T0)] == ["1.2.3.96.1", "1.2.3.97.1"]
    ask(bench, "2.25.1")
    assert due(bench, T0 + 600) == []
    assert answer(bench, "2.25.1", {"1.2.3.96.1": None, "1.2.3.97.1": None}) == commitment.Answered("pacs", 2, 0)
    assert states(bench) == ["committed", "committed"]
    assert [d["committed_at"] for d in rows(bench)] == [T0 + 2, T0 + 2]
    assert due(bench, T0 + 1e9) == []
    assert queries.deliveries(bench.db, ["pacs"]) == []


def test_nothing_is_asked_of_who_is_not_to_be_asked(bench: Bench) -> None:
    bench.analysed("1.2.3", T0, make_result())
    bench.deliver(T0)
    assert due(bench, T0 + 1e9) == []
    assert due(bench, T0 + 1e9, "archive") == []


def test_what_is_not_there_is_sent_again_under_the_same_uid(bench: Bench) -> None:
    first, _ = accepted(bench)
    ask(bench, "2.25.1")
    reasons = {"1.2.3.96.1": NO_SUCH_INSTANCE, "1.2.3.97.1": None}
    assert answer(bench, "2.25.1", reasons) == commitment.Answered("pacs", 1, 1)
    assert states(bench) == ["failed", "committed"]
    assert rows(bench)[0]["detail"] == "commitment refused: 0x0112 no such object instance"
    assert rows(bench)[0]["accepted_at"] is None
    assert (bench.take(T0 + 6), due(bench, T0 + 1e6)) == ([], [])
    (again,) = bench.deliver(T0 + 7, asks_commitment=True)
    assert (again.sop_instance_uid, again.attempts) == (first.sop_instance_uid, 1)
    assert [d.commit_attempts for d in ask(bench, "2.25.2", T0 + 8)] == [0]  # of the new acceptance
    assert answer(bench, "2.25.2", {"1.2.3.96.1": None}, T0 + 9) == commitment.Answered("pacs", 1, 0)
    assert states(bench) == ["committed", "committed"]


@pytest.mark.parametrize("reason", [None, NO_SUCH_INSTANCE])
def test_an_answer_twice_counts_once(bench: Bench, reason: int | None) -> None:
    accepted(bench, Outcome.NEGATIVE)
    ask(bench, "2.25.1")
    answer(bench, "2.25.1", {"1.2.3.96.1": reason})
    was = rows(bench)
    assert answer(bench, "2.25.1", {"1.2.3.96.1": reason}, T0 + 99) == commitment.Answered("pacs", 0, 0)
    assert rows(bench) == was
    bench.deliver(T0 + 7, asks_commitment=True)
    answer(bench, "2.25.1", {"1.2.3.96.1": NO_SUCH_INSTANCE}, T0 + 99)
    assert states(bench) == ["accepted" if reason else "committed"]


def test_nobody_knows_what_was_not_asked(bench: Bench) -> None:
    accepted(bench)
    ask(bench, "2.25.1")
    was = rows(bench)
    assert answer(bench, "2.25.7", {"1.2.3.96.1": None}) is None
    assert answer(bench, "2.25.1", {"1.2.3.7": None, "junk": 1}) == commitment.Answered("pacs", 0, 0)
    assert rows(bench) == was


def test_a_late_success_of_an_earlier_request_counts(bench: Bench) -> None:
    accepted(bench, Outcome.NEGATIVE)
    ask(bench, "2.25.1")
    ask(bench, "2.25.2", T0 + 700)
    assert answer(bench, "2.25.1", {"1.2.3.96.1": None}, T0 + 701) == commitment.Answered("pacs", 1, 0)
    assert states(bench) == ["committed"]


def test_a_late_success_from_before_the_object_was_lost_there_does_not(bench: Bench) -> None:
    """It says nothing of what was sent since; the request made since then does."""
    accepted(bench, Outcome.NEGATIVE)
    ask(bench, "2.25.1")
    ask(bench, "2.25.2", T0 + 700)
    answer(bench, "2.25.2", {"1.2.3.96.1": NO_SUCH_INSTANCE}, T0 + 701)
    bench.deliver(T0 + 800, asks_commitment=True)
    assert answer(bench, "2.25.1", {"1.2.3.96.1": None}, T0 + 801) == commitment.Answered("pacs", 0, 0)
    assert states(bench) == ["accepted"]
    ask(bench, "2.25.3", T0 + 802)
    answer(bench, "2.25.3", {"1.2.3.96.1": None}, T0 + 803)
    assert states(bench) == ["committed"]


def test_a_late_failure_of_an_earlier_request_does_not(bench: Bench) -> None:
    accepted(bench, Outcome.NEGATIVE)
    ask(bench, "2.25.1")
    ask(bench, "2.25.2", T0 + 700)
    assert answer(bench, "2.25.1", {"1.2.3.96.1": NO_SUCH_INSTANCE}, T0 + 701) == commitment.Answered("pacs", 0, 0)
    assert states(bench) == ["accepted"]
    answer(bench, "2.25.2", {"1.2.3.96.1": None}, T0 + 702)
    assert states(bench) == ["committed"]


def test_the_newest_answer_counts_also_against_an_earlier_success(bench: Bench) -> None:
    accepted(bench, Outcome.NEGATIVE)
    ask(bench, "2.25.1")
    ask(bench, "2.25.2", T0 + 700)
    answer(bench, "2.25.1", {"1.2.3.96.1": None}, T0 + 701)
    answer(bench, "2.25.2", {"1.2.3.96.1": NO_SUCH_INSTANCE}, T0 + 702)
    assert states(bench) == ["failed"]


@pytest.mark.parametrize("reason", [None, NO_SUCH_INSTANCE])
def test_an_answer_about_what_is_on_its_way_again_changes_nothing(bench: Bench, reason: int | None) -> None:
    accepted(bench, Outcome.NEGATIVE)
    ask(bench, "2.25.1")
    outbox.resend(bench.db, 1, lambda _: ["pacs"], T0 + 2)
    answer(bench, "2.25.1", {"1.2.3.96.1": reason}, T0 + 3)
    assert states(bench) == ["queued"]
    bench.take(T0 + 3)
    answer(bench, "2.25.1", {"1.2.3.96.1": reason}, T0 + 4)
    assert states(bench) == ["sent"]


def test_a_failure_from_before_it_was_accepted_again_is_stale(bench: Bench) -> None:
    accepted(bench, Outcome.NEGATIVE)
    ask(bench, "2.25.1")
    outbox.resend(bench.db, 1, lambda _: ["pacs"], T0 + 2)
    bench.deliver(T0 + 3, asks_commitment=True)
    answer(bench, "2.25.1", {"1.2.3.96.1": NO_SUCH_INSTANCE}, T0 + 4)
    assert states(bench) == ["accepted"]
    assert len(due(bench, T0 + 4)) == 1


def test_the_first_refusal_starts_the_time_limit_anew_and_no_other(bench: Bench) -> None:
    """It may come days after the acceptance: the object must be sent once more at least, but not for ever."""
    accepted(bench, Outcome.NEGATIVE)
    late = T0 + 1e6
    ask(bench, "2.25.1", late)
    answer(bench, "2.25.1", {"1.2.3.96.1": NO_SUCH_INSTANCE}, late + 1)
    assert rows(bench)[0]["queued_at"] == late + 1
    bench.deliver(late + 99, asks_commitment=True)
    ask(bench, "2.25.2", late + 100)
    answer(bench, "2.25.2", {"1.2.3.96.1": NO_SUCH_INSTANCE}, late + 101)
    assert rows(bench)[0]["queued_at"] == late + 1
    assert rows(bench)[0]["attempts"] == 2  # so its pauses grow, though it is accepted in between


def test_what_is_refused_beyond_the_limit_is_given_up(bench: Bench) -> None:
    accepted(bench, Outcome.NEGATIVE)
    ask(bench, "2.25.1")
    commitment.commitment_answered(bench.db, "2.25.1", {"1.2.3.96.1": 0x0213}, T0 + 2, lambda _: None)
    assert states(bench) == ["given up"]
    assert rows(bench)[0]["detail"] == "commitment refused: 0x0213 resource limitation"


def test_an_unanswered_request_is_repeated(bench: Bench) -> None:
    accepted(bench, Outcome.NEGATIVE)
    (first,) = ask(bench, "2.25.1", T0 + 1, 600.0)
    assert due(bench, T0 + 600.9) == []
    (second,) = due(bench, T0 + 601)
    assert (first.commit_attempts, second.commit_attempts) == (0, 1)


def test_a_request_that_nobody_took_leaves_it_accepted(bench: Bench) -> None:
    accepted(bench, Outcome.NEGATIVE)
    ask(bench, "2.25.1")
    why = commitment.NotAsked("accepted; asked for commitment, refused", T0 + 50)
    commitment.commitment_not_asked(bench.db, "2.25.1", why)
    (row,) = rows(bench)
    assert (row["state"], row["detail"], row["commit_due_at"]) == ("accepted", why.detail, T0 + 50)
    assert answer(bench, "2.25.1", {"1.2.3.96.1": None}) is None  # no row is left of it, however often it is repeated
    ask(bench, "2.25.2", T0 + 51)
    commitment.commitment_not_asked(bench.db, "2.25.2", commitment.NotAsked(queries.NO_COMMITMENT, None))
    assert due(bench, T0 + 1e9) == []
    assert (states(bench), queries.deliveries(bench.db, ["pacs"])) == (["accepted"], [])


def test_a_request_that_may_have_got_through_may_be_answered(bench: Bench) -> None:
    accepted(bench, Outcome.NEGATIVE)
    ask(bench, "2.25.1")
    lost = commitment.NotAsked("accepted; asked for commitment, unreachable", T0 + 50, may_be_answered=True)
    commitment.commitment_not_asked(bench.db, "2.25.1", lost)
    answer(bench, "2.25.1", {"1.2.3.96.1": None})
    assert states(bench) == ["committed"]
    commitment.commitment_not_asked(bench.db, "2.25.1", lost)  # the answer was first
    assert states(bench) == ["committed"]
    assert rows(bench)[0]["detail"] == ""


def test_commitment_that_never_comes_is_told(bench: Bench) -> None:
    (delivery,) = accepted(bench, Outcome.NEGATIVE)
    ask(bench, "2.25.1")
    commitment.commitment_ended(bench.db, [delivery.id], "accepted; commitment did not come within 72 h")
    assert (states(bench), due(bench, T0 + 1e9)) == (["accepted"], [])
    (row,) = queries.deliveries(bench.db, ["pacs"])
    assert (row.state, row.next_attempt_at) == (DeliveryState.ACCEPTED, None)
    assert "did not come" in row.detail


def test_requests_go_with_their_delivery(bench: Bench) -> None:
    accepted(bench, Outcome.NEGATIVE)
    ask(bench, "2.25.1")
    with bench.db.writing() as connection:
        connection.execute(text("DELETE FROM delivery"))
    with bench.db.reading() as connection:
        assert connection.execute(select(func.count()).select_from(commitment_table)).scalar_one() == 0


def test_the_doctors_object_is_no_delivery(bench: Bench) -> None:
    assert commitment.test_answer(bench.db, "2.25.1") is None
    commitment.record_test(bench.db, "2.25.1", "pacs", "1.2.3.4", T0)
    commitment.record_test(bench.db, "2.25.2", "pacs", "1.2.3.4", T0)
    assert commitment.test_answer(bench.db, "2.25.1") == (False, None)
    assert answer(bench, "2.25.1", {"1.2.3.4": None}) == commitment.Answered("pacs", 0, 0)
    assert answer(bench, "2.25.2", {"1.2.3.4": NO_SUCH_INSTANCE}) == commitment.Answered("pacs", 0, 0)
    assert commitment.test_answer(bench.db, "2.25.1") == (True, None)
    assert commitment.test_answer(bench.db, "2.25.2") == (True, NO_SUCH_INSTANCE)
    commitment.record_test(bench.db, "2.25.3", "pacs", "1.2.3.4", T0 + 2 * commitment.TEST_KEPT_S)
    assert commitment.test_answer(bench.db, "2.25.1") is None


def test_the_question_what_is_due_does_not_read_all_that_was_ever_accepted(bench: Bench) -> None:
    """It is asked twice a second for each destination."""
    query = (
        "EXPLAIN QUERY PLAN SELECT id FROM delivery WHERE destination = 'pacs' AND commit_due_at <= 1.0 "
        "ORDER BY commit_due_at, id LIMIT 50"
    )
    with bench.db.reading() as connection:
        plan = " ".join(str(row) for row in connection.execute(text(query)))
    assert "ix_delivery_destination_commit_due_at" in plan


def test_a_kill_at_any_moment_delivers_all_under_one_uid(tmp_path: Path) -> None:
    """Also between the peer's answer and its record: then it is sent twice, under the same UID."""
    command = [sys.executable, str(Path(__file__).with_name("killed.py")), "delivery", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    *killed, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(killed) >= 15
    uids = ["1.2.3.96.1", "1.2.3.97.1"]
    for life in (*killed, last):
        assert sorted(set(life["received"])) == uids
        assert len(life["received"]) <= 3  # at most the one on its way twice
        assert "sent" not in life["released"]
        assert life["end"] == ["committed", "committed"]
    assert any("sent" in life["left"] for life in killed)
    assert any(len(life["received"]) == 3 for life in killed)
    assert last["received"] == uids
