"""What a run writes down as it goes: metrics as JSON lines and for TensorBoard, and the facts of its making."""

import importlib.util
import json
import logging
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from triage import __version__
from triage.records import ANY
from triage.train import sampler
from triage.train.cache import Cache, Rows
from triage.train.learner import Learner
from triage.train.runs import METRICS
from triage.train.splits import describe, split_hash

log = logging.getLogger(__name__)


class Journal:
    """Appends metrics to a run, from `with` to its end; without a folder it writes nothing."""

    def __init__(self, folder: Path | None) -> None:
        """Keep the folder; opens nothing.

        Args:
            folder: Of the run; None in processes that do not write.
        """
        self._folder = folder
        self._board: Any = None

    def __enter__(self) -> "Journal":
        if self._folder is not None:
            _end_line(self._folder / METRICS)
            self._board = _board(self._folder / "tensorboard")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._board is not None:
            self._board.close()

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line.

        Args:
            line: "event" is "step" or "epoch"; "step" is the number of steps made; numbers not finite become null.
        """
        if self._folder is None:
            return
        whole = {"at": round(time.time(), 1), **_finite(line)}
        with (self._folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(whole, allow_nan=False) + "\n")
        if self._board is not None:
            for name, value in _flat(whole):
                self._board.add_scalar(f"{line['event']}/{name}", value, line["step"])


def _board(folder: Path) -> Any:
    """TensorBoard's writer; None where it is missing, as on a GPU machine, or does not go with what else is there."""
    if not importlib.util.find_spec("tensorboard"):
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder))
    except (ImportError, AttributeError, TypeError) as e:
        log.warning("no metrics for TensorBoard: %s", e)
        return None


def _end_line(path: Path) -> None:
    """End a line that an earlier session was killed in, so that the next one begins a line of its own."""
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")


def _finite(line: Mapping[str, Any]) -> dict[str, Any]:
    def one(value: Any) -> Any:
        if isinstance(value, Mapping):
            return _finite(value)
        return None if isinstance(value, float) and not np.isfinite(value) else value

    return {key: one(value) for key, value in line.items()}


def _flat(line: Mapping[str, Any]) -> list[tuple[str, float]]:
    numbers = []
    for key, value in line.items():
        if isinstance(value, Mapping):
            numbers += [(f"{key}/{name}", float(v)) for name, v in value.items() if v is not None]
        elif isinstance(value, int | float) and key not in ("at", "step"):
            numbers.append((key, float(value)))
    return numbers


def facts_of(learner: Learner, cache: Cache, parts: dict[str, Rows], session: tuple[str, int]) -> dict[str, Any]:
    """What run.json says of a run.

    Args:
        learner: As it begins.
        cache: It trains on.
        parts: Of the split.
        session: The command as typed, and the number of processes.

    Returns:
        JSON types.
    """
    device, recipe = learner.device, learner.recipe
    labels = cache.index.labels[parts["train"]]
    # What calibration will have to undo: a sampler teaches the network other odds than there are.
    shift = round(sampler.prior_shift(labels, sampler.weights(labels, recipe)), 3) if ANY in recipe.labels else 0.0
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {os.cpu_count()} cores"
    return {
        "cache": str(cache.folder.resolve()), "manifest_sha256": cache.identity, "layout": cache.manifest.layout,
        "source": cache.manifest.source, "command": session[0], "processes": session[1], "device": name,
        "versions": {"ich-triage": __version__, "python": platform.python_version(), "torch": str(torch.__version__),
                     "numpy": np.__version__},
        "split": describe(parts, cache.index), "split_sha256": split_hash(parts, cache.index),
        "prior_shift": shift, "total_steps": learner.total_steps, "epochs": learner.epoch, "steps": learner.step,
        "seconds": round(learner.seconds, 1),
    }  # fmt: skip
