import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from message_peers import make_certificate, tcp_server
from peers import (
    HOST,
    LIMIT_S,
    Committing,
    Manners,
    Pacs,
    contexts_for,
    free_port,
    orthanc,
    write_ct,
)
from pydicom.uid import Comprehensive3DSRStorage

from triage import doctor
from triage.config import Config, parse_config
from triage.dicom import probe
from triage.doctor import Check, examine
from triage.net import commitment, scp, scu
from triage.net.scp import Callbacks, Listener
from triage.outbox import Sender, take_answer
from triage.records import SendOutcome
from triage.store.db import open_database

# pynetdicom as a peer leaves the socket of a lost connection to the garbage collector; our side must not.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitment, "SAME_ASSOCIATION_S", 0.3)
    monkeypatch.setattr(scp, "POLL_S", 0.05)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def make_config(data_dir: Path, node_port: int = 0, **sections: Any) -> Config:
    node = {"port": node_port, "data_dir": str(data_dir), "host": HOST}
    return parse_config({"node": node, **sections}, data_dir.parent)


def pacs_at(port: int, **changes: Any) -> list[dict[str, Any]]:
    return [{"name": "pacs", "ae_title": "PACS", "host": HOST, "port": port, **changes}]


def checks(config: Config, echo_only: bool = False) -> dict[str, Check]:
    return {c.name: c for c in examine(config, echo_only)}


def test_a_destination_that_does_everything(tmp_path: Path, data_dir: Path) -> None:
    with Pacs(tmp_path / "pacs", Manners(committing=Committing("same"))) as pacs:
        config = make_config(data_dir, destinations=pacs_at(pacs.port))
        for _ in range(2):
            found = checks(config)
            assert [found[f"{what} pacs"].is_ok for what in ("destination", "storage", "commitment")] == [True] * 3
        assert pacs.stored_uids() == [probe.SOP_INSTANCE_UID] * 2
    assert "may be deleted" in found["storage pacs"].text
    assert "safely stored" in found["commitment pacs"].text


def test_only_c_echo(tmp_path: Path, data_dir: Path) -> None:
    with Pacs(tmp_path / "pacs", Manners(committing=Committing("same"))) as pacs:
        found = checks(make_config(data_dir, destinations=pacs_at(pacs.port)), echo_only=True)
        assert (pacs.echoes, pacs.stored, pacs.requests) == (1, [], [])
    assert [name for name in found if name.endswith(" pacs")] == ["destination pacs"]


def test_an_answer_on_a_new_association_while_the_node_is_down(tmp_path: Path, data_dir: Path) -> None:
    with Pacs(tmp_path / "pacs", Manners(committing=Committing("new"))) as pacs:
        pacs.node_port = free_port()
        reception = {"calling_aets": ["CT01"]}
        found = checks(make_config(data_dir, pacs.node_port, destinations=pacs_at(pacs.port), reception=reception))
        assert pacs.wait_for_answers(1) == [0x0000]
    assert "not running" in found["node"].text
    assert found["commitment pacs"].is_ok


def test_whoever_sends_images_to_the_doctor_is_to_try_again(tmp_path: Path, data_dir: Path) -> None:
    config = make_config(data_dir, free_port(), destinations=pacs_at(1))
    write_ct(tmp_path / "a.dcm")
    data_dir.mkdir()
    with doctor._listening(config, is_needed=True) as faults:
        assert faults == []
        node = config.destinations[0].model_copy(update={"port": config.node.port, "ae_title": "ICHTRIAGE"})
        report, = scu.send("CT01", node, [tmp_path / "a.dcm"])
    assert report.outcome is SendOutcome.UNREACHABLE


@contextmanager
def running_node(config: Config, folder: Path) -> Iterator[None]:
    """As much of a node as answers C-ECHO and takes answers to storage commitment."""
    folder.mkdir()
    with open_database(config.database_url, config.node.data_dir) as db:
        sender = Sender(db, config.node.ae_title, config.delivery)
        callbacks = Callbacks(
            lambda _r: None, lambda _k, _c: None, lambda _k: None, partial(take_answer, sender))  # fmt: skip
        listener = Listener(config.node, config.reception, folder, callbacks, ("PACS",))
        listener.start()
        try:
            yield
        finally:
            listener.stop(0.0)


