"""The TCP side of the listener: accepts connections and hands those that speak to pynetdicom; knows no DICOM message.

pynetdicom starts two threads for every connection and keeps them, and a place among its associations, until the ACSE
timeout even when the peer says nothing. A load balancer that opens and closes a connection every second would take all
places that way. Here a connection becomes an association when its first byte is there.
"""

import contextlib
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pynetdicom.transport import ThreadedAssociationServer

log = logging.getLogger(__name__)

POLL_S = 0.5
"""How often the accepting loop looks at the stop flag and calls `on_tick`."""

MAX_SILENT = 64
"""Connections that may wait for their first byte at once; one more is closed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What peers may take before they are known."""

    first_byte_s: float
    """From the connection to the first byte of the association request."""
    idle_s: float
    """In the middle of a PDU: pynetdicom has no limit of its own there and would wait for ever."""
    associations: int
    """Threads of associations, those included that are being negotiated, rejected or ended."""


class _Connection(socket.socket):
    """An accepted connection that can always be closed: pynetdicom leaves it open when its `shutdown` fails.

    It fails whenever the peer is already gone.
    """

    def shutdown(self, how: int) -> None:
        """Tell the peer, if it is still there."""
        with contextlib.suppress(OSError):
            super().shutdown(how)


class Server(ThreadedAssociationServer):
    """A listening socket, from its making to `close`."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *args: Any, limits: Limits, on_tick: Callable[[], None], **kwargs: Any) -> None:
        """Bind and listen; serves nothing before `serve_forever`.

        Args:
            *args: As pynetdicom's `make_server` gives them.
            limits: What peers may take before they are known.
            on_tick: Called in the accepting loop a few times a second; must not raise.
            **kwargs: As pynetdicom's `make_server` gives them.

        Raises:
            OSError: The address cannot be listened on.
        """
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._on_tick = on_tick
        self._silent = threading.BoundedSemaphore(MAX_SILENT)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        accepted, address = super().get_request()
        if self.ssl_context is not None:
            return accepted, address
        kind = accepted.family, accepted.type, accepted.proto
        return _Connection(*kind, fileno=accepted.detach()), address

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Make an association of a connection once its peer has spoken; runs in the connection's own thread."""
        if self._has_spoken(request, client_address):
            request.settimeout(self._limits.idle_s)
            # A response is one small packet: do not wait for company.
            request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            super().finish_request(request, client_address)
        else:
            self.shutdown_request(request)

    def service_actions(self) -> None:
        """Called by the accepting loop between connections."""
        super().service_actions()
        self._on_tick()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong with one connection; the others go on."""
        del request
        log.error("connection_failed peer=%s", client_address[0], exc_info=True)

    def close(self) -> None:
        """Stop the accepting loop and free the port; associations go on."""
        # pynetdicom's own shutdown works for servers from its start_server only.
        socketserver.BaseServer.shutdown(self)
        self.server_close()

    def _has_spoken(self, request: socket.socket, client_address: Any) -> bool:
        if len(self.active_associations) >= self._limits.associations or not self._silent.acquire(blocking=False):
            log.warning("connection_closed peer=%s reason='too many connections'", client_address[0])
            return False
        try:
            request.settimeout(self._limits.first_byte_s)
            return bool(request.recv(1, socket.MSG_PEEK))
        except OSError:
            return False
        finally:
            self._silent.release()


def end_associations(associations: Sequence[Any], limit_s: float) -> None:
    """Abort associations; those that do not end by it lose their connection.

    Args:
        associations: Running pynetdicom associations.
        limit_s: Time they get for either.
    """
    for association in associations:
        association.abort(block=False)
    _join(associations, limit_s)
    for association in associations:
        if association.is_alive():
            association.dul.socket.close()
    _join(associations, limit_s)
    if left := sum(a.is_alive() for a in associations):
        log.error("associations_abandoned count=%d", left)


def drop_unfinished(association: Any) -> None:
    """Close and remove the file of a transfer that broke off, which pynetdicom leaves open and in its place.

    Args:
        association: A pynetdicom association whose threads have ended.
    """
    file = getattr(association.dimse.message, "_data_set_file", None)
    if file is not None:
        with contextlib.suppress(OSError):  # then the sweep finds it
            file.close()
            Path(file.name).unlink()


def _join(associations: Sequence[Any], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    for association in associations:
        association.join(max(0.0, deadline - time.monotonic()))
