"""C-ECHO and C-STORE to one peer; every outcome typed. Retries nothing, logs nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom import dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom import build_context

from triage.config import Destination
from triage.net.contexts import VERIFICATION, Kind, proposed_contexts
from triage.net.library import uid_in
from triage.net.line import FILE_FAULTS, Line, NoAssociation, NothingAccepted, associate, judge
from triage.records import SendOutcome, SendReport

STORED_WITH = {
    0xB000: "some values were coerced",
    0xB006: "some elements were discarded",
    0xB007: "its data set does not match its SOP class",
}
"""Warnings of C-STORE that say the object is stored (PS3.4 B.2.3): sending it again would bring the same answer.

Other warnings (PS3.7 C.4) are not defined for storage and prove nothing: such an object is sent again.
"""

MAX_MESSAGE_ID = 65535


@dataclass(frozen=True, slots=True)
class _Object:
    """One file to send, as its file meta information describes it."""

    path: Path
    sop_instance_uid: str
    kind: Kind


def echo(node_ae: str, destination: Destination) -> SendReport:
    """Verify that a peer is there and takes our associations.

    Args:
        node_ae: Our AE title.
        destination: The peer.

    Returns:
        How it ended; without a SOP Instance UID.
    """
    try:
        with associate(node_ae, destination, [build_context(VERIFICATION)]) as line:
            return judge("", line, line.association.send_c_echo)
    except NoAssociation as e:
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
        uid = uid_in(meta, "MediaStorageSOPInstanceUID")
        kind = Kind(uid_in(meta, "MediaStorageSOPClassUID"), uid_in(meta, "TransferSyntaxUID"))
    except FILE_FAULTS as e:
        return SendReport("", SendOutcome.REFUSED, detail=f"the file cannot be read ({type(e).__name__})")
    if not (uid and kind.sop_class_uid and kind.transfer_syntax_uid):
        return SendReport("", SendOutcome.REFUSED, detail="the file cannot be read (a UID is none)")
    return _Object(path, uid, kind)


def _send(node_ae: str, destination: Destination, objects: Sequence[_Object]) -> list[SendReport]:
    try:
        with associate(node_ae, destination, proposed_contexts(o.kind for o in objects)) as line:
            return _send_all(line, objects)
    except NothingAccepted as e:  # name what is not taken: objects that are sent again may be all of one class
        return [SendReport(o.sop_instance_uid, e.outcome, detail=_not_taken(o.kind)) for o in objects]
    except NoAssociation as e:
        return [SendReport(o.sop_instance_uid, e.outcome, detail=e.detail) for o in objects]


def _send_all(line: Line, objects: Sequence[_Object]) -> list[SendReport]:
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


def _send_one(line: Line, item: _Object, message_id: int) -> SendReport:
    uid = item.sop_instance_uid
    store = line.association.send_c_store
    if item.kind in line.accepted:
        return _stored(judge(uid, line, lambda: store(item.path, msg_id=message_id), tuple(STORED_WITH)))  # as it is
    if item.kind.is_convertible and Kind(item.kind.sop_class_uid, ImplicitVRLittleEndian) in line.accepted:
        return _stored(judge(uid, line, lambda: store(dcmread(item.path), msg_id=message_id), tuple(STORED_WITH)))
    return SendReport(uid, SendOutcome.REFUSED, detail=_not_taken(item.kind))


def _stored(report: SendReport) -> SendReport:
    """Say in words what became of an object that was stored with a warning."""
    if report.outcome is not SendOutcome.ACCEPTED or report.status not in STORED_WITH:
        return report
    detail = f"stored with warning 0x{report.status:04X}: {STORED_WITH[report.status]}"
    return replace(report, detail=detail)


def _not_taken(kind: Kind) -> str:
    return f"the peer does not take {UID(kind.sop_class_uid).name} in {UID(kind.transfer_syntax_uid).name}"
