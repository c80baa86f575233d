import gc
import logging
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from peers import HOST, LIMIT_S, VERIFICATION, echoscu, storescu, wait_until, write_ct
from pydicom import DataElement, Dataset, dcmread
from pydicom.uid import (
    JPEG2000,
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, build_context
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode

from triage import errors
from triage.config import Destination, Node, Reception
from triage.errors import ConfigError, InstanceError, NoResources
from triage.net import library, scp, scu, statuses
from triage.net.contexts import CT_CLASSES, TRANSFER_SYNTAXES
from triage.net.scp import Callbacks, Listener, Received, sweep_spool
from triage.net.statuses import status_for
from triage.records import SendOutcome

SYNTAXES = Path(__file__).parents[2].parent / "shared" / "data" / "transfer_syntaxes"

# pynetdicom as a sender leaves the socket of a lost connection to the garbage collector; our side must not.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

SECRETS = ("Synthetic", "Secret", "SECRET")


class Owner:
    """What owns a listener: keeps what it is told, and answers as told."""

    def __init__(self, spool: Path) -> None:
        self.spool = spool
        self.kept = spool.parent / "kept"
        self.kept.mkdir()
        self.events: list[tuple[str, str]] = []
        self.received: list[Received] = []
        self.error: BaseException | None = None
        self.open_error: BaseException | None = None
        self.close_failures = 0
        self.at_work = threading.Event()
        self.go_on: threading.Event | None = None
        self._changed = threading.Condition()

    def on_received(self, received: Received) -> None:
        self._note("received", received.association)
        self.at_work.set()
        if self.go_on is not None:
            assert self.go_on.wait(LIMIT_S)
        if self.error is not None:
            raise self.error
        received.path.replace(self.kept / f"{len(self.received)}.dcm")
        self.received.append(received)

    def on_opened(self, key: str, calling_ae: str) -> None:
        self._note(f"opened by {calling_ae}", key)
        if self.open_error is not None:
            raise self.open_error

    def on_closed(self, key: str) -> None:
        if self.close_failures:
            self.close_failures -= 1
            raise NoResources("the database is locked")
        self._note("closed", key)

    def count(self, what: str) -> int:
        return [e for e, _ in self.events].count(what)

    def wait_for(self, what: str, n: int = 1, limit_s: float = LIMIT_S) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.count(what) >= n, limit_s), f"no {what}: {self.events}"

    def _note(self, what: str, key: str) -> None:
        with self._changed:
            self.events.append((what, key))
            self._changed.notify_all()