def test_an_answer_on_a_new_association_goes_to_the_running_node(tmp_path: Path, data_dir: Path) -> None:
    with Pacs(tmp_path / "pacs", Manners(committing=Committing("new"))) as pacs:
        pacs.node_port = free_port()
        config = make_config(data_dir, pacs.node_port, destinations=pacs_at(pacs.port))
        data_dir.mkdir()
        with running_node(config, tmp_path / "spool"):
            found = checks(config)
    assert "running" in found["node"].text
    assert "listener" not in found
    assert found["commitment pacs"].is_ok


def test_a_running_node_that_admits_others_only_is_found_running(tmp_path: Path, data_dir: Path) -> None:
    config = make_config(
        data_dir, free_port(), reception={"calling_aets": ["CT01", "CT02"], "called_aets": ["TRIAGE2"]}
    )
    data_dir.mkdir()
    with running_node(config, tmp_path / "spool"):
        found = checks(config)
    assert found["node"].is_ok, found["node"].text
    assert "answers C-ECHO" in found["node"].text


def test_a_destination_that_never_answers(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "ANSWER_S", 0.3)
    with Pacs(tmp_path / "pacs", Manners(committing=Committing("later"))) as pacs:
        port = free_port()
        check = checks(make_config(data_dir, port, destinations=pacs_at(pacs.port)))["commitment pacs"]
    assert not check.is_ok
    assert f"does it know ICHTRIAGE at this host and port {port}?" in check.text


def test_a_destination_that_does_not_commit(tmp_path: Path, data_dir: Path) -> None:
    with Pacs(tmp_path / "pacs", Manners(committing=Committing("same"))) as pacs:
        pacs.lost[probe.SOP_INSTANCE_UID] = 0x0112
        check = checks(make_config(data_dir, destinations=pacs_at(pacs.port)))["commitment pacs"]
    assert not check.is_ok
    assert "0x0112 no such object instance" in check.text


@pytest.mark.parametrize(("setting", "is_ok"), [("auto", True), ("required", False)])
def test_a_destination_without_storage_commitment(
    tmp_path: Path, data_dir: Path, setting: str, is_ok: bool
) -> None:
    with Pacs(tmp_path / "pacs") as pacs:
        there = pacs_at(pacs.port, storage_commitment=setting)
        check = checks(make_config(data_dir, destinations=there))["commitment pacs"]
    assert check.is_ok is is_ok
    assert ("counts as delivered" if is_ok else 'set storage_commitment = "auto"') in check.text


def test_commitment_that_is_off_is_not_asked_for(tmp_path: Path, data_dir: Path) -> None:
    with Pacs(tmp_path / "pacs", Manners(committing=Committing("same"))) as pacs:
        found = checks(make_config(data_dir, destinations=pacs_at(pacs.port, storage_commitment="off")))
        assert pacs.requests == []
    assert found["storage pacs"].is_ok
    assert "commitment pacs" not in found


def test_a_request_that_is_refused(tmp_path: Path, data_dir: Path) -> None:
    with Pacs(tmp_path / "pacs", Manners(committing=Committing(status=0x0110))) as pacs:
        check = checks(make_config(data_dir, destinations=pacs_at(pacs.port)))["commitment pacs"]
    assert not check.is_ok
    assert "0x0110" in check.text


def test_a_destination_that_refuses_storage(tmp_path: Path, data_dir: Path) -> None:
    with Pacs(tmp_path / "pacs", Manners(statuses=(0xA700,), committing=Committing())) as pacs:
        found = checks(make_config(data_dir, destinations=pacs_at(pacs.port)))
        assert pacs.requests == []
    assert not found["storage pacs"].is_ok
    assert "0xA700" in found["storage pacs"].text
    assert "commitment pacs" not in found


@pytest.mark.parametrize(("objects", "is_ok"), [(["report"], True), (["report", "capture"], False)])
def test_a_destination_that_takes_no_captures(
    tmp_path: Path, data_dir: Path, objects: list[str], is_ok: bool
) -> None:
    with Pacs(tmp_path / "pacs", Manners(contexts=contexts_for(Comprehensive3DSRStorage))) as pacs:
        found = checks(make_config(data_dir, destinations=pacs_at(pacs.port, objects=objects)))
    assert found["storage pacs"].is_ok is is_ok


