"""A run folder: recipe, facts, metrics, weights; opened by whatever measures or exports a run.

RUN/ recipe.json        the recipe with what the command line changed
run.json           cache, versions, command, device, duration
metrics.jsonl      one line a logged step and one an epoch
checkpoint.pt      everything needed to go on
best.safetensors   the weights that count, by the recipe's `select`
calibration.json   once calibrated
tensorboard/       the same metrics for TensorBoard
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from triage.errors import DataError
from triage.nn.architectures import Network, build
from triage.train.cache import Cache, open_cache, write_atomically
from triage.train.recipes import Recipe, from_document, to_document

RECIPE, FACTS, METRICS, CHECKPOINT, BEST = (
    "recipe.json", "run.json", "metrics.jsonl", "checkpoint.pt", "best.safetensors",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run as far as it has come."""

    folder: Path
    recipe: Recipe
    cache_folder: Path
    manifest_sha256: str
    """Identity of the cache it was trained on."""
    facts: dict[str, Any]
    """run.json: command, versions, device, seconds, steps, epochs, finished, best_epoch, init, pretrained, split."""


def open_run(folder: Path) -> Run:
    """Open a run.

    Args:
        folder: As given to `triage-train fit --out`.

    Returns:
        The run.

    Raises:
        DataError: There is none, or it is damaged.
    """
    try:
        recipe = from_document(json.loads((folder / RECIPE).read_text(encoding="utf-8")))
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return Run(folder, recipe, Path(facts["cache"]), facts["manifest_sha256"], facts)
    except FileNotFoundError as e:
        missing = Path(e.filename).name
        raise DataError(f"{folder}: no training run ({missing} is missing); name the --out of a fit") from e
    except (OSError, ValueError, KeyError) as e:
        raise DataError(f"{folder}: the run cannot be read ({type(e).__name__}: {e}); start a new one") from e


def write_run(folder: Path, recipe: Recipe, facts: Mapping[str, Any]) -> None:
    """Write recipe.json and run.json."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / RECIPE, json.dumps(to_document(recipe), indent=2).encode())
    write_atomically(folder / FACTS, json.dumps(facts, indent=2).encode())


def load_network(run: Run, device: torch.device | str = "cpu") -> Network:
    """The network with the weights that count.

    Args:
        run: Any that has ended an epoch.
        device: Where to.

    Returns:
        It, fp32, in evaluation mode.

    Raises:
        DataError: There are no weights yet, or they are not this recipe's.
    """
    network = build(run.recipe.architecture, len(run.recipe.labels), run.recipe.places)
    try:
        network.load_state_dict(read_weights(run.folder / BEST))
    except RuntimeError as e:
        raise DataError(f"{run.folder / BEST}: not the weights of this recipe; start a new run") from e
    return network.eval().requires_grad_(False).to(device)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file. Raises DataError when it cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as e:
        raise DataError(f"{path}: no weights there yet, or damaged ({e}); train for at least one epoch") from e


def write_weights(path: Path, state: Mapping[str, torch.Tensor], epoch: int) -> None:
    """Write tensors whole or not at all, with the epoch they are from."""
    part = path.with_suffix(".part")
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    try:
        save_file(tensors, part, {"epoch": str(epoch)})
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except SafetensorError as e:  # what the disk said, as text
        raise OSError(None, str(e)) from e
    finally:
        part.unlink(missing_ok=True)


def open_run_cache(run: Run, override: Path | None = None) -> Cache:
    """The cache a run was trained on.

    Args:
        run: Any.
        override: Where it is now, if it was moved.

    Returns:
        The cache.

    Raises:
        DataError: It is not there, or is another one.
    """
    cache = open_cache(override or run.cache_folder)
    if cache.identity != run.manifest_sha256:
        raise DataError(f"{cache.folder}: not the cache that {run.folder} was trained on; name that one with --cache")
    return cache


def epochs_of(run: Run) -> list[dict[str, Any]]:
    """What was logged at the end of each epoch, once each, in order: see `loop.epoch_line`."""
    path = run.folder / METRICS
    if not path.exists():
        return []
    lines = [_parsed(line) for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    by_epoch = {line["epoch"]: line for line in lines if line.get("event") == "epoch"}  # a resumed run logs some again
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def _parsed(line: str) -> dict[str, Any]:
    """A line of metrics; an empty one where the run was killed as it wrote it."""
    try:
        table = json.loads(line)
    except ValueError:
        return {}
    return table if isinstance(table, dict) else {}
