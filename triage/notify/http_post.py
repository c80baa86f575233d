"""Bytes -> HTTP POST, a total time limit on each; knows no format, follows no redirect, retries nothing.

Proxies, certificates and passwords named by the environment are not used: a receiver is an address in the hospital, and
a message about a patient must not leave by a way that the configuration does not show.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

import triage
from triage.config import HttpOutput
from triage.dicom.equipment import MODEL_NAME
from triage.notify.attempts import LineLost, no_connection, read_secret, refused, tls_context, with_untried
from triage.records import SendOutcome, SendReport

MAX_ANSWER_BYTES = 1 << 20
"""Longest answer that is read; a server's transaction response to one study has a few kB."""

DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered."""

    status: int
    body: bytes

    @property
    def is_success(self) -> bool:
        """Whether the status is one of 2xx."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a format wants of HTTP."""

    content_type: str
    accept: str
    headers: Callable[[bytes], dict[str, str]]
    """Further headers of one message."""
    judge: Callable[[Answer], SendReport]
    reads_body: bool = True
    """Whether an answer counts only when its body has come too."""


def post_all(output: HttpOutput, contents: Sequence[bytes], dialect: Dialect) -> list[SendReport]:
    """Post messages one after the other, over one connection where the server keeps it.

    Args:
        output: The receiver.
        contents: The bodies.
        dialect: Of their format.

    Returns:
        A report a body, in order.
    """
    try:
        headers = _headers(output, dialect)
        verify = tls_context(output.ca_file) if output.url.startswith("https:") else True
        return asyncio.run(_post_all(output, contents, dialect, _Connection(headers, verify)))
    except LineLost as e:
        return [e.report] * len(contents)


def status_detail(answer: Answer) -> str:
    """A status in words that quote nothing of the answer."""
    if 300 <= answer.status < 400:
        return f"HTTP {answer.status}: the server redirects; put the final address into url"
    hints = {401: "see token_file", 403: "see token_file", 404: "see url", 413: "too large for the server"}
    hint = hints.get(answer.status)
    return f"HTTP {answer.status}" + (f" ({hint})" if hint else "")


@dataclass(frozen=True, slots=True)
class _Connection:
    headers: dict[str, str]
    verify: object
    """An ssl.SSLContext, or True where there is no TLS."""


def _headers(output: HttpOutput, dialect: Dialect) -> dict[str, str]:
    headers = {
        "Content-Type": dialect.content_type, "Accept": dialect.accept, "Accept-Encoding": "identity",
        "User-Agent": f"{MODEL_NAME}/{triage.__version__}",
    }  # fmt: skip
    if output.token_file is not None:
        headers["Authorization"] = f"Bearer {read_secret(output.token_file, 'token_file')}"
    return headers


async def _post_all(
    output: HttpOutput, contents: Sequence[bytes], dialect: Dialect, connection: _Connection
) -> list[SendReport]:
    reports: list[SendReport] = []
    # httpx limits each read, not their sum: a server that sends a byte now and then is stopped by `_post`
    limits = httpx.Timeout(None, connect=output.connect_timeout_s)
    client = httpx.AsyncClient(headers=connection.headers, verify=connection.verify,  # type: ignore[arg-type]  # as above
                               timeout=limits, trust_env=False, follow_redirects=False)  # fmt: skip
    async with client:
        try:
            for content in contents:
                reports.append(await _post(output, client, dialect, content))  # noqa: PERF401 (kept when lost)
        except LineLost as e:
            reports.append(e.report)
    return with_untried(reports, len(contents))


async def _post(output: HttpOutput, client: httpx.AsyncClient, dialect: Dialect, content: bytes) -> SendReport:
    """Post one message.

    Raises:
        LineLost: No connection, or no whole answer in time.
    """
    limit_s = output.connect_timeout_s + output.response_timeout_s
    try:
        headers = dialect.headers(content)
    except ValueError:
        return refused("the stored message cannot be read; reanalyse the study")
    try:
        url = httpx.URL(output.url)
        host, port = url.host, url.port or DEFAULT_PORTS[url.scheme]
        async with (
            asyncio.timeout(limit_s),
            client.stream("POST", url, content=content, headers=headers) as response,
        ):
            body = await _body(response) if dialect.reads_body else b""
    except TimeoutError:
        raise LineLost(SendOutcome.UNREACHABLE, f"no answer within {limit_s:g} s") from None
    except httpx.ConnectTimeout:
        detail = f"no connection to {host}:{port} within {output.connect_timeout_s:g} s"
        raise LineLost(SendOutcome.UNREACHABLE, detail) from None
    except httpx.ConnectError as e:
        raise no_connection(host, port, e) from e
    except httpx.TransportError as e:
        raise LineLost(SendOutcome.UNREACHABLE, "the line was cut, or the answer is no HTTP") from e
    except (httpx.InvalidURL, UnicodeError) as e:
        raise LineLost(SendOutcome.REFUSED, "url: no address that can be used; correct it") from e
    return dialect.judge(Answer(response.status_code, body))


async def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise LineLost(SendOutcome.REFUSED, f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)