def test_orthanc(tmp_path: Path, data_dir: Path) -> None:
    node_port = free_port()
    with orthanc(tmp_path / "orthanc", {"DicomModalities": {"node": ["ICHTRIAGE", HOST, node_port]}}) as peer:
        there = pacs_at(peer.port, ae_title=peer.ae_title)
        for _ in range(2):
            found = checks(make_config(data_dir, node_port, destinations=there))
            assert found["storage pacs"].is_ok, found["storage pacs"].text
            assert found["commitment pacs"].is_ok, found["commitment pacs"].text
        assert len(peer.get("/instances")) == 1


# Outputs that are no destinations


class Ear:
    """A TCP server that only listens."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self._socket = socket.create_server((HOST, 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> "Ear":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(LIMIT_S)
        self._socket.close()

    def _listen(self) -> None:
        self._socket.settimeout(LIMIT_S)
        connection, _ = self._socket.accept()
        with connection:
            connection.settimeout(LIMIT_S)
            self.heard.append(connection.recv(4096))


def message_sections(port: int) -> dict[str, dict[str, Any]]:
    return {
        "hl7": {"name": "out", "host": HOST, "port": port},
        "fhir": {"name": "out", "url": f"http://{HOST}:{port}/fhir"},
        "webhooks": {"name": "out", "url": f"http://{HOST}:{port}/hook"},
        "mail": {"name": "out", "host": HOST, "port": port, "sender": "a@b.c", "recipients": ["d@e.f"]},
    }


@pytest.mark.parametrize("kind", ["hl7", "fhir", "webhooks", "mail"])
def test_a_message_output_is_connected_and_gets_nothing(data_dir: Path, kind: str) -> None:
    with Ear() as ear:
        check = checks(make_config(data_dir, 0, **{kind: [message_sections(ear.port)[kind]]}))["output out"]
    assert check.is_ok, check.text
    assert f"{HOST}:{ear.port}" in check.text
    assert ear.heard == [b""]


@pytest.mark.parametrize("kind", ["hl7", "fhir", "webhooks", "mail"])
def test_a_message_output_where_nobody_listens(data_dir: Path, kind: str) -> None:
    port = free_port()
    check = checks(make_config(data_dir, 0, **{kind: [message_sections(port)[kind]]}))["output out"]
    assert not check.is_ok
    assert f"no connection to {HOST}:{port}" in check.text
    assert "check address" in check.text


def test_tls_is_spoken_where_it_is_configured(data_dir: Path) -> None:
    with Ear() as ear:
        section = {**message_sections(ear.port)["hl7"], "tls": True}
        check = checks(make_config(data_dir, hl7=[section]))["output out"]
    assert not check.is_ok  # it hung up in the middle of the handshake
    assert ear.heard[0][:1] == b"\x16"  # ClientHello


@pytest.mark.parametrize("is_trusted", [True, False])
def test_the_certificate_of_a_message_output_is_checked(tmp_path: Path, data_dir: Path, is_trusted: bool) -> None:
    certificate = make_certificate(tmp_path)

    def talk(line: socket.socket, _over: threading.Event) -> None:
        with certificate.server_context().wrap_socket(line, server_side=True) as secure:
            secure.recv(1)

    with tcp_server(talk) as port:
        trust = {"ca_file": str(certificate.cert)} if is_trusted else {}
        section = {**message_sections(port)["hl7"], "tls": True, **trust}
        check = checks(make_config(data_dir, hl7=[section]))["output out"]
    assert check.is_ok is is_trusted, check.text
    assert ("its certificate is trusted" if is_trusted else "not trusted") in check.text


def test_a_token_that_cannot_be_read(data_dir: Path) -> None:
    section = {**message_sections(free_port())["fhir"], "token_file": "no-such-file"}
    check = checks(make_config(data_dir, fhir=[section]))["output out"]
    assert not check.is_ok
    assert "token_file" in check.text


def test_a_host_name_that_can_be_none_stops_no_other_check(data_dir: Path) -> None:
    bad, good = {"name": "bad", "url": f"http://{64 * 'a'}.b/"}, message_sections(free_port())["webhooks"]
    found = checks(make_config(data_dir, fhir=[bad], webhooks=[good]))
    assert not found["output bad"].is_ok
    assert "no connection to" in found["output bad"].text
    assert "output out" in found


def test_starttls_is_not_said_to_be_tried(data_dir: Path) -> None:
    with Ear() as ear:
        section = {**message_sections(ear.port)["mail"], "security": "starttls"}
        check = checks(make_config(data_dir, mail=[section]))["output out"]
    assert check.is_ok
    assert "STARTTLS and login are tried with the first mail" in check.text
