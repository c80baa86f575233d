from collections.abc import Callable, Collection

import pytest
from store.store_bench import T0, Bench, make_result

from triage.records import DeliveryState, Outcome, Priority
from triage.store import analysis, outbox, queries

Transition = Callable[[Bench, int], bool]


def to(*names: str) -> Callable[[outbox.Held], Collection[str]]:
    """Every object to these destinations."""
    return lambda _held: names


def accept(bench: Bench, delivery_id: int) -> bool:
    return outbox.delivery_accepted(bench.db, delivery_id, outbox.Acceptance(0), T0 + 9)


def fail(bench: Bench, delivery_id: int) -> bool:
    return outbox.delivery_failed(bench.db, delivery_id, outbox.Failure(None, "unreachable", T0 + 9), T0 + 9)


def give_up(bench: Bench, delivery_id: int) -> bool:
    return outbox.delivery_failed(bench.db, delivery_id, outbox.Failure(None, "unreachable", None), T0 + 9)


def leave_untried(bench: Bench, delivery_id: int) -> bool:
    return outbox.delivery_untried(bench.db, delivery_id, T0 + 9, T0 + 9)


def negative(bench: Bench) -> int:
    """A study with one object, its SR, due since T0."""
    return bench.analysed("1.2.3", T0, make_result(Outcome.NEGATIVE, 0.1))


def told(bench: Bench, study_id: int) -> dict[str, object]:
    """The only delivery."""
    ((delivery,),) = [o["deliveries"] for o in queries.show(bench.db, study_id)["objects"]]
    return dict(delivery)


def test_an_accepted_object_is_done(bench: Bench) -> None:
    study_id = negative(bench)
    assert queries.pending_deliveries(bench.db) == 1
    (delivery,) = bench.take(T0)
    assert (delivery.attempts, delivery.queued_at, delivery.study_id, delivery.kind) == (0, T0, study_id, "report")
    assert delivery.path.read_bytes() == b"report"
    assert bench.states(study_id) == [("pacs", DeliveryState.SENT)]
    assert queries.pending_deliveries(bench.db) == 1
    acceptance = outbox.Acceptance(0xB000, "stored with coercion")
    assert outbox.delivery_accepted(bench.db, delivery.id, acceptance, T0 + 1)
    assert bench.due(T0 + 1e6) == []
    assert queries.pending_deliveries(bench.db) == 0
    row = told(bench, study_id)
    assert (row["state"], row["accepted_at"], row["status"], row["detail"], row["commit_due_at"]) == (
        "accepted", T0 + 1, 0xB000, "stored with coercion", None)  # fmt: skip


def test_a_failed_object_is_tried_again_under_the_same_uid(bench: Bench) -> None:
    study_id = negative(bench)
    (first,) = bench.take(T0)
    outbox.delivery_failed(bench.db, first.id, outbox.Failure(0xA700, "refused: out of resources", T0 + 6), T0 + 1)
    assert bench.take(T0 + 5.9) == []
    assert queries.pending_deliveries(bench.db) == 1
    (second,) = bench.take(T0 + 6)
    assert (second.attempts, second.queued_at) == (1, T0)
    assert second.sop_instance_uid == first.sop_instance_uid
    row = told(bench, study_id)
    assert (row["status"], row["detail"]) == (0xA700, "refused: out of resources")


@pytest.mark.parametrize("leave", [accept, fail, give_up, leave_untried])
@pytest.mark.parametrize("before", [None, accept, give_up])
def test_only_what_is_sent_gets_an_answer(bench: Bench, leave: Transition, before: Transition | None) -> None:
    """A late answer moves nothing: the object was accepted, given up, or a person has asked for it anew."""
    study_id = negative(bench)
    (delivery,) = bench.take(T0)
    if before is not None:
        assert before(bench, delivery.id)
    else:
        outbox.resend(bench.db, study_id, to("pacs"), T0 + 1)
    was = told(bench, study_id)
    assert not leave(bench, delivery.id)
    assert told(bench, study_id) == was


