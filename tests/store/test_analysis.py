import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from sqlalchemy import select
from store.store_bench import T0, Bench, make_result

from triage.errors import StudyError
from triage.records import Outcome, Priority, SeriesVerdict, StudyState
from triage.store import analysis, outbox, queries, reception
from triage.store.schema import analysis as analysis_table


def state(bench: Bench, study_id: int) -> StudyState:
    return StudyState(queries.show(bench.db, study_id)["study"]["state"])


def runs(bench: Bench, study_id: int) -> list[tuple[int, str | None]]:
    return [(a["run"], a["outcome"]) for a in queries.show(bench.db, study_id)["analyses"]]


def test_a_series_is_complete_only_if_nothing_newer_came(bench: Bench) -> None:
    bench.arrive(now=T0)
    (series,) = analysis.receiving_series(bench.db)
    bench.arrive(now=T0 + 3)
    assert not analysis.series_complete(bench.db, series.series_id, series.last_arrival_at, T0 + 4)
    assert analysis.series_complete(bench.db, series.series_id, T0 + 3, T0 + 7)
    assert not analysis.series_complete(bench.db, series.series_id, T0 + 3, T0 + 8)  # it is already
    assert analysis.receiving_series(bench.db) == []


def test_a_study_is_ready_when_all_its_series_are(bench: Bench) -> None:
    study_id = bench.arrive(series="1.2.3.1")
    bench.arrive(series="1.2.3.2")
    first, second = analysis.receiving_series(bench.db)
    analysis.series_complete(bench.db, first.series_id, T0, T0 + 5)
    assert analysis.ready_studies(bench.db, T0 + 5) == []
    analysis.series_complete(bench.db, second.series_id, T0, T0 + 6)
    assert analysis.ready_studies(bench.db, T0 + 6) == [study_id]
    assert analysis.ready_studies(bench.db, T0 + 7) == []
    assert state(bench, study_id) is StudyState.READY


def test_who_arrived_first_is_claimed_first(bench: Bench) -> None:
    for study, now in (("1.2.5", T0 + 2), ("1.2.3", T0), ("1.2.4", T0 + 1)):
        bench.arrive(study, now)
    bench.complete(T0 + 10)
    assert [bench.claim(T0 + 11).study_uid for _ in range(3)] == ["1.2.3", "1.2.4", "1.2.5"]
    assert analysis.claim_study(bench.db, T0 + 12) is None


def test_a_claim_has_the_whole_study(bench: Bench) -> None:
    kept = []
    for i in range(3):
        incoming, arrival = bench.incoming("1.2.3", T0 + i, series=f"1.2.3.{i % 2}")
        reception.record_instance(bench.db, incoming, arrival)
        kept.append(incoming.path)
    bench.arrive("1.2.4", T0 + 5)
    bench.complete(T0 + 10)
    claim = bench.claim(T0 + 11)
    assert claim.instances == tuple(kept)
    assert (claim.run, claim.attempts, claim.last_arrival_at, claim.forced) == (1, 1, T0 + 2, False)
    assert claim.previous is None
    assert state(bench, claim.study_id) is StudyState.ANALYSING


def test_a_result_is_stored_whole(bench: Bench) -> None:
    study_id = bench.arrive(uid="1.2.3.1.1")
    bench.complete(T0 + 5)
    result = make_result()
    report, capture = bench.finish(bench.claim(T0 + 6), result, T0 + 7, ("pacs", "backup"))
    assert state(bench, study_id) is StudyState.ANALYSED
    with bench.db.reading() as connection:
        stored = connection.execute(select(analysis_table.c.result)).scalar_one()
    assert stored == json.loads(json.dumps(asdict(result)))
    details = queries.show(bench.db, study_id)
    assert [(f["label"], f["present"]) for f in details["analyses"][0]["findings"]] == [
        ("any", True), ("subdural", True), ("epidural", True), ("subarachnoid", False)]  # fmt: skip
    assert details["analyses"][0]["set_aside"][0]["reason"] == "truncated"
    assert details["series"][0]["reasons"] == ["5 mm, soft kernel"]
    for destination in ("pacs", "backup"):
        due = outbox.due_deliveries(bench.db, destination, T0 + 7, 9)
        assert [(d.sop_instance_uid, d.path) for d in due] == [(o.sop_instance_uid, o.path) for o in (report, capture)]


