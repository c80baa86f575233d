"""Receivers of messages on loopback: an MLLP listener, an HTTP server, and a TCP server for those that misbehave."""

import asyncio
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import hl7
from hl7.mllp import HL7StreamReader, HL7StreamWriter, start_hl7_server
from peers import HOST, LIMIT_S, need


@dataclass(frozen=True)
class Certificate:
    """A self-signed one for HOST."""

    cert: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        return context


def make_certificate(folder: Path) -> Certificate:
    openssl = need("openssl")
    made = Certificate(folder / "cert.pem", folder / "key.pem")
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=loopback",
         "-addext", f"subjectAltName=IP:{HOST}", "-keyout", made.key, "-out", made.cert],
        check=True, capture_output=True)  # fmt: skip
    return made


Talk = Callable[[socket.socket, threading.Event], None]
"""What a server does with a connection; the event says that the test is over."""


@contextmanager
def tcp_server(talk: Talk) -> Iterator[int]:
    """A server of one script, a thread a connection; yields its port."""
    over = threading.Event()
    threads: list[threading.Thread] = []
    listener = socket.create_server((HOST, 0))

    def serve(line: socket.socket) -> None:
        with line, suppress(OSError):
            talk(line, over)

    def accept() -> None:
        while True:
            try:
                line, _ = listener.accept()
            except OSError:
                return
            if over.is_set():
                line.close()
                return
            threads.append(threading.Thread(target=serve, args=(line,)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    port = int(listener.getsockname()[1])
    try:
        yield port
    finally:
        over.set()
        socket.create_connection((HOST, port), 5).close()  # wakes `accept`
        acceptor.join(LIMIT_S)
        listener.close()
        for thread in threads:
            thread.join(LIMIT_S)


def closed_port() -> int:
    """A port that refuses connections."""
    with socket.create_server((HOST, 0)) as s:
        return int(s.getsockname()[1])


def silent(line: socket.socket, over: threading.Event) -> None:
    """Takes the connection and says nothing."""
    over.wait(LIMIT_S)


def dripping(line: socket.socket, over: threading.Event, text: bytes = b"") -> None:
    """Says something, then a byte now and then for ever: no limit on a single read ever ends."""
    line.sendall(text)
    while not over.wait(0.05):
        line.sendall(b"x")


Answers = Callable[[hl7.Message], bytes]


def ack(code: str, *, about: str | None = None, error: str = "") -> Answers:
    """An acknowledgment, by python-hl7; `error` is put after its segments."""

    def answer(message: hl7.Message) -> bytes:
        reply = message.create_ack(code)
        if about is not None:
            reply.segment("MSA").assign_field(about, 2)
        return (str(reply) + error).encode("utf-8")

    return answer


@dataclass
class MllpListener:
    """A RIS: keeps every message and answers in turn; the last answer stands for the rest."""

    answers: Sequence[Answers] = (ack("AA"),)
    context: ssl.SSLContext | None = None
    port: int = 0
    received: list[hl7.Message] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> "MllpListener":
        self._ready, self._thread = threading.Event(), threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(LIMIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(LIMIT_S)

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await start_hl7_server(self._talk, HOST, 0, encoding="utf-8", ssl=self.context)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()

    async def _talk(self, reader: HL7StreamReader, writer: HL7StreamWriter) -> None:
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                self.received.append(await reader.readmessage())
                answer = self.answers[min(len(self.received), len(self.answers)) - 1]
                writer.writeblock(answer(self.received[-1]))
                await writer.drain()
        writer.close()


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class HttpReceiver:
    """An HTTP server: keeps every POST and replies in turn; the last reply stands for the rest."""

    replies: Sequence[Reply] = (Reply(),)
    context: ssl.SSLContext | None = None
    received: list[Request] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> "HttpReceiver":
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = LIMIT_S

            def setup(self) -> None:
                receiver.connections += 1
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.received.append(Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                reply = receiver.replies[min(len(receiver.received), len(receiver.replies)) - 1]
                self.send_response(reply.status)
                for name, value in (("Content-Length", str(len(reply.body))), *reply.headers):
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a refused TLS handshake is expected
        if self.context is not None:
            self._server.socket = self.context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False)  # fmt: skip
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(LIMIT_S)
        self._server.server_close()

    @property
    def url(self) -> str:
        scheme = "http" if self.context is None else "https"
        return f"{scheme}://{HOST}:{self._server.server_address[1]}/in?key=secret"