@pytest.mark.parametrize("failures", [0, 1])
def test_what_had_no_turn_is_as_it_was(bench: Bench, failures: int) -> None:
    study_id = negative(bench)
    for _ in range(failures):
        (delivery,) = bench.take(T0 + 9)
        fail(bench, delivery.id)
    was = told(bench, study_id)
    (delivery,) = bench.take(T0 + 9)
    assert outbox.delivery_untried(bench.db, delivery.id, T0 + 20, T0 + 9)
    row = told(bench, study_id)
    assert row["state"] == ("failed" if failures else "queued")
    assert row == {**was, "state_at": T0 + 9, "next_attempt_at": T0 + 20}
    assert bench.take(T0 + 19) == []


@pytest.mark.parametrize("failures", [0, 1])
def test_what_a_stopped_process_left_on_its_way_is_sent_again(bench: Bench, failures: int) -> None:
    study_id = negative(bench)
    for _ in range(failures):
        (delivery,) = bench.take(T0 + 9)
        fail(bench, delivery.id)
    (sent,) = bench.take(T0 + 9)
    assert outbox.release(bench.db, T0 + 10) == 1
    row = told(bench, study_id)
    assert (row["state"], row["attempts"]) == ("failed" if failures else "queued", failures)
    assert [d.sop_instance_uid for d in bench.take(T0 + 10)] == [sent.sop_instance_uid]


def test_what_could_not_be_recorded_is_sent_again_without_a_restart(bench: Bench) -> None:
    negative(bench)
    (sent,) = bench.take(T0)
    assert [d.id for d in bench.take(T0 + 1)] == [sent.id]


def test_a_delivery_is_given_up_and_resent(bench: Bench) -> None:
    study_id = negative(bench)
    (first,) = bench.take(T0)
    give_up(bench, first.id)
    assert bench.take(T0 + 1e6) == []
    assert bench.states(study_id) == [("pacs", DeliveryState.GIVEN_UP)]
    assert (queries.pending_deliveries(bench.db), queries.given_up_deliveries(bench.db)) == (0, 1)
    assert outbox.resend(bench.db, study_id, to("pacs"), T0 + 100) == 1
    (again,) = bench.take(T0 + 100)
    assert (again.sop_instance_uid, again.attempts, again.queued_at) == (first.sop_instance_uid, 0, T0 + 100)


def test_all_that_was_given_up_is_resent_at_once(bench: Bench) -> None:
    for i in range(4):
        bench.arrive(f"1.2.{i}", T0)
        bench.complete(T0)
        bench.finish(bench.claim(T0), make_result(Outcome.NEGATIVE, 0.1), T0, ("pacs", "archive", "former"))
    for name in ("pacs", "archive", "former"):
        for delivery in bench.take(T0, name)[1:]:
            give_up(bench, delivery.id)
    bench.arrive("1.2.1", T0 + 60)  # superseded: what stands in its place was, or will be, sent
    bench.complete(T0 + 60)
    bench.finish(bench.claim(T0 + 60), make_result(Outcome.NEGATIVE, 0.1), T0 + 60, ())
    assert outbox.resend_given_up(bench.db, ["archive"], T0 + 100) == 2
    assert [d.sop_instance_uid for d in bench.due(T0 + 100, "archive")][-2:] == ["1.2.2.96.1", "1.2.3.96.1"]
    assert outbox.resend_given_up(bench.db, ["archive"], T0 + 101) == 0
    assert outbox.resend_given_up(bench.db, ["pacs", "archive"], T0 + 101) == 2
    assert queries.given_up_deliveries(bench.db) == 2  # of "former"; the superseded ones do not count


