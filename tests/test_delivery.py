"""Delivery with everything real but the clock of some tests: database, objects, loops, bad peers, Orthanc."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bench import Bench
from peers import HOST, LIMIT_S, Committing, Manners, Pacs, contexts_for, free_port, orthanc, wait_until
from pydicom.uid import Comprehensive3DSRStorage

from triage.config import DeliverySection, Destination, Node, Reception
from triage.net import commitment, scp
from triage.net.scp import Callbacks, Listener
from triage.outbox import Sender, commit_due, deliver_due, take_answer
from triage.store import outbox, queries
from triage.store.db import Database, open_database
from triage.worker import loop, run_one

Phantom = Callable[..., list[Path]]

# pynetdicom leaves its socket to the garbage collector when a connection is refused.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

HANGING_S = 8.0
"""What a destination that answers nothing costs its own loop."""

TICK_S = 0.05


def peer_at(name: str, port: int, **changes: Any) -> Destination:
    values = {"name": name, "ae_title": "PACS", "host": HOST, "port": port, "response_timeout_s": 20.0, **changes}
    return Destination.model_validate(values)


def analyse(bench: Bench, files: list[Path], destinations: tuple[Destination, ...]) -> list[str]:
    """Have a positive result for these destinations; the UIDs of its objects."""
    bench.worker = replace(
        bench.worker, config=bench.worker.config.model_copy(update={"destinations": destinations})
    )
    bench.send(files)
    bench.complete(4.0)
    assert run_one(bench.worker)
    found = queries.show(bench.db, bench.row().study_id)["objects"]
    assert len(found) >= 3  # report, summary page and key slice at least
    return [o["sop_instance_uid"] for o in found]


def rows(db: Database, name: str) -> list[dict[str, Any]]:
    """Deliveries of the only study to one destination, in the order the objects were made."""
    return [
        {"kind": o["kind"], "uid": o["sop_instance_uid"], **d}
        for o in queries.show(db, 1)["objects"] for d in o["deliveries"] if d["destination"] == name
    ]  # fmt: skip


def states(db: Database, name: str) -> set[str]:
    return {str(d["state"]) for d in rows(db, name)}


def details(db: Database, name: str) -> str:
    return " | ".join(d["detail"] for d in rows(db, name))


@contextmanager
def delivering(sender: Sender, destinations: tuple[Destination, ...]) -> Iterator[None]:
    """Both loops of every destination, and the tick that wakes them."""
    stopping = threading.Event()
    wakes: list[threading.Event] = []
    threads: list[threading.Thread] = []
    for d in destinations:
        for step in (deliver_due, commit_due):
            wakes.append(threading.Event())
            arguments = (partial(step, sender, d), stopping, wakes[-1])
            threads.append(threading.Thread(target=loop, args=arguments, name=f"{step.__name__} {d.name}"))

    def tick() -> None:
        while not stopping.wait(TICK_S):
            for wake in wakes:
                wake.set()

    threads.append(threading.Thread(target=tick))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for wake in wakes:
            wake.set()
        for thread in threads:
            thread.join(LIMIT_S)


FAULTS = {
    "healthy": Manners(committing=Committing("same")),
    "rejecting": Manners(calling_aets=("KNOWN",)),
    "one-class": Manners(contexts=contexts_for(Comprehensive3DSRStorage)),
    "busy": Manners(statuses=(0xA700, 0xA700)),
    "hanging": Manners(is_hanging=True),
    "cutting": Manners(cuts=1, committing=Committing("same")),
    "aborting": Manners(abort_at=1),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # threads of stopped peers
def test_no_faulty_destination_delays_another_and_all_get_everything_once(
    bench: Bench, phantom_files: Phantom, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        pacs = {n: stack.enter_context(Pacs(tmp_path / n, manners)) for n, manners in FAULTS.items()}
        absent = Pacs(tmp_path / "absent", Manners())
        absent.port = free_port()
        pacs["absent"] = absent
        timeouts = {"hanging": HANGING_S}
        peers = tuple(peer_at(n, p.port, response_timeout_s=timeouts.get(n, 20.0)) for n, p in pacs.items())
        bench.now = time.time()
        uids = analyse(bench, phantom_files(), peers)
        sender = Sender(bench.db, "ICHTRIAGE", DeliverySection(first_retry_s=0.2, max_retry_s=0.4))
        with delivering(sender, peers):
            wait_until(lambda: states(bench.db, "healthy") == {"committed"}, "commitment of the healthy one")
            assert "accepted" not in states(bench.db, "hanging")  # all this within its first time limit
            assert "sent" in states(bench.db, "hanging")
            for name in ("busy", "aborting"):
                wait_until(lambda n=name: states(bench.db, n) == {"accepted"}, f"acceptance by {name}")  # type: ignore[misc]
            wait_until(lambda: states(bench.db, "cutting") == {"committed"}, "commitment by the cutting one")
            assert pacs["cutting"].cuts == 1
            wait_until(lambda: "failed" in states(bench.db, "hanging"), "the time limit of the hanging one")
            assert f"no answer within {HANGING_S:g} s" in details(bench.db, "hanging")
            for name, words in (
                ("rejecting", "Calling AE title not recognised"),
                ("absent", f"no connection to {HOST}:{absent.port}"),
                ("one-class", "does not take Secondary Capture"),
            ):
                wait_until(lambda n=name, w=words: w in details(bench.db, n), f"the failure of {name}")  # type: ignore[misc]
            assert states(bench.db, "rejecting") <= {"failed", "sent"}
            assert {(d["kind"] == "report", d["state"] == "accepted") for d in rows(bench.db, "one-class")} == {
                (True, True), (False, False)}  # fmt: skip

            stack.enter_context(absent)  # all faults are mended
            for name in ("rejecting", "one-class", "hanging"):
                pacs[name].wake.set()
                pacs[name].stop()
                pacs[name].manners = Manners()
                pacs[name].start()
            for name in pacs:
                done = {"committed"} if name in ("healthy", "cutting") else {"accepted"}
                wait_until(lambda n=name, s=done: states(bench.db, n) == s, f"arrival at {name}")  # type: ignore[misc]
        for name, peer in pacs.items():
            # One that hung may have kept what it did not answer; under the same UID it stays one object.
            stored = set(peer.stored_uids()) if name == "hanging" else peer.stored_uids()
            assert sorted(stored) == sorted(uids), name


def test_states_of_a_destination_that_refuses_for_a_while(
    bench: Bench, phantom_files: Phantom, tmp_path: Path
) -> None:
    with Pacs(tmp_path / "pacs", Manners(statuses=(0xA700, 0xB000))) as pacs:
        there = peer_at("pacs", pacs.port)
        uids = analyse(bench, phantom_files(), (there,))
        sender = Sender(bench.db, "ICHTRIAGE", DeliverySection(), clock=lambda: bench.now)
        assert deliver_due(sender, there) == len(uids) - 1
        first, second, *_ = sorted(rows(bench.db, "pacs"), key=lambda d: uids.index(d["uid"]))
        assert (first["state"], first["status"], first["attempts"]) == ("failed", 0xA700, 1)
        assert (second["state"], second["status"]) == ("accepted", 0xB000)
        assert "coerced" in second["detail"]
        assert deliver_due(sender, there) == 0
        bench.now += DeliverySection().first_retry_s
        assert deliver_due(sender, there) == 1
        assert commit_due(sender, there) == len(uids)
    assert states(bench.db, "pacs") == {"accepted"}
    assert "offers no storage commitment" in details(bench.db, "pacs")


# Commitment


@contextmanager
def listening(db: Database, bench: Bench, folder: Path, port: int = 0) -> Iterator[int]:
    """The node's listener on a database; its port."""
    sender = Sender(db, "ICHTRIAGE", DeliverySection(), clock=lambda: bench.now)
    callbacks = Callbacks(lambda _r: None, lambda _k, _c: None, lambda _k: None, partial(take_answer, sender))
    folder.mkdir(exist_ok=True)
    listener = Listener(Node(port=port), Reception(calling_aets=("CT01",)), folder, callbacks, ("PACS", "ORTHANC"))
    listener.start()
    try:
        yield listener.address[1]
    finally:
        listener.stop(0.0)


