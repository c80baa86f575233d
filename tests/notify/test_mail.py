import asyncio
import email
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from dicom.results_data import STUDY, not_analysed, set_to
from message_peers import Certificate, Talk, closed_port, dripping, make_certificate, silent, tcp_server
from notify.conftest import OUTCOMES, MakeFacts
from notify.test_http_outputs import IDENTIFYING
from peers import HOST, LIMIT_S

from triage.config import MailOutput
from triage.notify.attempts import NOT_SENT
from triage.notify.facts import Facts
from triage.notify.outputs import build, message_uid, send
from triage.records import SendOutcome

ACCEPTED, REFUSED, UNREACHABLE = SendOutcome.ACCEPTED, SendOutcome.REFUSED, SendOutcome.UNREACHABLE

PASSWORD = "correct-horse"


def mail(port: int, **changes: object) -> MailOutput:
    values: dict[str, object] = {
        "name": "duty", "host": HOST, "port": port, "sender": "triage@hospital.example",
        "recipients": ["duty@hospital.example", "second@hospital.example"], "connect_timeout_s": 5.0,
        "response_timeout_s": 5.0}  # fmt: skip
    return MailOutput.model_validate(values | changes)


class Mailbox:
    """A mail server's decisions: refuses the recipients named, answers to mails in turn."""

    def __init__(self, refused: Sequence[str] = (), answers: Sequence[str] = ("250 OK",)) -> None:
        self.refused, self.answers = refused, answers
        self.received: list[Envelope] = []
        self.sessions: set[int] = set()
        self.turns = 0

    async def handle_RCPT(self, *about: Any) -> str:  # noqa: N802 (aiosmtpd's name)
        envelope, address = about[2:4]
        if address in self.refused:
            return f"550 {address} is not known here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, *about: Any) -> str:  # noqa: N802 (aiosmtpd's name)
        session, envelope = about[1:3]
        answer = self.answers[min(self.turns, len(self.answers) - 1)]
        self.turns += 1
        self.sessions.add(id(session))
        if answer.startswith("250"):
            self.received.append(envelope)
        return answer


@contextmanager
def server(mailbox: Mailbox, ssl_context: ssl.SSLContext | None = None, **options: Any) -> Iterator[int]:
    """aiosmtpd in a thread; its own controller cannot listen on port 0."""
    port, over, loop = 0, asyncio.Event(), asyncio.new_event_loop()
    ready = threading.Event()

    async def serve() -> None:
        nonlocal port
        listener = await loop.create_server(
            lambda: SMTP(mailbox, hostname="mail.hospital.example", loop=loop, **options), HOST, 0, ssl=ssl_context)
        port = listener.sockets[0].getsockname()[1]
        ready.set()
        await over.wait()
        listener.close()
        if sessions := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(sessions, timeout=LIMIT_S)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(LIMIT_S)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(LIMIT_S)
        loop.close()


def read(facts: Facts, **changes: object) -> EmailMessage:
    message = email.message_from_bytes(build(mail(25, **changes), facts), policy=default)
    assert isinstance(message, EmailMessage)
    return message


# --- what it says


@pytest.mark.parametrize("kind", OUTCOMES)
def test_warnings_stand_in_every_mail(kind: str, outcomes: dict[str, Facts]) -> None:
    message = read(outcomes[kind])
    text = message.get_content()
    assert "NOT FOR DIAGNOSTIC USE" in text
    assert ("DEMONSTRATION MODEL" in text) == ("DEMONSTRATION MODEL" in message["Subject"]) == (kind != "validated")
    assert not message.defects
    assert max(map(len, text.splitlines())) <= 76


def test_an_urgent_mail(facts: MakeFacts) -> None:
    made = facts()
    message = read(made)
    uid = message_uid("duty", made.result, made.node_name)
    assert message["Subject"] == (
        "[DEMONSTRATION MODEL] AI triage urgent: intracranial hemorrhage suspected, study 4711")
    assert message["Message-ID"] == f"<{uid}@ich-triage.invalid>"
    assert (message["Importance"], message["Auto-Submitted"]) == ("high", "auto-generated")
    assert message["Date"].datetime == made.finished.replace(microsecond=0)
    assert "Intraparenchymal: suspected, 95 % (threshold 40 %)" in message.get_content()


def test_review_correction_and_not_analysed(outcomes: dict[str, Facts]) -> None:
    assert "AI triage review: intracranial" in read(outcomes["review"])["Subject"]
    assert read(outcomes["review"])["Importance"] is None
    subject = read(outcomes["superseding"])["Subject"]
    assert subject.endswith(": no intracranial hemorrhage suspected, study 4711 (correction)")
    assert "supersedes the previous report" in " ".join(read(outcomes["superseding"]).get_content().split())
    assert "not analysed, study 4711" in read(outcomes["not analysed"])["Subject"]


