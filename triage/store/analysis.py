"""Transitions from "all slices are here" to "the result is stored"; one transaction each, resumable after a kill.

    study:     RECEIVING -> READY -> ANALYSING -> ANALYSED | NOT_ANALYSED     (any of them -> RECEIVING by an instance)
    analysis:  row made by the first claim, its run number kept through every retry, finished by `record_result`

The worker's transitions change the study only while it is ANALYSING. Has an instance come in meanwhile, or a person
asked for a new analysis, the study already stands elsewhere and stays there: it is analysed again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, exists, insert, select, update

from triage.errors import StudyError
from triage.records import Outcome, Result, SeriesVerdict, StudyState
from triage.store import steps
from triage.store.db import Database, insert_row
from triage.store.schema import (
    SeriesState,
    analysis,
    association,
    delivery,
    finding,
    identity,
    instance,
    result_object,
    series,
    set_aside,
    study,
    verdict,
)


@dataclass(frozen=True, slots=True)
class SeriesArrival:
    """What decides whether a series is complete."""

    series_id: int
    study_id: int
    last_arrival_at: float
    longest_pause_s: float
    """Longest pause between two of its own arrivals since it began, or began again."""
    open_associations: int
    """Associations that carried one of its instances and are open."""
    positions_mm: tuple[float, ...]
    """Positions of its single-frame slices along their normal, ascending; frames of one file are left out."""
    instance_numbers: tuple[int | None, ...]
    """InstanceNumber of each of these slices."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A study that the worker has taken, and may be killed with at any moment."""

    study_id: int
    analysis_id: int
    run: int
    """Number of the analysis; the same again after a retry or a kill, so that its objects keep their UIDs."""
    attempts: int
    """Including this one."""
    study_uid: str
    instances: tuple[Path, ...]
    """Every instance of the study, in order of arrival."""
    last_instance_id: int
    first_arrival_at: float
    last_arrival_at: float
    previous: steps.PreviousAnalysis | None
    forced: bool
    """A person asked for it: analyse even if nothing has changed."""


@dataclass(frozen=True, slots=True)
class NewObject:
    """An object that was written and is now to be sent."""

    kind: str
    """One of ObjectKind."""
    sop_class_uid: str
    sop_instance_uid: str
    path: Path
    destinations: tuple[str, ...]
    """Names of the outputs that it goes to."""
    series_uid: str = ""
    """Empty: a message."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What goes out with a result, and when."""

    objects: tuple[NewObject, ...]
    now: float
    instance_uids: tuple[str, ...] | None = field(default=None)
    """SOP Instance UIDs that selection chose; None takes every one of the series that the result names."""


def receiving_series(db: Database) -> list[SeriesArrival]:
    """Every series that is not complete.

    Args:
        db: The database.

    Returns:
        What decides whether it is, by row id.
    """
    with db.reading() as connection:
        waiting = connection.execute(
            select(series.c.id, series.c.study_id, series.c.last_arrival_at, series.c.longest_pause_s)
            .where(series.c.state == SeriesState.RECEIVING)
            .order_by(series.c.id)
        ).all()
        if not waiting:
            return []
        is_open = association.c.closed_at.is_(None)
        open_keys = set(connection.execute(select(association.c.key).where(is_open)).scalars())
        slices: dict[int, list[tuple[float, int | None]]] = {row.id: [] for row in waiting}
        carriers: dict[int, set[str]] = {row.id: set() for row in waiting}
        for i in connection.execute(
            select(instance.c.series_id, instance.c.positions_mm, instance.c.instance_numbers, instance.c.association)
            .join_from(instance, series)
            .where(series.c.state == SeriesState.RECEIVING)
        ):
            slices[i.series_id] += zip(i.positions_mm, i.instance_numbers, strict=True)
            carriers[i.series_id].add(i.association)
    arrivals = []
    for row in waiting:
        ordered = sorted(slices[row.id], key=lambda s: (s[0], s[1] is None, s[1] or 0))
        arrivals.append(
            SeriesArrival(
                series_id=row.id,
                study_id=row.study_id,
                last_arrival_at=row.last_arrival_at,
                longest_pause_s=row.longest_pause_s,
                open_associations=len(carriers[row.id] & open_keys),
                positions_mm=tuple(position for position, _ in ordered),
                instance_numbers=tuple(number for _, number in ordered),
            )
        )
    return arrivals


