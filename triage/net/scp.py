"""C-ECHO, C-STORE and answers to storage commitment: what arrives -> callback -> status; knows no database.

pynetdicom writes a data set straight into a file in the spool while it arrives, so the memory needed does not depend
on its size. That file is complete, and already Part 10, when the callback gets it.
"""

import errno
import logging
import secrets
import tempfile
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydicom.uid import UID
from pynetdicom import evt

from triage.config import Node, Reception
from triage.errors import ConfigError, InstanceError, MismatchedInstance, UnreadableInstance, UnsupportedInstance
from triage.net.admission import (
    LOCAL_LIMIT_EXCEEDED,
    TEMPORARY_CONGESTION,
    Caller,
    Rejection,
    caller_of,
    log_rejection,
    may_store,
    objection,
)
from triage.net.commitment import CommitmentAnswer, take_report
from triage.net.contexts import CT_CLASSES, STORAGE_COMMITMENT, accepted_contexts
from triage.net.library import UID_PATTERN, application_entity, prepare_library
from triage.net.server import POLL_S, Limits, Server, drop_unfinished, end_associations
from triage.net.statuses import NOT_AUTHORISED, PROCESSING_FAILURE, SUCCESS, status_for

log = logging.getLogger(__name__)

SPOOL_PATTERN = "tmp*.dcm"
"""Names that pynetdicom gives to files being received."""

END_LIMIT_S = 5.0
"""Time that aborted associations get to end before their connection is cut, and again after it."""

SPARE_ASSOCIATIONS = 64
"""Room beyond reception.max_associations for those being rejected or ended, which pynetdicom counts, too."""


