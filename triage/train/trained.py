"""One joint run, or a binary and a subtype run, opened as one model and checked; measures nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from triage.errors import DataError
from triage.nn.architectures import Network
from triage.nn.card import Trunk
from triage.records import LABELS
from triage.train.cache import Cache, Rows
from triage.train.calibrate import Calibrated, calibrated, calibration_rows, write_calibration
from triage.train.judged import score_networks
from triage.train.operating import Options
from triage.train.recipes import Recipe
from triage.train.runs import Run, load_network, open_run, open_run_cache
from triage.train.scores import Scores

SAME = ("architecture", "places", "split", "split_salt", "preprocessing")
"""What the recipes of a pair must have in common: one card states it for both."""


@dataclass(frozen=True)
class Trained:
    """A model as trained: fp32 weights, not calibrated."""

    runs: tuple[Run, ...]
    """The joint run; or the binary one and, where there is one, the subtype one."""
    cache: Cache
    networks: dict[tuple[str, ...], Network]
    """By the labels of its heads, on `device`."""
    device: torch.device

    @property
    def recipe(self) -> Recipe:
        """Of the run that says whether there is a bleed."""
        return self.runs[0].recipe

    @property
    def labels(self) -> tuple[str, ...]:
        """Of all heads."""
        return tuple(label for label in LABELS if any(label in labels for labels in self.networks))

    @property
    def trunk(self) -> Trunk:
        """Whether all heads share one."""
        return "shared" if self.recipe.kind == "joint" else "separate"

    def scores(self, rows: Rows, on_batch: Callable[[int], None] = lambda _: None) -> Scores:
        """Logits of slices of the cache, in fp32; `on_batch` is told how many slices each batch had."""
        slices = (self.cache, rows, self.recipe.preprocessing)
        return score_networks(self.networks, slices, self.device, on_batch)


def open_trained(folders: Sequence[Path], cache: Path | None = None, device: torch.device | str = "cpu") -> Trained:
    """Open the runs of one model.

    Args:
        folders: Of a joint run, of a binary run, or of a binary and a subtype run in any order.
        cache: Where the training cache is now, if it was moved.
        device: Where the networks are to run.

    Returns:
        The model.

    Raises:
        DataError: A run is missing or unfinished in its first epoch, or the two do not belong together.
    """
    runs = sorted((open_run(folder) for folder in folders), key=lambda run: run.recipe.kind)  # binary before subtype
    kinds = [run.recipe.kind for run in runs]
    if kinds not in (["joint"], ["binary"], ["binary", "subtype"]):
        told = " and ".join(f"{run.folder} ({run.recipe.kind})" for run in runs) or "none"
        raise DataError(f"runs {told}: name one joint run, or a binary and a subtype run")
    for other in runs[1:]:
        _require_pair(runs[0], other)
    networks = {run.recipe.labels: load_network(run, device) for run in runs}
    return Trained(tuple(runs), open_run_cache(runs[0], cache), networks, torch.device(device))


def _require_pair(one: Run, other: Run) -> None:
    if one.manifest_sha256 != other.manifest_sha256:
        raise DataError(f"{one.folder} and {other.folder}: trained on different caches; train both on one")
    for name in SAME:
        a, b = getattr(one.recipe, name), getattr(other.recipe, name)
        if a != b:
            told = f" ({a} and {b})" if isinstance(a, str) else ""
            raise DataError(f"{one.folder} and {other.folder}: differ in {name}{told}; train one of them again")


def calibrate(trained: Trained, options: Options, on_batch: Callable[[int], None] = lambda _: None) -> Calibrated:
    """Calibrate a model on the patients held out for it, and write calibration.json into its runs.

    Args:
        trained: Any.
        options: What to calibrate for; the aggregation is that of the recipe.
        on_batch: Told how many slices each batch had.

    Returns:
        What was fitted.

    Raises:
        DataError: The split holds no patients out, or the data do not bear the operating point.
    """
    rows = calibration_rows(trained.recipe, trained.cache.index)
    options = replace(options, aggregation=trained.recipe.aggregation)
    result = calibrated(trained.scores(rows, on_batch), trained.cache.index, options)
    for run in trained.runs:
        write_calibration(run.folder, result)
    return result
