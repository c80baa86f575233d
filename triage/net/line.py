"""One association with one peer, and how a request on it ended; every fault typed. Retries nothing, logs nothing.

A PACS that hangs must cost a bounded time: pynetdicom itself waits for ever in the middle of a PDU, so its connections
get a time limit here.
"""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pynetdicom import evt
from pynetdicom.presentation import PresentationContext

from triage.config import Destination
from triage.errors import DeliveryError
from triage.net.contexts import Kind, accepted_kinds
from triage.net.library import MAX_PDU_BYTES, application_entity, prepare_library
from triage.net.statuses import SUCCESS
from triage.records import SendOutcome, SendReport

WARNINGS = (0x0001, 0x0107, 0x0116)
"""Warning statuses outside of 0xBxxx (PS3.7 C.4)."""

READ_FAULTS = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, EOFError,
               NotImplementedError, RecursionError, struct.error, InvalidDicomError, BytesLengthException)  # fmt: skip
"""What pydicom raises on damaged bytes."""

FILE_FAULTS = (OSError, *READ_FAULTS)
"""What reading a file that is none, or a damaged one, raises in pydicom and pynetdicom."""

Handlers = Sequence[tuple[Any, Callable[[Any], Any]]]
"""pynetdicom events and what handles them."""


@dataclass(frozen=True, slots=True)
class Line:
    """An established association."""

    association: Any
    accepted: frozenset[Kind]
    response_timeout_s: float


class NoAssociation(DeliveryError):
    """There is no association; never leaves this package."""

    def __init__(self, outcome: SendOutcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


class NothingAccepted(NoAssociation):
    """The peer takes none of the presentation contexts."""


@contextmanager
def associate(
    node_ae: str, destination: Destination, contexts: list[PresentationContext], handlers: Handlers = ()
) -> Iterator[Line]:
    """An association for the length of a `with`.

    Args:
        node_ae: Our AE title.
        destination: The peer.
        contexts: What is proposed.
        handlers: For what the peer may ask of us on it.

    Yields:
        The association; released at the end.

    Raises:
        NothingAccepted: The peer takes nothing of what is proposed.
        NoAssociation: The peer cannot be reached or rejects us.
    """
    prepare_library()
    ae = application_entity(node_ae)
    ae.connection_timeout = destination.connect_timeout_s
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = destination.response_timeout_s
    sockets: list[socket.socket] = []
    connected = threading.Event()

    def on_request(event: Any) -> None:
        """Before the connection is tried: pynetdicom forgets, unclosed, the socket of one that fails."""
        if event.assoc.dul.socket.socket is not None:
            sockets.append(event.assoc.dul.socket.socket)

    def on_connected(event: Any) -> None:
        event.assoc.dul.socket.socket.settimeout(destination.response_timeout_s)
        event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.set()

    try:
        association = ae.associate(
            destination.host,
            destination.port,
            contexts,
            ae_title=destination.ae_title,
            max_pdu=MAX_PDU_BYTES,
            evt_handlers=[(evt.EVT_ACSE_SENT, on_request), (evt.EVT_CONN_OPEN, on_connected), *handlers],
        )
    except OSError as e:
        raise NoAssociation(SendOutcome.UNREACHABLE, f"{destination.host}: {e.strerror}") from e
    try:
        if not association.is_established:
            raise _failure(association, destination, is_connected=connected.is_set())
        yield Line(association, accepted_kinds(association), destination.response_timeout_s)
    finally:
        _release(association, destination.response_timeout_s)
        for s in sockets:
            s.close()


def _release(association: Any, limit_s: float) -> None:
    """Release an association, or abort it: a report that comes in this moment makes pynetdicom wait for ever.

    Its thread for the report then marks the association as busy, which nothing changes again.
    """
    guard = threading.Timer(limit_s + 1.0, association.abort)
    guard.daemon = True
    guard.start()
    try:
        association.release()
    finally:
        guard.cancel()


def judge(uid: str, line: Line, request: Callable[[], Dataset], passes: Sequence[int] = ()) -> SendReport:
    """Make one request and put its end into words.

    Args:
        uid: SOP Instance UID for the report.
        line: The association.
        request: Makes the request; returns the data set of its status, empty where no answer came.
        passes: Warning statuses that mean the same as success.

    Returns:
        How it ended.
    """
    began = time.monotonic()
    try:
        status = request().get("Status")
    except FILE_FAULTS as e:
        return SendReport(uid, SendOutcome.REFUSED, detail=f"cannot be sent ({type(e).__name__})")
    except RuntimeError:  # lost between our look and pynetdicom's
        status = None
    if status == SUCCESS:
        return SendReport(uid, SendOutcome.ACCEPTED, SUCCESS)
    if status is not None:
        word = "warning" if status >> 12 == 0xB or status in WARNINGS else "failure"
        outcome = SendOutcome.ACCEPTED if status in passes else SendOutcome.REFUSED
        return SendReport(uid, outcome, int(status), f"{word} status 0x{status:04X}")
    if time.monotonic() - began >= line.response_timeout_s:
        return SendReport(uid, SendOutcome.UNREACHABLE, detail=f"no answer within {line.response_timeout_s:g} s")
    return SendReport(uid, SendOutcome.UNREACHABLE, detail="the association was aborted or lost before an answer came")


def _failure(association: Any, destination: Destination, *, is_connected: bool) -> NoAssociation:
    """Why there is no association."""
    where = f"{destination.host}:{destination.port}"
    answer = association.acceptor.primitive
    if association.is_rejected:
        return NoAssociation(SendOutcome.REFUSED, f"association rejected: {answer.reason_str} ({answer.result_str})")
    if answer is not None and association.rejected_contexts:
        detail = "the peer takes none of the SOP classes and transfer syntaxes proposed"
        return NothingAccepted(SendOutcome.REFUSED, detail)
    if is_connected:
        return NoAssociation(
            SendOutcome.UNREACHABLE, f"{where} is connected but does not answer the association request"
        )
    return NoAssociation(SendOutcome.UNREACHABLE, f"no connection to {where}")
