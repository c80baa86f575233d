"""The node as a process of its own: real senders, a real PACS, signals and kills."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from peers import LIMIT_S, Committing, Manners, Pacs, echoscu, free_port, orthanc, storescu, wait_until
from pydicom import dcmread

from triage.config import load_config
from triage.service import Service
from triage.store import queries
from triage.store.db import open_database

Phantom = Callable[..., list[Path]]

TRIAGE = [sys.executable, "-c", "from triage.cli import main; main()"]

# pynetdicom leaves its socket to the garbage collector when a connection is refused.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

RESULT_LIMIT_S = 120.0
"""Longest from the last image to a result on a busy machine."""


@dataclass
class Node:
    """A running `triage serve`."""

    folder: Path
    port: int
    process: "subprocess.Popen[bytes]"
    log: Path

    def command(self, *arguments: str) -> Any:
        """Another triage command on the same configuration; its JSON."""
        done = subprocess.run(
            [*TRIAGE, *arguments, "--config", str(self.folder / "config.toml")],
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S * 2,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if "--json" in arguments else done.stdout

    def worklist(self) -> list[queries.WorklistRow]:
        with open_database(f"sqlite:///{self.folder}/data/triage.db", self.folder / "data") as db:
            return queries.worklist(db, time.time(), everything=True)

    def details(self, study_id: int = 1) -> dict[str, Any]:
        with open_database(f"sqlite:///{self.folder}/data/triage.db", self.folder / "data") as db:
            return queries.show(db, study_id)

    def delivery_states(self) -> set[str]:
        return {d["state"] for o in self.details()["objects"] for d in o["deliveries"]}

    def wait_for_result(self) -> dict[str, Any]:
        """The only study, once it has a result."""
        wait_until(lambda: [r.outcome for r in self.worklist()] not in ([], [None]), "a result", RESULT_LIMIT_S)
        (row,) = self.worklist()
        return self.details(row.study_id)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(LIMIT_S * 2)


def write_config(folder: Path, pack: Path, port: int, destinations: Sequence[tuple[str, int]] = ()) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = (
        f'[node]\nport = {port}\n[model]\npack = "{pack}"\ndevice = "cpu"\n[reception]\ndisk_reserve_mb = 0\n'
        "[completion]\nquiet_s = 1.0\nmax_wait_s = 4.0\n[delivery]\nfirst_retry_s = 0.5\nmax_retry_s = 1.0\n"
    )
    for name, peer_port in destinations:
        text += f'[[destinations]]\nname = "{name.lower()}"\nae_title = "{name}"\nhost = "127.0.0.1"\n'
        text += f"port = {peer_port}\n"
        text += "connect_timeout_s = 3.0\nresponse_timeout_s = 5.0\n"
    path = folder / "config.toml"
    path.write_text(text)
    return path


def start(folder: Path, port: int) -> Node:
    log = folder / f"log-{time.monotonic_ns()}.txt"
    with log.open("wb") as stream:
        process = subprocess.Popen([*TRIAGE, "serve", "--config", str(folder / "config.toml")], stderr=stream)
    node = Node(folder, port, process, log)
    wait_until(lambda: process.poll() is not None or "node_started" in log.read_text(), "the start", 60.0)
    assert process.poll() is None, log.read_text()
    return node


@contextmanager
def running(
    folder: Path, pack: Path, destinations: Sequence[tuple[str, int]] = (), port: int | None = None
) -> Iterator[Node]:
    port = port or free_port()
    write_config(folder, pack, port, destinations)
    node = start(folder, port)
    try:
        yield node
    finally:
        if node.process.poll() is None:
            node.process.kill()
            node.process.wait(LIMIT_S)


def test_a_real_head_sent_by_dcmtk_comes_back_into_its_study_in_orthanc(
    tmp_path: Path, sensitive_pack: Path, shared_data: Path
) -> None:
    """ge_head, 28 slices in random order, into a node whose destination is Orthanc, which has the study already."""
    paths = sorted((shared_data / "ge_head").glob("*.dcm"))
    random.Random(1).shuffle(paths)
    port = free_port()
    settings = {"DicomModalities": {"node": ["ICHTRIAGE", "127.0.0.1", port]}}  # whom it answers commitment
    with (
        orthanc(tmp_path / "orthanc", settings) as pacs,
        running(tmp_path / "node", sensitive_pack, [(pacs.ae_title, pacs.port)], port) as node,
    ):
        assert storescu(pacs.port, paths, pacs.ae_title).returncode == 0
        sent = storescu(node.port, paths)
        assert sent.returncode == 0, sent.stderr
        details = node.wait_for_result()
        (analysis,) = details["analyses"]
        assert analysis["n_slices"] == 28
        assert analysis["tilt_deg"] == pytest.approx(18.5, abs=0.1)
        n_objects = len(details["objects"])
        wait_until(lambda: len(pacs.get("/instances")) == 28 + n_objects, "delivery to Orthanc", RESULT_LIMIT_S)
        (study,) = pacs.get("/studies?expand")
        modalities = sorted(pacs.get(f"/series/{s}")["MainDicomTags"]["Modality"] for s in study["Series"])
        assert modalities == ["CT", "KO", "OT", "SR"]
        wait_until(lambda: node.delivery_states() == {"committed"}, "the state of the delivery", RESULT_LIMIT_S)
        assert node.command("deliveries", "--json") == []
        assert node.command("show", "1", "--json")["analyses"][0]["outcome"] == "positive"
        assert node.command("worklist", "--json")[0]["state"] == "analysed"
        text = node.log.read_text()
        assert "delivery destination=orthanc outcome=accepted status=0x0000" in text
        assert "commitment_answered destination=orthanc" in text
    ds = dcmread(paths[0])
    for secret in (str(ds.PatientName), ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID):
        assert not secret or str(secret) not in text


def test_a_whole_study_with_localizer_and_captures_is_sorted_out(
    tmp_path: Path, blind_pack: Path, shared_data: Path
) -> None:
    folder = shared_data / "philips_phantom" / "S21570"
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "DIRFILE"]
    with running(tmp_path / "node", blind_pack) as node:
        # -nh: go on after the Secondary Captures, whose SOP class the node does not take
        storescu(node.port, paths, options=["-nh"])
        details = node.wait_for_result()
    chosen = [s for s in details["series"] if s["chosen"]]
    assert [s["description"] for s in chosen] == ["STD BRAIN 5MM"]
    assert all(s["reasons"] for s in details["series"])
    reasons = json.dumps([s["reasons"] for s in details["series"] if not s["chosen"]])
    assert re.search("localizer|survi?ew", reasons, re.IGNORECASE)


def test_every_odd_file_is_answered_and_the_node_keeps_serving(
    tmp_path: Path, blind_pack: Path, shared_data: Path, phantom_files: Phantom
) -> None:
    with running(tmp_path / "node", blind_pack) as node:
        for folder in ("odd", "transfer_syntaxes", "single"):
            for path in sorted((shared_data / folder).iterdir()):
                if path.suffix in ("", ".dcm"):
                    storescu(node.port, [path], options=["-nh"])
                    assert node.process.poll() is None
        assert echoscu(node.port).returncode == 0
        assert storescu(node.port, phantom_files()).returncode == 0
        wait_until(lambda: "negative" in [r.outcome for r in node.worklist()], "a result", RESULT_LIMIT_S)
        wait_until(lambda: all(r.outcome for r in node.worklist()), "all results", RESULT_LIMIT_S)
        assert len(node.worklist()) == 4  # the phantom, and three studies of files that it takes
        assert all(r.reason for r in node.worklist() if r.outcome == "not analysed")


def test_sigterm_stops_it_in_order_and_the_port_is_free_again(
    tmp_path: Path, blind_pack: Path, phantom_files: Phantom
) -> None:
    with running(tmp_path / "node", blind_pack) as node:
        assert storescu(node.port, phantom_files()).returncode == 0
        assert node.stop(signal.SIGTERM) == 0
        assert "node_stopped" in node.log.read_text()
        assert echoscu(node.port).returncode != 0
        again = start(node.folder, node.port)
        try:
            (row,) = again.worklist()
            wait_until(
                lambda: again.worklist()[0].outcome == "negative", "the result after the restart", RESULT_LIMIT_S
            )
            assert row.study_id == 1
            assert again.stop(signal.SIGINT) == 0
        finally:
            again.process.kill()


def test_a_second_node_on_the_port_or_the_folder_is_refused_in_one_line(tmp_path: Path, blind_pack: Path) -> None:
    with running(tmp_path / "node", blind_pack) as node:
        second = subprocess.run(
            [*TRIAGE, "serve", "-c", str(write_config(tmp_path / "other", blind_pack, node.port))],
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
        assert (second.returncode, f"node.port: {node.port} is in use" in second.stderr) == (2, True)
        same = subprocess.run(
            [*TRIAGE, "serve", "-c", str(node.folder / "config.toml")],
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
        assert (same.returncode, "another node is running" in same.stderr) == (2, True)


def test_a_destination_that_is_down_delays_nothing_else_and_gets_all_in_the_end(
    tmp_path: Path, sensitive_pack: Path, phantom_files: Phantom
) -> None:
    with (
        Pacs(tmp_path / "up", Manners("UP")) as up,
        Pacs(tmp_path / "moody", Manners("MOODY", statuses=(0xA700, 0xA900))) as moody,
        Pacs(tmp_path / "down", Manners("DOWN")) as down,
    ):
        down.stop()
        peers = [("UP", up.port), ("MOODY", moody.port), ("DOWN", down.port)]
        with running(tmp_path / "node", sensitive_pack, peers) as node:
            storescu(node.port, phantom_files())
            details = node.wait_for_result()
            uids = sorted(o["sop_instance_uid"] for o in details["objects"])
            up.wait_for(len(uids), RESULT_LIMIT_S)
            moody.wait_for(len(uids), RESULT_LIMIT_S)
            assert down.stored == []
            down.start()
            down.wait_for(len(uids), RESULT_LIMIT_S)
            wait_until(lambda: node.delivery_states() == {"accepted"}, "all states")
    for pacs in (up, moody, down):
        assert sorted(str(dcmread(p).SOPInstanceUID) for p in pacs.stored) == uids


def test_a_result_waits_for_no_tick(
    tmp_path: Path, sensitive_pack: Path, phantom_files: Phantom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From result to acceptance to commitment each step wakes the next; only completion is found by the clock."""
    tick_s = 8.0
    monkeypatch.setattr("triage.service.TICK_S", tick_s)
    with Pacs(tmp_path / "pacs", Manners("PACS", committing=Committing("same"))) as pacs:
        service = Service(load_config(write_config(tmp_path / "node", sensitive_pack, 0, [("PACS", pacs.port)])))
        service.start()
        try:
            assert storescu(service.address[1], phantom_files()).returncode == 0
            wait_until(lambda: pending(service) == {"committed"}, "commitment", RESULT_LIMIT_S)
            details = queries.show(service.db, 1)
        finally:
            service.stop()
    finished_at = details["analyses"][0]["finished_at"]
    for delivery in (d for o in details["objects"] for d in o["deliveries"]):
        assert delivery["committed_at"] - finished_at < tick_s / 2


