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
from typing import Any, Literal

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, AllStoragePresentationContexts, build_context, build_role, evt
from pynetdicom.presentation import PresentationContext

HOST = "127.0.0.1"
VERIFICATION = "1.2.840.10008.1.1"
STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
NO_SUCH_INSTANCE = 0x0112
LARGE_PDU_BYTES = 100_000
"""Longer ones are parts of a data set that has more of them."""
LIMIT_S = 30.0
"""Longest a test waits for anything that should happen at once."""


def need(tool: str) -> str:
    """Path of an installed program; skips the test when there is none, or fails it under REQUIRE_PEERS=1."""
    path = shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        reason = f"{tool} is not installed (Debian packages dcmtk, orthanc, openssl)"
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
class Committing:
    """How a stand-in PACS answers storage commitment."""

    way: Literal["same", "before", "new", "later"] = "same"
    """same: on the association of the request; before: on it, ahead of the response to the request; new: on a new
    association to `Pacs.node_port`; later: when `Pacs.report` is called, if ever."""
    times: int = 1
    status: int = 0x0000
    """Answered to the request; no report follows a failure."""
    has_role: bool = True
    """Whether it says on a new association that it is the provider, as it must."""


@dataclass(frozen=True)
class Request:
    """A request for storage commitment as it arrived."""

    transaction_uid: str
    references: tuple[tuple[str, str], ...]
    """SOP class and instance."""


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
    cuts: int = 0
    """How often it cuts the connection in the middle of a data set."""
    committing: Committing | None = None
    """None: it offers no storage commitment."""


class Pacs:
    """A storage SCP from `with` to its end; keeps a file for each object that it accepted.

    It commits to what it has accepted, but for what `lost` gives a reason for.
    """

    def __init__(self, folder: Path, manners: Manners | None = None) -> None:
        self.folder = folder
        self.manners = manners or Manners()
        self.wake = threading.Event()
        self.stored: list[Path] = []
        self.calling: list[str] = []
        self.echoes = 0
        self.port = 0
        self.node_port = 0
        self.node_ae = "ICHTRIAGE"
        self.lost: dict[str, int] = {}
        self.requests: list[Request] = []
        self.answers: list[int | None] = []
        """What the node answered to each report; None: nothing."""
        self._arrivals = 0
        self.cuts = 0
        self._unsent: dict[Any, Request] = {}
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
        if self.manners.committing is not None:
            ae.add_supported_context(STORAGE_COMMITMENT)
        ae.require_calling_aet = list(self.manners.calling_aets)
        ae.require_called_aet = True
        ae.maximum_associations = 32
        ae.maximum_pdu_size = 131072
        self._server = ae.start_server(
            (HOST, self.port),
            block=False,
            evt_handlers=[
                (evt.EVT_C_STORE, self._on_store),
                (evt.EVT_C_ECHO, self._on_echo),
                (evt.EVT_N_ACTION, self._on_action),
                (evt.EVT_PDU_SENT, self._on_pdu_sent),
                (evt.EVT_PDU_RECV, self._on_pdu_received),
                (evt.EVT_CONN_CLOSE, _drop_unfinished),
            ],
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

    def wait_for_requests(self, n: int, limit_s: float = LIMIT_S) -> list[Request]:
        """The requests for storage commitment, once there are `n`."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= n, limit_s), f"{len(self.requests)} of {n} came"
            return list(self.requests)

    def wait_for_answers(self, n: int, limit_s: float = LIMIT_S) -> list[int | None]:
        """What the node answered to the reports, once there are `n`."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.answers) >= n, limit_s), f"{len(self.answers)} of {n} came"
            return list(self.answers)

    def stored_uids(self) -> list[str]:
        """SOP Instance UID of each object accepted; one that came twice stands twice."""
        return [str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in list(self.stored)]

    def report(self, request: Request) -> int | None:
        """Answer a request over a new association to the node; the status that comes back, or None."""
        ae = AE(ae_title=self.manners.ae_title)
        ae.add_requested_context(STORAGE_COMMITMENT)
        has_role = self.manners.committing is None or self.manners.committing.has_role
        roles: list[Any] = [build_role(STORAGE_COMMITMENT, scp_role=True)] if has_role else []
        association = ae.associate(HOST, self.node_port, ae_title=self.node_ae, ext_neg=roles)
        try:
            return self._send_report(association, request)
        finally:
            association.release()

    def _send_report(self, association: Any, request: Request) -> int | None:
        status = None
        if association.is_established:
            information, kind = self._information(request)
            answer, _ = association.send_n_event_report(
                information, kind, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
            )
            status = answer.get("Status")
        with self._changed:
            self.answers.append(status)
            self._changed.notify_all()
        return status

    def _information(self, request: Request) -> tuple[Dataset, int]:
        """Event information and type (PS3.4 J.3.3)."""
        kept = set(self.stored_uids())
        reasons = {u: self.lost.get(u, 0 if u in kept else NO_SUCH_INSTANCE) for _, u in request.references}
        return report_of(request, {u: r for u, r in reasons.items() if r})

    def _on_action(self, event: Any) -> tuple[int, None]:
        manner = self.manners.committing
        assert manner is not None
        information = event.action_information
        items = information.ReferencedSOPSequence
        references = tuple((str(i.ReferencedSOPClassUID), str(i.ReferencedSOPInstanceUID)) for i in items)
        request = Request(str(information.TransactionUID), references)
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        if manner.status != 0x0000:
            return manner.status, None
        if manner.way == "before":
            for _ in range(manner.times):
                self._send_report(event.assoc, request)
        elif manner.way in ("same", "new"):
            self._unsent[event.assoc] = request
        return manner.status, None

    def _on_pdu_sent(self, event: Any) -> None:
        """Once the response to a request is out, its report may follow."""
        request = self._unsent.pop(event.assoc, None)
        if request is not None:
            threading.Thread(target=self._report_all, args=(event.assoc, request)).start()

    def _on_pdu_received(self, event: Any) -> None:
        """Cut the connection once the first part of a large data set is in."""
        if self.cuts < self.manners.cuts and len(event.pdu) > LARGE_PDU_BYTES:
            self.cuts += 1
            event.assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)

    def _report_all(self, association: Any, request: Request) -> None:
        manner = self.manners.committing
        assert manner is not None
        for _ in range(manner.times):
            if manner.way == "same":
                self._send_report(association, request)
            else:
                self.report(request)

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