@pytest.mark.parametrize("is_analysed", [True, False])
def test_a_mail_names_no_patient_and_the_order_only_when_asked_to(is_analysed: bool, facts: MakeFacts) -> None:
    reason = "no usable series: series 1: SeriesDescription 'NOVAKOVA' says 'scout'"
    made = facts(*(set_to(k, v) for k, v in IDENTIFYING.items()), result=None if is_analysed else not_analysed(reason))
    secret = {*IDENTIFYING.values(), "Nov\u00e1kov\u00e1", "NOVAKOVA", STUDY}
    for identifiers in (False, True):
        message = read(made, identifiers=identifiers)
        told = {s for s in secret if s in message.get_content() or s in build(mail(25), made).decode()}
        assert told == ({"ACC-55512"} if identifiers else set())
        assert not [s for s in secret for value in message.values() if s in value]


# --- how it goes


def test_mails_go_over_one_connection_and_arrive_as_they_are(facts: MakeFacts) -> None:
    mailbox = Mailbox()
    with server(mailbox) as port:
        content = build(mail(port), facts())
        reports = send(mail(port), [content, content])
    assert [(r.outcome, r.detail) for r in reports] == [(ACCEPTED, "SMTP 250")] * 2
    assert len(mailbox.sessions) == 1
    envelope = mailbox.received[0]
    assert envelope.mail_from == "triage@hospital.example"
    assert envelope.rcpt_tos == ["duty@hospital.example", "second@hospital.example"]
    assert envelope.content == content


def test_nothing_to_send_opens_no_connection() -> None:
    assert send(mail(closed_port()), []) == []


def test_a_refused_mail_does_not_keep_the_next_from_its_turn() -> None:
    with server(Mailbox(answers=("452 no room for TEST-0001", "250 OK"))) as port:
        first, second = send(mail(port), [b"Subject: a\r\n\r\nb\r\n"] * 2)
    assert (first.outcome, first.detail) == (REFUSED, "SMTP 452")
    assert second.outcome is ACCEPTED


def test_recipients_that_are_refused() -> None:
    mailbox = Mailbox(refused=["second@hospital.example"])
    with server(mailbox) as port:
        (report,) = send(mail(port), [b"Subject: a\r\n\r\nb\r\n"])
    assert (report.outcome, report.detail) == (ACCEPTED, "SMTP 250, but 1 of 2 recipients are refused")
    assert mailbox.received[0].rcpt_tos == ["duty@hospital.example"]
    with server(Mailbox(refused=["second@hospital.example", "duty@hospital.example"])) as port:
        first, second = send(mail(port), [b"Subject: a\r\n\r\nb\r\n"] * 2)
    assert (first.outcome, first.detail) == (REFUSED, "SMTP 550: no recipient is accepted")
    assert (second.outcome, second.was_tried) == (REFUSED, True)


def test_a_server_that_closes_its_service_ends_the_batch() -> None:
    with server(Mailbox(answers=("421 closing",))) as port:
        first, second = send(mail(port), [b"Subject: a\r\n\r\nb\r\n"] * 2)
    assert (first.outcome, first.detail) == (REFUSED, "SMTP 421")
    assert (second.detail, second.was_tried) == (NOT_SENT, False)


def test_an_address_that_the_server_cannot_take_is_told() -> None:
    with server(Mailbox()) as port:
        (report,) = send(mail(port, recipients=["\u017eofia@hospital.example"]), [b"Subject: a\r\n\r\nb\r\n"])
    assert report.outcome is REFUSED
    assert report.detail == "sender or recipients: an address has other characters than ASCII"


def greet_then(talk: Talk) -> Talk:
    """Behaves until the mail itself is under way."""

    def run(line: socket.socket, over: threading.Event) -> None:
        line.sendall(b"220 hello\r\n")
        file = line.makefile("rb")
        while not file.readline().startswith(b"rcpt"):
            line.sendall(b"250 OK\r\n")
        talk(line, over)

    return run


def cut_off(line: socket.socket, over: threading.Event) -> None:
    line.shutdown(socket.SHUT_RDWR)


def junk(line: socket.socket, over: threading.Event) -> None:
    line.sendall(b"HTTP/1.1 400 Bad Request\r\nServer: x\r\nDate: y\r\n\r\n")
    over.wait(10)


def drip_a_reply(line: socket.socket, over: threading.Event) -> None:
    dripping(line, over, b"250-")


LATE, CUT = "no answer in time", "the line was cut before an answer came"


