"""Completion, analysis, late slices and retries: real database and files, a clock that the test moves, no network."""

import json
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from bench import PACS, Bench
from pydicom import Dataset, dcmread
from sqlalchemy import text

from triage.config import Destination, Hl7Output, WebhookOutput
from triage.errors import ConflictingInstance, MismatchedInstance, NoResources, UnreadableInstance
from triage.net.scp import Received
from triage.nn.pack import load_pack
from triage.reception import receive
from triage.records import Outcome, StudyState
from triage.store import analysis, queries, reception
from triage.worker import Worker, loop, run_one

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


def configured(bench: Bench, **sections: object) -> Worker:
    """The bench's worker with other outputs."""
    return replace(bench.worker, config=bench.worker.config.model_copy(update=sections))


def due_kinds(bench: Bench, destination: str) -> list[str]:
    """Kinds of what is due to one output; one run only."""
    return [d.kind for d in bench.due(destination)]


def make_negative(bench: Bench, blind_pack: Path) -> Worker:
    """The same worker after a model that sees less was activated."""
    return replace(bench.worker, tools=replace(bench.worker.tools, pack=load_pack(blind_pack)))


def peer(name: str, **values: object) -> Destination:
    return PACS.model_copy(update={"name": name, **values})


def test_each_output_gets_what_it_wants_and_a_message_of_its_own(
    bench: Bench, phantom_files: Phantom, tmp_path: Path
) -> None:
    ris = Hl7Output(name="ris", host="127.0.0.1", port=1)
    board = WebhookOutput(name="board", url="http://127.0.0.1:1/")
    bench.worker = configured(
        bench,
        destinations=(peer("pacs"), peer("reports", objects=("report",)), peer("pictures", objects=("capture",))),
        hl7=(ris,),
        webhooks=(board,),
    )
    bench.send(phantom_files())
    bench.complete(4.0)
    run_one(bench.worker)
    assert set(due_kinds(bench, "pacs")) == {"report", "key_object", "capture"}
    assert due_kinds(bench, "reports") == ["report"]
    assert set(due_kinds(bench, "pictures")) == {"capture"}
    (to_ris,) = bench.due("ris")
    assert (to_ris.kind, to_ris.path.suffix) == ("message", ".message")
    assert to_ris.path.read_bytes().startswith(b"MSH|")
    (to_board,) = bench.due("board")
    assert json.loads(to_board.path.read_bytes())["outcome"] == "positive"
    assert to_board.sop_instance_uid != to_ris.sop_instance_uid


def test_who_wants_positives_gets_a_correction_of_them_and_nothing_else(
    bench: Bench, phantom_files: Phantom, blind_pack: Path
) -> None:
    board = WebhookOutput(name="board", url="http://127.0.0.1:1/", only_positive=True)
    bench.worker = configured(bench, destinations=(PACS, peer("alarms", only_positive=True)), webhooks=(board,))
    blind = make_negative(bench, blind_pack)
    bench.send(phantom_files(1))
    bench.complete(4.0)
    run_one(blind)
    assert due_kinds(bench, "pacs") == ["report"]
    assert (due_kinds(bench, "alarms"), due_kinds(bench, "board")) == ([], [])

    bench.send(phantom_files(2))
    bench.complete(4.0)
    run_one(bench.worker)
    n = len(due_kinds(bench, "alarms"))
    assert due_kinds(bench, "board") == ["message"]
    analysis.request_reanalysis(bench.db, 2, bench.now)
    run_one(blind)
    assert due_kinds(bench, "alarms")[n:] == ["report", "rejection"]
    (_, correction) = bench.due("board")
    assert json.loads(correction.path.read_bytes())["outcome"] == "negative"


def test_a_new_analysis_rejects_what_the_former_ones_sent_and_each_only_once(
    bench: Bench, phantom_files: Phantom
) -> None:
    bench.send(phantom_files())
    bench.complete(4.0)
    run_one(bench.worker)
    sent: list[set[str]] = []
    for _ in range(2):
        rejectable = {d.sop_instance_uid for d in bench.due() if d.kind in ("capture", "key_object")}
        sent.append(rejectable.difference(*sent))
        analysis.request_reanalysis(bench.db, 1, bench.now)
        run_one(bench.worker)
    rejections = [dcmread(d.path) for d in bench.due() if d.kind == "rejection"]
    assert [rejected_uids(ds) for ds in rejections] == sent
    assert all(sent)


