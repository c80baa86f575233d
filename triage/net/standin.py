"""A stand-in PACS for demonstrations: a storage SCP that writes what it gets into a folder; no archive, no query."""

import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time by pynetdicom

SUCCESS = 0x0000
CANNOT_UNDERSTAND = 0xC000
"""PS3.4 table GG.4-1, "Error: Cannot understand"."""

UID_PATTERN = re.compile(r"[0-9.]{1,64}")


class StandInPacs:
    """A storage SCP on loopback, from `start` to `stop`."""

    def __init__(self, ae_title: str, folder: Path, on_stored: Callable[[Path], None] = lambda _path: None) -> None:
        """Keep the settings; opens nothing.

        Args:
            ae_title: Its AE title.
            folder: Where files are written, named by SOP Instance UID.
            on_stored: Called with each file written, in a thread of the server.
        """
        self._ae = AE(ae_title=ae_title)
        self._ae.supported_contexts = AllStoragePresentationContexts
        self._ae.add_supported_context(Verification)
        self._folder = folder
        self._on_stored = on_stored
        self._server: Any = None
        self._lock = threading.Lock()
        self.stored: list[Path] = []

    def start(self, port: int = 0) -> int:
        """Listen on loopback.

        Args:
            port: TCP port; 0 lets the operating system choose.

        Returns:
            The port it listens on.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        handlers: list[Any] = [(evt.EVT_C_STORE, self._store), (evt.EVT_C_ECHO, lambda _event: SUCCESS)]
        self._server = self._ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        return int(self._server.server_address[1])

    def stop(self) -> None:
        """Stop listening and end running associations."""
        if self._server is not None:
            self._server.shutdown()

    def _store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        if not UID_PATTERN.fullmatch(uid):
            return CANNOT_UNDERSTAND
        path = self._folder / f"{uid}.dcm"
        if event.dataset_path is not None:  # a node in the same process has pynetdicom receive into files
            shutil.copyfile(event.dataset_path, path)
        else:
            path.write_bytes(event.encoded_dataset())
        with self._lock:
            self.stored.append(path)
        self._on_stored(path)
        return SUCCESS