@pytest.fixture
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitment, "SAME_ASSOCIATION_S", 0.2)
    monkeypatch.setattr(scp, "POLL_S", 0.05)


@pytest.mark.usefixtures("_short_waits")
@pytest.mark.parametrize("is_restarted", [False, True], ids=["before a restart", "after a restart"])
def test_commitment_that_comes_later(
    bench: Bench, phantom_files: Phantom, tmp_path: Path, is_restarted: bool
) -> None:
    with Pacs(tmp_path / "pacs", Manners(committing=Committing("later"))) as pacs:
        there = peer_at("pacs", pacs.port)
        uids = analyse(bench, phantom_files(), (there,))
        sender = Sender(bench.db, "ICHTRIAGE", DeliverySection(), clock=lambda: bench.now)
        with listening(bench.db, bench, tmp_path / "spool") as port:
            pacs.node_port = port
            deliver_due(sender, there)
            assert commit_due(sender, there) == len(uids)
            assert states(bench.db, "pacs") == {"accepted"}
            request, = pacs.requests
            if not is_restarted:
                assert pacs.report(request) == 0x0000
        if is_restarted:
            assert pacs.report(request) is None  # the node is down
            bench.db.close()
            bench.db = open_database(f"sqlite:///{tmp_path}/data/triage.db", tmp_path / "data")
            outbox.release(bench.db, bench.now)
            with listening(bench.db, bench, tmp_path / "spool", port):
                assert pacs.report(request) == 0x0000
                assert pacs.report(request) == 0x0000  # it may come twice
        found = rows(bench.db, "pacs")
        if is_restarted:
            bench.db.close()
    assert {d["state"] for d in found} == {"committed"}
    assert {d["committed_at"] for d in found} == {bench.now}
    assert sorted(uid for _, uid in request.references) == sorted(uids)


