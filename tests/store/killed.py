"""Runs one stage of the node's life in child processes, each killed with SIGKILL at another step; prints what is left.

A step is anything the child does to a file (by Python's audit events), a statement to the database, or a commit, each
counted before it happens. One line of JSON for each child, the last one for the child that came through.

    python killed.py STAGE FOLDER
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from sqlalchemy import Engine, event, select
from store.store_bench import T0, Bench, make_bench, make_result

from triage.store import analysis, commitment, outbox, reception
from triage.store.schema import instance

FILE_EVENTS = {"open", "os.rename", "os.mkdir", "os.remove"}


def arm(n: int) -> None:
    """Kill this process just before its nth step from here."""
    left = n

    def step() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(lambda name, _arguments: step() if name in FILE_EVENTS else None)
    event.listen(Engine, "before_cursor_execute", lambda *_: step())
    event.listen(Engine, "commit", lambda _: step())


def receive(bench: Bench) -> None:
    incoming, arrival = bench.incoming("1.2.3", T0, uid="1.2.3.1.1")
    reception.record_instance(bench.db, incoming, arrival)


def left_of_reception(bench: Bench) -> dict[str, Any]:
    """What a restarted node has, then what it has after the sender has sent again."""
    stored = reception.find_instance(bench.db, "1.2.3.1.1")
    was_stored = stored is not None
    intact = stored is None or stored.path.read_bytes() == b"bytes of a data set"
    if stored is None:
        receive(bench)
    with bench.db.reading() as connection:
        rows = connection.execute(select(instance.c.path)).all()
    return {"stored": was_stored, "intact": intact, "rows": len(rows)}


def analyse(bench: Bench) -> None:
    claim = bench.claim(T0 + 10)
    bench.finish(claim, make_result(), T0 + 11)


def left_of_analysis(bench: Bench) -> dict[str, Any]:
    """What a restarted node has, then what it has after it has finished what was begun."""
    analysis.release_claims(bench.db)
    before = [d.sop_instance_uid for d in outbox.due_deliveries(bench.db, "pacs", T0 + 99, 99)]
    claim = analysis.claim_study(bench.db, T0 + 20)
    if claim is not None:
        bench.finish(claim, make_result(), T0 + 21)
    due = outbox.due_deliveries(bench.db, "pacs", T0 + 99, 99)
    contents = [d.path.read_bytes().decode() for d in due]
    parts = [p.name for p in bench.store.results.rglob("*.part")]
    return {
        "queued": before,
        "run": None if claim is None else claim.run,
        "due": [d.sop_instance_uid for d in due],
        "contents": contents,
        "parts": parts,
    }


def deliver(bench: Bench) -> None:
    """Take what is due, hand it over, record the answer, ask for commitment, record that answer."""
    for delivery in bench.take(T0 + 20):
        with (bench.store.root / "peer").open("a") as peer:  # what the destination got
            peer.write(f"{delivery.sop_instance_uid}\n")
        outbox.delivery_accepted(bench.db, delivery.id, outbox.Acceptance(0, asks_commitment=True), T0 + 21)
    accepted = commitment.due_for_commitment(bench.db, "pacs", T0 + 22, 9)
    if accepted:
        uids = [d.sop_instance_uid for d in accepted]
        transaction_uid = f"2.25.{accepted[0].commit_attempts}"
        commitment.commitment_requested(bench.db, transaction_uid, accepted, T0 + 22, T0 + 30)
        reasons: dict[str, int | None] = dict.fromkeys(uids)
        commitment.commitment_answered(bench.db, transaction_uid, reasons, T0 + 23, lambda _: None)


def left_of_delivery(bench: Bench) -> dict[str, Any]:
    """What a restarted node finds, then what it has after it has gone on."""
    left = sorted(state for _, state in bench.states(1))
    outbox.release(bench.db, T0 + 19)
    released = sorted(state for _, state in bench.states(1))
    for delivery in bench.take(T0 + 20):
        with (bench.store.root / "peer").open("a") as peer:
            peer.write(f"{delivery.sop_instance_uid}\n")
        outbox.delivery_accepted(bench.db, delivery.id, outbox.Acceptance(0, asks_commitment=True), T0 + 40)
    accepted = commitment.due_for_commitment(bench.db, "pacs", T0 + 40, 9)
    uids = [d.sop_instance_uid for d in accepted]
    if accepted:
        commitment.commitment_requested(bench.db, "2.25.77", accepted, T0 + 40, T0 + 50)
        commitment.commitment_answered(bench.db, "2.25.77", dict.fromkeys(uids), T0 + 41, lambda _: None)
    received = (bench.store.root / "peer").read_text().split()
    return {
        "left": left,
        "released": released,
        "received": sorted(received),
        "end": [state for _, state in bench.states(1)],
    }


def prepare_nothing(_bench: Bench) -> None:
    pass


def prepare_study(bench: Bench) -> None:
    bench.arrive("1.2.3", T0)
    bench.complete(T0 + 5)


def prepare_result(bench: Bench) -> None:
    bench.analysed("1.2.3", T0, make_result())


STAGES: dict[str, tuple[Callable[[Bench], None], Callable[[Bench], None], Callable[[Bench], dict[str, Any]]]] = {
    "reception": (prepare_nothing, receive, left_of_reception),
    "analysis": (prepare_study, analyse, left_of_analysis),
    "delivery": (prepare_result, deliver, left_of_delivery),
}


def main(stage: str, folder: Path) -> None:
    prepare, run, look = STAGES[stage]
    template = folder / "template"
    bench = make_bench(template)
    prepare(bench)
    bench.db.close()
    bench.store.close()
    for n in range(1, 200):
        root = folder / str(n)
        shutil.copytree(template, root)
        child = os.fork()
        if child == 0:
            bench = make_bench(root)
            arm(n)
            run(bench)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status)
        bench = make_bench(root)
        print(json.dumps({"killed": killed, **look(bench)}))
        bench.db.close()
        bench.store.close()
        if not killed:
            assert os.waitstatus_to_exitcode(status) == 0
            return


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
