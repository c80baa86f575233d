import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from peers import (
    HOST,
    LIMIT_S,
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    Committing,
    Manners,
    Pacs,
    Request,
    free_port,
    orthanc,
    report_of,
    wait_until,
    write_ct,
)
from pydicom import Dataset
from pydicom.uid import CTImageStorage, generate_uid
from pynetdicom import AE, build_context, build_role

from triage.config import Destination, Node, Reception
from triage.errors import NoResources
from triage.net import commitment, scp, scu
from triage.net.commitment import CommitmentAnswer, request
from triage.net.scp import Callbacks, Listener
from triage.records import SendOutcome, SendReport

ACCEPTED, REFUSED, UNREACHABLE, UNSUPPORTED = (
    SendOutcome.ACCEPTED, SendOutcome.REFUSED, SendOutcome.UNREACHABLE, SendOutcome.UNSUPPORTED)  # fmt: skip

# pynetdicom as a peer leaves the socket of a lost connection to the garbage collector; our side must not.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


class Books:
    """Who knows transactions: keeps every answer, and answers as told."""

    def __init__(self, *known: str) -> None:
        self.known = set(known)
        self.answers: list[CommitmentAnswer] = []
        self.error: Exception | None = None
        self.reception: list[str] = []
        """What the listener tells of associations and instances."""

    def keep(self, answer: CommitmentAnswer) -> bool:
        if self.error is not None:
            raise self.error
        self.answers.append(answer)
        return answer.transaction_uid in self.known


@contextmanager
def listening(folder: Path, books: Books, port: int = 0, **settings: Any) -> Iterator[Listener]:
    """A node's listener that admits CT01, and PACS for storage commitment; keeps nothing itself."""
    told = books.reception.append
    callbacks = Callbacks(
        lambda _r: told("received"), lambda _k, ae: told(ae), lambda _k: told("closed"), books.keep)  # fmt: skip
    folder.mkdir(exist_ok=True)
    values: dict[str, Any] = {"calling_aets": ("CT01",), **settings}
    listener = Listener(Node(port=port), Reception(**values), folder, callbacks, commitment_aets=("PACS", "ORTHANC"))
    listener.start()
    try:
        yield listener
    finally:
        listener.stop(0.0)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scp, "POLL_S", 0.05)  # each stop waits for it


def destination(port: int, **changes: Any) -> Destination:
    values = {"name": "pacs", "ae_title": "PACS", "host": HOST, "port": port, "response_timeout_s": 20.0, **changes}
    return Destination.model_validate(values)


def store(there: Destination, folder: Path, n: int = 3) -> list[tuple[str, str]]:
    """Store objects at a peer; their references."""
    images = [write_ct(folder / f"{i}.dcm") for i in range(n)]
    reports = scu.send("ICHTRIAGE", there, [folder / f"{i}.dcm" for i in range(n)])
    assert [r.outcome for r in reports] == [ACCEPTED] * n
    return [(str(i.SOPClassUID), str(i.SOPInstanceUID)) for i in images]


