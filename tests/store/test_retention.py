from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, event
from store.store_bench import T0, Bench, make_result

from triage.errors import NoResources, StudyError
from triage.records import Outcome, StudyState
from triage.store import analysis, commitment, outbox, queries, reception, retention

DAY_S = 86400.0
LATER = T0 + 20 * DAY_S
BEFORE = LATER - 14 * DAY_S


def delivered(bench: Bench, study: str = "1.2.3", now: float = T0) -> int:
    study_id = bench.analysed(study, now, make_result(Outcome.NEGATIVE, 0.1))
    bench.deliver(now)
    return study_id


def images(bench: Bench) -> int:
    return len(list(bench.store.root.rglob("instances/**/*.dcm")) + list(bench.store.trash.rglob("*.dcm")))


def delete(bench: Bench) -> int:
    return retention.delete_expired_images(bench.db, bench.store, BEFORE, LATER)


def test_images_of_old_studies_go_and_results_stay(bench: Bench) -> None:
    old = delivered(bench)
    delivered(bench, "1.2.4", BEFORE + 1)
    assert images(bench) == 2
    assert delete(bench) == 1
    assert images(bench) == 1
    details = queries.show(bench.db, old)
    assert details["study"]["images_deleted_at"] == LATER
    assert details["series"][0]["n_instances"] == 0
    assert details["series"][0]["reasons"] == ["5 mm, soft kernel"]
    assert len(list(bench.store.results.rglob("*.dcm"))) == 2
    assert delete(bench) == 0


def test_images_stay_while_a_delivery_waits(bench: Bench) -> None:
    bench.analysed("1.2.3", T0, make_result(Outcome.NEGATIVE, 0.1))
    (delivery,) = bench.take(T0)
    outbox.delivery_failed(bench.db, delivery.id, outbox.Failure(None, "unreachable", LATER), LATER - 60)
    assert delete(bench) == 0
    bench.take(LATER)  # on its way
    assert delete(bench) == 0
    outbox.delivery_failed(bench.db, delivery.id, outbox.Failure(None, "unreachable", None), LATER)
    assert delete(bench) == 1


def test_images_stay_while_commitment_is_awaited(bench: Bench) -> None:
    """What the destination turns out not to have is sent again, and its captures must be there then."""
    bench.analysed("1.2.3", T0, make_result())
    bench.deliver(LATER - 60, asks_commitment=True)
    assert delete(bench) == 0
    asked = commitment.due_for_commitment(bench.db, "pacs", LATER, 9)
    commitment.commitment_ended(bench.db, [d.id for d in asked], "accepted; nobody answered")
    assert delete(bench) == 1


def test_only_reports_outlive_their_images(bench: Bench) -> None:
    """Pictures show the patient and messages name him."""
    bench.arrive("1.2.3", T0)
    bench.complete(T0)
    claim = bench.claim(T0)
    objects = tuple(bench.write(claim, kind, ()) for kind in ("report", "capture", "message", "key_object"))
    analysis.record_result(bench.db, claim, make_result(), analysis.Outgoing(objects, T0))
    assert delete(bench) == 1
    assert [o.kind for o in objects if o.path.exists()] == ["report"]


def test_a_delivery_to_a_destination_that_is_no_more_is_no_bar(bench: Bench) -> None:
    bench.analysed("1.2.3", T0, make_result(Outcome.NEGATIVE, 0.1))
    assert queries.pending_deliveries(bench.db) == 1  # due since T0, and nobody tries
    assert delete(bench) == 1


def test_images_stay_until_the_study_has_ended(bench: Bench) -> None:
    bench.arrive("1.2.3", T0)
    assert delete(bench) == 0
    bench.complete(T0 + 5)
    assert delete(bench) == 0
    bench.claim(T0 + 6)
    assert delete(bench) == 0
    assert images(bench) == 1


def test_what_was_deleted_can_be_sent_again(bench: Bench) -> None:
    bench.arrive("1.2.3", T0, uid="1.2.3.4")
    bench.complete(T0)
    bench.finish(bench.claim(T0), make_result(Outcome.NEGATIVE, 0.1), T0, ())
    assert delete(bench) == 1
    assert reception.find_instance(bench.db, "1.2.3.4") is None  # else it would pass for a duplicate
    study_id = bench.arrive("1.2.3", LATER + 1, uid="1.2.3.4")
    (row,) = queries.worklist(bench.db, LATER + 11)
    assert (row.study_id, row.waiting_s, row.state) == (study_id, 10.0, StudyState.RECEIVING)
    bench.complete(LATER + 20)
    claim = bench.claim(LATER + 21)
    assert claim.run == 2
    assert [p.exists() for p in claim.instances] == [True]


def test_a_study_without_images_is_not_analysed_again(bench: Bench) -> None:
    study_id = delivered(bench)
    delete(bench)
    with pytest.raises(StudyError, match=r"retention\.days"):
        analysis.request_reanalysis(bench.db, study_id, LATER)


def test_an_instance_that_comes_in_at_the_same_moment_is_sent_again(bench: Bench) -> None:
    """Its file is in the folder, its row is not: it must not be acknowledged, for the folder goes."""
    delivered(bench)
    incoming, arrival = bench.incoming("1.2.3", LATER)
    assert delete(bench) == 1
    with pytest.raises(NoResources):
        reception.record_instance(bench.db, incoming, arrival)
    assert images(bench) == 0


def test_a_kill_between_folder_and_row_is_finished_later(bench: Bench) -> None:
    study_id = delivered(bench)
    bench.store.discard_study_images("1.2.3")  # and then the kill: the transaction never committed
    assert images(bench) == 1
    assert delete(bench) == 1
    assert images(bench) == 0
    assert queries.show(bench.db, study_id)["study"]["images_deleted_at"] == LATER


def test_a_kill_after_the_rows_are_gone_leaves_no_picture(bench: Bench) -> None:
    """The next call would not look for them."""
    study_id = bench.analysed("1.2.3", T0, make_result())
    bench.deliver(T0)
    paths = [Path(o["path"]) for o in queries.show(bench.db, study_id)["objects"] if o["kind"] != "report"]
    assert [p for p in paths if p.exists()] == paths != []
    left: list[Path] = []

    def look(_connection: Connection) -> None:
        if not any(bench.store.instances.iterdir()):
            left.extend(p for p in paths if p.exists())

    event.listen(Engine, "commit", look)
    try:
        assert delete(bench) == 1
    finally:
        event.remove(Engine, "commit", look)
    assert left == []


def test_files_that_no_row_names_go_once_they_are_old(bench: Bench) -> None:
    bench.arrive("1.2.3", T0)
    (kept,) = bench.store.instances.rglob("*.dcm")
    orphan = kept.with_name("orphan.dcm")
    orphan.write_bytes(b"never acknowledged")
    written = orphan.stat().st_mtime
    assert retention.delete_orphans(bench.db, bench.store, written - 1.0) == 0
    assert retention.delete_orphans(bench.db, bench.store, written + 1.0) == 1
    assert list(bench.store.instances.rglob("*.dcm")) == [kept]