def test_a_rejection_that_was_given_up_is_resent_also_when_it_is_superseded(bench: Bench) -> None:
    """What it rejects stays rejected: the next analysis rejects only what came after."""
    study_id = bench.arrive("1.2.3")
    bench.complete(T0)
    claim = bench.claim(T0)
    objects = tuple(bench.write(claim, kind, ("pacs",)) for kind in ("report", "rejection"))
    analysis.record_result(bench.db, claim, make_result(Outcome.NEGATIVE, 0.1), analysis.Outgoing(objects, T0))
    for delivery in bench.take(T0):
        give_up(bench, delivery.id)
    analysis.request_reanalysis(bench.db, study_id, T0)
    bench.finish(bench.claim(T0 + 1), make_result(Outcome.NEGATIVE, 0.1), T0 + 1, ())
    assert [d.kind for d in queries.deliveries(bench.db, ["pacs"])] == ["rejection"]
    assert queries.given_up_deliveries(bench.db) == 1
    assert outbox.resend_given_up(bench.db, ["pacs"], T0 + 2) == 1
    assert [d.kind for d in bench.take(T0 + 2)] == ["rejection"]


def test_an_object_whose_file_is_gone_is_not_resent(bench: Bench) -> None:
    study_id = bench.analysed("1.2.3", T0, make_result())
    (_report, capture) = bench.take(T0)
    give_up(bench, capture.id)
    capture.path.unlink()
    assert outbox.resend_given_up(bench.db, ["pacs"], T0 + 100) == 0
    assert outbox.resend(bench.db, study_id, to("pacs"), T0 + 100) == 1
    assert [d.kind for d in bench.take(T0 + 100)] == ["report"]


def test_one_destination_knows_nothing_of_another(bench: Bench) -> None:
    bench.arrive()
    bench.complete(T0 + 5)
    bench.finish(bench.claim(T0 + 6), make_result(Outcome.NEGATIVE, 0.1), T0 + 7, ("pacs", "dead"))
    (delivery,) = bench.take(T0 + 7, "dead")
    outbox.delivery_failed(bench.db, delivery.id, outbox.Failure(None, "unreachable", T0 + 300), T0 + 8)
    assert bench.take(T0 + 8, "dead") == []
    assert len(bench.take(T0 + 8, "pacs")) == 1


def test_resend_reaches_destinations_configured_since(bench: Bench) -> None:
    study_id = bench.analysed("1.2.3", T0, make_result())
    bench.deliver(T0)
    assert outbox.resend(bench.db, study_id, to("pacs", "archive"), T0 + 100) == 4
    assert [d.sop_instance_uid for d in bench.due(T0 + 100)] == ["1.2.3.96.1", "1.2.3.97.1"]
    assert [d.sop_instance_uid for d in bench.due(T0 + 100, "archive")] == ["1.2.3.96.1", "1.2.3.97.1"]
    assert outbox.resend(bench.db, study_id, to(), T0 + 101) == 0
    assert outbox.resend(bench.db, 77, to("pacs"), T0 + 101) == 0


def test_resend_forgets_what_became_of_the_object_before(bench: Bench) -> None:
    study_id = negative(bench)
    bench.deliver(T0 + 1, asks_commitment=True)
    outbox.resend(bench.db, study_id, to("pacs"), T0 + 2)
    row = told(bench, study_id)
    assert (row["accepted_at"], row["commit_due_at"], row["status"], row["queued_at"]) == (None, None, None, T0 + 2)


def test_resend_sends_what_stands_now_and_says_what_it_comes_with(bench: Bench) -> None:
    study_id = bench.analysed("1.2.3", T0, make_result())
    bench.arrive("1.2.3", T0 + 60)
    bench.complete(T0 + 70)
    bench.finish(bench.claim(T0 + 71), make_result(Outcome.NEGATIVE, 0.1), T0 + 72)
    bench.deliver(T0 + 72)
    asked: list[outbox.Held] = []

    def choose(held: outbox.Held) -> list[str]:
        asked.append(held)
        return ["pacs"]

    assert outbox.resend(bench.db, study_id, choose, T0 + 100) == 1
    assert [d.sop_instance_uid for d in bench.take(T0 + 100)] == ["1.2.3.96.2"]
    (held,) = asked
    assert (held.kind, sorted(held.known), held.situation.outcome) == ("report", ["pacs"], Outcome.NEGATIVE)
    assert held.situation.sent_before == {"pacs": {"report", "capture"}}
    assert held.situation.kinds == {"report"}