Start = Callable[..., tuple[Listener, Owner]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a listener on a free port with these Reception settings; stopped at the end of the test."""
    monkeypatch.setattr(scp, "POLL_S", 0.05)  # each stop waits for it
    running: list[Listener] = []

    def _start(**settings: Any) -> tuple[Listener, Owner]:
        spool = tmp_path / f"spool{len(running)}" / "spool"
        spool.mkdir(parents=True)
        owner = Owner(spool)
        callbacks = Callbacks(owner.on_received, owner.on_opened, owner.on_closed)
        listener = Listener(Node(port=0), Reception(**settings), spool, callbacks)
        listener.start()
        running.append(listener)
        return listener, owner

    yield _start
    for listener in running:
        listener.stop(0.0)
    wait_until(lambda: not any("AcceptorThread" in t.name for t in threading.enumerate()), "the end of all threads")
    gc.collect()


def port_of(listener: Listener) -> int:
    return listener.address[1]


def call(listener: Listener, *sop_classes: str, calling: str = "CT01", called: str = "ICHTRIAGE") -> Any:
    ae = AE(ae_title=calling)
    ae.dimse_timeout = ae.acse_timeout = LIMIT_S
    contexts = [build_context(c) for c in sop_classes or (CTImageStorage,)]
    return ae.associate(HOST, port_of(listener), contexts, ae_title=called)


def command(image: Dataset, **changes: Any) -> C_STORE_RQ:
    """A C-STORE request for an image whose command group is changed by hand, even to what pynetdicom would not send."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    request.DataSet = BytesIO(encode(image, True, True) or b"")
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    for keyword, value in changes.items():
        if value is None:
            delattr(message.command_set, keyword)
        else:  # as text, so that nothing is checked on the way out
            tag = message.command_set[keyword].tag
            message.command_set[tag] = DataElement(tag, "LO", value)
    return message


def store(association: Any, message: C_STORE_RQ) -> int | None:
    """Send a request as it is and return the status that comes back."""
    association._reactor_checkpoint.clear()
    for pdata in message.encode_msg(association.accepted_contexts[0].context_id, 16384):
        association.dul.send_pdu(pdata)
    _, response = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    return None if response is None else int(response.Status)


def begin_transfer(listener: Listener, folder: Path) -> Any:
    """An association in the middle of a data set."""
    association = call(listener)
    image = write_ct(folder / "half.dcm", size_px=256)
    pieces = command(image).encode_msg(association.accepted_contexts[0].context_id, 4096)
    for pdata in [next(pieces) for _ in range(12)]:
        association.dul.send_pdu(pdata)
    return association


def cut(association: Any) -> None:
    """Lose the connection without a word of DICOM."""
    association.dul.socket.socket.shutdown(socket.SHUT_RDWR)


# Verification and storage


def test_answers_the_echo_of_dcmtk(start: Start) -> None:
    listener, owner = start()
    answer = echoscu(port_of(listener))
    assert answer.returncode == 0, answer.stderr
    owner.wait_for("closed")


def test_takes_images_of_dcmtk(start: Start, tmp_path: Path) -> None:
    listener, owner = start()
    sent = [write_ct(tmp_path / f"{n}.dcm") for n in range(5)]
    answer = storescu(port_of(listener), [tmp_path / f"{n}.dcm" for n in range(5)], options=("-aet", "CT01"))
    assert answer.returncode == 0, answer.stderr
    owner.wait_for("closed")
    assert [e for e, _ in owner.events] == ["opened by CT01", *["received"] * 5, "closed"]
    assert len({key for _, key in owner.events}) == 1
    assert [r.sop_instance_uid for r in owner.received] == [d.SOPInstanceUID for d in sent]
    for n, (image, received) in enumerate(zip(sent, owner.received, strict=True)):
        assert (received.calling_ae, received.sop_class_uid) == ("CT01", CTImageStorage)
        kept = dcmread(owner.kept / f"{n}.dcm")
        assert kept.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert kept == image
    assert list(owner.spool.iterdir()) == []


def test_a_received_file_is_in_the_spool_and_complete_when_the_callback_runs(start: Start, tmp_path: Path) -> None:
    listener, owner = start()
    seen: list[tuple[Path, Dataset]] = []
    listener._callbacks = Callbacks(
        lambda r: seen.append((r.path, dcmread(r.path))), owner.on_opened, owner.on_closed
    )
    image = write_ct(tmp_path / "a.dcm")
    association = call(listener)
    assert association.send_c_store(image).Status == 0x0000
    association.release()
    (path, data), = seen
    assert path.parent == owner.spool
    assert data.PixelData == image.PixelData
    assert not path.exists()  # nobody took it


@pytest.mark.skipif(not SYNTAXES.is_dir(), reason="shared data set is not here")
@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=lambda u: u.name)
def test_takes_every_transfer_syntax_bit_by_bit(start: Start, tmp_path: Path, syntax: str) -> None:
    path = next(SYNTAXES.glob(f"*_{syntax}.dcm"), tmp_path / "relabelled.dcm")
    if not path.exists():  # no HTJ2K file at hand: to the network a codestream is so many bytes
        image = dcmread(next(SYNTAXES.glob(f"*_{JPEG2000Lossless}.dcm")))
        image.file_meta.TransferSyntaxUID = UID(syntax)
        image.save_as(path)
    listener, owner = start()
    node = Destination(name="node", ae_title="ICHTRIAGE", host=HOST, port=port_of(listener))
    report, = scu.send("CT01", node, [path])
    assert report.outcome is SendOutcome.ACCEPTED, report.detail
    kept = (owner.kept / "0.dcm").read_bytes()
    assert dcmread(BytesIO(kept), stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax
    data_set = path.read_bytes()[-4096:]
    assert kept.endswith(data_set)


@pytest.mark.skipif(not SYNTAXES.is_dir(), reason="shared data set is not here")
def test_refuses_what_cannot_be_decoded_at_negotiation(start: Start) -> None:
    listener, owner = start()
    paths = [p for p in SYNTAXES.glob("CTImage.dcm_*.dcm") if p.stem.rsplit("_", 1)[1] not in TRANSFER_SYNTAXES]
    assert len(paths) == 5  # big endian, JPEG baseline, extended and two retired processes
    node = Destination(name="node", ae_title="ICHTRIAGE", host=HOST, port=port_of(listener))
    for report in scu.send("CT01", node, paths):
        assert report.outcome is SendOutcome.REFUSED
        assert "does not take" in report.detail or "takes none" in report.detail
    assert owner.received == []


def test_prefers_uncompressed_whatever_the_sender_prefers(start: Start) -> None:
    listener, _ = start()
    ae = AE(ae_title="CT01")
    association = ae.associate(
        HOST,
        port_of(listener),
        [build_context(CTImageStorage, [JPEG2000, ExplicitVRLittleEndian])],
        ae_title="ICHTRIAGE",
    )
    assert association.accepted_contexts[0].transfer_syntax == [ExplicitVRLittleEndian]
    association.release()


def test_takes_three_ct_classes_and_says_which_others_it_refuses(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    listener, owner = start()
    association = call(listener, *CT_CLASSES, VERIFICATION, MRImageStorage, SecondaryCaptureImageStorage)
    taken = {c.abstract_syntax for c in association.accepted_contexts}
    association.release()
    owner.wait_for("closed")
    assert taken == {*CT_CLASSES, VERIFICATION}
    assert "contexts_refused" in caplog.text
    assert "MR Image Storage" in caplog.text


def test_negotiates_its_pdu_length_and_signs(start: Start) -> None:
    listener, _ = start()
    association = call(listener)
    assert association.acceptor.maximum_length == 131072
    assert association.acceptor.implementation_class_uid == library.IMPLEMENTATION_CLASS_UID
    assert association.acceptor.implementation_version_name == library.IMPLEMENTATION_VERSION_NAME
    association.release()


# The status table


def subclasses(base: type[InstanceError]) -> set[type[InstanceError]]:
    return {s for c in base.__subclasses__() for s in {c, *subclasses(c)}}


def test_every_instance_error_has_a_status() -> None:
    assert set(statuses.STATUS) == {c for c in subclasses(InstanceError) if c.__module__ == errors.__name__}


def test_an_error_without_a_row_gets_the_row_above_it() -> None:
    class Special(NoResources):
        pass

    assert status_for(Special("x")) == 0xA700
    assert status_for(InstanceError("x")) == 0x0110


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, 0x0000),
        (errors.NoResources("the disk is nearly full"), 0xA700),
        (errors.MismatchedInstance("no image"), 0xA900),
        (errors.UnreadableInstance("no data set"), 0xC000),
        (errors.UnsupportedInstance("no CT"), 0x0122),
        (errors.ConflictingInstance("known"), 0x0111),
        (ZeroDivisionError("Synthetic^Secret"), 0x0110),
        (errors.StudyError("not meant for a sender"), 0x0110),
    ],
    ids=lambda v: type(v).__name__ if not isinstance(v, int) else f"{v:04X}",
)
def test_status_table(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception | None, status: int
) -> None:
    caplog.set_level(logging.INFO)
    listener, owner = start()
    owner.error = error
    association = call(listener)
    assert association.send_c_store(write_ct(tmp_path / "a.dcm")).Status == status
    owner.error = None
    assert association.send_c_store(write_ct(tmp_path / "b.dcm")).Status == 0x0000  # the association goes on
    association.release()
    owner.wait_for("closed")
    assert list(owner.spool.iterdir()) == []
    if status:
        assert type(error).__name__ in caplog.text
    assert not any(s in caplog.text for s in SECRETS)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI", "ignore:The value length")
