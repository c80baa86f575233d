import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from message_peers import (
    Answers,
    Certificate,
    MllpListener,
    Talk,
    ack,
    closed_port,
    dripping,
    make_certificate,
    silent,
    tcp_server,
)
from notify.conftest import MakeFacts
from peers import HOST

from triage.config import Hl7Output
from triage.notify.attempts import NOT_SENT
from triage.notify.outputs import build, send
from triage.records import SendOutcome

PATIENT = "TEST-0001"


def ris(port: int, **changes: object) -> Hl7Output:
    values: dict[str, object] = {"name": "ris", "host": HOST, "port": port, "connect_timeout_s": 5.0,
                                 "response_timeout_s": 5.0}  # fmt: skip
    return Hl7Output.model_validate(values | changes)


@pytest.fixture
def message(facts: MakeFacts) -> bytes:
    return build(ris(1), facts())


def other(message: bytes, number: int) -> bytes:
    """The message with another control ID."""
    control_id = message.split(b"|")[9]
    return message.replace(control_id, b"%020d" % number)


def test_a_batch_goes_over_one_connection_and_arrives_byte_for_byte(message: bytes) -> None:
    with MllpListener() as listener:
        reports = send(ris(listener.port), [message, other(message, 2), other(message, 3)])
    assert [(r.outcome, r.detail) for r in reports] == [(SendOutcome.ACCEPTED, "HL7 AA")] * 3
    assert listener.connections == 1
    assert str(listener.received[0]).encode("utf-8") == message
    assert [str(m.segment("MSH")[10]) for m in listener.received][1:] == [f"{n:020d}" for n in (2, 3)]


def test_nothing_to_send_opens_no_connection() -> None:
    assert send(ris(closed_port()), []) == []


@pytest.mark.parametrize(
    ("answer", "outcome", "detail"),
    [
        (ack("CA"), SendOutcome.ACCEPTED, "HL7 CA"),
        (ack("AE"), SendOutcome.REFUSED, "HL7 AE"),
        (ack("AR", error=f"ERR|||204^Unknown key {PATIENT}^HL70357|E||||no patient {PATIENT}\r"),
         SendOutcome.REFUSED, "HL7 AR: 204 unknown key identifier"),
        (ack("CR", error=f"ERR|||{PATIENT}|E\r"), SendOutcome.REFUSED, "HL7 CR"),
        (ack("??"), SendOutcome.REFUSED, "the acknowledgment has no known code (MSA-1)"),
    ],
)  # fmt: skip
def test_a_refused_message_does_not_keep_the_next_from_its_turn(
    answer: Answers, outcome: SendOutcome, detail: str, message: bytes
) -> None:
    with MllpListener([answer, ack("AA")]) as listener:
        first, second = send(ris(listener.port), [message, other(message, 2)])
    assert (first.outcome, first.detail) == (outcome, detail)
    assert second.outcome is SendOutcome.ACCEPTED
    assert PATIENT not in first.detail


def test_line_feeds_and_another_character_set_in_the_answer_are_understood(message: bytes) -> None:
    def answer(received: object) -> bytes:
        return ack("AE", error="ERR|||101^Pflichtfeld fehlt f\u00fcr\r")(received).replace(b"\r", b"\r\n").replace(
            "\u00fc".encode(), b"\xfc")

    with MllpListener([answer]) as listener:
        (report,) = send(ris(listener.port), [message])
    assert report.detail == "HL7 AE: 101 required field missing"


def test_an_acknowledgment_of_something_else_is_no_proof(message: bytes) -> None:
    with MllpListener([ack("AA", about="SOMETHING-ELSE")]) as listener:
        first, second = send(ris(listener.port), [message, other(message, 2)])
    assert (first.outcome, first.was_tried) == (SendOutcome.REFUSED, True)
    assert "MSA-2" in first.detail
    assert (second.outcome, second.detail, second.was_tried) == (SendOutcome.UNREACHABLE, NOT_SENT, False)


def test_a_second_answer_to_an_earlier_message_is_passed_over(message: bytes) -> None:
    def twice(received: object) -> bytes:
        return ack("CA")(received) + b"\x1c\r\x0b" + ack("AA")(received)

    with MllpListener([twice, ack("AE")]) as listener:
        first, second = send(ris(listener.port), [message, other(message, 2)])
    assert (first.outcome, first.detail) == (SendOutcome.ACCEPTED, "HL7 CA")
    assert (second.outcome, second.detail) == (SendOutcome.REFUSED, "HL7 AE")


def cut_off(line: socket.socket, over: threading.Event) -> None:
    line.recv(100)


def cut_off_in_the_answer(line: socket.socket, over: threading.Event) -> None:
    line.recv(65536)
    line.sendall(b"\x0bMSH|^~\\&|RIS")


