"""A stand-in PACS for demonstrations: writes what it gets into a folder and commits to it; no archive, no query."""

import contextlib
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt

from triage.net.contexts import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, VERIFICATION
from triage.net.library import UID_PATTERN
from triage.net.statuses import SUCCESS

CANNOT_UNDERSTAND = 0xC000
"""PS3.4 table GG.4-1, "Error: Cannot understand"."""

NO_SUCH_INSTANCE = 0x0112
"""PS3.3 C.14.1.1, Failure Reason."""

ALL_COMMITTED, SOME_FAILED = 1, 2
"""Event types (PS3.4 J.3.3.1)."""


class StandInPacs:
    """A storage SCP on loopback, from `start` to `stop`; answers storage commitment on the same association."""

    def __init__(self, ae_title: str, folder: Path, on_stored: Callable[[Path], None] = lambda _path: None) -> None:
        """Keep the settings; opens nothing.

        Args:
            ae_title: Its AE title.
            folder: Where files are written, named by SOP Instance UID.
            on_stored: Called with each file written, in a thread of the server.
        """
        self._ae = AE(ae_title=ae_title)
        self._ae.supported_contexts = AllStoragePresentationContexts
        self._ae.add_supported_context(VERIFICATION)
        self._ae.add_supported_context(STORAGE_COMMITMENT)
        self._folder = folder
        self._on_stored = on_stored
        self._server: Any = None
        self._lock = threading.Lock()
        self._unreported: dict[Any, Dataset] = {}
        self.stored: list[Path] = []

    def start(self, port: int = 0) -> int:
        """Listen on loopback.

        Args:
            port: TCP port; 0 lets the operating system choose.

        Returns:
            The port it listens on.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_ECHO, lambda _event: SUCCESS),
            (evt.EVT_N_ACTION, self._take_request),
            (evt.EVT_PDU_SENT, self._after_response),
        ]
        self._server = self._ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        return int(self._server.server_address[1])

    def stop(self) -> None:
        """Stop listening and end running associations."""
        if self._server is not None:
            self._server.shutdown()

    def _store(self, event: Any) -> int:
        path = self._path(str(event.request.AffectedSOPInstanceUID))
        if path is None:
            return CANNOT_UNDERSTAND
        if event.dataset_path is not None:  # a node in the same process has pynetdicom receive into files
            shutil.copyfile(event.dataset_path, path)
        else:
            path.write_bytes(event.encoded_dataset())
        with self._lock:
            self.stored.append(path)
        self._on_stored(path)
        return SUCCESS

    def _path(self, uid: str) -> Path | None:
        """Where an instance lies; None for what is no UID, and so no file name."""
        return self._folder / f"{uid}.dcm" if UID_PATTERN.fullmatch(uid) else None

    def _take_request(self, event: Any) -> tuple[int, None]:
        """Request for storage commitment (PS3.4 J.3.2)."""
        self._unreported[event.assoc] = event.action_information
        return SUCCESS, None

    def _after_response(self, event: Any) -> None:
        """Report once the response to the request is out, in a thread of its own: this one reads the connection."""
        request = self._unreported.pop(event.assoc, None)
        if request is not None:
            threading.Thread(target=self._report, args=(event.assoc, request), daemon=True).start()

    def _report(self, association: Any, request: Dataset) -> None:
        """Answer a request for storage commitment (PS3.4 J.3.3)."""
        information = Dataset()
        information.TransactionUID = request.TransactionUID
        committed, failed = [], []
        for item in request.ReferencedSOPSequence:
            path = self._path(str(item.ReferencedSOPInstanceUID))
            if path is not None and path.exists():
                committed.append(item)
            else:
                item.FailureReason = NO_SUCH_INSTANCE
                failed.append(item)
        if committed:
            information.ReferencedSOPSequence = committed
        if failed:
            information.FailedSOPSequence = failed
        kind = SOME_FAILED if failed else ALL_COMMITTED
        with contextlib.suppress(RuntimeError, ValueError):  # released or lost meanwhile: the node asks again
            association.send_n_event_report(information, kind, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE)
