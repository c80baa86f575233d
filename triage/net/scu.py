"""C-ECHO and C-STORE to one peer; every outcome typed: accepted, refused, unreachable. Retries nothing, logs nothing.

A PACS that hangs must cost a bounded time: pynetdicom itself waits for ever in the middle of a PDU, so its connections
get a time limit here.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom import build_context, evt
from pynetdicom.presentation import PresentationContext

from triage.config import Destination
from triage.errors import DeliveryError
from triage.net.contexts import VERIFICATION, Kind, accepted_kinds, proposed_contexts
from triage.net.library import MAX_PDU_BYTES, application_entity, prepare_library
from triage.records import SendOutcome, SendReport

SUCCESS = 0x0000

WARNINGS = (0x0001, 0x0107, 0x0116)
"""Warning statuses outside of 0xBxxx (PS3.7 C.4)."""

MAX_MESSAGE_ID = 65535

FILE_FAULTS = (OSError, ValueError, AttributeError, InvalidDicomError)
"""What reading a file that is none raises in pydicom and pynetdicom."""


@dataclass(frozen=True, slots=True)
class _Object:
    """One file to send, as its file meta information describes it."""

    path: Path
    sop_instance_uid: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class _Line:
    """An established association."""

    association: Any
    accepted: frozenset[Kind]
    response_timeout_s: float


class _Failed(DeliveryError):
    """No association; never leaves this module."""

    def __init__(self, outcome: SendOutcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


def echo(node_ae: str, destination: Destination) -> SendReport:
    """Verify that a peer is there and takes our associations.

    Args:
        node_ae: Our AE title.
        destination: The peer.

    Returns:
        How it ended; without a SOP Instance UID.
    """
    try:
        with _association(node_ae, destination, [build_context(VERIFICATION)]) as line:
            return _judge("", line, line.association.send_c_echo)
    except _Failed as e:
        return SendReport("", e.outcome, detail=e.detail)


def send(node_ae: str, destination: Destination, paths: Sequence[Path]) -> list[SendReport]:
    """Send files over one association, each in its own transfer syntax.

    Args:
        node_ae: Our AE title.
        destination: The peer.
        paths: Part 10 files.

    Returns:
        A report for each path, in order. No fault of the peer, the network or a file raises.
    """
    entries = [_describe(p) for p in paths]
    objects = [e for e in entries if isinstance(e, _Object)]
    reports = iter(_send(node_ae, destination, objects) if objects else [])
    return [e if isinstance(e, SendReport) else next(reports) for e in entries]


def _describe(path: Path) -> _Object | SendReport:
    try:
        meta = read_file_meta_info(path)
        kind = Kind(str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID))
        return _Object(path, str(meta.MediaStorageSOPInstanceUID), kind)
    except FILE_FAULTS as e:
        return SendReport("", SendOutcome.REFUSED, detail=f"the file cannot be read ({type(e).__name__})")


def _send(node_ae: str, destination: Destination, objects: Sequence[_Object]) -> list[SendReport]:
    try:
        with _association(node_ae, destination, proposed_contexts(o.kind for o in objects)) as line:
            return _send_all(line, objects)
    except _Failed as e:
        return [SendReport(o.sop_instance_uid, e.outcome, detail=e.detail) for o in objects]


def _send_all(line: _Line, objects: Sequence[_Object]) -> list[SendReport]:
    """Send one after the other; after a lost one nothing more is tried, for pynetdicom may not know yet."""
    reports: list[SendReport] = []
    is_lost = False
    for number, item in enumerate(objects):
        if is_lost:
            detail = "not sent: the association was lost before"
            report = SendReport(item.sop_instance_uid, SendOutcome.UNREACHABLE, detail=detail, was_tried=False)
            reports.append(report)
        else:
            reports.append(_send_one(line, item, number % MAX_MESSAGE_ID + 1))
            is_lost = reports[-1].outcome is SendOutcome.UNREACHABLE
    return reports


def _send_one(line: _Line, item: _Object, message_id: int) -> SendReport:
    uid = item.sop_instance_uid
    store = line.association.send_c_store
    if item.kind in line.accepted:
        return _judge(uid, line, lambda: store(item.path, msg_id=message_id))  # the bytes as they are
    if item.kind.is_convertible and Kind(item.kind.sop_class_uid, ImplicitVRLittleEndian) in line.accepted:
        return _judge(uid, line, lambda: store(dcmread(item.path), msg_id=message_id))
    return SendReport(uid, SendOutcome.REFUSED, detail=_not_taken(item.kind))


def _judge(uid: str, line: _Line, request: Callable[[], Dataset]) -> SendReport:
    """Make one request and put its end into words."""
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
        return SendReport(uid, SendOutcome.REFUSED, int(status), f"{word} status 0x{status:04X}")
    if time.monotonic() - began >= line.response_timeout_s:
        return SendReport(uid, SendOutcome.UNREACHABLE, detail=f"no answer within {line.response_timeout_s:g} s")
    return SendReport(uid, SendOutcome.UNREACHABLE, detail="the association was aborted or lost before an answer came")


@contextmanager
def _association(node_ae: str, destination: Destination, contexts: list[PresentationContext]) -> Iterator[_Line]:
    """An association for the length of a `with`.

    Raises:
        _Failed: The peer cannot be reached, rejects us or takes nothing of what is proposed.
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
            evt_handlers=[(evt.EVT_ACSE_SENT, on_request), (evt.EVT_CONN_OPEN, on_connected)],
        )
    except OSError as e:
        raise _Failed(SendOutcome.UNREACHABLE, f"{destination.host}: {e.strerror}") from e
    try:
        if not association.is_established:
            raise _failure(association, destination, is_connected=connected.is_set())
        yield _Line(association, accepted_kinds(association), destination.response_timeout_s)
    finally:
        association.release()
        for s in sockets:
            s.close()


def _failure(association: Any, destination: Destination, *, is_connected: bool) -> _Failed:
    """Why there is no association."""
    where = f"{destination.host}:{destination.port}"
    answer = association.acceptor.primitive
    if association.is_rejected:
        return _Failed(SendOutcome.REFUSED, f"association rejected: {answer.reason_str} ({answer.result_str})")
    if answer is not None and association.rejected_contexts:
        return _Failed(SendOutcome.REFUSED, "the peer takes none of the SOP classes and transfer syntaxes proposed")
    if is_connected:
        return _Failed(SendOutcome.UNREACHABLE, f"{where} is connected but does not answer the association request")
    return _Failed(SendOutcome.UNREACHABLE, f"no connection to {where}")


def _not_taken(kind: Kind) -> str:
    return f"the peer does not take {UID(kind.sop_class_uid).name} in {UID(kind.transfer_syntax_uid).name}"