def uids(references: list[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(u for _, u in references)


def ask(there: Destination, references: list[tuple[str, str]], books: Books) -> tuple[SendReport, str]:
    transaction_uid = str(generate_uid(None))
    books.known.add(transaction_uid)
    return request("ICHTRIAGE", there, transaction_uid, references, books.keep), transaction_uid


# Answers on the same association


@pytest.mark.parametrize("way", ["same", "before"])
def test_an_answer_on_the_same_association(tmp_path: Path, way: Any) -> None:
    books = Books()
    with Pacs(tmp_path / "pacs", Manners(committing=Committing(way))) as pacs:
        references = store(destination(pacs.port), tmp_path / "sent")
        pacs.lost[references[1][1]] = 0x0110
        began = time.monotonic()
        report, transaction_uid = ask(destination(pacs.port), references, books)
        assert time.monotonic() - began < commitment.SAME_ASSOCIATION_S  # it ends when the answer has come
        assert pacs.wait_for_answers(1) == [0x0000]
    assert report == SendReport("", ACCEPTED, 0x0000)
    assert pacs.requests == [Request(transaction_uid, tuple(references))]
    one, lost, three = uids(references)
    assert books.answers == [CommitmentAnswer(transaction_uid, (one, three), {lost: 0x0110})]


def test_an_answer_that_comes_twice_is_told_twice(tmp_path: Path) -> None:
    books = Books()
    with Pacs(tmp_path / "pacs", Manners(committing=Committing("before", times=2))) as pacs:
        references = store(destination(pacs.port), tmp_path / "sent")
        assert ask(destination(pacs.port), references, books)[0].outcome is ACCEPTED
        assert pacs.wait_for_answers(2) == [0x0000] * 2
    first, second = books.answers
    assert first == second


def test_an_answer_that_cannot_be_kept_is_a_failure_that_the_peer_hears_of(tmp_path: Path) -> None:
    books = Books()
    books.error = NoResources("the database is locked")
    with Pacs(tmp_path / "pacs", Manners(committing=Committing("before"))) as pacs:
        references = store(destination(pacs.port), tmp_path / "sent")
        assert ask(destination(pacs.port), references, books)[0].outcome is ACCEPTED
        assert pacs.wait_for_answers(1) == [0x0110]


def test_a_slow_keeper_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitment, "SAME_ASSOCIATION_S", 1.0)
    kept = threading.Event()

    def keep(_answer: CommitmentAnswer) -> bool:
        assert not kept.wait(1.5 * commitment.SAME_ASSOCIATION_S)
        kept.set()
        return True

    with Pacs(tmp_path / "pacs", Manners(committing=Committing("same"))) as pacs:
        references = store(destination(pacs.port), tmp_path / "sent")
        request("ICHTRIAGE", destination(pacs.port), "1.2.3", references, keep)
        assert kept.is_set()
        assert pacs.wait_for_answers(1) == [0x0000]


def test_a_peer_that_does_not_answer_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitment, "SAME_ASSOCIATION_S", 0.2)
    books = Books()
    with Pacs(tmp_path / "pacs", Manners(committing=Committing("later"))) as pacs:
        report, _ = ask(destination(pacs.port), [(CTImageStorage, "1.2.3")], books)
    assert report == SendReport("", ACCEPTED, 0x0000)
    assert books.answers == []


# Requests that are not taken


def test_a_peer_without_storage_commitment(tmp_path: Path) -> None:
    with Pacs(tmp_path) as pacs:
        report, _ = ask(destination(pacs.port), [(CTImageStorage, "1.2.3")], Books())
    assert report == SendReport("", UNSUPPORTED, detail="the peer does not offer storage commitment")


@pytest.mark.parametrize(
    ("status", "outcome"), [(0x0110, REFUSED), (0x0213, REFUSED), (0x0122, UNSUPPORTED), (0x0211, UNSUPPORTED)],
    ids=lambda v: f"{v:04X}" if isinstance(v, int) else None,
)  # fmt: skip
def test_a_request_that_is_answered_with_a_failure(tmp_path: Path, status: int, outcome: SendOutcome) -> None:
    with Pacs(tmp_path, Manners(committing=Committing(status=status))) as pacs:
        report, _ = ask(destination(pacs.port), [(CTImageStorage, "1.2.3")], Books())
    assert (report.outcome, report.status) == (outcome, status)
    assert f"0x{status:04X}" in report.detail


def test_a_peer_that_rejects_the_association(tmp_path: Path) -> None:
    with Pacs(tmp_path, Manners(calling_aets=("KNOWN",), committing=Committing())) as pacs:
        report, _ = ask(destination(pacs.port), [(CTImageStorage, "1.2.3")], Books())
    assert report.outcome is REFUSED
    assert "Calling AE title not recognised" in report.detail


def test_nobody_listens() -> None:
    port = free_port()
    report, _ = ask(destination(port), [(CTImageStorage, "1.2.3")], Books())
    assert report == SendReport("", UNREACHABLE, detail=f"no connection to {HOST}:{port}", was_tried=False)


def test_a_peer_that_never_speaks() -> None:
    with socket.socket() as silent:
        silent.bind((HOST, 0))
        silent.listen(5)
        began = time.monotonic()
        there = destination(silent.getsockname()[1], response_timeout_s=0.5)
        report, _ = ask(there, [(CTImageStorage, "1.2.3")], Books())
        assert time.monotonic() - began < 5.0
    assert report.outcome is UNREACHABLE


# Answers on a new association to the listener


@pytest.mark.parametrize("has_role", [True, False], ids=["with role", "without role"])
def test_an_answer_on_a_new_association(tmp_path: Path, has_role: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitment, "SAME_ASSOCIATION_S", 0.2)
    books = Books()
    manners = Manners(committing=Committing("new", has_role=has_role))
    with Pacs(tmp_path / "pacs", manners) as pacs, listening(tmp_path / "spool", books) as listener:
        pacs.node_port = listener.address[1]
        references = store(destination(pacs.port), tmp_path / "sent")
        report, transaction_uid = ask(destination(pacs.port), references, books)
        assert report.outcome is ACCEPTED
        assert pacs.wait_for_answers(1) == [0x0000]
        assert books.reception == []
    assert books.answers == [CommitmentAnswer(transaction_uid, uids(references), {})]