@pytest.mark.parametrize(
    "uid",
    ["../../../../tmp/x", "1.2/3", "..", ".", "1..2", "1.2.", "1." + "2" * 63, "1.2.a", "1.2\n3", "é"],
)
def test_an_invalid_uid_gets_c000_and_goes_no_further(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, uid: str
) -> None:
    listener, owner = start()
    association = call(listener)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        message = command(write_ct(tmp_path / "a.dcm"), AffectedSOPInstanceUID=uid)
        assert store(association, message) == 0xC000
    association.release()
    owner.wait_for("closed")
    assert owner.count("received") == 0
    assert list(owner.spool.iterdir()) == []
    ours = [r.getMessage() for r in caplog.records if r.name.startswith(("triage", "pynetdicom"))]
    assert not [m for m in ours if f"'{uid}'" in m]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # pynetdicom's thread dies of it
@pytest.mark.parametrize("uid", [None, ""])
def test_a_command_without_uid_ends_its_association_only(start: Start, tmp_path: Path, uid: str | None) -> None:
    listener, owner = start()
    association = call(listener)
    assert store(association, command(write_ct(tmp_path / "a.dcm"), AffectedSOPInstanceUID=uid)) is None
    owner.wait_for("closed")
    assert owner.count("received") == 0
    assert echoscu(port_of(listener)).returncode == 0


