"""The outbox: due deliveries of one output -> one attempt -> states, and commitment to what was accepted.

One output never waits for another, and sending never waits for commitment: each has a loop of its own.
"""

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from triage.config import DeliverySection, Destination, MessageOutput
from triage.net import commitment as asking
from triage.net import scu
from triage.notify import outputs
from triage.records import ObjectKind, SendOutcome, SendReport
from triage.store import commitment, outbox
from triage.store.db import Database
from triage.store.queries import NEVER_COMMITTED, NO_COMMITMENT
from triage.store.routing import destinations_of

log = logging.getLogger(__name__)

BATCH = 50
"""Objects sent over one association, or asked for in one request, at most, so that a long queue does not hide its own
progress."""

LONGEST_WAIT_S = 21600.0
"""An unanswered request for commitment is repeated after this at the latest, however often it was before."""

FAULT = SendReport("", SendOutcome.REFUSED, detail="a fault of this node; see its log")
"""How an attempt ended that raised what it should not."""


def new_transaction_uid() -> str:
    """A UID for one request, at random (PS3.5 B.2): nobody can answer what was not asked."""
    return f"2.25.{uuid.uuid4().int}"


@dataclass(frozen=True, slots=True)
class Sender:
    """What every delivery needs."""

    db: Database
    ae_title: str
    delivery: DeliverySection
    clock: Callable[[], float] = time.time
    new_uid: Callable[[], str] = new_transaction_uid


def backoff_s(delivery: DeliverySection, attempts: int) -> float:
    """Pause before the next attempt: doubled after each failure, up to a limit.

    Args:
        delivery: First and longest pause.
        attempts: Failed attempts so far, at least 1.

    Returns:
        Seconds.
    """
    return min(delivery.max_retry_s, delivery.first_retry_s * 2.0 ** min(attempts - 1, 30))


def deliver_due(sender: Sender, output: Destination | MessageOutput) -> int:
    """Send everything that is due to one output, over one association or connection.

    Args:
        sender: Database and identity.
        output: The receiver.

    Returns:
        How many objects or messages it accepted.
    """
    due = outbox.take_due(sender.db, output.name, sender.clock(), BATCH)
    if not due:
        return 0
    reports = [FAULT] * len(due)
    try:
        paths = [d.path for d in due]
        if isinstance(output, Destination):
            reports = scu.send(sender.ae_title, output, paths)
        else:
            reports = _send_messages(output, paths)
    finally:  # a fault of ours counts as an attempt, too: nothing stays SENT, or is tried for ever
        asks = isinstance(output, Destination) and output.storage_commitment != "off"
        for delivery, report in zip(due, reports, strict=True):
            _record(sender, delivery, report, asks)
    for (outcome, status, detail), n in Counter((r.outcome, r.status, r.detail) for r in reports).items():
        level = logging.INFO if outcome is SendOutcome.ACCEPTED else logging.WARNING
        shown = "none" if status is None else f"0x{status:04X}" if isinstance(output, Destination) else str(status)
        log.log(
            level,
            "delivery destination=%s outcome=%s status=%s objects=%d studies=%s detail=%r",
            *(output.name, outcome, shown, n, sorted({d.study_id for d in due}), detail),
        )
    return sum(r.outcome is SendOutcome.ACCEPTED for r in reports)


def resend_study(db: Database, outputs_meant: Sequence[Destination | MessageOutput], study_id: int, now: float) -> int:
    """Queue the current objects and messages of a study again, under the same UIDs.

    Args:
        db: The database.
        outputs_meant: Those configured, or some of them; a message goes only to the one that it was made for.
        study_id: The study.
        now: Seconds since the epoch.

    Returns:
        How many deliveries are queued.
    """
    peers = [o for o in outputs_meant if isinstance(o, Destination)]

    def choose(held: outbox.Held) -> Collection[str]:
        if held.kind == ObjectKind.MESSAGE:
            return held.known & {o.name for o in outputs_meant}
        return destinations_of(held.kind, held.situation, peers)

    return outbox.resend(db, study_id, choose, now)


def _send_messages(output: MessageOutput, paths: Sequence[Path]) -> list[SendReport]:
    """One attempt; a message whose file is gone is refused, the others go on."""
    contents: list[bytes | SendReport] = []
    for path in paths:
        try:
            contents.append(path.read_bytes())
        except OSError as e:
            detail = f"the file cannot be read ({type(e).__name__})"
            contents.append(SendReport("", SendOutcome.REFUSED, detail=detail))
    readable = [c for c in contents if isinstance(c, bytes)]
    reports = iter(outputs.send(output, readable) if readable else [])
    return [c if isinstance(c, SendReport) else next(reports) for c in contents]


def _record(sender: Sender, delivery: outbox.Delivery, report: SendReport, asks: bool) -> None:
    now = sender.clock()
    if report.outcome is SendOutcome.ACCEPTED:
        outbox.delivery_accepted(
            sender.db, delivery.id, outbox.Acceptance(report.status, report.detail, asks_commitment=asks), now
        )
        return
    if not report.was_tried:
        outbox.delivery_untried(sender.db, delivery.id, now + sender.delivery.first_retry_s, now)
        return
    next_attempt_at = _retry_at(sender, delivery)
    failure = outbox.Failure(report.status, f"{report.outcome}: {report.detail}", next_attempt_at)
    outbox.delivery_failed(sender.db, delivery.id, failure, now)
    if next_attempt_at is None:
        log.error("delivery_given_up study=%d attempts=%d", delivery.study_id, delivery.attempts + 1)


