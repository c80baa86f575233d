"""Completion, analysis, late slices and retries: real database and files, a clock that the test moves, no network."""

import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from bench import Bench
from pydicom import dcmread

from triage.errors import ConflictingInstance, MismatchedInstance, NoResources, UnreadableInstance
from triage.net.scp import Received
from triage.reception import receive
from triage.records import Outcome, StudyState
from triage.store import analysis, queries, reception
from triage.worker import loop, run_one

Phantom = Callable[..., list[Path]]


def test_a_study_goes_from_its_images_to_queued_objects(bench: Bench, phantom_files: Phantom) -> None:
    bench.send(phantom_files())
    assert bench.row().state is StudyState.RECEIVING
    assert bench.complete(2.9) == 0
    assert bench.complete(0.2) == 1
    assert run_one(bench.worker)
    assert not run_one(bench.worker)
    row = bench.row()
    assert (row.state, row.outcome) == (StudyState.ANALYSED, Outcome.POSITIVE)
    assert row.demonstration
    kinds = [dcmread(d.path).Modality for d in bench.due()]
    assert kinds[0] == "SR"
    assert kinds.count("OT") >= 2
    assert (kinds.count("SR"), kinds.count("KO"), len(set(kinds))) == (1, 1, 3)


def test_an_open_association_keeps_its_series_open(bench: Bench, phantom_files: Phantom) -> None:
    reception.association_opened(bench.db, "assoc", "CT01", bench.now)
    for path in phantom_files():
        bench.arrive(path)
    assert bench.complete(600.0) == 0
    reception.association_closed(bench.db, "assoc", bench.now)
    assert bench.complete(0.0) == 1


def test_a_scanner_that_sends_slowly_gets_three_times_its_own_pause(bench: Bench, phantom_files: Phantom) -> None:
    for path in phantom_files():
        bench.now += 5.0
        bench.send([path], pause_s=0.0)
    assert bench.complete(14.9) == 0
    assert bench.complete(0.2) == 1


def test_a_missing_slice_is_waited_for_until_the_limit(bench: Bench, phantom_files: Phantom) -> None:
    paths = phantom_files()
    bench.send([*paths[:10], *paths[11:]])
    assert bench.complete(59.0) == 0
    assert bench.complete(1.1) == 1
    run_one(bench.worker)
    details = queries.show(bench.db, bench.row().study_id)
    assert details["analyses"][0]["missing"] == 1


def test_late_slices_make_a_new_result_that_names_the_old_one(bench: Bench, phantom_files: Phantom) -> None:
    paths = phantom_files()
    bench.send(paths[:20])
    bench.complete(4.0)
    run_one(bench.worker)
    (first, *_) = [dcmread(d.path) for d in bench.due()]
    bench.now += 3600.0
    bench.send(paths[20:])
    assert bench.complete(4.0) == 1  # the hour between the two is no pause of the series
    run_one(bench.worker)
    reports = [ds for ds in (dcmread(d.path) for d in bench.due()) if ds.Modality == "SR"]
    (second,) = [ds for ds in reports if ds.SOPInstanceUID != first.SOPInstanceUID]
    (study,) = second.PredecessorDocumentsSequence
    assert study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    runs = queries.show(bench.db, bench.row().study_id)["analyses"]
    assert sorted(a["run"] for a in runs) == [1, 2]


def test_a_late_series_that_changes_nothing_makes_no_second_result(bench: Bench, phantom_files: Phantom) -> None:
    bench.send(phantom_files())
    bench.complete(4.0)
    run_one(bench.worker)
    before = {d.sop_instance_uid for d in bench.due()}
    (extra,) = phantom_files(2, 1)
    ds = dcmread(extra)
    ds.StudyInstanceUID = dcmread(phantom_files()[0]).StudyInstanceUID
    ds.SeriesDescription, ds.ImageType = "Topogram", ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ds.save_as(extra)
    bench.send([extra])
    assert bench.complete(4.0) == 1
    assert run_one(bench.worker)
    assert {d.sop_instance_uid for d in bench.due()} == before
    assert bench.row().state is StudyState.ANALYSED
    verdicts = queries.show(bench.db, bench.row().study_id)["series"]
    (topogram,) = [v for v in verdicts if v["description"] == "Topogram"]
    assert "LOCALIZER" in str(topogram)


def test_a_scout_waits_for_its_series_and_is_then_reported(bench: Bench, phantom_files: Phantom) -> None:
    bench.send(phantom_files(n_slices=3))
    bench.complete(4.0)
    run_one(bench.worker)
    assert bench.row().state is StudyState.READY
    assert not run_one(bench.worker)
    bench.now += 60.0
    assert run_one(bench.worker)
    row = bench.row()
    assert (row.state, row.outcome) == (StudyState.NOT_ANALYSED, Outcome.NOT_ANALYSED)
    assert "3 slices" in row.reason
    (delivery,) = bench.due()
    assert "Undetermined" in str(dcmread(delivery.path))


def test_reanalysis_makes_a_second_run_of_the_same_images(bench: Bench, phantom_files: Phantom) -> None:
    bench.send(phantom_files())
    bench.complete(4.0)
    run_one(bench.worker)
    analysis.request_reanalysis(bench.db, bench.row().study_id, bench.now)
    assert run_one(bench.worker)
    assert len(queries.show(bench.db, bench.row().study_id)["analyses"]) == 2