@pytest.mark.parametrize(
    ("talk", "outcome", "detail"),
    [
        (silent, UNREACHABLE, LATE),
        (dripping, UNREACHABLE, LATE),
        (cut_off, UNREACHABLE, CUT),
        (junk, REFUSED, "the answer is no SMTP"),
    ],
)
def test_servers_that_misbehave_at_once_cost_a_bounded_time(talk: Talk, outcome: SendOutcome, detail: str) -> None:
    began = time.monotonic()
    with tcp_server(talk) as port:
        reports = send(mail(port, connect_timeout_s=0.3, response_timeout_s=0.3), [b"Subject: a\r\n\r\nb\r\n"] * 2)
        assert time.monotonic() - began < 5.0
    assert {r.outcome for r in reports} == {outcome}
    assert {r.detail for r in reports} == {detail}


@pytest.mark.parametrize(
    ("talk", "outcome", "detail"),
    [
        (silent, UNREACHABLE, LATE),
        (drip_a_reply, UNREACHABLE, LATE),
        (cut_off, UNREACHABLE, CUT),
        (junk, REFUSED, "the answer is no SMTP"),
    ],
)
def test_servers_that_misbehave_in_mid_mail_cost_a_bounded_time(
    talk: Talk, outcome: SendOutcome, detail: str
) -> None:
    began = time.monotonic()
    with tcp_server(greet_then(talk)) as port:
        first, second = send(mail(port, response_timeout_s=0.4), [b"Subject: a\r\n\r\nb\r\n"] * 2)
        assert time.monotonic() - began < 5.0
    assert (first.outcome, first.detail, first.was_tried) == (outcome, detail, True)
    assert (second.detail, second.was_tried) == (NOT_SENT, False)


def test_nobody_there_is_told() -> None:
    port = closed_port()
    reports = send(mail(port), [b"a", b"b"])
    assert [(r.outcome, r.was_tried) for r in reports] == [(UNREACHABLE, True)] * 2
    assert f"no connection to {HOST}:{port}" in reports[0].detail


# --- certificates and passwords


def logins(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    is_right = isinstance(data, LoginPassword) and (data.login, data.password) == (b"node", PASSWORD.encode())
    return AuthResult(success=is_right, handled=False)


def secured(certificate: Certificate, security: str) -> dict[str, Any]:
    context = certificate.server_context()
    if security == "tls":
        return {"ssl_context": context, "auth_require_tls": False}  # aiosmtpd counts STARTTLS alone
    return {"tls_context": context, "require_starttls": True}


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # its word for STARTTLS
@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_login_over_tls(security: str, certificate: Certificate, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    options = {"authenticator": logins, "auth_required": True, **secured(certificate, security)}
    mailbox = Mailbox()
    with server(mailbox, **options) as port:
        output = mail(port, security=security, ca_file=certificate.cert, user="node",
                      password_file=tmp_path / "password")  # fmt: skip
        (report,) = send(output, [b"Subject: a\r\n\r\nb\r\n"])
        assert (report.outcome, report.detail) == (ACCEPTED, "SMTP 250")
        (tmp_path / "password").write_text("wrong")
        (report,) = send(output, [b"Subject: a\r\n\r\nb\r\n"])
    assert (report.outcome, report.detail) == (REFUSED, "SMTP 535")


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_of_somebody_else_is_not_trusted(
    security: str, certificate: Certificate, tmp_path: Path
) -> None:
    stranger = make_certificate(tmp_path)
    mailbox = Mailbox()
    with server(mailbox, **secured(certificate, security)) as port:
        (report,) = send(mail(port, security=security, ca_file=stranger.cert), [b"Subject: a\r\n\r\nb\r\n"])
    assert report.outcome is UNREACHABLE
    assert "its certificate is not trusted" in report.detail
    assert not mailbox.received


def test_what_the_server_does_not_offer_is_told(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    with server(Mailbox()) as port:
        (report,) = send(mail(port, security="starttls"), [b"Subject: a\r\n\r\nb\r\n"])
    assert (report.outcome, report.detail) == (REFUSED, "the server does not offer what security or user ask for")


def test_a_password_that_is_missing_is_a_refusal_that_names_the_key(certificate: Certificate, tmp_path: Path) -> None:
    with server(Mailbox(), **secured(certificate, "starttls")) as port:
        (report,) = send(
            mail(port, security="starttls", ca_file=certificate.cert, user="node", password_file=tmp_path / "none"),
            [b"a"],
        )
    assert (report.outcome, report.detail) == (
        REFUSED, "password_file: the file cannot be read (No such file or directory)")  # fmt: skip


def test_the_judge_speaks_tls(certificate: Certificate) -> None:
    with server(Mailbox(), ssl_context=certificate.server_context()) as port:
        context = ssl.create_default_context(cafile=certificate.cert)
        with socket.create_connection((HOST, port)) as raw, context.wrap_socket(raw, server_hostname=HOST) as line:
            assert line.recv(3) == b"220"