def rejected_uids(ds: Dataset) -> set[str]:
    return {
        str(instance.ReferencedSOPInstanceUID)
        for study in ds.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }


def test_objects_from_before_series_were_stored_are_rejected_too(bench: Bench, phantom_files: Phantom) -> None:
    bench.send(phantom_files())
    bench.complete(4.0)
    run_one(bench.worker)
    old = [d for d in bench.due() if d.kind in ("capture", "key_object")]
    with bench.db.writing() as connection:
        connection.execute(text("UPDATE result_object SET series_uid = ''"))
    old[0].path.unlink()  # retention had it: nothing says any more where it belongs
    analysis.request_reanalysis(bench.db, 1, bench.now)
    run_one(bench.worker)
    (rejection,) = [dcmread(d.path) for d in bench.due() if d.kind == "rejection"]
    assert rejected_uids(rejection) == {d.sop_instance_uid for d in old[1:]}


def test_with_nothing_rejected_the_new_report_is_the_link(bench: Bench, phantom_files: Phantom) -> None:
    bench.worker = replace(bench.worker, node=replace(bench.worker.node, rejects_superseded=False))
    bench.send(phantom_files())
    bench.complete(4.0)
    run_one(bench.worker)
    analysis.request_reanalysis(bench.db, 1, bench.now)
    run_one(bench.worker)
    kinds = due_kinds(bench, "pacs")
    assert "rejection" not in kinds
    assert kinds.count("report") == 2


def test_a_picture_that_cannot_be_made_costs_no_other_object(
    bench: Bench, phantom_files: Phantom, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_drawing(*_: object) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr("PIL.ImageDraw.Draw", no_drawing)
    bench.worker = configured(bench, webhooks=(WebhookOutput(name="board", url="http://127.0.0.1:1/"),))
    bench.send(phantom_files())
    bench.complete(4.0)
    run_one(bench.worker)
    assert due_kinds(bench, "pacs") == ["report", "key_object"]
    assert due_kinds(bench, "board") == ["message"]
    assert bench.row().outcome is Outcome.POSITIVE
    assert "object_left_out study=1 run=1 option=captures" in caplog.text


def test_a_message_that_cannot_be_made_costs_no_report(
    bench: Bench, phantom_files: Phantom, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_json(*_: object, **__: object) -> None:
        raise RuntimeError("no JSON")

    board = WebhookOutput(name="board", url="http://127.0.0.1:1/")
    bench.worker = configured(bench, webhooks=(board,), hl7=(Hl7Output(name="ris", host="h", port=1),))
    bench.send(phantom_files())
    bench.complete(4.0)
    with monkeypatch.context() as patched:
        patched.setattr("hl7.Message.__init__", no_json)
        run_one(bench.worker)
    assert "message_left_out study=1 run=1 output=ris" in caplog.text
    assert (due_kinds(bench, "ris"), due_kinds(bench, "board")) == ([], ["message"])
    assert "report" in due_kinds(bench, "pacs")


def test_the_objects_know_when_the_images_came_in(bench: Bench, phantom_files: Phantom) -> None:
    began = bench.now
    bench.send(phantom_files(), pause_s=1.0)
    ended = bench.now
    bench.complete(60.0)
    claim = analysis.claim_study(bench.db, bench.now)
    assert claim is not None
    assert (claim.first_arrival_at, claim.last_arrival_at) == (began + 1.0, ended)


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


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that is opened after this does not wait long for a lock."""
    monkeypatch.setattr("triage.store.db.BUSY_S", 0.5)


def test_a_database_that_is_locked_at_the_end_costs_no_attempt_and_loses_nothing(
    impatience: None, bench: Bench, phantom_files: Phantom
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
