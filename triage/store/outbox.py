"""The outbox: what is due to which destination, and how each attempt ended; one transaction each.

An object keeps its SOP Instance UID through every attempt. Nothing here sends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import case, func, insert, select, update

from triage.records import DeliveryState, Priority
from triage.store.db import Database
from triage.store.schema import analysis, delivery, result_object
from triage.store.steps import rows_of_deliveries


@dataclass(frozen=True, slots=True)
class Delivery:
    """One object on its way to one destination."""

    id: int
    sop_instance_uid: str
    sop_class_uid: str
    path: Path
    attempts: int
    """Failed ones since it was queued."""
    queued_at: float
    study_id: int


@dataclass(frozen=True, slots=True)
class Failure:
    """How an attempt failed and when the next one is."""

    status: int | None
    """DIMSE status, where the peer gave one."""
    detail: str
    next_attempt_at: float | None
    """None gives the delivery up."""
    was_tried: bool = True
    """False where the object had no turn: that counts as no attempt."""


def due_deliveries(db: Database, destination: str, now: float, limit: int) -> list[Delivery]:
    """List what is due to one destination: urgent studies first, then what failed least often, then in order.

    An object that makes the peer cut the line is so overtaken by those that had no turn because of it. A study counts
    with the highest priority it ever had, so that a superseded report is not delivered after its successor.

    Args:
        db: The database.
        destination: Name of the destination.
        now: Seconds since the epoch.
        limit: As many at most.

    Returns:
        The deliveries; those of one study stay in order, SR first.
    """
    rank = case({Priority.URGENT.value: 0, Priority.REVIEW.value: 1}, value=analysis.c.priority, else_=2)
    best = select(analysis.c.study_id, func.min(rank).label("rank")).group_by(analysis.c.study_id).subquery()
    with db.reading() as connection:
        rows = connection.execute(
            select(
                delivery.c.id,
                delivery.c.attempts,
                delivery.c.queued_at,
                result_object.c.sop_instance_uid,
                result_object.c.sop_class_uid,
                result_object.c.path,
                analysis.c.study_id,
            )
            .select_from(
                delivery.join(result_object).join(analysis).join(best, best.c.study_id == analysis.c.study_id)
            )
            .where(
                delivery.c.state == DeliveryState.QUEUED,
                delivery.c.destination == destination,
                delivery.c.next_attempt_at <= now,
            )
            .order_by(best.c.rank, delivery.c.attempts, delivery.c.object_id)
            .limit(limit)
        ).all()
    return [
        Delivery(
            id=r.id,
            sop_instance_uid=r.sop_instance_uid,
            sop_class_uid=r.sop_class_uid,
            path=db.absolute(r.path),
            attempts=r.attempts,
            queued_at=r.queued_at,
            study_id=r.study_id,
        )
        for r in rows
    ]


def delivery_accepted(db: Database, delivery_id: int, status: int, now: float) -> None:
    """A destination took an object.

    Args:
        db: The database.
        delivery_id: The delivery.
        status: DIMSE status.
        now: Seconds since the epoch.
    """
    with db.writing() as connection:
        connection.execute(
            update(delivery)
            .where(delivery.c.id == delivery_id)
            .values(state=DeliveryState.ACCEPTED, state_at=now, status=status, detail="")
        )


def delivery_failed(db: Database, delivery_id: int, failure: Failure, now: float) -> None:
    """An attempt failed: another one later, or none.

    Args:
        db: The database.
        delivery_id: The delivery.
        failure: How, and when to try again.
        now: Seconds since the epoch.
    """
    is_over = failure.next_attempt_at is None
    with db.writing() as connection:
        connection.execute(
            update(delivery)
            .where(delivery.c.id == delivery_id, delivery.c.state == DeliveryState.QUEUED)
            .values(
                state=DeliveryState.GIVEN_UP if is_over else DeliveryState.QUEUED,
                state_at=now,
                next_attempt_at=now if is_over else failure.next_attempt_at,
                attempts=delivery.c.attempts + int(failure.was_tried),
                status=failure.status,
                detail=failure.detail,
            )
        )


def resend(db: Database, study_id: int, destinations: Sequence[str], now: float) -> int:
    """Queue every current object of a study again, also to destinations configured since.

    Args:
        db: The database.
        study_id: The study.
        destinations: Names of the configured destinations.
        now: Seconds since the epoch.

    Returns:
        How many deliveries are queued.
    """
    with db.writing() as connection:
        ids = list(
            connection.execute(
                select(result_object.c.id)
                .join_from(result_object, analysis)
                .where(analysis.c.study_id == study_id, analysis.c.superseded_by.is_(None))
                .order_by(result_object.c.id)
            ).scalars()
        )
        for object_id in ids:
            known = set(
                connection.execute(
                    select(delivery.c.destination).where(delivery.c.object_id == object_id).with_for_update()
                ).scalars()
            )
            (values,) = rows_of_deliveries(object_id, [""], now)
            del values["destination"]
            connection.execute(
                update(delivery)
                .where(delivery.c.object_id == object_id, delivery.c.destination.in_(destinations))
                .values(values)
            )
            if fresh := rows_of_deliveries(object_id, [d for d in destinations if d not in known], now):
                connection.execute(insert(delivery), fresh)
    return len(ids) * len(destinations)