@dataclass(frozen=True, slots=True)
class Received:
    """One instance that has arrived completely."""

    path: Path
    """Part 10 file in the spool; whoever wants to keep it moves it away before returning."""
    sop_class_uid: str
    sop_instance_uid: str
    """Both from the C-STORE command."""
    association: str
    calling_ae: str


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What the listener tells its owner, in threads of its own.

    One association's calls never overlap, but for `on_commitment`, which has nothing to do with the others.
    """

    on_received: Callable[[Received], None]
    """Returns when the instance is safe; an InstanceError becomes its status."""
    on_opened: Callable[[str, str], None]
    """Association and calling AE title, before its first instance; an error refuses the association.

    Not told of one that can bring answers to storage commitment only; neither is its end.
    """
    on_closed: Callable[[str], None]
    """After its last instance, however it ended; called again until it succeeds."""
    on_commitment: Callable[[CommitmentAnswer], bool] = lambda _answer: False
    """A peer answers a request for storage commitment, perhaps one from before a restart, perhaps not the first time.

    Returns, when it is kept, whether its transaction is known; an error becomes a failure, and the peer may repeat it.
    """


@dataclass(frozen=True, slots=True)
class _Guest:
    """One admitted association."""

    key: str
    calling_ae: str
    peer: str
    may_store: bool
    is_told: bool = False
    """Whether `on_opened` was called for it, and so `on_closed` will be."""


class Listener:
    """The node's receiving end, from `start` to `stop`."""

    def __init__(
        self,
        node: Node,
        reception: Reception,
        spool: Path,
        callbacks: Callbacks,
        commitment_aets: Collection[str] = (),
    ) -> None:
        """Keep the settings; opens nothing.

        Args:
            node: AE title and address.
            reception: Whom to admit, and limits.
            spool: Existing folder for files being received, on the file system they are kept on.
            callbacks: Told what happens.
            commitment_aets: AE titles of the destinations: they may always open an association, to answer storage
                commitment, but their images are taken only where reception.calling_aets is empty or has them.
        """
        self._node = node
        self._reception = reception
        self._spool = spool
        self._callbacks = callbacks
        self._commitment_aets = frozenset(commitment_aets)
        self._lock = threading.Condition()
        self._guests: dict[Any, _Guest] = {}
        self._leaving: list[Any] = []
        self._unreported: list[_Guest] = []
        self._reporting = 0
        self._stopping = False
        self._server: Any = None
        self._previous_tempdir: str | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port; only after `start`."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def start(self) -> None:
        """Listen.

        While it listens, every temporary file of this process goes into the spool: pynetdicom takes the folder for
        files being received from the process-wide `tempfile.tempdir` and from nowhere else.

        Raises:
            ConfigError: The address cannot be listened on; names node.port or node.host.
        """
        prepare_library()
        self._server = self._make_server()
        self._previous_tempdir = tempfile.tempdir
        tempfile.tempdir = str(self._spool)
        threading.Thread(target=self._server.serve_forever, args=(POLL_S,), name="listener", daemon=True).start()
        if not self._reception.calling_aets:
            log.warning(
                "ANYONE_MAY_SEND reception.calling_aets is empty, so every AE title may send; list your senders there"
            )

    def stop(self, grace_s: float) -> None:
        """Refuse new associations, let running ones finish, abort the rest.

        When it returns no callback runs any more, but for one that is stuck.

        Args:
            grace_s: How long running associations may take to finish.
        """
        if self._server is None:
            return
        with self._lock:
            self._stopping = True
            self._lock.wait_for(lambda: not self._guests, grace_s)
            rest = list(self._guests)
        self._server.close()
        end_associations(rest, END_LIMIT_S)
        self._tidy()
        with self._lock:
            self._lock.wait_for(lambda: not self._reporting, END_LIMIT_S)
        if tempfile.tempdir == str(self._spool):
            tempfile.tempdir = self._previous_tempdir

    def _make_server(self) -> Any:
        reception = self._reception
        ae = application_entity(self._node.ae_title)
        ae.maximum_pdu_size = reception.max_pdu_bytes
        threads = reception.max_associations + SPARE_ASSOCIATIONS
        ae.maximum_associations = threads
        ae.acse_timeout = reception.acse_timeout_s
        ae.dimse_timeout = reception.dimse_timeout_s
        ae.network_timeout = reception.network_timeout_s
        handlers = [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_REJECTED, self._on_rejected),
            (evt.EVT_ESTABLISHED, self._on_established),
            (evt.EVT_C_STORE, self._on_c_store),
            (evt.EVT_N_EVENT_REPORT, self._on_n_event_report),
            (evt.EVT_RELEASED, self._on_ended),
            (evt.EVT_ABORTED, self._on_ended),
        ]
        host, port = self._node.host, self._node.port
        try:
            return ae.make_server(
                (host, port),
                contexts=accepted_contexts(),  # ae.supported_contexts would forget their roles
                evt_handlers=handlers,
                server_class=Server,
                limits=Limits(reception.acse_timeout_s, reception.network_timeout_s, threads),
                on_tick=self._tidy,
            )
        except OSError as e:
            raise ConfigError(_cannot_listen(host, port, e)) from e

    def _on_requested(self, event: Any) -> None:
        """Admit an association or reject it."""
        caller = caller_of(event.assoc)
        rejection = objection(caller, self._node, self._reception, self._commitment_aets)
        rejection = rejection or self._take_place(event.assoc, caller)
        if rejection is not None:
            event.assoc.acse.send_reject(*rejection)
            log_rejection(event.assoc)
            event.assoc.kill()

    def _take_place(self, association: Any, caller: Caller) -> Rejection | None:
        with self._lock:
            if self._stopping:
                return TEMPORARY_CONGESTION
            if len(self._guests) >= self._reception.max_associations:
                return LOCAL_LIMIT_EXCEEDED
            is_sender = may_store(caller, self._reception)
            self._guests[association] = _Guest(secrets.token_hex(8), caller.calling_ae, caller.peer, is_sender)
        return None

    def _on_rejected(self, event: Any) -> None:
        """Log a rejection that pynetdicom decided on."""
        log_rejection(event.assoc)

    def _on_established(self, event: Any) -> None:
        guest = self._guests[event.assoc]
        if _brings_images(event.assoc, guest):
            guest = self._guests[event.assoc] = replace(guest, is_told=True)
            if self._told(lambda: self._callbacks.on_opened(guest.key, guest.calling_ae), guest) != SUCCESS:
                event.assoc.abort()
                return
        log.info("association_opened association=%s calling=%r peer=%s", guest.key, guest.calling_ae, guest.peer)
        if refused := sorted({UID(c.abstract_syntax).name for c in event.assoc.rejected_contexts}):
            level = logging.INFO if event.assoc.accepted_contexts else logging.WARNING
            log.log(level, "contexts_refused association=%s sop_classes=%r", guest.key, refused)

    def _on_c_store(self, event: Any) -> int:
        """The C-STORE handler: whatever happens, the sender gets a status of ours."""
        guest = self._guests.get(event.assoc)
        if guest is None:  # aborted meanwhile: nobody is there to be answered
            return PROCESSING_FAILURE
        if not guest.may_store:
            log.warning("refused status=0x%04X association=%s calling=%r", NOT_AUTHORISED, guest.key, guest.calling_ae)
            return NOT_AUTHORISED
        return self._told(lambda: self._callbacks.on_received(_received(event, guest)), guest)

    def _on_n_event_report(self, event: Any) -> tuple[int, None]:
        """An answer to storage commitment; pynetdicom gives it a thread of its own."""
        with self._lock:
            guest = self._guests.get(event.assoc)
            if guest is None:
                return PROCESSING_FAILURE, None
            self._reporting += 1
        try:
            return self._told(lambda: take_report(event, self._callbacks.on_commitment), guest), None
        finally:
            with self._lock:
                self._reporting -= 1
                self._lock.notify_all()

    def _on_ended(self, event: Any) -> None:
        # An abort of ours is told from another thread, where a callback may still be running: then the tick reports.
        if threading.current_thread() is event.assoc:
            self._close(event.assoc)

    def _tidy(self) -> None:
        """Report associations that ended in a way pynetdicom has no event for; drop what broken transfers left."""
        with self._lock:
            ended = [a for a in self._guests if not a.is_alive()]
            unreported, self._unreported = self._unreported, []
        for association in ended:
            self._close(association)
        for guest in unreported:
            self._report(guest)
        with self._lock:
            gone = [a for a in self._leaving if not a.is_alive()]
            self._leaving = [a for a in self._leaving if a not in gone]
        for association in gone:
            drop_unfinished(association)

    def _close(self, association: Any) -> None:
        with self._lock:
            guest = self._guests.pop(association, None)
            if guest is None:
                return
            self._leaving.append(association)
            self._reporting += 1
            self._lock.notify_all()
        log.info("association_closed association=%s", guest.key)
        self._report(guest)
        with self._lock:
            self._reporting -= 1
            self._lock.notify_all()

    def _report(self, guest: _Guest) -> None:
        if guest.is_told and self._told(lambda: self._callbacks.on_closed(guest.key), guest) != SUCCESS:
            with self._lock:
                self._unreported.append(guest)

    def _told(self, call: Callable[[], int | None], guest: _Guest) -> int:
        """Run a callback; the border where an error of ours becomes a status, as pynetdicom would swallow it.

        Returns:
            DIMSE status: the call's own, or success.
        """
        try:
            return call() or SUCCESS
        except InstanceError as e:
            status = status_for(e)
            log.warning(
                "refused status=0x%04X error=%s association=%s calling=%r reason=%r",
                *(status, type(e).__name__, guest.key, guest.calling_ae, str(e)),
            )
            return status
        except Exception as e:
            # The text of an unexpected error may quote a data set: the type must do.
            log.error("callback_failed error=%s association=%s", type(e).__name__, guest.key)
            log.debug("callback_failed association=%s", guest.key, exc_info=True)
            return PROCESSING_FAILURE


