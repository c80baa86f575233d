"""The outbox: what is due to which destination, and how each attempt ended; one transaction each.

    QUEUED, FAILED --take_due--> SENT --delivery_accepted--> ACCEPTED --(commitment)--> COMMITTED
                                 SENT --delivery_failed--> FAILED, GIVEN_UP
                                 SENT --delivery_untried, release--> as before
    FAILED --(superseded)--> QUEUED
    ACCEPTED, COMMITTED --(commitment refused)--> FAILED, GIVEN_UP
    any --resend, resend_given_up--> QUEUED
    a message of a superseded analysis, not accepted --take_due--> GIVEN_UP

A destination has one sender. An object keeps its SOP Instance UID through every attempt. Nothing here sends.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, case, func, insert, select, update

from triage.records import UNDER_WAY, DeliveryState, ObjectKind, Outcome, Priority
from triage.store.db import Database
from triage.store.routing import Situation
from triage.store.schema import analysis, delivery, result_object
from triage.store.steps import STANDS, holdings, rows_of_deliveries, values_of_delivery


@dataclass(frozen=True, slots=True)
class Delivery:
    """One object on its way to one destination."""

    id: int
    destination: str
    kind: str
    """One of ObjectKind."""
    sop_instance_uid: str
    sop_class_uid: str
    path: Path
    attempts: int
    """Failed ones since it was queued."""
    queued_at: float
    accepted_at: float | None
    commit_attempts: int
    """Requests for storage commitment since it was accepted."""
    study_id: int


@dataclass(frozen=True, slots=True)
class Acceptance:
    """How a destination took an object."""

    status: int | None
    """DIMSE or HTTP status, where the peer gave one."""
    detail: str = ""
    """What there is to say of it, such as a warning."""
    asks_commitment: bool = False
    """Whether storage commitment is to be asked for."""


@dataclass(frozen=True, slots=True)
class Failure:
    """How an attempt failed and when the next one is."""

    status: int | None
    """DIMSE or HTTP status, where the peer gave one."""
    detail: str
    next_attempt_at: float | None
    """None gives the delivery up."""


@dataclass(frozen=True, slots=True)
class Held:
    """A current object of a study, for choosing where it is sent again."""

    kind: str
    known: frozenset[str]
    """Destinations that it has a delivery to."""
    situation: Situation


WITHDRAWN = "not sent: a later analysis stands in its place"
"""Detail of a message that was superseded before its receiver had it."""

AS_BEFORE = case((delivery.c.attempts > 0, DeliveryState.FAILED.value), else_=DeliveryState.QUEUED.value)
"""What a delivery was before it became SENT."""


def deliveries_of(columns: Sequence[Any] = ()) -> Select[Any]:
    """The query that `delivery_of` reads.

    Args:
        columns: Further ones.

    Returns:
        A query over every delivery, to be narrowed.
    """
    return select(
        delivery.c.id,
        delivery.c.destination,
        delivery.c.attempts,
        delivery.c.queued_at,
        delivery.c.accepted_at,
        delivery.c.commit_attempts,
        result_object.c.kind,
        result_object.c.sop_instance_uid,
        result_object.c.sop_class_uid,
        result_object.c.path,
        analysis.c.study_id,
        *columns,
    ).select_from(delivery.join(result_object).join(analysis))


def delivery_of(db: Database, row: Any) -> Delivery:
    """A row as a record.

    Args:
        db: Makes the stored path absolute.
        row: Of `deliveries_of`.

    Returns:
        The record.
    """
    return Delivery(
        id=row.id,
        destination=row.destination,
        kind=row.kind,
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        path=db.absolute(row.path),
        attempts=row.attempts,
        queued_at=row.queued_at,
        accepted_at=row.accepted_at,
        commit_attempts=row.commit_attempts,
        study_id=row.study_id,
    )


def _due(destination: str, now: float, limit: int) -> Select[Any]:
    ever = analysis.alias()
    rank = case({Priority.URGENT.value: 0, Priority.REVIEW.value: 1}, value=ever.c.priority, else_=2)
    best = select(func.min(rank)).where(ever.c.study_id == analysis.c.study_id).scalar_subquery()
    return (
        deliveries_of()
        .where(
            delivery.c.state.in_(UNDER_WAY), delivery.c.destination == destination, delivery.c.next_attempt_at <= now
        )
        .order_by(best, delivery.c.attempts, delivery.c.object_id)
        .limit(limit)
    )


def due_deliveries(db: Database, destination: str, now: float, limit: int) -> list[Delivery]:
    """List what is due to one destination: urgent studies first, then what failed least often, then in order.

    An object that makes the peer cut the line is so overtaken by those that had no turn because of it. A study counts
    with the highest priority it ever had, and a new result starts the attempts of the superseded ones anew, so that a
    superseded report is not delivered after its successor. What is SENT is due as well: its sender asks for more only
    after it has recorded what became of the last, or failed to.

    Args:
        db: The database.
        destination: Name of the destination.
        now: Seconds since the epoch.
        limit: As many at most.

    Returns:
        The deliveries; those of one study stay in order, SR first.
    """
    with db.reading() as connection:
        return [delivery_of(db, row) for row in connection.execute(_due(destination, now, limit))]


def take_due(db: Database, destination: str, now: float, limit: int) -> list[Delivery]:
    """Mark what is due to one destination as SENT, just before it is sent.

    A message of an analysis that a later one has superseded is not sent any more: unlike objects in a PACS, which name
    their predecessors, messages count by their order, and the last one must be the newest truth.

    Args:
        db: The database.
        destination: Name of the destination.
        now: Seconds since the epoch.
        limit: As many at most.

    Returns:
        The deliveries, as `due_deliveries` orders them.
    """
    if not due_deliveries(db, destination, now, 1):  # asked twice a second: take no writer's turn for nothing
        return []
    with db.writing() as connection:
        _withdraw_messages(connection, destination, now)
        due = [delivery_of(db, row) for row in connection.execute(_due(destination, now, limit))]
        connection.execute(
            update(delivery)
            .where(delivery.c.id.in_([d.id for d in due]), delivery.c.state.in_(UNDER_WAY))
            .values(state=DeliveryState.SENT, state_at=now)
        )
    return due


def _withdraw_messages(connection: Connection, destination: str, now: float) -> None:
    """Give up the messages to one destination that are superseded; its sender has none on the way at this moment."""
    superseded = (
        select(result_object.c.id)
        .join_from(result_object, analysis)
        .where(result_object.c.kind == ObjectKind.MESSAGE, analysis.c.superseded_by.is_not(None))
    )
    connection.execute(
        update(delivery)
        .where(
            delivery.c.destination == destination,
            delivery.c.state.in_(UNDER_WAY),
            delivery.c.object_id.in_(superseded),
        )
        .values(state=DeliveryState.GIVEN_UP, state_at=now, next_attempt_at=now, detail=WITHDRAWN)
    )


def release(db: Database, now: float) -> int:
    """At the start: whatever was being sent lost its answer with the process that sent it, and is sent again.

    Args:
        db: The database.
        now: Seconds since the epoch.

    Returns:
        How many deliveries are put back.
    """
    with db.writing() as connection:
        done = connection.execute(
            update(delivery).where(delivery.c.state == DeliveryState.SENT).values(state=AS_BEFORE, state_at=now)
        )
    return int(done.rowcount)


def delivery_accepted(db: Database, delivery_id: int, acceptance: Acceptance, now: float) -> bool:
    """A destination took an object.

    Args:
        db: The database.
        delivery_id: The delivery.
        acceptance: What it answered.
        now: Seconds since the epoch.

    Returns:
        Whether it was SENT, and is now ACCEPTED: a person may have asked for it anew in the meantime.
    """
    return _leave_sent(
        db,
        delivery_id,
        state=DeliveryState.ACCEPTED,
        state_at=now,
        status=acceptance.status,
        detail=acceptance.detail,
        accepted_at=now,
        committed_at=None,
        commit_due_at=now if acceptance.asks_commitment else None,
        commit_attempts=0,
    )


def delivery_failed(db: Database, delivery_id: int, failure: Failure, now: float) -> bool:
    """An attempt failed: another one later, or none.

    Args:
        db: The database.
        delivery_id: The delivery.
        failure: How, and when to try again.
        now: Seconds since the epoch.

    Returns:
        Whether it was SENT, and is now FAILED or GIVEN_UP.
    """
    is_over = failure.next_attempt_at is None
    return _leave_sent(
        db,
        delivery_id,
        state=DeliveryState.GIVEN_UP if is_over else DeliveryState.FAILED,
        state_at=now,
        next_attempt_at=now if is_over else failure.next_attempt_at,
        attempts=delivery.c.attempts + 1,
        status=failure.status,
        detail=failure.detail,
    )


def delivery_untried(db: Database, delivery_id: int, next_attempt_at: float, now: float) -> bool:
    """An object had no turn, because the line was lost at an earlier one: it is what it was before.

    Args:
        db: The database.
        delivery_id: The delivery.
        next_attempt_at: When to try.
        now: Seconds since the epoch.

    Returns:
        Whether it was SENT.
    """
    return _leave_sent(db, delivery_id, state=AS_BEFORE, state_at=now, next_attempt_at=next_attempt_at)


def _leave_sent(db: Database, delivery_id: int, **values: Any) -> bool:
    with db.writing() as connection:
        done = connection.execute(
            update(delivery).where(delivery.c.id == delivery_id, delivery.c.state == DeliveryState.SENT).values(values)
        )
    return done.rowcount == 1


def sent_before(db: Database, study_id: int, run: int) -> dict[str, frozenset[str]]:
    """List what was sent, or is on its way, of the analyses that one supersedes.

    Args:
        db: The database.
        study_id: The study.
        run: Of the analysis.

    Returns:
        Destination -> kinds of objects.
    """
    with db.reading() as connection:
        return holdings(connection, study_id, run)


def resend(db: Database, study_id: int, choose: Callable[[Held], Collection[str]], now: float) -> int:
    """Queue the current objects of a study again, also to destinations configured since.

    Args:
        db: The database.
        study_id: The study.
        choose: Names of the destinations that an object goes to.
        now: Seconds since the epoch.

    Returns:
        How many deliveries are queued; none of an object whose file retention has deleted.
    """
    n = 0
    with db.writing() as connection:
        objects = connection.execute(
            select(result_object.c.id, result_object.c.kind, result_object.c.path, analysis.c.outcome, analysis.c.run)
            .join_from(result_object, analysis)
            .where(analysis.c.study_id == study_id, analysis.c.superseded_by.is_(None))
            .order_by(result_object.c.id)
        ).all()
        kinds = frozenset(o.kind for o in objects)
        for o in objects:
            if not db.absolute(o.path).exists():
                continue
            known = frozenset(
                connection.execute(
                    select(delivery.c.destination).where(delivery.c.object_id == o.id).with_for_update()
                ).scalars()
            )
            held = holdings(connection, study_id, o.run)
            names = set(choose(Held(o.kind, known, Situation(Outcome(o.outcome), held, kinds))))
            connection.execute(
                update(delivery)
                .where(delivery.c.object_id == o.id, delivery.c.destination.in_(names & known))
                .values(values_of_delivery(now))
            )
            if fresh := rows_of_deliveries(o.id, sorted(names - known), now):
                connection.execute(insert(delivery), fresh)
            n += len(names)
    return n


def resend_given_up(db: Database, destinations: Collection[str], now: float) -> int:
    """Queue every delivery that was given up and still stands again; see `STANDS`.

    Args:
        db: The database.
        destinations: Names of the destinations meant.
        now: Seconds since the epoch.

    Returns:
        How many deliveries are queued; none of an object whose file retention has deleted.
    """
    with db.writing() as connection:
        rows = connection.execute(
            select(delivery.c.id, result_object.c.path)
            .select_from(delivery.join(result_object).join(analysis))
            .where(
                delivery.c.state == DeliveryState.GIVEN_UP,
                delivery.c.destination.in_(destinations),
                STANDS,
            )
        ).all()
        ids = [r.id for r in rows if db.absolute(r.path).exists()]
        for delivery_id in ids:
            connection.execute(update(delivery).where(delivery.c.id == delivery_id).values(values_of_delivery(now)))
    return len(ids)