def test_a_study_that_cannot_be_judged_ends_with_its_reason(bench: Bench) -> None:
    study_id = bench.analysed("1.2.3", T0, make_result(Outcome.NOT_ANALYSED))
    assert state(bench, study_id) is StudyState.NOT_ANALYSED
    assert queries.show(bench.db, study_id)["analyses"][0]["reason"] == "no usable series"


def test_late_instances_start_a_run_that_supersedes(bench: Bench) -> None:
    study_id = bench.arrive(uid="1.2.3.1.1", now=T0)
    bench.complete(T0 + 5)
    report, _ = bench.finish(bench.claim(T0 + 6), make_result(), T0 + 7)
    bench.arrive(uid="1.2.3.1.2", now=T0 + 60)
    bench.complete(T0 + 70)
    claim = bench.claim(T0 + 71)
    assert claim.run == 2
    assert len(claim.instances) == 2
    assert claim.previous is not None
    assert (claim.previous.run, claim.previous.report_path) == (1, report.path)
    assert claim.previous.instance_uids == ("1.2.3.1.1",)
    assert claim.previous.result_json["outcome"] == "positive"
    bench.finish(claim, make_result(Outcome.NEGATIVE, 0.1), T0 + 72)
    newer, older = queries.show(bench.db, study_id)["analyses"]
    assert (newer["run"], newer["superseded_by"]) == (2, None)
    assert (older["run"], older["superseded_by"]) == (1, newer["id"])


def test_what_was_chosen_is_what_the_caller_says(bench: Bench) -> None:
    bench.arrive(uid="1.2.3.1.1")
    bench.arrive(uid="1.2.3.1.2")
    bench.complete(T0 + 5)
    outgoing = analysis.Outgoing((), T0 + 7, instance_uids=("1.2.3.1.2",))
    analysis.record_result(bench.db, bench.claim(T0 + 6), make_result(), outgoing)
    bench.arrive(uid="1.2.3.1.3", now=T0 + 60)
    bench.complete(T0 + 70)
    previous = bench.claim(T0 + 71).previous
    assert previous is not None
    assert previous.instance_uids == ("1.2.3.1.2",)
    assert previous.report_path is None


def test_an_instance_during_the_analysis_leads_to_another_one(bench: Bench) -> None:
    study_id = bench.arrive(now=T0)
    bench.complete(T0 + 5)
    claim = bench.claim(T0 + 6)
    bench.arrive(now=T0 + 7)
    bench.finish(claim, make_result(), T0 + 8)
    assert state(bench, study_id) is StudyState.RECEIVING
    assert queries.worklist(bench.db, T0 + 9)[0].priority is Priority.URGENT
    bench.complete(T0 + 12)
    assert bench.claim(T0 + 13).run == 2


def test_completion_during_the_analysis_waits_for_it(bench: Bench) -> None:
    study_id = bench.arrive(now=T0)
    bench.complete(T0 + 5)
    claim = bench.claim(T0 + 6)
    bench.arrive(now=T0 + 7)
    bench.complete(T0 + 12)  # complete again while the first analysis still runs
    bench.finish(claim, make_result(), T0 + 20)
    assert state(bench, study_id) is StudyState.READY
    assert bench.claim(T0 + 21).run == 2


