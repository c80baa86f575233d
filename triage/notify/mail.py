"""Facts -> a plain-text e-mail that names no patient, and its way to a mail server; knows no other transport."""

import smtplib
import socket
import ssl
import textwrap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from email.policy import SMTP as MAIL_POLICY
from email.utils import format_datetime

from triage.config import MailOutput
from triage.dicom import wording
from triage.notify.attempts import LineLost, accepted, no_connection, read_secret, refused, tls_context, with_untried
from triage.notify.facts import Facts
from triage.records import Outcome, Priority, SendOutcome, SendReport

LINE_LENGTH = 76
"""Characters; no mail program breaks such a line."""

QUIT_S = 1.0
"""Time for an orderly end of a connection that nothing more is expected of."""

SERVICE_READY = 220

NO_CODE = -1
"""smtplib's for an answer that does not begin with one."""

LINE_ENDS = (421, NO_CODE)
"""Codes after which the line carries no further mail; 421: the server closes it (RFC 5321 3.8)."""


def build_mail(output: MailOutput, facts: Facts, uid: str) -> bytes:
    """Build one message.

    Args:
        output: Sender and recipients, and whether the accession number may stand in the text.
        facts: What to say.
        uid: Of the message.

    Returns:
        An RFC 5322 message. Its subject never names the patient or the order: subjects are shown on locked screens.
    """
    result = facts.result
    mail = EmailMessage(policy=MAIL_POLICY)
    priority = "" if result.priority is Priority.ROUTINE else f" {result.priority.value}"
    stamp = f"[{wording.DEMONSTRATION}] " if result.model.is_demonstration else ""
    correction = " (correction)" if facts.supersedes else ""
    mail["Subject"] = f"{stamp}AI triage{priority}: {_outcome(facts)}, study {facts.study_id}{correction}"
    mail["From"] = output.sender
    mail["To"] = ", ".join(output.recipients)
    mail["Date"] = format_datetime(facts.finished)
    mail["Message-ID"] = f"<{uid}@ich-triage.invalid>"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday notices, please
    if result.priority is Priority.URGENT:
        mail["Importance"] = "high"
    mail.set_content("\n".join(_lines(facts, output.identifiers)) + "\n")
    return mail.as_bytes()


def send_mails(output: MailOutput, contents: Sequence[bytes]) -> list[SendReport]:
    """Hand mails to a server, over one connection.

    Args:
        output: The server, and who may read the mails.
        contents: Mails of `build_mail`.

    Returns:
        A report a mail, in order. Accepted means that the server took it for at least one recipient.
    """
    reports: list[SendReport] = []
    try:
        with _session(output) as client:
            try:
                for content in contents:
                    reports.append(_send_one(output, client, content))  # noqa: PERF401 (kept when lost)
            except LineLost as e:
                reports.append(e.report)
    except LineLost as e:
        return [e.report] * len(contents)
    return with_untried(reports, len(contents))


def _outcome(facts: Facts) -> str:
    if facts.result.outcome is Outcome.NOT_ANALYSED:
        return "not analysed"
    return ("" if facts.is_positive else "no ") + "intracranial hemorrhage suspected"


def _lines(facts: Facts, identifiers: bool) -> Iterator[str]:
    """The text, line by line; without the reason of a study not analysed, which may quote its descriptions."""
    result = facts.result
    remarks = wording.outcome_remarks(result)
    if result.outcome is Outcome.NOT_ANALYSED:
        remarks = ("NOT ANALYSED. The reason stands in the report and in `triage show`.", *remarks[1:])
    run = wording.run_remark(result, facts.supersedes)
    for text in (*facts.warnings, *remarks, run):
        yield from textwrap.wrap(text, LINE_LENGTH)
    yield ""
    for f in result.findings:
        presence = "suspected" if f.present else "below threshold"
        yield "{}: {}, {} (threshold {})".format(wording.NAMES[f.label], presence, *wording.compared(f))
    yield f"Study: {facts.study_id} (`triage show {facts.study_id}` on node {facts.node_name})"
    if identifiers and facts.identity.accession_number:
        yield f"Accession number: {facts.identity.accession_number}"
    yield f"Analysis: {result.run}, finished {facts.finished.isoformat(sep=' ', timespec='seconds')}"
    yield f"Model: {wording.model_line(result.model)}"


