"""Real peers for the tests: a stand-in PACS that can misbehave, DCMTK's tools and Orthanc, all on loopback.

A test that needs a tool which is not installed is skipped and says so; with REQUIRE_PEERS=1 it fails.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, AllStoragePresentationContexts, build_context, evt
from pynetdicom.presentation import PresentationContext

HOST = "127.0.0.1"
VERIFICATION = "1.2.840.10008.1.1"
LIMIT_S = 30.0
"""Longest a test waits for anything that should happen at once."""


def need(tool: str) -> str:
    """Path of an installed program; skips the test when there is none, or fails it under REQUIRE_PEERS=1."""
    path = shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        reason = f"{tool} is not installed (Debian packages dcmtk, orthanc)"
        if os.environ.get("REQUIRE_PEERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def free_port() -> int:
    """A port nothing listens on; for programs that cannot choose one themselves."""
    with socket.socket() as s:
        s.bind((HOST, 0))
        return int(s.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    """Wait for something that no event tells of, such as the state of another process."""
    deadline = time.monotonic() + limit_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {limit_s:g} s"
        pause.wait(0.02)


@dataclass(frozen=True)
class Manners:
    """How a stand-in PACS behaves."""

    ae_title: str = "PACS"
    calling_aets: tuple[str, ...] = ()
    contexts: Sequence[PresentationContext] = field(default_factory=lambda: list(AllStoragePresentationContexts))
    statuses: tuple[int, ...] = ()
    """Answered in turn, an object each; then 0x0000."""
    abort_at: int | None = None
    """Number of the object, from 0, at which it aborts instead of answering."""
    is_hanging: bool = False
    """Answers no C-STORE before `Pacs.wake` is set."""


class Pacs:
    """A storage SCP from `with` to its end; keeps a file for each object that it accepted."""

    def __init__(self, folder: Path, manners: Manners | None = None) -> None:
        self.folder = folder
        self.manners = manners or Manners()
        self.wake = threading.Event()
        self.stored: list[Path] = []
        self.calling: list[str] = []
        self.echoes = 0
        self.port = 0
        self._arrivals = 0
        self._changed = threading.Condition()
        self._server: Any = None

    def __enter__(self) -> "Pacs":
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.wake.set()
        self.stop()

    def start(self) -> None:
        """Listen, on the same port as before after a `stop`."""
        ae = AE(ae_title=self.manners.ae_title)
        ae.supported_contexts = list(self.manners.contexts)
        ae.add_supported_context(VERIFICATION)
        ae.require_calling_aet = list(self.manners.calling_aets)
        ae.require_called_aet = True
        ae.maximum_associations = 32
        ae.maximum_pdu_size = 131072
        self._server = ae.start_server(
            (HOST, self.port),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._on_store), (evt.EVT_C_ECHO, self._on_echo)],
        )
        self.port = int(self._server.server_address[1])

    def stop(self) -> None:
        """Stop listening and end running associations."""
        if self._server is not None:
            self._server.ae.shutdown()
            self._server = None

    def wait_for(self, n: int, limit_s: float = LIMIT_S) -> list[Path]:
        """The files, once `n` objects have been accepted."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.stored) >= n, limit_s), f"{len(self.stored)} of {n} arrived"
            return list(self.stored)

    def wait_for_arrival(self, n: int, limit_s: float = LIMIT_S) -> None:
        """Wait until `n` objects have arrived, whatever became of them."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._arrivals >= n, limit_s), f"{self._arrivals} of {n} arrived"

    def _on_echo(self, _event: Any) -> int:
        self.echoes += 1
        return 0x0000

    def _on_store(self, event: Any) -> int:
        with self._changed:
            number = self._arrivals
            self._arrivals += 1
            self.calling.append(event.assoc.requestor.ae_title)
            self._changed.notify_all()
        if self.manners.is_hanging:
            self.wake.wait(LIMIT_S)
        if number == self.manners.abort_at:
            event.assoc.abort()
            return 0x0000
        status = self.manners.statuses[number] if number < len(self.manners.statuses) else 0x0000
        if status == 0x0000:
            self._keep(event)
        return status

    def _keep(self, event: Any) -> None:
        path = self.folder / f"{len(self.stored):04d}-{event.request.AffectedSOPInstanceUID}.dcm"
        # A listener of ours in the same process makes pynetdicom receive into files.
        if event.dataset_path is not None:
            shutil.copy(event.dataset_path, path)
        else:
            path.write_bytes(event.encoded_dataset())
        with self._changed:
            self.stored.append(path)
            self._changed.notify_all()


def storescu(
    port: int, paths: Sequence[Path], called: str = "ICHTRIAGE", options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Send files with DCMTK; `options` such as ("-aet", "CT01", "-xs")."""
    command = [need("storescu"), "-v", "-aec", called, *options, HOST, str(port), *map(str, paths)]
    return _run(command)


