"""Storage commitment as its user (PS3.4 J): the request to one peer, and what the peer's answer says; keeps nothing.

The answer is an N-EVENT-REPORT, on the association of the request or on a new one to our listener, where it may come
after a restart of this node: whoever is told of it looks the transaction up.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pynetdicom import build_context, evt

from triage.config import Destination
from triage.errors import TriageError
from triage.net.contexts import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, UNCOMPRESSED
from triage.net.library import uid_in
from triage.net.line import READ_FAULTS, Line, NoAssociation, NothingAccepted, associate, judge
from triage.net.statuses import INVALID_ARGUMENT, NO_SUCH_EVENT_TYPE, PROCESSING_FAILURE, SUCCESS
from triage.records import SendOutcome, SendReport

log = logging.getLogger(__name__)

REQUEST_COMMITMENT = 1
"""Action type (PS3.4 J.3.2.1)."""

EVENT_TYPES = (1, 2)
"""All committed; some failed (PS3.4 J.3.3.1)."""

SAME_ASSOCIATION_S = 2.0
"""How long an association stays open for an answer on it; a peer that takes longer opens one to our listener."""

NOT_SUPPORTED = (0x0118, 0x0122, 0x0211)
"""No such SOP class, SOP class not supported, unrecognized operation (PS3.7 C.5): some peers say it only then."""


@dataclass(frozen=True, slots=True)
class CommitmentAnswer:
    """What one N-EVENT-REPORT says; by its own word, so every UID is still to be looked up."""

    transaction_uid: str
    committed: tuple[str, ...]
    """SOP Instance UIDs that the peer has taken responsibility for."""
    failed: dict[str, int]
    """SOP Instance UID -> Failure Reason (0008,1197)."""


OnAnswer = Callable[[CommitmentAnswer], bool]
"""Keeps an answer and returns whether its transaction is known; must bear the same answer twice."""


class _Desk:
    """Takes the reports that come on the association of one request; pynetdicom runs each in a thread of its own."""

    def __init__(self, transaction_uid: str, on_answer: OnAnswer) -> None:
        self._transaction_uid = transaction_uid
        self._on_answer = on_answer
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self.is_answered = False

    def on_report(self, event: Any) -> tuple[int, None]:
        """Keep a report, then answer it."""
        self._threads.append(threading.current_thread())
        status = take_report(event, self._keep)
        if self.is_answered:
            self._over.set()
        return status, None

    def on_lost(self, _event: Any) -> None:
        """Nothing more will come."""
        self._over.set()

    def wait(self, limit_s: float) -> None:
        """Wait for the answer to our request, and until it is kept and answered."""
        self._over.wait(SAME_ASSOCIATION_S)
        for thread in list(self._threads):  # one at work would be cut off by the release
            thread.join(limit_s)

    def _keep(self, answer: CommitmentAnswer) -> bool:
        is_known = self._on_answer(answer)
        if answer.transaction_uid == self._transaction_uid:
            self.is_answered = True
        return is_known


def request(
    node_ae: str,
    destination: Destination,
    transaction_uid: str,
    references: Sequence[tuple[str, str]],
    on_answer: OnAnswer,
) -> SendReport:
    """Ask a peer to commit to objects, over an association of its own.

    Args:
        node_ae: Our AE title.
        destination: The peer.
        transaction_uid: New for each request; the caller has it on disk before it calls.
        references: SOP Class UID and SOP Instance UID of each object.
        on_answer: Called in another thread, when the peer answers on this very association; returns whether the
            transaction is known. A TriageError becomes a failure status, so that the peer repeats its report.

    Returns:
        ACCEPTED when the peer took the request (not: the objects), UNSUPPORTED when it does not offer storage
        commitment, else REFUSED or UNREACHABLE with detail; not tried where it never left this node. Without a SOP
        Instance UID. No fault of the peer raises.
    """
    desk = _Desk(transaction_uid, on_answer)
    handlers = [(evt.EVT_N_EVENT_REPORT, desk.on_report), (evt.EVT_CONN_CLOSE, desk.on_lost)]
    contexts = [build_context(STORAGE_COMMITMENT, list(UNCOMPRESSED))]
    try:
        with associate(node_ae, destination, contexts, handlers) as line:
            report = judge("", line, lambda: _ask(line, transaction_uid, references))
            if report.outcome is SendOutcome.ACCEPTED:
                desk.wait(destination.response_timeout_s)
    except NothingAccepted:
        return SendReport("", SendOutcome.UNSUPPORTED, detail="the peer does not offer storage commitment")
    except NoAssociation as e:
        return SendReport("", e.outcome, detail=e.detail, was_tried=False)
    if desk.is_answered:  # whatever became of the response to the request
        return SendReport("", SendOutcome.ACCEPTED, SUCCESS)
    if report.status in NOT_SUPPORTED:
        detail = f"the peer does not offer storage commitment (status 0x{report.status:04X})"
        return SendReport("", SendOutcome.UNSUPPORTED, report.status, detail)
    return report


def take_report(event: Any, on_answer: OnAnswer) -> int:
    """Read an N-EVENT-REPORT and have its answer kept.

    Args:
        event: pynetdicom's event of it.
        on_answer: Keeps the answer.

    Returns:
        The status for the peer (PS3.7 10.1.1.1.8): success only when the answer is kept.
    """
    peer = event.assoc.remote["ae_title"] if event.assoc.is_acceptor else event.assoc.acceptor.ae_title
    answer = answer_of(event)
    if answer is None:
        status = NO_SUCH_EVENT_TYPE if event.event_type not in EVENT_TYPES else INVALID_ARGUMENT
        log.warning("commitment_report_refused peer=%r status=0x%04X reason='no report'", peer, status)
        return status
    try:
        if on_answer(answer):
            return SUCCESS
    except TriageError as e:
        log.error("commitment_report_not_kept peer=%r error=%s", peer, type(e).__name__)
        return PROCESSING_FAILURE
    log.warning("commitment_report_refused peer=%r status=0x%04X reason='unknown transaction'", peer, INVALID_ARGUMENT)
    log.debug("unknown_transaction uid=%s", answer.transaction_uid)
    return INVALID_ARGUMENT


def answer_of(event: Any) -> CommitmentAnswer | None:
    """Read an N-EVENT-REPORT.

    What its sequences say counts, not its event type: some peers send type 1 with failures. An object that is both
    committed and failed has failed; an item without a UID says nothing.

    Args:
        event: pynetdicom's event of it.

    Returns:
        The answer; None where it is none: another event type, no transaction UID, or a data set that cannot be read.
    """
    if event.event_type not in EVENT_TYPES:
        return None
    try:
        information = event.event_information
        transaction_uid = uid_in(information, "TransactionUID")
        failed = {uid: _reason(item) for uid, item in _items(information, "FailedSOPSequence")}
        committed = [uid for uid, _ in _items(information, "ReferencedSOPSequence") if uid not in failed]
    except READ_FAULTS:
        return None
    return CommitmentAnswer(transaction_uid, tuple(dict.fromkeys(committed)), failed) if transaction_uid else None


def _ask(line: Line, transaction_uid: str, references: Sequence[tuple[str, str]]) -> Dataset:
    """Send the N-ACTION (PS3.4 J.3.2).

    Returns:
        Data set of its status.
    """
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = []
    for sop_class_uid, sop_instance_uid in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
        information.ReferencedSOPSequence.append(item)
    status, _ = line.association.send_n_action(
        information, REQUEST_COMMITMENT, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
    )
    return status  # type: ignore[no-any-return]  # pynetdicom is untyped


def _items(information: Dataset, keyword: str) -> Iterator[tuple[str, Dataset]]:
    """Items of a sequence that name an instance, with its UID."""
    sequence = information.get(keyword)
    for item in sequence if isinstance(sequence, DicomSequence) else ():
        if uid := uid_in(item, "ReferencedSOPInstanceUID"):
            yield uid, item


def _reason(item: Dataset) -> int:
    reason = item.get("FailureReason")
    return reason if isinstance(reason, int) else PROCESSING_FAILURE  # it must be there, but is not always