def test_an_answer_after_a_restart_of_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitment, "SAME_ASSOCIATION_S", 0.1)
    books = Books()
    with Pacs(tmp_path / "pacs", Manners(committing=Committing("later"))) as pacs:
        with listening(tmp_path / "spool", books) as listener:
            pacs.node_port = listener.address[1]
            references = store(destination(pacs.port), tmp_path / "sent")
            ask(destination(pacs.port), references, books)
        assert pacs.report(pacs.requests[0]) is None
        with listening(tmp_path / "spool", books, port=pacs.node_port):
            assert pacs.report(pacs.requests[0]) == 0x0000
            assert pacs.report(pacs.requests[0]) == 0x0000
    assert [a.committed for a in books.answers] == [uids(references)] * 2


def test_an_unknown_transaction_is_an_invalid_argument_and_its_uid_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Pacs(tmp_path / "pacs") as pacs, listening(tmp_path / "spool", Books()) as listener:
        pacs.node_port = listener.address[1]
        assert pacs.report(Request("1.2.3456789", ((CTImageStorage, "1.2.3"),))) == 0x0115
    assert "unknown transaction" in caplog.text
    assert "1.2.3456789" not in caplog.text


@pytest.mark.parametrize(
    "error", [NoResources("locked"), ZeroDivisionError("1.2.3456789")], ids=lambda e: type(e).__name__
)
def test_an_answer_that_cannot_be_kept_may_be_repeated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    books = Books("1.2.3")
    books.error = error
    with Pacs(tmp_path / "pacs") as pacs, listening(tmp_path / "spool", books) as listener:
        pacs.node_port = listener.address[1]
        again = Request("1.2.3", ((CTImageStorage, "1.2.4"),))
        assert pacs.report(again) == 0x0110
        books.error = None
        assert pacs.report(again) == 0x0000
    assert "1.2.3456789" not in "".join(r.getMessage() for r in caplog.records if r.levelno > logging.DEBUG)
    assert len(books.answers) == 1


# Reports that are none


def send_report(listener: Listener, information: Dataset | None, event_type: int) -> int | None:
    ae = AE(ae_title="PACS")
    association = ae.associate(
        *listener.address, [build_context(STORAGE_COMMITMENT)], ae_title="ICHTRIAGE",
        ext_neg=[build_role(STORAGE_COMMITMENT, scp_role=True)])  # fmt: skip
    assert association.is_established
    try:
        status, _ = association.send_n_event_report(
            information, event_type, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
        )
        return status.get("Status")  # type: ignore[no-any-return]  # pynetdicom is untyped
    finally:
        association.release()


def test_reports_that_make_no_sense_are_refused_and_the_next_one_is_taken(tmp_path: Path) -> None:
    good, _ = report_of(Request("1.2.3", ((CTImageStorage, "1.2.4"),)), {})
    nameless = Dataset()
    nameless.ReferencedSOPSequence = good.ReferencedSOPSequence
    path = Dataset()
    path.add_new(0x00081195, "LO", "../../etc/passwd")
    books = Books("1.2.3")
    with listening(tmp_path / "spool", books) as listener:
        assert send_report(listener, good, 3) == 0x0113
        assert send_report(listener, None, 1) == 0x0115
        assert send_report(listener, nameless, 1) == 0x0115
        assert send_report(listener, path, 1) == 0x0115
        assert books.answers == []
        assert send_report(listener, good, 1) == 0x0000
    assert len(books.answers) == 1


def test_an_answer_is_read_defensively(tmp_path: Path) -> None:
    information = Dataset()
    information.TransactionUID = "1.2.3"
    both, fine, bad = Dataset(), Dataset(), Dataset()
    both.ReferencedSOPInstanceUID = "1.2.4"
    fine.ReferencedSOPInstanceUID = "1.2.5"
    bad.add_new(0x00081155, "LO", "no uid")
    information.ReferencedSOPSequence = [both, fine, fine, bad, Dataset()]
    refused = Dataset()
    refused.ReferencedSOPInstanceUID = "1.2.4"  # without a reason, and said to be committed, too
    information.FailedSOPSequence = [refused]
    books = Books("1.2.3")
    with listening(tmp_path / "spool", books) as listener:
        assert send_report(listener, information, 1) == 0x0000
    assert books.answers == [CommitmentAnswer("1.2.3", ("1.2.5",), {"1.2.4": 0x0110})]


