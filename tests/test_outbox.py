"""Deliveries with a real peer and a real database; a clock that the test moves."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from bench import Bench
from message_peers import HttpReceiver, Reply
from peers import HOST, LIMIT_S, Committing, Manners, Pacs, wait_until
from pydicom import dcmread
from sqlalchemy import func, select

from triage.config import DeliverySection, Destination, WebhookOutput
from triage.net.commitment import CommitmentAnswer
from triage.outbox import Sender, backoff_s, commit_due, deliver_due, resend_study, take_answer
from triage.store import queries
from triage.store.schema import commitment
from triage.worker import run_one

Phantom = Callable[..., list[Path]]

# pynetdicom leaves its socket to the garbage collector when a connection is refused.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.mark.parametrize(("attempts", "expected"), [(1, 5.0), (2, 10.0), (6, 160.0), (7, 300.0), (500, 300.0)])
def test_pauses_double_from_seconds_to_minutes(attempts: int, expected: float) -> None:
    assert backoff_s(DeliverySection(), attempts) == expected


def sender_of(bench: Bench) -> Sender:
    return Sender(bench.db, "ICHTRIAGE", DeliverySection(), clock=lambda: bench.now)


def analysed(bench: Bench, files: list[Path], **outputs: object) -> None:
    """A positive study, queued for the configured outputs."""
    if outputs:
        bench.worker = replace(bench.worker, config=bench.worker.config.model_copy(update=outputs))
    bench.send(files)
    bench.complete(4.0)
    run_one(bench.worker)


def peer_at(pacs: Pacs, **values: object) -> Destination:
    return Destination.model_validate(
        {"name": "pacs", "ae_title": "PACS", "host": HOST, "port": pacs.port, "response_timeout_s": 5.0, **values}
    )


def details(bench: Bench) -> set[str]:
    return {d["detail"] for o in queries.show(bench.db, bench.row().study_id)["objects"] for d in o["deliveries"]}


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


def test_while_it_is_sent_it_is_said_to_be(bench: Bench, phantom_files: Phantom, tmp_path: Path) -> None:
    analysed(bench, phantom_files())
    with Pacs(tmp_path / "pacs", Manners("PACS", is_hanging=True)) as pacs:
        sending = threading.Thread(target=deliver_due, args=(sender_of(bench), peer_at(pacs)))
        sending.start()
        pacs.wait_for_arrival(1)
        assert {state for state, _ in states(bench)} == {"sent"}
        pacs.wake.set()
        sending.join(LIMIT_S)
    assert {state for state, _ in states(bench)} == {"accepted"}


def test_acceptance_is_all_the_proof_where_there_is_no_commitment(
    bench: Bench, phantom_files: Phantom, tmp_path: Path
) -> None:
    analysed(bench, phantom_files())
    with Pacs(tmp_path / "pacs") as pacs:
        n = deliver_due(sender_of(bench), peer_at(pacs))
        assert commit_due(sender_of(bench), peer_at(pacs)) == n
        assert {state for state, _ in states(bench)} == {"accepted"}
        assert details(bench) == {"accepted; the peer offers no storage commitment"}
        bench.now += 1e6
        assert commit_due(sender_of(bench), peer_at(pacs)) == 0
    assert queries.deliveries(bench.db, ["pacs"]) == []


def test_no_commitment_where_it_is_required_is_a_problem_until_it_comes(
    bench: Bench, phantom_files: Phantom, tmp_path: Path
) -> None:
    analysed(bench, phantom_files())
    with Pacs(tmp_path / "pacs") as pacs:
        peer = peer_at(pacs, storage_commitment="required")
        n = deliver_due(sender_of(bench), peer)
        commit_due(sender_of(bench), peer)
        assert details(bench) == {"accepted; the peer offers no storage commitment, which is required"}
        assert len(queries.deliveries(bench.db, ["pacs"])) == n
        bench.now += 299.0
        assert commit_due(sender_of(bench), peer) == 0
        pacs.stop()
        pacs.manners = replace(pacs.manners, committing=Committing("same"))
        pacs.start()
        bench.now += 2.0
        assert commit_due(sender_of(bench), peer) == n
        wait_until(lambda: {state for state, _ in states(bench)} == {"committed"}, "commitment")


def test_nothing_is_asked_where_commitment_is_off(bench: Bench, phantom_files: Phantom, tmp_path: Path) -> None:
    analysed(bench, phantom_files())
    with Pacs(tmp_path / "pacs", Manners(committing=Committing("same"))) as pacs:
        deliver_due(sender_of(bench), peer_at(pacs, storage_commitment="off"))
        assert commit_due(sender_of(bench), peer_at(pacs, storage_commitment="off")) == 0
        assert pacs.requests == []
    assert queries.deliveries(bench.db, ["pacs"]) == []


def test_an_unanswered_request_is_repeated_under_a_new_uid_ever_later_and_then_ended(
    bench: Bench, phantom_files: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("triage.net.commitment.SAME_ASSOCIATION_S", 0.05)
    analysed(bench, phantom_files())
    with Pacs(tmp_path / "pacs", Manners(committing=Committing("later"))) as pacs:
        peer = peer_at(pacs, commitment_timeout_s=600.0)
        n = deliver_due(sender_of(bench), peer)
        began = bench.now
        asked_at = []
        while bench.now < began + 80 * 3600.0:
            if commit_due(sender_of(bench), peer):
                asked_at.append(bench.now - began)
            bench.now += 300.0
        assert asked_at[:4] == [0.0, 600.0, 1800.0, 4200.0]
        assert asked_at[-1] == pytest.approx(72 * 3600.0, abs=900.0)  # that one ends it
        requests = pacs.requests
        assert len({r.transaction_uid for r in requests}) == len(requests) == len(asked_at) - 1
    assert details(bench) == {"accepted; commitment did not come within 72 h"}
    assert {r.next_attempt_at for r in queries.deliveries(bench.db, ["pacs"])} == {None}
    assert len(queries.deliveries(bench.db, ["pacs"])) == n
    answer = CommitmentAnswer(requests[0].transaction_uid, tuple(uid for _, uid in requests[0].references), {})
    assert take_answer(sender_of(bench), answer)  # however late, success is success
    assert {state for state, _ in states(bench)} == {"committed"}


def test_a_destination_that_is_down_is_asked_again_later(bench: Bench, phantom_files: Phantom, tmp_path: Path) -> None:
    analysed(bench, phantom_files())
    with Pacs(tmp_path / "pacs") as pacs:
        peer = peer_at(pacs)
        deliver_due(sender_of(bench), peer)
        pacs.stop()
        assert commit_due(sender_of(bench), peer) == 0
        assert {state for state, _ in states(bench)} == {"accepted"}
        (detail,) = details(bench)
        assert detail.startswith("accepted; asked for commitment, unreachable: ")
        with bench.db.reading() as connection:  # nothing is kept of a request that nobody can answer
            assert connection.execute(select(func.count()).select_from(commitment)).scalar_one() == 0
        bench.now += 4.9
        assert commit_due(sender_of(bench), peer) == 0
        assert len(queries.deliveries(bench.db, ["pacs"])) > 0
        pacs.start()
        bench.now += 0.2
        assert commit_due(sender_of(bench), peer) > 0
    assert details(bench) == {"accepted; the peer offers no storage commitment"}


def test_a_fault_of_the_node_itself_is_a_failed_attempt_too(bench: Bench, phantom_files: Phantom) -> None:
    """Else it would be tried twice a second for ever, and nobody could see what is wrong in its state."""
    analysed(bench, phantom_files())
    n = len(bench.due())
    peer = Destination(name="pacs", ae_title="PACS", host=HOST, port=1)
    peer = peer.model_copy(update={"host": "x" * 70})  # no name; the configuration would refuse it
    with pytest.raises(UnicodeError):
        deliver_due(sender_of(bench), peer)
    assert states(bench) == [("failed", 1)] * n
    assert details(bench) == {"refused: a fault of this node; see its log"}
    assert bench.due() == []


def test_messages_are_sent_by_the_same_rules(bench: Bench, phantom_files: Phantom) -> None:
    with HttpReceiver((Reply(503), Reply(200))) as server:
        board = WebhookOutput(name="board", url=server.url)
        analysed(bench, phantom_files(), destinations=(), webhooks=(board,))
        (message,) = bench.due("board")
        assert deliver_due(sender_of(bench), board) == 0
        assert states(bench) == [("failed", 1)]
        bench.now += 5.0
        assert deliver_due(sender_of(bench), board) == 1
        assert [r.body for r in server.received] == [message.path.read_bytes()] * 2
    assert states(bench) == [("accepted", 1)]
    assert queries.deliveries(bench.db, ["board"]) == []  # a message is not committed to


def test_a_message_whose_file_is_gone_holds_up_no_other(bench: Bench, phantom_files: Phantom) -> None:
    with HttpReceiver() as server:
        board = WebhookOutput(name="board", url=server.url)
        analysed(bench, phantom_files(1), destinations=(), webhooks=(board,))
        analysed(bench, phantom_files(2))
        first, second = bench.due("board")
        first.path.unlink()
        assert deliver_due(sender_of(bench), board) == 1
        assert [r.body for r in server.received] == [second.path.read_bytes()]
        (failing,) = queries.deliveries(bench.db, ["board"])
        assert failing.detail == "refused: the file cannot be read (FileNotFoundError)"


def test_resend_goes_by_the_configuration_of_today(bench: Bench, phantom_files: Phantom, tmp_path: Path) -> None:
    board = WebhookOutput(name="board", url="http://127.0.0.1:1/")
    analysed(bench, phantom_files(), webhooks=(board,))
    n = len(bench.due())
    with Pacs(tmp_path / "pacs") as pacs:
        deliver_due(sender_of(bench), peer_at(pacs))
    reports = Destination(name="pacs", ae_title="PACS", host=HOST, port=1, objects=("report",))
    new = Destination(name="new", ae_title="NEW", host=HOST, port=1)
    other_board = WebhookOutput(name="other", url="http://127.0.0.1:1/")
    assert resend_study(bench.db, [reports, new, board, other_board], 1, bench.now) == 1 + n + 1
    assert [d.kind for d in bench.due()] == ["report"]
    assert len(bench.due("new")) == n
    assert ([d.kind for d in bench.due("board")], bench.due("other")) == (["message"], [])


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