def series_complete(db: Database, series_id: int, last_arrival_at: float, now: float) -> bool:
    """Mark a series complete, unless something newer has arrived.

    Args:
        db: The database.
        series_id: The series.
        last_arrival_at: Newest arrival that the caller knew of.
        now: Seconds since the epoch.

    Returns:
        Whether it is marked.
    """
    with db.writing() as connection:
        done = connection.execute(
            update(series)
            .where(
                series.c.id == series_id,
                series.c.state == SeriesState.RECEIVING,
                series.c.last_arrival_at <= last_arrival_at,
            )
            .values(state=SeriesState.COMPLETE, state_at=now)
        )
    return done.rowcount == 1


def ready_studies(db: Database, now: float) -> list[int]:
    """Hand the studies whose series are all complete to the worker.

    Args:
        db: The database.
        now: Seconds since the epoch.

    Returns:
        Row ids of the studies made ready.
    """
    incomplete = exists().where(series.c.study_id == study.c.id, series.c.state == SeriesState.RECEIVING)
    query = select(study.c.id).where(study.c.state == StudyState.RECEIVING, ~incomplete).order_by(study.c.id)
    with db.reading() as connection:  # asked twice a second: take no writer's turn for nothing
        if connection.execute(query.limit(1)).first() is None:
            return []
    with db.writing() as connection:
        ids = list(connection.execute(query.with_for_update()).scalars())
        connection.execute(
            update(study)
            .where(study.c.id.in_(ids))
            .values(state=StudyState.READY, state_at=now, attempts=0, retry_at=None)
        )
    return ids


def claim_study(db: Database, now: float) -> Claim | None:
    """Take the ready study that arrived first and whose time for a further attempt has come.

    Args:
        db: The database.
        now: Seconds since the epoch.

    Returns:
        The claim; None where nothing is ready.
    """
    is_due = (study.c.state == StudyState.READY) & (study.c.retry_at.is_(None) | (study.c.retry_at <= now))
    query = select(study, identity.c.study_uid).join_from(study, identity).where(is_due)
    query = query.order_by(study.c.first_arrival_at, study.c.id).limit(1)
    with db.reading() as connection:
        if connection.execute(query).first() is None:
            return None
    with db.writing() as connection:
        row = connection.execute(query.with_for_update()).first()
        if row is None:
            return None
        connection.execute(
            update(study)
            .where(study.c.id == row.id)
            .values(state=StudyState.ANALYSING, state_at=now, attempts=row.attempts + 1, retry_at=None)
        )
        analysis_id, run = steps.open_analysis(connection, row.id, now)
        instances = connection.execute(
            select(instance.c.id, instance.c.path)
            .join_from(instance, series)
            .where(series.c.study_id == row.id)
            .order_by(instance.c.id)
        ).all()
        return Claim(
            study_id=row.id,
            analysis_id=analysis_id,
            run=run,
            attempts=row.attempts + 1,
            study_uid=row.study_uid,
            instances=tuple(db.absolute(i.path) for i in instances),
            last_instance_id=instances[-1].id if instances else 0,
            first_arrival_at=row.first_arrival_at,
            last_arrival_at=row.last_arrival_at,
            previous=steps.previous_analysis(db, connection, row.id),
            forced=row.forced,
        )


def release_claims(db: Database) -> None:
    """At the start: whatever was being analysed died with the process that did it.

    Args:
        db: The database.
    """
    with db.writing() as connection:
        connection.execute(
            update(study).where(study.c.state == StudyState.ANALYSING).values(state=StudyState.READY, retry_at=None)
        )


def record_result(db: Database, claim: Claim, result: Result, outgoing: Outgoing) -> None:
    """Store a result, its objects and their deliveries together; it supersedes the study's earlier ones.

    Args:
        db: The database.
        claim: What was analysed.
        result: What came out.
        outgoing: Objects that are written already, and where they go.

    Raises:
        StudyError: The claim is not open any more; nothing is stored.
    """
    with db.writing() as connection:
        chosen: Sequence[str] | None = outgoing.instance_uids
        if chosen is None:
            chosen = steps.instances_of_series(connection, claim.study_id, result.series_uid, claim.last_instance_id)
        done = connection.execute(
            update(analysis)
            .where(analysis.c.id == claim.analysis_id, analysis.c.finished_at.is_(None))
            .values(finished_at=outgoing.now, instance_uids=list(chosen), **steps.columns_of_result(result))
        )
        if done.rowcount != 1:
            raise StudyError("this analysis was finished or dropped already; its second result is not stored")
        connection.execute(
            update(analysis)
            .where(
                analysis.c.study_id == claim.study_id,
                analysis.c.run < claim.run,
                analysis.c.superseded_by.is_(None),
            )
            .values(superseded_by=claim.analysis_id)
        )
        steps.hasten_superseded(connection, claim.study_id, claim.run, outgoing.now)
        for table, values in (
            (finding, steps.rows_of_findings(result, claim.analysis_id)),
            (verdict, steps.rows_of_verdicts(result.verdicts, claim.analysis_id)),
            (set_aside, steps.rows_of_set_aside(result, claim.analysis_id)),
        ):
            if values:
                connection.execute(insert(table), values)
        _queue_objects(db, connection, claim.analysis_id, outgoing)
        ended = StudyState.NOT_ANALYSED if result.outcome == Outcome.NOT_ANALYSED else StudyState.ANALYSED
        _leave(connection, claim, state=ended, state_at=outgoing.now, attempts=0, retry_at=None, forced=False)