def test_a_late_series_that_changes_nothing_leaves_the_result(bench: Bench) -> None:
    study_id = bench.analysed("1.2.3", T0, make_result())
    bench.arrive("1.2.3", T0 + 60, series="1.2.3.8")
    bench.complete(T0 + 70)
    claim = bench.claim(T0 + 71)
    assert claim.run == 2
    verdicts = (
        SeriesVerdict("1.2.3.1", True, ("5 mm",), 1, 3, "HEAD", 0.8),
        SeriesVerdict("1.2.3.8", False, ("localizer",), 1),
    )
    analysis.record_unchanged(bench.db, claim, verdicts, T0 + 72)
    assert state(bench, study_id) is StudyState.ANALYSED
    assert runs(bench, study_id) == [(1, "positive")]
    assert [s["reasons"] for s in queries.show(bench.db, study_id)["series"]] == [["5 mm"], ["localizer"]]
    bench.arrive("1.2.3", T0 + 100)
    bench.complete(T0 + 110)
    assert bench.claim(T0 + 111).run == 2  # nothing was ever stored under that number


def test_a_failed_attempt_is_repeated_under_the_same_run(bench: Bench) -> None:
    study_id = bench.arrive()
    bench.complete(T0 + 5)
    first = bench.claim(T0 + 6)
    analysis.retry_analysis(bench.db, first, "MemoryError", T0 + 16, T0 + 7)
    assert analysis.claim_study(bench.db, T0 + 15) is None
    second = bench.claim(T0 + 16)
    assert (second.run, second.attempts, second.analysis_id) == (1, 2, first.analysis_id)
    assert queries.show(bench.db, study_id)["analyses"][0]["fault"] == "MemoryError"
    bench.finish(second, make_result(), T0 + 17)
    bench.arrive(now=T0 + 60)
    bench.complete(T0 + 70)
    assert bench.claim(T0 + 71).attempts == 1  # a new analysis starts counting anew


def test_a_postponed_study_waits_and_loses_no_attempt(bench: Bench) -> None:
    bench.arrive()
    bench.complete(T0 + 5)
    analysis.postpone(bench.db, bench.claim(T0 + 6), T0 + 60, T0 + 6)
    assert analysis.claim_study(bench.db, T0 + 59) is None
    again = bench.claim(T0 + 60)
    assert (again.run, again.attempts) == (1, 1)


def test_an_instance_ends_a_postponement(bench: Bench) -> None:
    bench.arrive()
    bench.complete(T0 + 5)
    analysis.postpone(bench.db, bench.claim(T0 + 6), T0 + 60, T0 + 6)
    bench.arrive(now=T0 + 10)
    bench.complete(T0 + 15)
    assert bench.claim(T0 + 15).run == 1


def test_claims_of_a_dead_process_are_released_and_count_as_attempts(bench: Bench) -> None:
    bench.arrive()
    bench.complete(T0 + 5)
    claims = []
    for i in range(3):
        claims.append(bench.claim(T0 + 6 + i))
        analysis.release_claims(bench.db)
    assert [(c.run, c.attempts) for c in claims] == [(1, 1), (1, 2), (1, 3)]


def test_a_result_is_stored_once(bench: Bench) -> None:
    bench.arrive()
    bench.complete(T0 + 5)
    claim = bench.claim(T0 + 6)
    bench.finish(claim, make_result(), T0 + 7)
    with pytest.raises(StudyError):
        bench.finish(claim, make_result(), T0 + 8)
    assert len(outbox.due_deliveries(bench.db, "pacs", T0 + 9, 9)) == 2


def test_a_person_can_have_a_study_analysed_again(bench: Bench) -> None:
    study_id = bench.analysed("1.2.3", T0, make_result())
    analysis.request_reanalysis(bench.db, study_id, T0 + 10)
    claim = bench.claim(T0 + 11)
    assert (claim.run, claim.forced) == (2, True)
    analysis.release_claims(bench.db)
    claim = bench.claim(T0 + 12)
    assert (claim.run, claim.forced) == (2, True)  # also after a kill
    bench.finish(claim, make_result(), T0 + 13)
    assert state(bench, study_id) is StudyState.ANALYSED
    bench.arrive("1.2.3", T0 + 60)
    bench.complete(T0 + 70)
    assert not bench.claim(T0 + 71).forced


