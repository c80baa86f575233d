from store.store_bench import T0, Bench, make_result

from triage.records import DeliveryState, Outcome, Priority
from triage.store import analysis, outbox, queries


def states(bench: Bench, study_id: int) -> list[tuple[str, str]]:
    return [
        (d["destination"], d["state"])
        for o in queries.show(bench.db, study_id)["objects"]
        for d in o["deliveries"]
    ]


def due(bench: Bench, now: float, destination: str = "pacs") -> list[outbox.Delivery]:
    return outbox.due_deliveries(bench.db, destination, now, 50)


def test_an_accepted_object_is_done(bench: Bench) -> None:
    study_id = bench.analysed("1.2.3", T0, make_result(Outcome.NEGATIVE, 0.1))
    (delivery,) = due(bench, T0)
    assert (delivery.attempts, delivery.queued_at, delivery.study_id) == (0, T0, study_id)
    assert delivery.path.read_bytes() == b"report"
    assert queries.pending_deliveries(bench.db) == 1
    outbox.delivery_accepted(bench.db, delivery.id, 0, T0 + 1)
    assert due(bench, T0 + 1e6) == []
    assert queries.pending_deliveries(bench.db) == 0
    assert states(bench, study_id) == [("pacs", DeliveryState.ACCEPTED)]


def test_a_failed_object_is_tried_again_under_the_same_uid(bench: Bench) -> None:
    study_id = bench.analysed("1.2.3", T0, make_result(Outcome.NEGATIVE, 0.1))
    (first,) = due(bench, T0)
    outbox.delivery_failed(bench.db, first.id, outbox.Failure(0xA700, "refused: out of resources", T0 + 6), T0 + 1)
    assert due(bench, T0 + 5.9) == []
    (second,) = due(bench, T0 + 6)
    assert (second.attempts, second.queued_at) == (1, T0)
    assert second.sop_instance_uid == first.sop_instance_uid
    (told,) = queries.show(bench.db, study_id)["objects"][0]["deliveries"]
    assert (told["status"], told["detail"]) == (0xA700, "refused: out of resources")


def test_a_delivery_is_given_up_and_resent(bench: Bench) -> None:
    study_id = bench.analysed("1.2.3", T0, make_result(Outcome.NEGATIVE, 0.1))
    (first,) = due(bench, T0)
    outbox.delivery_failed(bench.db, first.id, outbox.Failure(None, "unreachable", None), T0 + 1)
    assert due(bench, T0 + 1e6) == []
    assert states(bench, study_id) == [("pacs", DeliveryState.GIVEN_UP)]
    assert outbox.resend(bench.db, study_id, ["pacs"], T0 + 100) == 1
    (again,) = due(bench, T0 + 100)
    assert (again.sop_instance_uid, again.attempts, again.queued_at) == (first.sop_instance_uid, 0, T0 + 100)


def test_a_late_failure_does_not_undo_an_acceptance(bench: Bench) -> None:
    study_id = bench.analysed("1.2.3", T0, make_result(Outcome.NEGATIVE, 0.1))
    (delivery,) = due(bench, T0)
    outbox.delivery_accepted(bench.db, delivery.id, 0, T0 + 1)
    outbox.delivery_failed(bench.db, delivery.id, outbox.Failure(None, "unreachable", T0 + 9), T0 + 2)
    assert states(bench, study_id) == [("pacs", DeliveryState.ACCEPTED)]


def test_one_destination_knows_nothing_of_another(bench: Bench) -> None:
    bench.arrive()
    bench.complete(T0 + 5)
    bench.finish(bench.claim(T0 + 6), make_result(Outcome.NEGATIVE, 0.1), T0 + 7, ("pacs", "dead"))
    (delivery,) = due(bench, T0 + 7, "dead")
    outbox.delivery_failed(bench.db, delivery.id, outbox.Failure(None, "unreachable", T0 + 300), T0 + 8)
    assert due(bench, T0 + 8, "dead") == []
    assert len(due(bench, T0 + 8, "pacs")) == 1


def test_resend_reaches_destinations_configured_since(bench: Bench) -> None:
    study_id = bench.analysed("1.2.3", T0, make_result())
    for delivery in due(bench, T0):
        outbox.delivery_accepted(bench.db, delivery.id, 0, T0 + 1)
    assert outbox.resend(bench.db, study_id, ["pacs", "archive"], T0 + 100) == 4
    assert [d.sop_instance_uid for d in due(bench, T0 + 100)] == ["1.2.3.96.1", "1.2.3.97.1"]
    assert [d.sop_instance_uid for d in due(bench, T0 + 100, "archive")] == ["1.2.3.96.1", "1.2.3.97.1"]
    assert outbox.resend(bench.db, study_id, [], T0 + 101) == 0
    assert outbox.resend(bench.db, 77, ["pacs"], T0 + 101) == 0


def test_resend_sends_what_stands_now(bench: Bench) -> None:
    study_id = bench.analysed("1.2.3", T0, make_result())
    bench.arrive("1.2.3", T0 + 60)
    bench.complete(T0 + 70)
    bench.finish(bench.claim(T0 + 71), make_result(Outcome.NEGATIVE, 0.1), T0 + 72)
    for delivery in due(bench, T0 + 72):
        outbox.delivery_accepted(bench.db, delivery.id, 0, T0 + 73)
    assert outbox.resend(bench.db, study_id, ["pacs"], T0 + 100) == 1
    assert [d.sop_instance_uid for d in due(bench, T0 + 100)] == ["1.2.3.96.2"]


def test_urgent_results_leave_first_then_in_order(bench: Bench) -> None:
    for i, (outcome, priority) in enumerate(
        [(Outcome.NEGATIVE, Priority.ROUTINE), (Outcome.POSITIVE, Priority.REVIEW), (Outcome.POSITIVE, Priority.URGENT)]
    ):
        bench.analysed(f"1.2.{i}", T0 + i, make_result(outcome, priority=priority))
    sent = [d.sop_instance_uid for d in due(bench, T0 + 9)]
    assert sent == ["1.2.2.96.1", "1.2.2.97.1", "1.2.1.96.1", "1.2.1.97.1", "1.2.0.96.1"]
    assert [d.sop_instance_uid for d in outbox.due_deliveries(bench.db, "pacs", T0 + 9, 2)] == sent[:2]


def test_no_destination_queues_nothing(bench: Bench) -> None:
    study_id = bench.arrive()
    bench.complete(T0 + 5)
    bench.finish(bench.claim(T0 + 6), make_result(), T0 + 7, ())
    assert queries.pending_deliveries(bench.db) == 0
    assert len(queries.show(bench.db, study_id)["objects"]) == 2
    assert analysis.claim_study(bench.db, T0 + 8) is None