def record_unchanged(db: Database, claim: Claim, verdicts: Sequence[SeriesVerdict], now: float) -> None:
    """The new instances leave the earlier analysis as it is: drop the claim, update the verdicts.

    Args:
        db: The database.
        claim: A claim with a previous analysis.
        verdicts: On every series that the study has now.
        now: Seconds since the epoch.
    """
    previous = claim.previous
    assert previous is not None
    with db.writing() as connection:
        connection.execute(
            delete(analysis).where(analysis.c.id == claim.analysis_id, analysis.c.finished_at.is_(None))
        )
        connection.execute(delete(verdict).where(verdict.c.analysis_id == previous.analysis_id))
        if verdicts:
            connection.execute(insert(verdict), steps.rows_of_verdicts(verdicts, previous.analysis_id))
        was = connection.execute(select(analysis.c.outcome).where(analysis.c.id == previous.analysis_id)).scalar_one()
        ended = StudyState.NOT_ANALYSED if was == Outcome.NOT_ANALYSED else StudyState.ANALYSED
        _leave(connection, claim, state=ended, state_at=now, attempts=0, retry_at=None, forced=False)


def retry_analysis(db: Database, claim: Claim, fault: str, next_at: float, now: float) -> None:
    """An attempt failed unexpectedly: another one later, under the same run number.

    Args:
        db: The database.
        claim: What was tried.
        fault: What it failed of, by type.
        next_at: When to try again.
        now: Seconds since the epoch.
    """
    with db.writing() as connection:
        connection.execute(update(analysis).where(analysis.c.id == claim.analysis_id).values(fault=fault))
        _leave(connection, claim, state=StudyState.READY, state_at=now, retry_at=next_at)


def postpone(db: Database, claim: Claim, until: float, now: float) -> None:
    """There is nothing to analyse yet: claim again later, which is no further attempt.

    Args:
        db: The database.
        claim: What was claimed.
        until: When to claim again, unless instances arrive before.
        now: Seconds since the epoch.
    """
    with db.writing() as connection:
        _leave(
            connection, claim, state=StudyState.READY, state_at=now, retry_at=until, attempts=max(claim.attempts - 1, 0)
        )


def request_reanalysis(db: Database, study_id: int, now: float) -> None:
    """A person wants a study analysed again; one that is still receiving is analysed once it is complete.

    Args:
        db: The database.
        study_id: The study.
        now: Seconds since the epoch.

    Raises:
        StudyError: There is no such study, or it has no images any more.
    """
    with db.writing() as connection:
        row = connection.execute(select(study).where(study.c.id == study_id).with_for_update()).first()
        if row is None:
            raise StudyError(f"there is no study {study_id}")
        if row.images_deleted_at is not None:
            raise StudyError(f"the images of study {study_id} were deleted (retention.days); send them again")
        values: dict[str, Any] = {"forced": True, "attempts": 0, "retry_at": None}
        if row.state != StudyState.RECEIVING:
            values |= {"state": StudyState.READY, "state_at": now}
        connection.execute(update(study).where(study.c.id == study_id).values(values))


def _leave(connection: Connection, claim: Claim, **values: Any) -> None:
    """End a claim, unless the study has moved on by itself."""
    connection.execute(
        update(study).where(study.c.id == claim.study_id, study.c.state == StudyState.ANALYSING).values(values)
    )


def _queue_objects(db: Database, connection: Connection, analysis_id: int, outgoing: Outgoing) -> None:
    for o in outgoing.objects:
        object_id = insert_row(
            connection,
            result_object,
            analysis_id=analysis_id,
            kind=o.kind,
            sop_class_uid=o.sop_class_uid,
            sop_instance_uid=o.sop_instance_uid,
            series_uid=o.series_uid,
            path=db.relative(o.path),
            created_at=outgoing.now,
        )
        deliveries = steps.rows_of_deliveries(object_id, o.destinations, outgoing.now)
        if deliveries:
            connection.execute(insert(delivery), deliveries)
