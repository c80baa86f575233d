"""Storage commitment (PS3.4 J): whom to ask for what and when, and what each answer changes; one transaction each.

A request is on the disk before it is made: its answer may come at once, late, twice or after a restart. Nothing here
asks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, func, insert, select, update

from triage.records import DeliveryState
from triage.store.db import Database
from triage.store.outbox import Delivery, deliveries_of, delivery_of
from triage.store.schema import commitment, delivery

FAILURE_REASONS = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    0x0119: "SOP class and instance do not belong together",
    0x0122: "SOP class not supported",
    0x0131: "duplicate transaction UID",
    0x0213: "resource limitation",
}
"""PS3.3 C.14.1.1, Failure Reason (0008,1197)."""

REFUSED = "commitment refused"
"""Begins the detail of a delivery that the destination does not commit to."""

TEST_KEPT_S = 86400.0
"""Requests for the doctor's test object are forgotten after this."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What an answer has changed."""

    destination: str
    committed: int
    """Deliveries that are COMMITTED now."""
    failed: int
    """Deliveries that are FAILED or GIVEN_UP now."""


@dataclass(frozen=True, slots=True)
class NotAsked:
    """Why a request was not taken, and when the next one is."""

    detail: str
    next_at: float | None
    """None: never again."""
    may_be_answered: bool = False
    """The destination may have got it all the same."""


def failure_words(reason: int) -> str:
    """A Failure Reason as a person reads it.

    Args:
        reason: As the answer has it.

    Returns:
        One line.
    """
    return f"0x{reason:04X} {FAILURE_REASONS.get(reason, 'of an unknown meaning')}"


def due_for_commitment(db: Database, destination: str, now: float, limit: int) -> list[Delivery]:
    """List the accepted objects that a destination is to be asked for.

    Args:
        db: The database.
        destination: Its name.
        now: Seconds since the epoch.
        limit: As many at most.

    Returns:
        The deliveries, longest due first.
    """
    query = deliveries_of((delivery.c.state,)).where(
        delivery.c.destination == destination, delivery.c.commit_due_at <= now
    )
    with db.reading() as connection:
        rows = connection.execute(query.order_by(delivery.c.commit_due_at, delivery.c.id).limit(limit)).all()
    return [delivery_of(db, row) for row in rows if row.state == DeliveryState.ACCEPTED]


def commitment_requested(
    db: Database, transaction_uid: str, deliveries: Sequence[Delivery], now: float, ask_again_at: float
) -> None:
    """Record a request that is about to be made.

    Args:
        db: The database.
        transaction_uid: New for this request.
        deliveries: What is asked for.
        now: Seconds since the epoch.
        ask_again_at: When to ask again, if no answer comes.
    """
    rows = [
        {
            "transaction_uid": transaction_uid,
            "destination": d.destination,
            "delivery_id": d.id,
            "sop_instance_uid": d.sop_instance_uid,
            "asked_at": now,
        }
        for d in deliveries
    ]
    with db.writing() as connection:
        connection.execute(insert(commitment), rows)
        connection.execute(
            update(delivery)
            .where(delivery.c.id.in_([d.id for d in deliveries]), delivery.c.state == DeliveryState.ACCEPTED)
            .values(commit_due_at=ask_again_at, commit_attempts=delivery.c.commit_attempts + 1)
        )


def commitment_not_asked(db: Database, transaction_uid: str, why: NotAsked) -> None:
    """A request was not taken: its objects stay accepted.

    Args:
        db: The database.
        transaction_uid: Of the request.
        why: What to show, and when to ask again.
    """
    of_request = and_(commitment.c.transaction_uid == transaction_uid, commitment.c.answered_at.is_(None))
    with db.writing() as connection:
        connection.execute(
            update(delivery)
            .where(
                delivery.c.id.in_(select(commitment.c.delivery_id).where(of_request)),
                delivery.c.state == DeliveryState.ACCEPTED,
            )
            .values(commit_due_at=why.next_at, detail=why.detail)
        )
        if not why.may_be_answered:
            connection.execute(delete(commitment).where(of_request))


def commitment_ended(db: Database, delivery_ids: Sequence[int], detail: str) -> None:
    """Commitment never came: the objects stay accepted, and nobody is asked any more.

    Args:
        db: The database.
        delivery_ids: The deliveries.
        detail: What to show of them.
    """
    with db.writing() as connection:
        connection.execute(
            update(delivery)
            .where(delivery.c.id.in_(delivery_ids), delivery.c.state == DeliveryState.ACCEPTED)
            .values(commit_due_at=None, detail=detail)
        )