@pytest.mark.parametrize(("sop_class", "status"), [(EnhancedCTImageStorage, 0xA900), (MRImageStorage, 0x0122)])
def test_a_command_of_another_class_than_agreed_is_refused(
    start: Start, tmp_path: Path, sop_class: str, status: int
) -> None:
    listener, owner = start()
    association = call(listener)
    assert store(association, command(write_ct(tmp_path / "a.dcm"), AffectedSOPClassUID=sop_class)) == status
    association.release()
    assert owner.count("received") == 0


# Who may call


def test_says_loudly_and_once_that_anyone_may_send(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    listener, owner = start()
    for _ in range(2):
        call(listener, calling="ANYBODY").release()
    owner.wait_for("closed", 2)
    warned = [r for r in caplog.records if "ANYONE_MAY_SEND" in r.getMessage()]
    assert [r.levelname for r in warned] == ["WARNING"]


def test_says_nothing_of_it_with_a_list(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    start(calling_aets=("CT01",))
    assert "ANYONE_MAY_SEND" not in caplog.text


@pytest.mark.parametrize(
    ("calling", "called", "reason"),
    [
        ("EVIL", "ICHTRIAGE", "Calling AE title not recognised"),
        ("ct01", "ICHTRIAGE", "Calling AE title not recognised"),
        ("CT01", "OTHER", "Called AE title not recognised"),
        ("EVIL", "OTHER", "Called AE title not recognised"),
    ],
)
def test_rejects_strangers_and_logs_who_and_why(
    start: Start, caplog: pytest.LogCaptureFixture, calling: str, called: str, reason: str
) -> None:
    listener, owner = start(calling_aets=("CT01", "CT02"))
    association = call(listener, calling=calling, called=called)
    assert association.is_rejected
    assert association.acceptor.primitive.result_str == "Rejected Permanent"
    assert association.acceptor.primitive.reason_str == reason
    rejected, = [r.getMessage() for r in caplog.records if "association_rejected" in r.getMessage()]
    assert f"calling='{calling}'" in rejected
    assert f"called='{called}'" in rejected
    assert f"peer={HOST}" in rejected
    assert reason in rejected
    admitted = call(listener, calling="CT02")
    assert admitted.is_established
    admitted.release()
    owner.wait_for("closed")
    assert owner.count(f"opened by {calling}") == 0


def test_answers_to_every_called_title_it_is_given(start: Start) -> None:
    listener, _ = start(called_aets=("FIRST", "SECOND"))
    for called, is_answered in (("FIRST", True), ("SECOND", True), ("ICHTRIAGE", False)):
        association = call(listener, called=called)
        assert association.is_established is is_answered
        association.release()


def test_rejects_one_association_too_many_for_a_while(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    listener, owner = start(max_associations=2)
    first, second, third = (call(listener) for _ in range(3))
    assert first.is_established
    assert second.is_established
    assert third.is_rejected
    assert third.acceptor.primitive.result_str == "Rejected Transient"
    assert "Local limit exceeded" in caplog.text
    first.release()
    owner.wait_for("closed")
    fourth = call(listener)  # at once, though threads of the first may still be ending
    assert fourth.is_established
    for association in (second, fourth):
        association.release()


def test_the_owner_can_refuse_an_association(start: Start) -> None:
    listener, owner = start()
    owner.open_error = NoResources("the database is locked")
    association = call(listener)
    wait_until(lambda: not association.is_established, "the abort")
    owner.wait_for("closed")
    owner.open_error = None
    again = call(listener)
    assert again.is_established
    again.release()


# How associations end


def test_closed_on_release(start: Start) -> None:
    listener, owner = start()
    call(listener).release()
    owner.wait_for("closed")
    (opened, key), (closed, same) = owner.events
    assert (opened, closed) == ("opened by CT01", "closed")
    assert key == same


def test_closed_on_abort(start: Start) -> None:
    listener, owner = start()
    call(listener).abort()
    owner.wait_for("closed")


def test_closed_when_the_connection_is_lost(start: Start) -> None:
    listener, owner = start()
    cut(call(listener))
    owner.wait_for("closed")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # pynetdicom's thread dies of it
def test_closed_when_the_spool_is_gone(start: Start, tmp_path: Path) -> None:
    listener, owner = start()
    association = call(listener)
    owner.spool.rmdir()
    assert "Status" not in association.send_c_store(write_ct(tmp_path / "a.dcm"))
    owner.wait_for("closed")
    owner.spool.mkdir()
    again = call(listener)
    assert again.send_c_store(write_ct(tmp_path / "b.dcm")).Status == 0x0000
    again.release()


def test_closed_when_a_peer_falls_silent(start: Start) -> None:
    listener, owner = start(network_timeout_s=0.5)
    association = call(listener)
    owner.wait_for("closed")
    association.abort()


def test_closed_when_a_peer_falls_silent_in_the_middle_of_a_pdu(start: Start) -> None:
    listener, owner = start(network_timeout_s=0.5)
    association = call(listener)
    association.dul.socket.socket.sendall(b"\x04\x00\x00\x01\x00\x00half a PDU")
    owner.wait_for("closed")
    wait_until(lambda: not any("AcceptorThread" in t.name for t in threading.enumerate()), "the end of its threads")
    association.abort()


def test_closed_is_told_again_until_it_is_heard(start: Start) -> None:
    listener, owner = start()
    owner.close_failures = 2
    call(listener).release()
    owner.wait_for("closed")
    assert owner.close_failures == 0
    assert owner.count("closed") == 1


def test_connections_without_a_word_take_no_place_and_no_thread(start: Start) -> None:
    listener, _ = start(max_associations=1)
    before = threading.active_count()
    for _ in range(100):  # a load balancer's health checks
        socket.create_connection((HOST, port_of(listener)), LIMIT_S).close()
    wait_until(lambda: threading.active_count() <= before, "the end of a hundred closed connections")
    silent = [socket.create_connection((HOST, port_of(listener)), LIMIT_S) for _ in range(10)]
    association = call(listener)
    assert association.is_established
    association.release()
    for s in silent:
        s.close()
    wait_until(lambda: threading.active_count() <= before, "the end of the silent connections")


def test_silent_connections_are_limited(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    listener, _ = start()
    silent = [socket.create_connection((HOST, port_of(listener)), LIMIT_S) for _ in range(70)]
    wait_until(lambda: "too many connections" in caplog.text, "the closing of one too many")
    for s in silent:
        s.close()


def test_a_silent_connection_is_closed_after_the_acse_timeout(start: Start) -> None:
    listener, _ = start(acse_timeout_s=0.3)
    with socket.create_connection((HOST, port_of(listener)), LIMIT_S) as s:
        assert s.recv(1) == b""


def test_what_is_no_dicom_is_cut(start: Start) -> None:
    listener, owner = start(acse_timeout_s=1.0)
    with socket.create_connection((HOST, port_of(listener)), LIMIT_S) as s:
        s.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while s.recv(4096):
            pass
    assert owner.events == []
    assert echoscu(port_of(listener)).returncode == 0


# Broken transfers


@pytest.mark.parametrize("end", [cut, lambda a: a.abort()], ids=["lost", "aborted"])
def test_a_broken_transfer_is_not_told_of_and_leaves_nothing(
    start: Start, tmp_path: Path, end: Callable[[Any], None]
) -> None:
    listener, owner = start()
    association = begin_transfer(listener, tmp_path)
    wait_until(lambda: any(p.stat().st_size > 4096 for p in owner.spool.iterdir()), "the first half")
    end(association)
    owner.wait_for("closed")
    assert owner.count("received") == 0
    wait_until(lambda: not list(owner.spool.iterdir()), "the removal of the first half")


def test_the_sweep_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    left = tmp_path / "tmpabc.dcm"
    left.write_bytes(b"half")
    now = left.stat().st_mtime
    assert sweep_spool(tmp_path, 600.0, now + 599.0) == 0
    assert sweep_spool(tmp_path, 600.0, now + 600.0) == 1
    assert not left.exists()


def test_the_sweep_touches_nothing_else(tmp_path: Path) -> None:
    for name in ("tmpabc.dcm", "keep.dcm", "tmpabc.txt"):
        (tmp_path / name).touch()
    assert sweep_spool(tmp_path, 0.0, time.time() + 1.0) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"keep.dcm", "tmpabc.txt"}


def test_the_sweep_of_a_missing_spool_finds_nothing(tmp_path: Path) -> None:
    assert sweep_spool(tmp_path / "spool", 0.0, time.time()) == 0


# Start and stop


def test_a_port_in_use_names_the_key(start: Start, tmp_path: Path) -> None:
    listener, owner = start()
    callbacks = Callbacks(owner.on_received, owner.on_opened, owner.on_closed)
    with pytest.raises(ConfigError, match=rf"node\.port: {port_of(listener)} is in use"):
        Listener(Node(port=port_of(listener)), Reception(), tmp_path, callbacks).start()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_a_foreign_address_names_the_key(tmp_path: Path, host: str) -> None:
    owner = Callbacks(lambda _r: None, lambda _k, _c: None, lambda _k: None)
    with pytest.raises(ConfigError, match=r"node\.host: "):
        Listener(Node(host=host, port=0), Reception(), tmp_path, owner).start()


def test_temporary_files_go_elsewhere_again_after_the_stop(start: Start) -> None:
    before = tempfile.gettempdir()
    listener, owner = start()
    assert tempfile.gettempdir() == str(owner.spool)
    listener.stop(0.0)
    assert tempfile.gettempdir() == before


def stop_in_background(listener: Listener, grace_s: float) -> threading.Thread:
    thread = threading.Thread(target=listener.stop, args=(grace_s,))
    thread.start()
    wait_until(lambda: listener._stopping, "the stop")
    return thread


def test_a_stop_lets_a_running_association_finish_and_rejects_new_ones(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listener, owner = start()
    running = call(listener)
    assert running.send_c_store(write_ct(tmp_path / "a.dcm")).Status == 0x0000
    stopping = stop_in_background(listener, LIMIT_S)
    refused = call(listener)
    assert refused.is_rejected
    assert refused.acceptor.primitive.result_str == "Rejected Transient"
    assert "Temporary congestion" in caplog.text
    assert running.send_c_store(write_ct(tmp_path / "b.dcm")).Status == 0x0000
    running.release()
    stopping.join(LIMIT_S / 2)  # well before the grace has passed
    assert not stopping.is_alive()
    assert len(owner.received) == 2
    assert owner.events[-1][0] == "closed"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port_of(listener)), LIMIT_S)


def test_a_stop_aborts_who_does_not_finish(start: Start, tmp_path: Path) -> None:
    listener, owner = start()
    idle, half = call(listener), begin_transfer(listener, tmp_path)
    listener.stop(0.1)
    assert owner.count("closed") == 2
    wait_until(lambda: idle.is_aborted and half.is_aborted, "the aborts")


def test_a_stop_ends_an_association_in_the_middle_of_a_pdu(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scp, "END_LIMIT_S", 0.3)
    listener, owner = start()
    association = call(listener)
    association.dul.socket.socket.sendall(b"\x04\x00\x00\x01\x00\x00half a PDU")
    listener.stop(0.1)
    assert owner.count("closed") == 1
    association.abort()


def test_no_callback_runs_after_the_stop(start: Start, tmp_path: Path) -> None:
    listener, owner = start()
    owner.go_on = threading.Event()
    association = call(listener)
    sending = threading.Thread(target=association.send_c_store, args=(write_ct(tmp_path / "a.dcm"),))
    sending.start()
    assert owner.at_work.wait(LIMIT_S)
    stopping = stop_in_background(listener, 0.0)
    owner.go_on.set()
    stopping.join(LIMIT_S)
    assert not stopping.is_alive()
    assert [e for e, _ in owner.events] == ["opened by CT01", "received", "closed"]
    sending.join(LIMIT_S)


def test_ten_senders_at_once(start: Start, tmp_path: Path) -> None:
    listener, owner = start()
    paths = [tmp_path / f"{n}.dcm" for n in range(4)]
    for path in paths:
        write_ct(path)
    node = Destination(name="node", ae_title="ICHTRIAGE", host=HOST, port=port_of(listener))
    outcomes: list[SendOutcome] = []

    def run(images: Sequence[Path]) -> None:
        outcomes.extend(r.outcome for r in scu.send("CT01", node, images))

    senders = [threading.Thread(target=run, args=(paths,)) for _ in range(10)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(LIMIT_S)
    owner.wait_for("closed", 10)
    assert outcomes == [SendOutcome.ACCEPTED] * 40
    for key in {key for _, key in owner.events}:
        assert [e for e, k in owner.events if k == key] == ["opened by CT01", *["received"] * 4, "closed"]