def saying(answer: bytes) -> Talk:
    def talk(line: socket.socket, over: threading.Event) -> None:
        line.recv(65536)
        line.sendall(answer)
        over.wait(10)

    return talk


@pytest.mark.parametrize(
    ("talk", "outcome", "detail"),
    [
        (silent, SendOutcome.UNREACHABLE, "no answer within 0.5 s"),
        (dripping, SendOutcome.UNREACHABLE, "no answer within 0.5 s"),
        (cut_off, SendOutcome.UNREACHABLE, "the line was cut before an answer came"),
        (cut_off_in_the_answer, SendOutcome.UNREACHABLE, "the line was cut before an answer came"),
        (saying(b"HTTP/1.1 400 Bad Request\r\n\r\n\x1c\r"), SendOutcome.REFUSED, "the answer is no HL7 acknowledgment"),
        (saying(b"\x0bMSH|\x1c\r"), SendOutcome.REFUSED, "the answer is no HL7 acknowledgment"),
        (saying(b"\x0b\x1c\r"), SendOutcome.REFUSED, "the answer is no HL7 acknowledgment"),
        (saying(b"\x0bMSH|^~\\&|RIS\rMSA|AA\x1c\r"), SendOutcome.REFUSED, "the answer is no HL7 acknowledgment"),
        (saying(b"\x0b" + b"x" * 200_000), SendOutcome.REFUSED, "the answer is no HL7 acknowledgment"),
    ],
)
def test_peers_that_misbehave_cost_a_bounded_time(
    talk: Talk, outcome: SendOutcome, detail: str, message: bytes
) -> None:
    began = time.monotonic()
    with tcp_server(talk) as port:
        first, second = send(ris(port, response_timeout_s=0.5), [message, message])
        assert time.monotonic() - began < 5.0
    assert (first.outcome, first.detail, first.was_tried) == (outcome, detail, True)
    assert (second.detail, second.was_tried) == (NOT_SENT, False)


def test_nobody_there_is_told_for_every_message(message: bytes) -> None:
    port = closed_port()
    reports = send(ris(port), [message, message])
    assert [(r.outcome, r.was_tried) for r in reports] == [(SendOutcome.UNREACHABLE, True)] * 2
    assert f"no connection to {HOST}:{port}" in reports[0].detail


def test_a_name_that_is_none_is_told(message: bytes) -> None:
    for host in ("no-such-host.invalid", "a..b", "x" * 300):
        (report,) = send(ris(2575, host=host), [message])
        assert report.outcome is SendOutcome.UNREACHABLE


def test_a_file_that_is_no_message_is_refused_and_the_next_goes_on(message: bytes) -> None:
    with MllpListener() as listener:
        reports = send(ris(listener.port), [b"", b"\xff\xfe", message])
    assert [r.outcome for r in reports] == [SendOutcome.REFUSED, SendOutcome.REFUSED, SendOutcome.ACCEPTED]


def test_tls_with_the_certificate_named(certificate: Certificate, message: bytes) -> None:
    with MllpListener(context=certificate.server_context()) as listener:
        reports = send(ris(listener.port, tls=True, ca_file=certificate.cert), [message, other(message, 2)])
    assert [r.outcome for r in reports] == [SendOutcome.ACCEPTED] * 2


def test_a_certificate_of_somebody_else_is_not_trusted(
    certificate: Certificate, message: bytes, tmp_path: Path
) -> None:
    stranger = make_certificate(tmp_path)
    with MllpListener(context=certificate.server_context()) as listener:
        (report,) = send(ris(listener.port, tls=True, ca_file=stranger.cert), [message])
    assert report.outcome is SendOutcome.UNREACHABLE
    assert "its certificate is not trusted" in report.detail
    assert not listener.received


def test_tls_with_a_peer_that_speaks_none_or_nothing(message: bytes) -> None:
    with MllpListener() as listener:
        (report,) = send(ris(listener.port, tls=True, connect_timeout_s=2.0), [message])
    assert report.outcome is SendOutcome.UNREACHABLE
    with tcp_server(silent) as port:
        (report,) = send(ris(port, tls=True, connect_timeout_s=0.3), [message])
    assert report.detail == f"no connection to {HOST}:{port} within 0.3 s"


@pytest.mark.parametrize("make", [lambda p: p / "none.pem", lambda p: _write(p / "junk.pem")])
def test_certificates_that_cannot_be_read_are_a_refusal_that_names_the_key(
    make: Callable[[Path], Path], tmp_path: Path, message: bytes
) -> None:
    (report,) = send(ris(closed_port(), tls=True, ca_file=make(tmp_path)), [message])
    assert report.outcome is SendOutcome.REFUSED
    assert report.detail.startswith("ca_file: ")


def _write(path: Path) -> Path:
    path.write_text("no certificate")
    return path