# Who may answer


def call(listener: Listener, calling: str, *sop_classes: str) -> Any:
    roles: list[Any] = [build_role(STORAGE_COMMITMENT, scp_role=True)] if STORAGE_COMMITMENT in sop_classes else []
    contexts = [build_context(c) for c in sop_classes]
    return AE(ae_title=calling).associate(*listener.address, contexts, ae_title="ICHTRIAGE", ext_neg=roles)


def test_a_destination_may_answer_but_not_send(tmp_path: Path) -> None:
    books = Books()
    with listening(tmp_path / "spool", books) as listener:
        association = call(listener, "PACS", CTImageStorage, STORAGE_COMMITMENT)
        assert len(association.accepted_contexts) == 2
        assert association.send_c_store(write_ct(tmp_path / "a.dcm")).Status == 0x0124
        association.release()
        assert list((tmp_path / "spool").iterdir()) == []
        assert books.reception == []
        stranger = call(listener, "EVIL", STORAGE_COMMITMENT)
        assert stranger.is_rejected


def test_a_destination_that_is_also_a_sender_may_do_both(tmp_path: Path) -> None:
    books = Books("1.2.3")
    with listening(tmp_path / "spool", books, calling_aets=("PACS",)) as listener:
        association = call(listener, "PACS", CTImageStorage, STORAGE_COMMITMENT)
        assert association.send_c_store(write_ct(tmp_path / "a.dcm")).Status == 0x0000
        good, _ = report_of(Request("1.2.3", ((CTImageStorage, "1.2.4"),)), {})
        status, _ = association.send_n_event_report(good, 1, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE)
        assert status.Status == 0x0000
        association.release()
        wait_until(lambda: books.reception == ["PACS", "received", "closed"], "the end of the association")


def test_a_destination_calls_the_nodes_own_title_whatever_senders_call(tmp_path: Path) -> None:
    with listening(tmp_path / "spool", Books(), called_aets=("SENDERS_NAME",)) as listener:
        for calling, is_admitted in (("PACS", True), ("CT01", False)):
            association = call(listener, calling, STORAGE_COMMITMENT)
            assert association.is_established is is_admitted
            association.release()


def test_no_answer_is_kept_after_the_stop(tmp_path: Path) -> None:
    at_work, go_on = threading.Event(), threading.Event()
    books = Books("1.2.3")

    def keep(answer: CommitmentAnswer) -> bool:
        at_work.set()
        assert go_on.wait(LIMIT_S)
        return books.keep(answer)

    with Pacs(tmp_path / "pacs") as pacs, listening(tmp_path / "spool", books) as listener:
        listener._callbacks = Callbacks(lambda _r: None, lambda _k, _c: None, lambda _k: None, keep)
        pacs.node_port = listener.address[1]
        reporting = threading.Thread(target=pacs.report, args=(Request("1.2.3", ((CTImageStorage, "1.2.4"),)),))
        reporting.start()
        assert at_work.wait(LIMIT_S)
        stopping = threading.Thread(target=listener.stop, args=(0.0,))
        stopping.start()
        wait_until(lambda: listener._stopping and not listener._guests, "the end of the association")
        stopping.join(1.0)
        assert stopping.is_alive()
        go_on.set()
        stopping.join(LIMIT_S)
        assert len(books.answers) == 1
        reporting.join(LIMIT_S)


# Orthanc


def test_orthanc_commits_to_what_it_has_and_not_to_what_was_deleted(tmp_path: Path) -> None:
    books = Books()
    with listening(tmp_path / "spool", books) as listener:
        settings = {"DicomModalities": {"node": ["ICHTRIAGE", HOST, listener.address[1]]}}
        with orthanc(tmp_path / "orthanc", settings) as peer:
            there = destination(peer.port, ae_title=peer.ae_title)
            references = store(there, tmp_path / "sent")
            report, first = ask(there, references, books)
            assert report.outcome is ACCEPTED
            wait_until(lambda: len(books.answers) == 1, "Orthanc's answer")
            peer.delete_instance(references[1][1])
            report, second = ask(there, references, books)
            assert report.outcome is ACCEPTED
            wait_until(lambda: len(books.answers) == 2, "Orthanc's second answer")
    one, gone, three = uids(references)
    assert books.answers[0] == CommitmentAnswer(first, (one, gone, three), {})
    assert books.answers[1] == CommitmentAnswer(second, (one, three), {gone: 0x0112})