def test_urgent_results_leave_first_then_in_order(bench: Bench) -> None:
    for i, (outcome, priority) in enumerate(
        [(Outcome.NEGATIVE, Priority.ROUTINE), (Outcome.POSITIVE, Priority.REVIEW), (Outcome.POSITIVE, Priority.URGENT)]
    ):
        bench.analysed(f"1.2.{i}", T0 + i, make_result(outcome, priority=priority))
    in_order = ["1.2.2.96.1", "1.2.2.97.1", "1.2.1.96.1", "1.2.1.97.1", "1.2.0.96.1"]
    assert [d.sop_instance_uid for d in bench.due(T0 + 9)] == in_order
    assert [d.sop_instance_uid for d in outbox.take_due(bench.db, "pacs", T0 + 9, 2)] == in_order[:2]
    assert [d.sop_instance_uid for d in bench.take(T0 + 9)] == in_order


def test_what_is_superseded_while_its_destination_is_down_comes_before_what_supersedes_it(bench: Bench) -> None:
    """Else an old negative report would arrive minutes after the new positive one, and stand as the last word."""
    study_id = bench.arrive()
    bench.complete(T0)
    bench.finish(bench.claim(T0), make_result(), T0)
    for n in range(4):
        for d in bench.take(T0 + n):
            outbox.delivery_failed(bench.db, d.id, outbox.Failure(None, "unreachable", T0 + n + 1), T0 + n)
    for d in bench.take(T0 + 4):
        outbox.delivery_failed(bench.db, d.id, outbox.Failure(None, "unreachable", T0 + 300), T0 + 4)
    analysis.request_reanalysis(bench.db, study_id, T0 + 5)
    bench.finish(bench.claim(T0 + 5), make_result(), T0 + 6)
    in_order = ["1.2.3.96.1", "1.2.3.97.1", "1.2.3.96.2", "1.2.3.97.2"]
    for now in (T0 + 6, T0 + 12):
        sent = bench.take(now)
        assert [(d.sop_instance_uid, d.queued_at) for d in sent] == list(
            zip(in_order, (T0, T0, T0 + 6, T0 + 6), strict=True)
        )
        for d in sent:
            outbox.delivery_failed(bench.db, d.id, outbox.Failure(None, "unreachable", now + 5), now)


def test_no_destination_queues_nothing(bench: Bench) -> None:
    study_id = bench.arrive()
    bench.complete(T0 + 5)
    bench.finish(bench.claim(T0 + 6), make_result(), T0 + 7, ())
    assert queries.pending_deliveries(bench.db) == 0
    assert len(queries.show(bench.db, study_id)["objects"]) == 2
    assert analysis.claim_study(bench.db, T0 + 8) is None


def test_a_message_that_a_later_analysis_has_superseded_is_not_sent_any_more(bench: Bench) -> None:
    """Else a message that was waiting would come after its correction, and stand as the newest truth."""
    study_id = bench.arrive("1.2.3")
    bench.complete(T0)
    for run in (1, 2):
        claim = bench.claim(T0 + 10 * run)
        objects = (bench.write(claim, "report", ("ris",)), bench.write(claim, "message", ("ris",)))
        analysis.record_result(bench.db, claim, make_result(Outcome.NEGATIVE, 0.1), analysis.Outgoing(objects, T0))
        if run == 1:
            report, message = bench.take(T0, "ris")
            assert fail(bench, report.id)
            assert fail(bench, message.id)
            analysis.request_reanalysis(bench.db, study_id, T0)
    sent = bench.take(T0 + 100, "ris")
    assert [(d.kind, d.sop_instance_uid[-1]) for d in sent] == [("report", "1"), ("report", "2"), ("message", "2")]
    (withdrawn,) = [r for r in queries.deliveries(bench.db, ["ris"], everything=True) if r.state == "given up"]
    assert (withdrawn.kind, withdrawn.detail, withdrawn.superseded) == ("message", outbox.WITHDRAWN, True)
    assert queries.given_up_deliveries(bench.db) == 0
    assert [r for r in queries.deliveries(bench.db, ["ris"], everything=False) if r.state == "given up"] == []
    assert outbox.resend_given_up(bench.db, ["ris"], T0 + 101) == 0