def echoscu(port: int, called: str = "ICHTRIAGE", options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """C-ECHO with DCMTK."""
    return _run([need("echoscu"), "-v", "-aec", called, *options, HOST, str(port)])


def _environment() -> dict[str, str]:
    return {**os.environ, "TCP_NODELAY": "1"}  # else DCMTK waits 40 ms for an acknowledgement, each time


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
        env=_environment(),
    )


@dataclass(frozen=True)
class Storescp:
    """A running DCMTK storescp."""

    port: int
    folder: Path
    process: "subprocess.Popen[bytes]"

    def freeze(self) -> None:
        """Stop it in its tracks: the port stays open, nothing is read or answered."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen one go on."""
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def storescp(folder: Path, options: Sequence[str] = ()) -> Iterator[Storescp]:
    """DCMTK's storescp, which takes any called AE title."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [need("storescp"), "-od", str(folder), *options, str(port)]
    with _process(command, lambda: _is_listening(port)) as process:
        receiver = Storescp(port, folder, process)
        yield receiver
        receiver.thaw()


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc."""

    ae_title: str
    port: int
    http_port: int

    def get(self, path: str) -> Any:
        """JSON from its REST API, such as "/instances"."""
        return json.loads(self.read(path))

    def read(self, path: str) -> bytes:
        """Bytes from its REST API, such as "/instances/.../file"."""
        with urllib.request.urlopen(f"http://{HOST}:{self.http_port}{path}", timeout=LIMIT_S) as answer:
            return bytes(answer.read())


@contextmanager
def orthanc(folder: Path, settings: dict[str, Any] | None = None) -> Iterator[Orthanc]:
    """Orthanc with its database in `folder` and DICOM and HTTP on free ports; `settings` override its configuration."""
    program = need("Orthanc")
    folder.mkdir(parents=True, exist_ok=True)
    peer = Orthanc("ORTHANC", free_port(), free_port())
    configuration = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomAet": peer.ae_title,
        "DicomPort": peer.port,
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowStore": True,
        "HttpPort": peer.http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [],
        **(settings or {}),
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration))
    with _process([program, str(path)], lambda: _answers(peer)):
        yield peer


@contextmanager
def _process(command: Sequence[str], is_up: Callable[[], bool]) -> "Iterator[subprocess.Popen[bytes]]":
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet, env=_environment()) as process:
        try:
            wait_until(lambda: process.poll() is not None or is_up(), f"the start of {command[0]}", 60.0)
            assert process.poll() is None, f"{command[0]} ended at once with {process.returncode}"
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _is_listening(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex((HOST, port)) == 0


def _answers(peer: Orthanc) -> bool:
    try:
        return bool(peer.get("/system")) and _is_listening(peer.port)
    except OSError:
        return False


def write_ct(path: Path, sop_class_uid: str = CTImageStorage, size_px: int = 16, **elements: Any) -> Dataset:
    """Write one small CT image of a made-up patient; `elements` override its attributes by keyword."""
    data = Dataset()
    data.SOPClassUID = sop_class_uid
    data.SOPInstanceUID = generate_uid(None)
    data.StudyInstanceUID = generate_uid(None)
    data.SeriesInstanceUID = generate_uid(None)
    data.PatientName = "Synthetic^Secret"
    data.PatientID = "SECRET-0815"
    data.Modality = "CT"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.InstanceNumber = "1"
    data.ImagePositionPatient = [0, 0, 0]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.Rows = data.Columns = size_px
    data.PixelSpacing = [0.5, 0.5]
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleIntercept, data.RescaleSlope = "-1024", "1"
    data.PixelData = np.random.default_rng(1).integers(0, 4096, (size_px, size_px)).astype("<u2").tobytes()
    data["PixelData"].VR = "OW"
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return data


def contexts_for(*sop_classes: str) -> list[PresentationContext]:
    """Presentation contexts with pynetdicom's default transfer syntaxes."""
    return [build_context(c) for c in sop_classes]
