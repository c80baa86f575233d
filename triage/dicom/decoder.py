"""The parent's end of the decoding child: one request at a time, a time limit, a fresh child after a failure."""

import json
import os
import select
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from triage.errors import SliceError

START_TIMEOUT_S = 60.0
"""Time limit for a child to load its libraries, on a machine that has other things to do."""

MAX_ANSWER_BYTES = 1 << 16
"""Of the JSON of an answer."""

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Decoded:
    """One frame with its values as stored."""

    values: npt.NDArray[Any]
    """(rows, columns) integers."""
    repairs: tuple[str, ...] = ()
    """Names of the faults that were mended: "sign" where a codestream lied about it."""


class _Ended(Exception):
    """The child closed its end of the line."""


class Decoder:
    """Owns one child process that decodes compressed frames; started at first use, ended with the context."""

    def __init__(self, timeout_s: float) -> None:
        """Make a decoder.

        Args:
            timeout_s: Time limit for one frame.
        """
        self._timeout_s = timeout_s
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id of the running child."""
        return self._child.pid if self._child is not None else None

    def close(self) -> None:
        """End the child; the next request starts another."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                _close_quietly(pipe)

    def decode(self, path: Path, frame: int) -> Decoded:
        """Decode one frame.

        Args:
            path: A DICOM file with encapsulated pixel data; its size limits have been checked.
            frame: Number of the frame, from 1.

        Returns:
            The values as stored.

        Raises:
            SliceError: It cannot be decoded, took longer than the time limit, or ended the child.
        """
        with self._lock:
            if self._child is not None and self._child.poll() is not None:
                self.close()  # it died idle, which is not this file's fault
            child = self._child or self._start()
            deadline = time.monotonic() + self._timeout_s
            try:
                _send(child, {"path": str(path.absolute()), "frame": frame, "timeout_s": self._timeout_s})
                answer = _receive(child, deadline)
                if "error" in answer:
                    raise SliceError(f"cannot be decoded: {answer['error']}")
                data = _read(child, int(answer["bytes"]), deadline)
                values = np.frombuffer(data, answer["dtype"]).reshape(answer["shape"])
                return Decoded(values, tuple(answer["repairs"]))
            except TimeoutError:
                self.close()
                raise SliceError(f"decoding took longer than {self._timeout_s:g} s") from None
            except _Ended:
                self.close()
                raise SliceError("the decoder crashed on this image") from None

    def _start(self) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-m", "triage.dicom.decode_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the node, which ends its child itself
        )
        self._child = child
        try:
            _receive(child, time.monotonic() + START_TIMEOUT_S)
        except (TimeoutError, _Ended):
            self.close()
            raise SliceError("the decoding process did not start") from None
        return child


def _send(child: subprocess.Popen[bytes], request: dict[str, Any]) -> None:
    text = json.dumps(request).encode()
    assert child.stdin is not None
    try:
        child.stdin.write(struct.pack(">L", len(text)) + text)
        child.stdin.flush()
    except BrokenPipeError:
        raise _Ended from None


def _receive(child: subprocess.Popen[bytes], deadline: float) -> dict[str, Any]:
    (length,) = struct.unpack(">L", _read(child, 4, deadline))
    if length > MAX_ANSWER_BYTES:
        raise _Ended
    answer: dict[str, Any] = json.loads(_read(child, length, deadline))
    return answer


def _read(child: subprocess.Popen[bytes], size: int, deadline: float) -> bytes:
    """So many bytes of the child's answer.

    Raises:
        TimeoutError: They did not come before the deadline.
        _Ended: They will not come.
    """
    assert child.stdout is not None
    pipe = child.stdout.fileno()
    data = bytearray()
    while len(data) < size:
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        chunk = os.read(pipe, min(CHUNK_BYTES, size - len(data)))
        if not chunk:
            raise _Ended
        data += chunk
    return bytes(data)


def _close_quietly(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except BrokenPipeError:  # a request that the child did not live to read
        return