def sweep_spool(spool: Path, older_than_s: float, now: float) -> int:
    """Remove what broken transfers left in the spool.

    Args:
        spool: Folder of files being received.
        older_than_s: Age since the last write; above the network timeout while a listener runs on the folder.
        now: Seconds since the epoch.

    Returns:
        How many files were removed.
    """
    swept = 0
    for path in spool.glob(SPOOL_PATTERN):
        try:
            if now - path.stat().st_mtime >= older_than_s:
                path.unlink()
                swept += 1
        except FileNotFoundError:  # its transfer has ended this moment
            continue
        except OSError as e:
            log.error("spool_not_swept error=%s", e.strerror)
    return swept


def _brings_images(association: Any, guest: _Guest) -> bool:
    """Whether an association may bring images; one that only verifies is told of as one that does."""
    agreed = {c.abstract_syntax for c in association.accepted_contexts}
    return guest.may_store and (STORAGE_COMMITMENT not in agreed or not agreed.isdisjoint(CT_CLASSES))


def _received(event: Any, guest: _Guest) -> Received:
    """What arrived, once the command makes sense.

    Raises:
        UnsupportedInstance: Not one of the CT classes.
        MismatchedInstance: Another SOP class than was agreed for the presentation context.
        UnreadableInstance: The SOP Instance UID is none.
    """
    sop_class_uid = str(event.request.AffectedSOPClassUID)
    sop_instance_uid = str(event.request.AffectedSOPInstanceUID)
    if sop_class_uid not in CT_CLASSES:
        raise UnsupportedInstance("the SOP class of the command is no CT storage class")
    if sop_class_uid != event.context.abstract_syntax:
        raise MismatchedInstance("the SOP class of the command is not the one agreed for its presentation context")
    if not UID_PATTERN.fullmatch(sop_instance_uid):
        raise UnreadableInstance("the SOP Instance UID of the command is no UID")
    return Received(event.dataset_path, sop_class_uid, sop_instance_uid, guest.key, guest.calling_ae)


def _cannot_listen(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"node.port: {port} is in use on {host}; stop the other program or choose another port"
    if error.errno == errno.EACCES:
        return f"node.port: {port} needs a privilege this user does not have; choose one above 1023"
    return f"node.host: cannot listen on {host!r} ({error.strerror}); name an address of this machine"