def _retry_at(sender: Sender, failed: outbox.Delivery) -> float | None:
    """When to send again what has failed once more; None after the time limit."""
    now = sender.clock()
    pause_s = backoff_s(sender.delivery, failed.attempts + 1)
    is_over = now + pause_s - failed.queued_at > sender.delivery.give_up_h * 3600.0
    return None if is_over else now + pause_s


def commit_due(sender: Sender, destination: Destination) -> int:
    """Ask one destination whether it has safely stored what it accepted and did not commit to yet.

    Args:
        sender: Database and identity.
        destination: The peer.

    Returns:
        For how many objects something has changed, so that there may be more at once.
    """
    now = sender.clock()
    due = commitment.due_for_commitment(sender.db, destination.name, now, BATCH)
    if not due:
        return 0
    limit_s = sender.delivery.give_up_h * 3600.0
    if old := [d for d in due if _accepted_at(d) + limit_s <= now]:
        detail = f"{NEVER_COMMITTED} within {sender.delivery.give_up_h:g} h"
        commitment.commitment_ended(sender.db, [d.id for d in old], detail)
        log.error(
            "commitment_given_up destination=%s objects=%d studies=%s",
            *(destination.name, len(old), sorted({d.study_id for d in old})),
        )
        return len(old)
    asked = [d for d in due if d.commit_attempts == due[0].commit_attempts]  # those with the same pause behind them
    return _ask(sender, destination, asked)


def _accepted_at(delivery: outbox.Delivery) -> float:
    assert delivery.accepted_at is not None  # nothing is asked about what was not accepted
    return delivery.accepted_at


def _ask(sender: Sender, destination: Destination, asked: Sequence[outbox.Delivery]) -> int:
    now = sender.clock()
    before = asked[0].commit_attempts
    wait_s = min(
        destination.commitment_timeout_s * 2.0 ** min(before, 30),
        max(LONGEST_WAIT_S, destination.commitment_timeout_s),
    )
    over_at = min(map(_accepted_at, asked)) + sender.delivery.give_up_h * 3600.0
    transaction_uid = sender.new_uid()
    commitment.commitment_requested(sender.db, transaction_uid, asked, now, min(now + wait_s, over_at))
    references = [(d.sop_class_uid, d.sop_instance_uid) for d in asked]
    report = asking.request(
        sender.ae_title, destination, transaction_uid, references, lambda answer: take_answer(sender, answer)
    )
    is_taken = report.outcome is SendOutcome.ACCEPTED
    is_settled = report.outcome is SendOutcome.UNSUPPORTED and destination.storage_commitment == "auto"
    log.log(
        logging.INFO if is_taken or is_settled else logging.WARNING,
        "commitment_asked destination=%s outcome=%s objects=%d studies=%s detail=%r",
        *(destination.name, report.outcome, len(asked), sorted({d.study_id for d in asked}), report.detail),
    )
    if not is_taken:
        why = _not_asked(sender, destination, report, before + 1)
        commitment.commitment_not_asked(sender.db, transaction_uid, why)
    return len(asked) if is_taken or is_settled else 0


def _not_asked(sender: Sender, destination: Destination, report: SendReport, attempts: int) -> commitment.NotAsked:
    now = sender.clock()
    if report.outcome is SendOutcome.UNSUPPORTED and destination.storage_commitment == "auto":
        return commitment.NotAsked(NO_COMMITMENT, next_at=None)
    if report.outcome is SendOutcome.UNSUPPORTED:
        detail = "accepted; the peer offers no storage commitment, which is required"
        return commitment.NotAsked(detail, next_at=now + sender.delivery.max_retry_s)
    return commitment.NotAsked(
        f"accepted; asked for commitment, {report.outcome}: {report.detail}",
        next_at=now + backoff_s(sender.delivery, attempts),
        may_be_answered=report.outcome is SendOutcome.UNREACHABLE and report.was_tried,
    )


def take_answer(sender: Sender, answer: asking.CommitmentAnswer) -> bool:
    """Record what a destination answered, whenever and on whatever association it came.

    Args:
        sender: Database and identity.
        answer: By the peer's word.

    Returns:
        Whether there was such a request.

    Raises:
        NoResources: It cannot be recorded now; the peer should answer again.
    """
    reasons: dict[str, int | None] = {**dict.fromkeys(answer.committed), **answer.failed}
    done = commitment.commitment_answered(
        sender.db,
        answer.transaction_uid,
        reasons,
        sender.clock(),
        lambda refused: _retry_at(sender, refused),
    )
    if done is None:
        return False
    log.log(
        logging.WARNING if done.failed else logging.INFO,
        "commitment_answered destination=%s committed=%d failed=%d",
        *(done.destination, done.committed, done.failed),
    )
    return True