@pytest.mark.usefixtures("_short_waits")
def test_an_object_deleted_at_orthanc_before_commitment_is_sent_again_and_then_committed(
    bench: Bench, phantom_files: Phantom, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        port = stack.enter_context(listening(bench.db, bench, tmp_path / "spool"))
        settings = {"DicomModalities": {"node": ["ICHTRIAGE", HOST, port]}}
        peer = stack.enter_context(orthanc(tmp_path / "orthanc", settings))
        there = peer_at("orthanc", peer.port, ae_title=peer.ae_title)
        uids = analyse(bench, phantom_files(), (there,))
        sender = Sender(bench.db, "ICHTRIAGE", DeliverySection(), clock=lambda: bench.now)
        assert deliver_due(sender, there) == len(uids)
        assert states(bench.db, "orthanc") == {"accepted"}
        lost = next(d["uid"] for d in rows(bench.db, "orthanc") if d["kind"] == "capture")
        peer.delete_instance(lost)
        commit_due(sender, there)
        wait_until(lambda: "accepted" not in states(bench.db, "orthanc"), "Orthanc's answer")
        by_uid = {d["uid"]: d for d in rows(bench.db, "orthanc")}
        assert by_uid[lost]["state"] == "failed"
        assert "0x0112 no such object instance" in by_uid[lost]["detail"]
        assert {d["state"] for u, d in by_uid.items() if u != lost} == {"committed"}
        assert len(peer.get("/instances")) == len(uids) - 1
        bench.now += DeliverySection().max_retry_s
        assert deliver_due(sender, there) == 1
        commit_due(sender, there)
        wait_until(lambda: states(bench.db, "orthanc") == {"committed"}, "Orthanc's second answer")
        known = [peer.get(f"/instances/{i}")["MainDicomTags"]["SOPInstanceUID"] for i in peer.get("/instances")]
    assert sorted(known) == sorted(uids)