def test_a_request_during_the_analysis_is_not_lost(bench: Bench) -> None:
    study_id = bench.arrive()
    bench.complete(T0 + 5)
    claim = bench.claim(T0 + 6)
    analysis.request_reanalysis(bench.db, study_id, T0 + 7)
    bench.finish(claim, make_result(), T0 + 8)
    again = bench.claim(T0 + 9)
    assert (again.run, again.forced) == (2, True)


def test_a_request_waits_for_what_is_still_coming(bench: Bench) -> None:
    study_id = bench.arrive()
    analysis.request_reanalysis(bench.db, study_id, T0 + 1)
    assert state(bench, study_id) is StudyState.RECEIVING
    bench.complete(T0 + 5)
    assert bench.claim(T0 + 6).forced


def test_a_request_for_no_study_is_told(bench: Bench) -> None:
    with pytest.raises(StudyError, match="no study 77"):
        analysis.request_reanalysis(bench.db, 77, T0)


def test_the_newest_report_is_the_predecessor(bench: Bench) -> None:
    """An analysis whose report could not be built leaves the one before as the SR that the next one names."""
    bench.arrive()
    bench.complete(T0 + 5)
    report, _ = bench.finish(bench.claim(T0 + 6), make_result(), T0 + 7)
    bench.arrive(now=T0 + 20)
    bench.complete(T0 + 25)
    failed = make_result(Outcome.NOT_ANALYSED)
    analysis.record_result(bench.db, bench.claim(T0 + 26), failed, analysis.Outgoing((), T0 + 27))
    bench.arrive(now=T0 + 40)
    bench.complete(T0 + 45)
    previous = bench.claim(T0 + 46).previous
    assert previous is not None
    assert (previous.run, previous.report_path) == (2, report.path)


def test_what_was_given_up_is_no_link_to_what_came_before(bench: Bench) -> None:
    """A destination that has run 1, but neither report nor rejection of run 2, must get both of run 3."""
    bench.arrive()
    bench.complete(T0 + 5)
    first, capture = bench.finish(bench.claim(T0 + 6), make_result(), T0 + 7)
    bench.deliver(T0 + 7)
    bench.arrive(now=T0 + 20)
    bench.complete(T0 + 25)
    claim = bench.claim(T0 + 26)
    objects = tuple(bench.write(claim, kind, ("pacs",)) for kind in ("report", "rejection", "capture"))
    analysis.record_result(bench.db, claim, make_result(), analysis.Outgoing(objects, T0 + 27))
    for d in bench.take(T0 + 28):
        outbox.delivery_failed(bench.db, d.id, outbox.Failure(None, "unreachable", None), T0 + 28)
    bench.arrive(now=T0 + 40)
    bench.complete(T0 + 45)
    previous = bench.claim(T0 + 46).previous
    assert previous is not None
    assert previous.report_path == first.path
    assert [o.sop_instance_uid for o in previous.unrejected] == [capture.sop_instance_uid, objects[2].sop_instance_uid]


def test_a_kill_at_any_step_delivers_under_one_uid(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("killed.py")), "analysis", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    *killed, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(killed) >= 25
    assert all(life["killed"] for life in killed)
    for life in (*killed, last):
        assert life["due"] == ["1.2.3.96.1", "1.2.3.97.1"]
        assert life["contents"] == ["report", "capture"]
        assert life["queued"] in ([], life["due"])  # all of it or nothing
        assert life["run"] == (None if life["queued"] else 1)
        assert life["parts"] == []
    assert last["queued"] == last["due"]
    assert killed[-1]["queued"] == []
