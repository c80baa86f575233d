"""The outbox: due deliveries of one destination -> C-STORE -> states; one destination never waits for another."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from triage.config import DeliverySection, Destination
from triage.net import scu
from triage.records import SendOutcome, SendReport
from triage.store import outbox
from triage.store.db import Database

log = logging.getLogger(__name__)

BATCH = 50
"""Objects sent over one association at most, so that a long queue does not hide its own progress."""


@dataclass(frozen=True, slots=True)
class Sender:
    """What every delivery needs."""

    db: Database
    ae_title: str
    delivery: DeliverySection
    clock: Callable[[], float] = time.time


def backoff_s(delivery: DeliverySection, attempts: int) -> float:
    """Pause before the next attempt: doubled after each failure, up to a limit.

    Args:
        delivery: First and longest pause.
        attempts: Failed attempts so far, at least 1.

    Returns:
        Seconds.
    """
    return min(delivery.max_retry_s, delivery.first_retry_s * 2.0 ** min(attempts - 1, 30))


def deliver_due(sender: Sender, destination: Destination) -> int:
    """Send everything that is due to one destination, over one association.

    Args:
        sender: Database and identity.
        destination: The peer.

    Returns:
        How many objects it accepted.
    """
    due = outbox.due_deliveries(sender.db, destination.name, sender.clock(), BATCH)
    if not due:
        return 0
    reports = scu.send(sender.ae_title, destination, [d.path for d in due])
    for delivery, report in zip(due, reports, strict=True):
        _record(sender, delivery, report)
    for (outcome, status, detail), n in Counter((r.outcome, r.status, r.detail) for r in reports).items():
        level = logging.INFO if outcome is SendOutcome.ACCEPTED else logging.WARNING
        shown = "none" if status is None else f"0x{status:04X}"
        log.log(
            level,
            "delivery destination=%s outcome=%s status=%s objects=%d studies=%s detail=%r",
            *(destination.name, outcome, shown, n, sorted({d.study_id for d in due}), detail),
        )
    return sum(r.outcome is SendOutcome.ACCEPTED for r in reports)


def _record(sender: Sender, delivery: outbox.Delivery, report: SendReport) -> None:
    now = sender.clock()
    if report.outcome is SendOutcome.ACCEPTED:
        outbox.delivery_accepted(sender.db, delivery.id, status=0, now=now)
        return
    attempts = delivery.attempts + report.was_tried
    pause_s = backoff_s(sender.delivery, max(attempts, 1)) if report.was_tried else sender.delivery.first_retry_s
    is_over = now + pause_s - delivery.queued_at > sender.delivery.give_up_h * 3600.0
    failure = outbox.Failure(
        status=report.status,
        detail=f"{report.outcome}: {report.detail}",
        next_attempt_at=None if is_over else now + pause_s,
        was_tried=report.was_tried,
    )
    outbox.delivery_failed(sender.db, delivery.id, failure, now)
    if is_over:
        log.error("delivery_given_up study=%d attempts=%d", delivery.study_id, attempts)
