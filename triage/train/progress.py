"""How far something long is: a bar with rate and time left in a terminal, plain lines now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any

LINE_S = 30.0
"""Where there is no terminal, a line at most so often."""


class Bar:
    """Shows one task at a time, from `with` to its end; on standard error, as a program may read standard output."""

    def __init__(self, unit: str, terminal: bool | None = None) -> None:
        """Make a bar.

        Args:
            unit: What is counted, in the plural.
            terminal: Whether to draw; None: as standard error is.
        """
        self._unit = unit
        self._is_terminal = sys.stderr.isatty() if terminal is None else terminal
        self._bar: Any = None
        self._task: Any = None
        self._text = ""
        self._begin = self._said = 0.0
        self._first = 0

    def __enter__(self) -> "Bar":
        if self._is_terminal:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(), console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, text: str, done: int, total: int, more: str = "") -> None:
        """Tell how far it is.

        Args:
            text: What is being done; another text is another task, whose rate is counted anew.
            done: So much of it.
            total: Of so much; 0 where that is not known.
            more: Shown beside it, such as a loss.
        """
        now = time.monotonic()
        if text != self._text:
            self._text, self._begin, self._first, self._said = text, now, done, now
            if self._bar is not None:
                if self._task is not None:
                    self._bar.remove_task(self._task)
                self._task = self._bar.add_task(text, total=total or None, completed=done, rate="")
            else:
                print(text, file=sys.stderr, flush=True)
        passed = now - self._begin
        rate = (done - self._first) / passed if passed > 0 else 0.0
        told = ", ".join(text for text in (f"{rate:,.1f} {self._unit}/s" if rate else "", more) if text)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total or None, rate=told)
        elif total and (now - self._said >= LINE_S or done == total > 0):
            self._said = now
            left = f", {(total - done) / rate:,.0f} s left" if rate > 0 else ""
            told = f", {told}" if told else ""
            print(f"{text}: {done:,} of {total:,} {self._unit}{told}{left}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)