def pending(service: Service) -> set[str]:
    return {str(row.state) for row in queries.deliveries(service.db, ["pacs"], everything=True)}


KILLED_AT = ("received", "acknowledged", "analysed", "delivered")


@pytest.mark.parametrize("moment", KILLED_AT)
def test_a_kill_loses_nothing_acknowledged_and_delivers_under_one_uid(
    tmp_path: Path, sensitive_pack: Path, phantom_files: Phantom, moment: str
) -> None:
    """SIGKILL while images arrive, after the last acknowledgement, during the analysis, and during delivery."""
    paths = phantom_files()
    manners = Manners("PACS", abort_at=1) if moment == "delivered" else Manners("PACS")
    with (
        Pacs(tmp_path / "pacs", manners) as pacs,
        running(tmp_path / "node", sensitive_pack, [("PACS", pacs.port)]) as node,
    ):
        if moment == "received":
            storescu(node.port, paths[:13])
        else:
            assert storescu(node.port, paths).returncode == 0
        if moment == "analysed":
            wait_until(lambda: "series_complete" in node.log.read_text(), "completion", RESULT_LIMIT_S)
        if moment == "delivered":
            pacs.wait_for(1, RESULT_LIMIT_S)
        node.process.kill()
        node.process.wait(LIMIT_S)
        again = start(node.folder, node.port)
        try:
            if moment == "received":
                assert storescu(node.port, paths).returncode == 0
            again.wait_for_result()
            wait_until(lambda: again.delivery_states() == {"accepted"}, "every delivery", RESULT_LIMIT_S)
            details = again.details()
        finally:
            again.process.kill()
            again.process.wait(LIMIT_S)
    newest = details["analyses"][0]
    assert newest["n_slices"] == len(paths)
    delivered = {str(dcmread(p).SOPInstanceUID) for p in pacs.stored}
    assert delivered == {o["sop_instance_uid"] for o in details["objects"]}
    reports = [ds for ds in map(dcmread, pacs.stored) if ds.Modality == "SR"]
    assert len({ds.SOPInstanceUID for ds in reports}) == len(details["analyses"])


def test_the_demonstration_ends_by_itself_with_the_bleed_first(tmp_path: Path, demo_pack: Path) -> None:
    if not demo_pack.is_dir():
        pytest.fail("the demonstration pack is not in models/")
    done = subprocess.run(
        [*TRIAGE, "demo", "--once", "--out", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if re.search(r"│\s+[12]\s+│", line)]
    assert "intraparenchymal" in rows[0]
    assert re.search("urgent|review", rows[0])
    assert "routine" in rows[1]
    received = [dcmread(p) for p in (tmp_path / "demo" / "pacs").iterdir()]
    assert sorted({ds.Modality for ds in received}) == ["KO", "OT", "SR"]
    assert f"{len(received)} objects committed" in done.stdout
    assert all("DEMONSTRATION" in ds.SeriesDescription for ds in received)