def test_an_unexpected_fault_is_tried_again_and_then_told(bench: Bench, phantom_files: Phantom) -> None:
    bench.send(phantom_files())
    bench.complete(4.0)
    broken = replace(bench.worker, tools=replace(bench.worker.tools, precision="no such precision"))
    for _ in range(bench.worker.config.analysis.max_attempts):
        assert run_one(broken)
        bench.now += 3600.0
    row = bench.row()
    assert row.state is StudyState.NOT_ANALYSED
    assert "internal fault" in row.reason
    assert len(bench.due()) == 1


def test_an_abandoned_analysis_records_nothing_and_is_taken_up_again(bench: Bench, phantom_files: Phantom) -> None:
    bench.send(phantom_files())
    bench.complete(4.0)
    bench.worker.abandoned.set()
    assert run_one(bench.worker)
    assert (bench.due(), bench.row().state) == ([], StudyState.READY)
    bench.worker.abandoned.clear()
    assert run_one(bench.worker)
    assert bench.row().outcome is Outcome.POSITIVE


def test_a_database_that_is_locked_at_the_end_costs_no_attempt_and_loses_nothing(
    bench: Bench, phantom_files: Phantom
) -> None:
    """The result cannot be recorded and the claim cannot be given back; the next step takes the study up again."""
    bench.send(phantom_files())
    bench.complete(4.0)
    locked = sqlite3.connect(bench.db.root / "triage.db", isolation_level=None)
    locking = replace(bench.worker, tools=replace(bench.worker.tools, clock=lambda: lock(locked, bench)))
    with pytest.raises(NoResources):
        run_one(locking)
    locked.execute("ROLLBACK")
    assert bench.row().state is StudyState.ANALYSING
    assert run_one(replace(locking, tools=bench.worker.tools))
    assert bench.row().outcome is Outcome.POSITIVE
    locked.close()


def lock(connection: sqlite3.Connection, bench: Bench) -> float:
    """A clock that locks the database at its second look, which is after the claim."""
    if bench.row().state is StudyState.ANALYSING and not connection.in_transaction:
        connection.execute("BEGIN IMMEDIATE")
    return bench.now


def test_a_loop_outlives_what_its_step_raises_and_ends_at_the_stop() -> None:
    stopping, wake = threading.Event(), threading.Event()
    steps: list[int] = []

    def step() -> bool:
        steps.append(len(steps))
        if len(steps) == 1:
            wake.set()
            raise OSError("unexpected")
        if len(steps) == 2:
            return True
        stopping.set()
        wake.set()
        return False

    loop(step, stopping, wake)
    assert steps == [0, 1, 2]


def test_a_study_that_stops_the_node_each_time_is_given_up(bench: Bench, phantom_files: Phantom) -> None:
    """A claim whose process died stays claimed; the next start releases it, and it does not go on for ever."""
    bench.send(phantom_files())
    bench.complete(4.0)
    for _ in range(bench.worker.config.analysis.max_attempts):
        assert analysis.claim_study(bench.db, bench.now) is not None
        analysis.release_claims(bench.db)
    assert run_one(bench.worker)
    assert "stopped during its analysis" in bench.row().reason


def test_the_same_instance_twice_is_one(bench: Bench, phantom_files: Phantom) -> None:
    paths = phantom_files()
    bench.send(paths + paths)
    bench.complete(4.0)
    run_one(bench.worker)
    (series,) = queries.show(bench.db, bench.row().study_id)["series"]
    assert series["n_instances"] == len(paths) == sum(1 for _ in bench.store.instances.rglob("*.dcm"))


def test_refusals_keep_what_is_stored(bench: Bench, phantom_files: Phantom, tmp_path: Path) -> None:
    (path, *_) = phantom_files()
    bench.arrive(path)
    ds = dcmread(path)
    ds.InstanceNumber = 99
    other = tmp_path / "other.dcm"
    ds.save_as(other)
    with pytest.raises(ConflictingInstance):
        bench.arrive(other)
    stored = list(bench.store.instances.rglob("*.dcm"))
    assert len(stored) == 1
    assert dcmread(stored[0]).InstanceNumber != 99

    spooled = bench.store.spool / "tmp-x.dcm"
    spooled.write_bytes(path.read_bytes())
    with pytest.raises(MismatchedInstance):
        receive(bench.receiver, Received(spooled, str(ds.SOPClassUID), "1.2.3", "assoc", "CT01"))
    spooled.write_bytes(b"no DICOM")
    with pytest.raises(UnreadableInstance):
        receive(bench.receiver, Received(spooled, str(ds.SOPClassUID), "1.2.3", "assoc", "CT01"))


def test_a_full_disk_and_a_stopping_node_refuse(bench: Bench, phantom_files: Phantom) -> None:
    (path, *_) = phantom_files()
    bench.receiver = replace(bench.receiver, disk_reserve_bytes=1 << 60)
    with pytest.raises(NoResources, match="disk_reserve_mb"):
        bench.arrive(path)
    bench.receiver = replace(bench.receiver, disk_reserve_bytes=0, is_stopping=lambda: True)
    with pytest.raises(NoResources, match="stopping"):
        bench.arrive(path)
    assert queries.worklist(bench.db, bench.now, everything=True) == []