def _drop_unfinished(event: Any) -> None:
    """Close and remove the file of a data set that broke off, which pynetdicom leaves."""
    file = getattr(event.assoc.dimse.message, "_data_set_file", None)
    if file is not None:
        file.close()
        Path(file.name).unlink(missing_ok=True)


def report_of(request: Request, failed: dict[str, int]) -> tuple[Dataset, int]:
    """Event information and type of the answer to a request: all committed, but for `failed` with its reasons."""
    information = Dataset()
    information.TransactionUID = request.transaction_uid
    committed: list[Dataset] = []
    refused: list[Dataset] = []
    for sop_class_uid, sop_instance_uid in request.references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
        if sop_instance_uid in failed:
            item.FailureReason = failed[sop_instance_uid]
        (refused if sop_instance_uid in failed else committed).append(item)
    if committed:
        information.ReferencedSOPSequence = committed
    if refused:
        information.FailedSOPSequence = refused
    return information, 2 if refused else 1


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

    def delete(self, path: str) -> None:
        """Delete by its REST API, such as "/instances/..."."""
        request = urllib.request.Request(f"http://{HOST}:{self.http_port}{path}", method="DELETE")
        urllib.request.urlopen(request, timeout=LIMIT_S).close()

    def delete_instance(self, sop_instance_uid: str) -> None:
        """Delete an object by its SOP Instance UID."""
        found, = (i for i in self.get("/instances")
                  if self.get(f"/instances/{i}")["MainDicomTags"]["SOPInstanceUID"] == sop_instance_uid)  # fmt: skip
        self.delete(f"/instances/{found}")


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
