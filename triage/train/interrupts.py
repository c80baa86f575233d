"""Ctrl-C while a run trains: noted, so that a step is made whole before the run is saved; knows nothing of the run."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from triage.train.distributed import World, agreed


class Interrupts:
    """From `with` to its end the first Ctrl-C is noted only; the second raises KeyboardInterrupt wherever it comes."""

    def __init__(self) -> None:
        self.noted = False
        self._before: Any = None

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():  # no other thread may handle signals
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, _number: int, _at: FrameType | None) -> None:
        if self.noted:
            raise KeyboardInterrupt
        self.noted = True

    def stop(self) -> None:
        """Raise KeyboardInterrupt if this process was interrupted."""
        if self.noted:
            raise KeyboardInterrupt

    def stop_all(self, world: World) -> None:
        """Raise KeyboardInterrupt in every process if any was interrupted; all of them call it after the same step."""
        if agreed(self.noted, world):
            raise KeyboardInterrupt
