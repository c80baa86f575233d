"""Claim a ready study, run the pipeline, record the result and queue its objects; decide when a series is complete.

Every step is a transition in the database, so the process may be killed between any two and started again.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from triage.config import Completion, Config
from triage.dicom.equipment import NodeIdentity
from triage.dicom.geometry import count_missing
from triage.dicom.headers import read_instance
from triage.dicom.identity import StudyIdentity, study_identity
from triage.dicom.objects import ResultObject, build_objects
from triage.dicom.selection import select
from triage.dicom.sources import Arrival, SentObject, Sources
from triage.errors import InstanceError, NoResources, StudyError
from triage.notify import outputs
from triage.notify.facts import facts_of
from triage.pipeline import Analysis, StudyInput, Tools, analyse_study, read_studies
from triage.records import ObjectKind, Outcome, Priority, Result, Selection
from triage.store import analysis as transitions
from triage.store.db import Database
from triage.store.files import Store
from triage.store.outbox import sent_before
from triage.store.routing import Situation, destinations_of

log = logging.getLogger(__name__)

PAUSE_FACTOR = 3.0
"""A series must have been quiet for this many times the longest pause between its own arrivals: many scanners send one
slice an association, minutes apart while they reconstruct."""

RETRY_S = 10.0
"""Pause before an analysis that failed unexpectedly is tried again; doubled each time."""

BESIDE_THE_REPORT = (
    "rejects_superseded", "regions", "key_object", "captures", "presentation_state", "activation_map",
)  # fmt: skip
"""Fields of NodeIdentity that each ask for objects which a report can do without, in the order these are sent in."""

MESSAGE_SUFFIX = ".message"


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
    """Write the objects and messages, then commit them with the result and their deliveries together.

    Raises:
        StudyError: The node has stopped waiting for this analysis; its decoder may have gone before it ended.
    """
    if worker.abandoned.is_set():
        raise StudyError("abandoned at the stop")
    sources = _sources(claim, analysis.sources)
    objects = _build(worker, claim, analysis.result, sources)
    before = sent_before(worker.db, claim.study_id, claim.run)
    situation = Situation(analysis.result.outcome, before, frozenset(o.kind for o in objects))
    written = [_write(worker, claim, o, situation) for o in objects]
    written += _messages(worker, claim, analysis.result, sources, before)
    transitions.record_result(
        worker.db,
        claim,
        analysis.result,
        transitions.Outgoing(tuple(written), worker.tools.clock(), analysis.chosen),
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


def _sources(claim: transitions.Claim, sources: Sources) -> Sources:
    """What was analysed, with what the study's earlier analyses have sent."""
    arrival = Arrival(claim.first_arrival_at, claim.last_arrival_at)
    if claim.previous is None:
        return replace(sources, arrival=arrival)
    predecessor = claim.previous.report_path
    if predecessor is not None and not predecessor.exists():
        log.error("predecessor_missing study=%d run=%d", claim.study_id, claim.run)
        predecessor = None
    superseded = []
    for o in claim.previous.unrejected:
        try:
            series_uid = o.series_uid or read_instance(o.path).series_uid  # rows from before it was stored
        except InstanceError:
            log.error("superseded_missing study=%d run=%d", claim.study_id, claim.run)
            continue
        superseded.append(SentObject(o.sop_class_uid, o.sop_instance_uid, series_uid))
    return replace(sources, arrival=arrival, predecessor=predecessor, superseded=tuple(superseded))


def _build(worker: Worker, claim: transitions.Claim, result: Result, sources: Sources) -> list[ResultObject]:
    """Build every object; where one of those beside the report cannot be built, the others go out without it."""
    try:
        return build_objects(result, sources, worker.node)
    except (NoResources, OSError):
        raise
    except Exception:  # border: a picture must not cost the report; what is wrong with the report itself raises below
        log.exception("objects_failed study=%d run=%d", claim.study_id, claim.run)
    options: dict[str, Any] = {name: False for name in BESIDE_THE_REPORT if getattr(worker.node, name)}
    objects = build_objects(result, sources, replace(worker.node, **options))
    for name in options:
        try:
            more = build_objects(result, sources, replace(worker.node, **{**options, name: True}))
        except (NoResources, OSError):
            raise
        except Exception:  # border: as above
            log.exception("object_left_out study=%d run=%d option=%s", claim.study_id, claim.run, name)
        else:
            known = {o.sop_instance_uid for o in objects}
            objects += [o for o in more if o.sop_instance_uid not in known]
    return objects


def _write(
    worker: Worker, claim: transitions.Claim, result_object: ResultObject, situation: Situation
) -> transitions.NewObject:
    uid = result_object.sop_instance_uid
    return transitions.NewObject(
        kind=result_object.kind,
        sop_class_uid=result_object.sop_class_uid,
        sop_instance_uid=uid,
        path=worker.store.write_result(claim.study_uid, uid, result_object.write),
        destinations=destinations_of(result_object.kind, situation, worker.config.destinations),
        series_uid=result_object.series_uid,
    )


def _messages(
    worker: Worker, claim: transitions.Claim, result: Result, sources: Sources, before: Mapping[str, frozenset[str]]
) -> list[transitions.NewObject]:
    """Write a message for each output that wants one, or has one of an earlier analysis that this one replaces."""
    wanted = [o for o in worker.config.messages if outputs.wants(o, result) or o.name in before]
    if not wanted:
        return []
    try:
        identity = study_identity(sources.evidence)
    except StudyError:
        identity = StudyIdentity(claim.study_uid)
    name = worker.node.node_name
    facts = facts_of(result, identity, claim.study_id, name, claim.previous is not None)
    written = []
    for output in wanted:
        try:
            content = outputs.build(output, facts)
        except (NoResources, OSError):
            raise
        except Exception:  # border: a message must not cost the report
            log.exception("message_left_out study=%d run=%d output=%s", claim.study_id, claim.run, output.name)
            continue
        uid = outputs.message_uid(output.name, result, name)
        path = worker.store.write_result(claim.study_uid, uid, _writer(content), MESSAGE_SUFFIX)
        written.append(transitions.NewObject(ObjectKind.MESSAGE, "", uid, path, (output.name,)))
    return written


def _writer(content: bytes) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        file.write(content)

    return write


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
        transitions.record_result(worker.db, claim, result, transitions.Outgoing((), worker.tools.clock()))
