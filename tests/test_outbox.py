"""Deliveries with a real peer and a real database; a clock that the test moves."""

from collections.abc import Callable
from pathlib import Path

import pytest
from bench import Bench
from peers import Manners, Pacs
from pydicom import dcmread

from triage.config import DeliverySection, Destination
from triage.outbox import Sender, backoff_s, deliver_due, resend_study
from triage.store import queries
from triage.worker import run_one

Phantom = Callable[..., list[Path]]

# pynetdicom leaves its socket to the garbage collector when a connection is refused.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.mark.parametrize(("attempts", "expected"), [(1, 5.0), (2, 10.0), (6, 160.0), (7, 300.0), (500, 300.0)])
def test_pauses_double_from_seconds_to_minutes(attempts: int, expected: float) -> None:
    assert backoff_s(DeliverySection(), attempts) == expected


def sender_of(bench: Bench) -> Sender:
    return Sender(bench.db, "ICHTRIAGE", DeliverySection(), clock=lambda: bench.now)


def states(bench: Bench) -> list[tuple[str, int]]:
    """State and attempts of each object's delivery, in the order the objects were made."""
    objects = queries.show(bench.db, bench.row().study_id)["objects"]
    return [(d["state"], d["attempts"]) for o in objects for d in o["deliveries"]]


def test_an_object_that_makes_the_peer_cut_the_line_holds_up_no_other(
    bench: Bench,
    phantom_files: Phantom,
    tmp_path: Path,
) -> None:
    bench.send(phantom_files())
    bench.complete(4.0)
    run_one(bench.worker)
    n = len(bench.due())
    with Pacs(tmp_path / "pacs", Manners("PACS", abort_at=0)) as pacs:
        peer = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=pacs.port, response_timeout_s=5.0)
        assert deliver_due(sender_of(bench), peer) == 0
        assert states(bench) == [("failed", 1)] + [("queued", 0)] * (n - 1)
        bench.now += 5.0
        first = bench.due()[0]
        assert dcmread(first.path).Modality != "SR"
        assert deliver_due(sender_of(bench), peer) == n
        assert len(pacs.stored) == n
    assert [state for state, _ in states(bench)] == ["accepted"] * n


def test_a_delivery_is_given_up_after_its_time_and_started_again_by_hand(
    bench: Bench,
    phantom_files: Phantom,
) -> None:
    bench.send(phantom_files())
    bench.complete(4.0)
    run_one(bench.worker)
    nobody = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=1, connect_timeout_s=1.0)
    assert deliver_due(sender_of(bench), nobody) == 0
    assert {state for state, _ in states(bench)} == {"failed"}
    bench.now += 73 * 3600.0
    deliver_due(sender_of(bench), nobody)
    assert {state for state, _ in states(bench)} == {"given up"}
    assert resend_study(bench.db, [nobody], bench.row().study_id, bench.now) == len(bench.due()) > 0
