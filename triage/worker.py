"""Claim a ready study, run the pipeline, record the result and queue its objects; decide when a series is complete.

Every step is a transition in the database, so the process may be killed between any two and started again.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from triage.config import Completion, Config
from triage.dicom.equipment import NodeIdentity
from triage.dicom.geometry import count_missing
from triage.dicom.objects import ResultObject, build_objects
from triage.dicom.selection import select
from triage.dicom.sources import Sources
from triage.errors import NoResources, StudyError
from triage.pipeline import Analysis, StudyInput, Tools, analyse_study, read_studies
from triage.records import Outcome, Priority, Result, Selection
from triage.store import analysis as transitions
from triage.store.db import Database
from triage.store.files import Store

log = logging.getLogger(__name__)

PAUSE_FACTOR = 3.0
"""A series must have been quiet for this many times the longest pause between its own arrivals: many scanners send one
slice an association, minutes apart while they reconstruct."""

RETRY_S = 10.0
"""Pause before an analysis that failed unexpectedly is tried again; doubled each time."""


@dataclass(frozen=True, slots=True)
class Worker:
    """What the worker works with."""

    config: Config
    db: Database
    store: Store
    tools: Tools
    node: NodeIdentity
    abandoned: threading.Event = field(default_factory=threading.Event)
    """Set when the node stops without waiting any longer: nothing may be recorded then, the next start begins anew."""
    unended: threading.Event = field(default_factory=threading.Event)
    """Set while a claim has not been ended in the database, as when that could not be written."""


def complete_series(db: Database, completion: Completion, now: float) -> int:
    """Mark every series complete that is, and every study ready whose series all are.

    A series is complete when no association that carried it is open, it has been quiet for the longer of `quiet_s` and
    three times its longest own pause, and no slice is missing; with a slice missing, after `max_wait_s`, which also
    limits the other waits.

    Args:
        db: The database.
        completion: The times.
        now: Seconds since the epoch.

    Returns:
        Number of studies made ready.
    """
    for series in transitions.receiving_series(db):
        if series.open_associations:
            continue
        quiet_s = now - series.last_arrival_at
        wanted_s = max(completion.quiet_s, PAUSE_FACTOR * series.longest_pause_s)
        if quiet_s < min(wanted_s, completion.max_wait_s):
            continue
        missing = count_missing(series.positions_mm, series.instance_numbers)
        if missing and quiet_s < completion.max_wait_s:
            continue
        if transitions.series_complete(db, series.series_id, series.last_arrival_at, now):
            log.info(
                "series_complete study=%d series=%d slices=%d missing=%d quiet_s=%.1f",
                series.study_id,
                series.series_id,
                len(series.instance_numbers),
                missing,
                quiet_s,
            )
    ready = transitions.ready_studies(db, now)
    return len(ready)


def loop(step: Callable[[], object], stopping: threading.Event, wake: threading.Event) -> None:
    """Repeat a step until the stop: at once while it finds work, else when it is woken.

    Args:
        step: Does one piece of work; true when there may be more.
        stopping: Ends the loop after the step it is at.
        wake: Set by the clock, and at the stop.
    """
    while not stopping.is_set():
        try:
            busy = step()
        except Exception:  # border: a loop must outlive whatever one step meets
            log.exception("step_failed thread=%r", threading.current_thread().name)
            busy = False
        if not busy:
            wake.wait()
            wake.clear()


def run_one(worker: Worker) -> bool:
    """Analyse one ready study, if there is one.

    Args:
        worker: What to work with.

    Returns:
        Whether there was one.
    """
    if worker.unended.is_set():
        transitions.release_claims(worker.db)
        worker.unended.clear()
    claim = transitions.claim_study(worker.db, worker.tools.clock())
    if claim is None:
        return False
    worker.unended.set()
    _run(worker, claim)
    worker.unended.clear()
    return True


def _run(worker: Worker, claim: transitions.Claim) -> None:
    now = worker.tools.clock()
    try:
        _analyse(worker, claim)
    except (NoResources, OSError) as e:  # the node's fault, not the study's: it costs no attempt
        log.error("analysis_waits study=%d error=%s", claim.study_id, type(e).__name__)
        transitions.postpone(worker.db, claim, now + RETRY_S, now)
    except Exception as e:  # border: one study must not stop the node
        if worker.abandoned.is_set():
            transitions.postpone(worker.db, claim, now, now)
            return
        log.exception("analysis_failed study=%d run=%d attempt=%d", claim.study_id, claim.run, claim.attempts)
        _retry_or_end(worker, claim, type(e).__name__)


def _analyse(worker: Worker, claim: transitions.Claim) -> None:
    now = worker.tools.clock()
    if claim.attempts > worker.config.analysis.max_attempts:
        _retry_or_end(worker, claim, "the node stopped during its analysis")
        return
    study = _study_input(claim)
    selection = select(study.instances)
    if _changes_nothing(claim, selection):
        transitions.record_unchanged(worker.db, claim, selection.verdicts, now)
        log.info("late_series_changes_nothing study=%d", claim.study_id)
        return
    if selection.series_uid is None and now < (until := claim.last_arrival_at + worker.config.completion.max_wait_s):
        transitions.postpone(worker.db, claim, until, now)  # a scout often comes minutes before its head series
        return
    analysis = analyse_study(study, worker.tools, selection)
    analysis = replace(analysis, result=replace(analysis.result, run=claim.run))
    _record(worker, claim, analysis)


def _study_input(claim: transitions.Claim) -> StudyInput:
    studies = read_studies(claim.instances)
    if not studies:
        return StudyInput(claim.study_uid, ())
    return replace(studies[0], study_uid=claim.study_uid)


def _changes_nothing(claim: transitions.Claim, selection: Selection) -> bool:
    """Whether the new instances leave the earlier analysis as it is: the same slices would be judged again."""
    previous = claim.previous
    if previous is None or claim.forced:
        return False
    chosen = {i.sop_instance_uid for i in selection.instances}
    return chosen == set(previous.instance_uids)


def _record(worker: Worker, claim: transitions.Claim, analysis: Analysis) -> None:
    """Write the objects, then commit result, objects and outbox rows together.

    Raises:
        StudyError: The node has stopped waiting for this analysis; its decoder may have gone before it ended.
    """
    if worker.abandoned.is_set():
        raise StudyError("abandoned at the stop")
    predecessor = claim.previous.report_path if claim.previous is not None else None
    if predecessor is not None and not predecessor.exists():
        log.error("predecessor_missing study=%d run=%d", claim.study_id, claim.run)
        predecessor = None
    sources = replace(analysis.sources, predecessor=predecessor)
    objects = build_objects(analysis.result, sources, worker.node)
    written = [_write(worker.store, claim.study_uid, o) for o in objects]
    destinations = [d.name for d in worker.config.destinations]
    transitions.record_result(
        worker.db,
        claim,
        analysis.result,
        transitions.Outgoing(tuple(written), tuple(destinations), worker.tools.clock(), analysis.chosen),
    )
    r = analysis.result
    log.info(
        "study_analysed study=%d run=%d outcome=%s priority=%s slices=%d set_aside=%d objects=%d "
        "duration_s=%.1f device=%s",
        claim.study_id,
        claim.run,
        r.outcome.value.replace(" ", "_"),
        r.priority,
        r.n_slices,
        len(r.set_aside),
        len(written),
        r.duration_s,
        r.device.split(" ")[0] or "none",
    )


def _write(store: Store, study_uid: str, result_object: ResultObject) -> transitions.NewObject:
    path: Path = store.write_result(study_uid, result_object.sop_instance_uid, result_object.write)
    return transitions.NewObject(
        kind=result_object.kind,
        sop_class_uid=result_object.sop_class_uid,
        sop_instance_uid=result_object.sop_instance_uid,
        series_uid=result_object.series_uid,
        path=path,
    )


def _retry_or_end(worker: Worker, claim: transitions.Claim, fault: str) -> None:
    """Try again later, or end as not analysed once the attempts are used up; a report still goes out if it can."""
    now = worker.tools.clock()
    if claim.attempts < worker.config.analysis.max_attempts:
        transitions.retry_analysis(worker.db, claim, fault, now + RETRY_S * 2.0 ** (claim.attempts - 1), now)
        return
    result = Result(
        study_uid=claim.study_uid,
        outcome=Outcome.NOT_ANALYSED,
        priority=Priority.ROUTINE,
        run=claim.run,
        reason=f"internal fault ({fault}) in {claim.attempts} attempts; see the node's log",
        model=worker.tools.pack.identity,
        started_at=now,
        duration_s=0.0,
    )
    try:
        _record(worker, claim, Analysis(result, Sources(claim.instances, None)))
    except Exception:  # border: the fault may lie in building the report itself
        log.exception("report_failed study=%d run=%d", claim.study_id, claim.run)
        transitions.record_result(worker.db, claim, result, transitions.Outgoing((), (), worker.tools.clock()))
