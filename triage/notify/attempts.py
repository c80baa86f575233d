"""How an attempt to hand messages over ends, and what it needs from files: reports, secrets, certificates."""

import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

from triage.errors import DeliveryError
from triage.records import SendOutcome, SendReport

NOT_SENT = "not sent: the line was lost before"

MAX_SECRET_BYTES = 8192
"""Longer is no password and no token, but a wrong path."""


class LineLost(DeliveryError):
    """The line can carry no further message; never leaves this package.

    Attributes:
        report: How the message ended that was under way, or every message where there was no line yet.
    """

    def __init__(self, outcome: SendOutcome, detail: str) -> None:
        super().__init__(detail)
        self.report = SendReport("", outcome, detail=detail)


def accepted(detail: str = "") -> SendReport:
    """The peer says that it has the message."""
    return SendReport("", SendOutcome.ACCEPTED, detail=detail)


def refused(detail: str) -> SendReport:
    """The peer says that it does not take the message, or the message cannot be sent; the line still stands."""
    return SendReport("", SendOutcome.REFUSED, detail=detail)


def with_untried(reports: Sequence[SendReport], n: int) -> list[SendReport]:
    """Fill up the reports of a batch whose line was lost.

    Args:
        reports: Of the messages that had their turn.
        n: Number of all messages.

    Returns:
        n reports.
    """
    untried = SendReport("", SendOutcome.UNREACHABLE, detail=NOT_SENT, was_tried=False)
    return [*reports, *[untried] * (n - len(reports))]


def read_secret(path: Path, key: str) -> str:
    """Read a password or token, anew for each attempt so that it may be changed while the node runs.

    Args:
        path: Its file; blanks and line breaks around the secret do not count.
        key: Of the configuration, for the report.

    Returns:
        The secret, of visible ASCII characters: nothing else is safe in a header.

    Raises:
        LineLost: The file is missing, cannot be read or holds no secret; says nothing of its content.
    """
    try:
        with path.open("rb") as file:
            secret = file.read(MAX_SECRET_BYTES + 1).strip()
    except OSError as e:
        raise LineLost(SendOutcome.REFUSED, f"{key}: the file cannot be read ({e.strerror})") from e
    if not secret or len(secret) > MAX_SECRET_BYTES or any(not 0x21 <= byte <= 0x7E for byte in secret):
        raise LineLost(SendOutcome.REFUSED, f"{key}: the file holds no secret of visible ASCII characters on one line")
    return secret.decode("ascii")


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Make the TLS settings of a client: TLS 1.2 or later, certificate and host name checked.

    Args:
        ca_file: Certificates to trust in place of the system's; None for the system's.

    Returns:
        A fresh context.

    Raises:
        LineLost: The file is missing or holds no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as e:  # ssl.SSLError is one
        reason = "no certificate in PEM form" if isinstance(e, ssl.SSLError) else e.strerror
        raise LineLost(SendOutcome.REFUSED, f"ca_file: the file cannot be used ({reason})") from e
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def no_connection(host: str, port: int, error: BaseException) -> LineLost:
    """Say why there is no connection.

    Args:
        host: Of the peer.
        port: Of the peer.
        error: What connecting raised; its causes are searched too, for libraries wrap them.

    Returns:
        The error to raise.
    """
    where, cause = f"{host}:{port}", _cause(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        detail = f"{where}: its certificate is not trusted ({cause.verify_message}); see ca_file"
    elif isinstance(cause, ssl.SSLError):
        detail = f"{where}: no TLS connection ({cause.reason or 'cut off'})"
    elif isinstance(cause, socket.gaierror):
        detail = f"{where}: the name is not known"
    else:
        strerror = cause.strerror if isinstance(cause, OSError) else None
        detail = f"no connection to {where}" + (f" ({strerror})" if strerror else "")
    return LineLost(SendOutcome.UNREACHABLE, detail)


def _cause(error: BaseException) -> BaseException | None:
    """The innermost fault of the operating system in a chain of errors."""
    found, link = None, error
    while link is not None:
        found = link if isinstance(link, OSError) else found
        link = link.__cause__ or link.__context__  # type: ignore[assignment]  # None ends the loop
    return found