def commitment_answered(
    db: Database,
    transaction_uid: str,
    reasons: Mapping[str, int | None],
    now: float,
    retry_at: Callable[[Delivery], float | None],
) -> Answered | None:
    """A destination has answered; the same answer again changes nothing.

    Success counts for whatever is accepted, also where it answers an earlier request: an object never changes under
    its UID. Only where a later request was refused it is from before the object was lost there, and proves nothing.
    Failure counts only as the answer to the newest request, made since the object was last accepted.

    Args:
        db: The database.
        transaction_uid: Of the request, as the answer has it.
        reasons: SOP Instance UID -> Failure Reason, None where the destination commits to the object.
        now: Seconds since the epoch.
        retry_at: When to send an object again that is not safe there; None gives it up.

    Returns:
        What has changed; None where there was no such request.
    """
    committed = failed = 0
    with db.writing() as connection:
        asked = connection.execute(
            select(commitment)
            .where(commitment.c.transaction_uid == transaction_uid)
            .order_by(commitment.c.id)
            .with_for_update()
        ).all()
        if not asked:
            return None
        for row in asked:
            if row.answered_at is not None or row.sop_instance_uid not in reasons:
                continue
            reason = reasons[row.sop_instance_uid]
            connection.execute(
                update(commitment).where(commitment.c.id == row.id).values(answered_at=now, failure_reason=reason)
            )
            if row.delivery_id is None:
                continue
            if reason is None:
                committed += _commit(connection, row, now)
            elif _counts(connection, row):
                refused = _refused(db, connection, row, now)
                _refuse(connection, refused, reason, retry_at(refused), now)
                failed += 1
    return Answered(asked[0].destination, committed, failed)


def _commit(connection: Connection, row: Any, now: float) -> int:
    refused_since = exists().where(
        commitment.c.delivery_id == row.delivery_id,
        commitment.c.id > row.id,
        commitment.c.failure_reason.is_not(None),
    )
    done = connection.execute(
        update(delivery)
        .where(delivery.c.id == row.delivery_id, delivery.c.state == DeliveryState.ACCEPTED, ~refused_since)
        .values(state=DeliveryState.COMMITTED, state_at=now, committed_at=now, commit_due_at=None, detail="")
    )
    return int(done.rowcount)


def _counts(connection: Connection, row: Any) -> bool:
    """Whether a failure answers the newest request for what the destination has accepted."""
    newest = select(func.max(commitment.c.id)).where(commitment.c.delivery_id == row.delivery_id).scalar_subquery()
    found = connection.execute(
        select(delivery.c.id).where(
            delivery.c.id == row.delivery_id,
            delivery.c.state.in_((DeliveryState.ACCEPTED, DeliveryState.COMMITTED)),
            delivery.c.accepted_at <= row.asked_at,
            newest == row.id,
        )
    ).first()
    return found is not None


def _refused(db: Database, connection: Connection, row: Any, now: float) -> Delivery:
    """The delivery; the first refusal starts its time limit anew, for it may come long after the acceptance."""
    found = delivery_of(db, connection.execute(deliveries_of().where(delivery.c.id == row.delivery_id)).one())
    refusal_before = select(commitment.c.id).where(
        commitment.c.delivery_id == found.id,
        commitment.c.id != row.id,
        commitment.c.failure_reason.is_not(None),
        commitment.c.answered_at >= found.queued_at,
    )
    if connection.execute(refusal_before.limit(1)).first() is not None:
        return found
    return replace(found, queued_at=now)


def _refuse(connection: Connection, refused: Delivery, reason: int, next_attempt_at: float | None, now: float) -> None:
    is_over = next_attempt_at is None
    connection.execute(
        update(delivery)
        .where(delivery.c.id == refused.id)
        .values(
            state=DeliveryState.GIVEN_UP if is_over else DeliveryState.FAILED,
            state_at=now,
            queued_at=refused.queued_at,
            next_attempt_at=now if is_over else next_attempt_at,
            attempts=delivery.c.attempts + 1,
            status=None,
            detail=f"{REFUSED}: {failure_words(reason)}",
            accepted_at=None,
            committed_at=None,
            commit_due_at=None,
        )
    )


def record_test(db: Database, transaction_uid: str, destination: str, sop_instance_uid: str, now: float) -> None:
    """Record a request for the doctor's test object, which is no delivery.

    Args:
        db: The database.
        transaction_uid: New for this request.
        destination: Name of the destination.
        sop_instance_uid: Of the test object.
        now: Seconds since the epoch.
    """
    with db.writing() as connection:
        connection.execute(
            delete(commitment).where(commitment.c.delivery_id.is_(None), commitment.c.asked_at < now - TEST_KEPT_S)
        )
        connection.execute(
            insert(commitment).values(
                transaction_uid=transaction_uid,
                destination=destination,
                delivery_id=None,
                sop_instance_uid=sop_instance_uid,
                asked_at=now,
            )
        )


def test_answer(db: Database, transaction_uid: str) -> tuple[bool, int | None] | None:
    """Look for the answer to a request for the doctor's test object.

    Args:
        db: The database.
        transaction_uid: Of the request.

    Returns:
        Whether it is answered, and the Failure Reason, None where the destination commits; None where there was no
        such request.
    """
    with db.reading() as connection:
        row = connection.execute(
            select(commitment.c.answered_at, commitment.c.failure_reason).where(
                commitment.c.transaction_uid == transaction_uid
            )
        ).first()
    return None if row is None else (row.answered_at is not None, row.failure_reason)