@contextmanager
def _session(output: MailOutput) -> Iterator[smtplib.SMTP]:
    """A greeted, secured and authenticated connection for the length of a `with`.

    Raises:
        LineLost: There is none.
    """
    client = _client(output)
    try:
        with _limited(client, output.connect_timeout_s + output.response_timeout_s):
            client.timeout = output.connect_timeout_s
            code, _ = _connect(output, client)
            if code != SERVICE_READY:
                raise smtplib.SMTPConnectError(code, "")
            assert client.sock is not None
            client.sock.settimeout(output.response_timeout_s)
            if output.security == "starttls":
                _secure(output, client)
            _log_in(output, client)
        yield client
        with suppress(LineLost), _limited(client, QUIT_S):
            client.quit()
    finally:
        client.close()


def _client(output: MailOutput) -> smtplib.SMTP:
    # Named here, for smtplib would ask the name server and wait for it
    name = socket.gethostname()
    name = name if "." in name and name.isascii() else "[127.0.0.1]"
    if output.security == "tls":
        return smtplib.SMTP_SSL(local_hostname=name, context=tls_context(output.ca_file))
    return smtplib.SMTP(local_hostname=name)


def _connect(output: MailOutput, client: smtplib.SMTP) -> tuple[int, bytes]:
    try:
        client._host = output.host  # type: ignore[attr-defined]  # what TLS checks; only its constructor, which connects, sets it
        return client.connect(output.host, output.port)
    except smtplib.SMTPException:
        raise
    except TimeoutError:
        detail = f"no connection to {output.host}:{output.port} within {output.connect_timeout_s:g} s"
        raise LineLost(SendOutcome.UNREACHABLE, detail) from None
    except (OSError, UnicodeError) as e:
        raise no_connection(output.host, output.port, e) from e


def _secure(output: MailOutput, client: smtplib.SMTP) -> None:
    try:
        client.starttls(context=tls_context(output.ca_file))
    except ssl.SSLError as e:
        raise no_connection(output.host, output.port, e) from e


def _log_in(output: MailOutput, client: smtplib.SMTP) -> None:
    if output.password_file is not None:
        client.login(output.user, read_secret(output.password_file, "password_file"))


@contextmanager
def _limited(client: smtplib.SMTP, limit_s: float) -> Iterator[None]:
    """Turn what smtplib raises into LineLost, and cut the line at a time limit on the whole.

    A socket's own limit is one on each read: a server that sends a byte now and then would never meet it.
    """
    is_late = threading.Event()

    def cut() -> None:
        is_late.set()
        if client.sock is not None:
            with suppress(OSError):
                client.sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(limit_s, cut)
    timer.start()
    try:
        yield
    except (OSError, ValueError) as e:  # ValueError: a line closed in mid-read; smtplib's own errors are OSErrors
        if is_late.is_set() or isinstance(e, TimeoutError) or isinstance(e.__context__, TimeoutError):
            raise LineLost(SendOutcome.UNREACHABLE, "no answer in time") from None
        raise _lost(e) from None  # its text may quote addresses
    finally:
        timer.cancel()
        timer.join()


def _lost(error: OSError | ValueError) -> LineLost:
    if isinstance(error, smtplib.SMTPResponseException):
        code = error.smtp_code
        return LineLost(SendOutcome.REFUSED, "the answer is no SMTP" if code == NO_CODE else f"SMTP {code}")
    if isinstance(error, smtplib.SMTPException) and not isinstance(error, smtplib.SMTPServerDisconnected):
        return LineLost(SendOutcome.REFUSED, "the server does not offer what security or user ask for")
    return LineLost(SendOutcome.UNREACHABLE, "the line was cut before an answer came")


def _send_one(output: MailOutput, client: smtplib.SMTP, content: bytes) -> SendReport:
    """Hand over one mail.

    Raises:
        LineLost: There was no answer, or the server ends the connection.
    """
    with _limited(client, output.response_timeout_s):
        try:
            left_out = client.sendmail(output.sender, output.recipients, content)
        except smtplib.SMTPRecipientsRefused as e:
            codes = sorted({code for code, _ in e.recipients.values()})
            if fatal := [code for code in LINE_ENDS if code in codes]:
                raise smtplib.SMTPResponseException(fatal[0], "") from None
            return refused(f"SMTP {', '.join(map(str, codes))}: no recipient is accepted")
        except smtplib.SMTPResponseException as e:
            if e.smtp_code in LINE_ENDS:
                raise
            return refused(f"SMTP {e.smtp_code}")
        except UnicodeError:
            return refused("sender or recipients: an address has other characters than ASCII")
    if left_out:
        return accepted(f"SMTP 250, but {len(left_out)} of {len(output.recipients)} recipients are refused")
    return accepted("SMTP 250")
