"""Runs -> model pack: stores weights, calibrates and measures what is stored, fills the card from the run.

    runs --int8, fp16 or fp32--> weights as stored --part "calibration"--> thresholds --part "test"--> performance

Everything in the card is computed here or was recorded by the run; nothing is typed by hand but a name and limits.
"""

import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from triage.errors import DataError
from triage.nn.card import (
    CARD_NAME,
    Auroc,
    Calibration,
    CalibrationError,
    Card,
    Networks,
    OperatingPoint,
    Performance,
    Storage,
    Thresholds,
    write_card,
)
from triage.nn.pack import load_pack, verify_pack, write_pack
from triage.records import LABELS, SUBTYPES
from triage.train import account
from triage.train.calibrate import Calibrated, calibrated, calibration_rows, read_calibration
from triage.train.judged import Bools, Floats, Judged, judged, score_networks
from triage.train.leakage import leakage, one_line
from triage.train.metrics import auroc, calibration_error
from triage.train.operating import Options
from triage.train.splits import split_rows
from triage.train.trained import Trained, open_trained

TEST = "test"
"""Part that is measured on."""

NAME = re.compile(r"[A-Za-z0-9_.]+(-[A-Za-z0-9_.]+)*")
"""What a pack's name or version may look like: both make its folder's name."""

NOTABLE_LOSS = 0.002
"""AUROC that a storage may cost without a note in the card."""

OnBatch = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to make of which runs."""

    runs: tuple[Path, ...]
    """A joint run, or a binary and a subtype run."""
    name: str
    version: str
    models: Path = Path("models")
    """Folder of packs; the pack is `<name>-<version>` in it."""
    storage: Storage = "int8"
    options: Options | None = None
    """None: those the runs were calibrated with, else the defaults."""
    intended_use: Literal["demonstration", "site-validated"] = "demonstration"
    limits: tuple[str, ...] = ()
    """Added to those that follow from data and calibration."""
    cache: Path | None = None
    """Where the training cache is now, if it was moved."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    command: str = ""
    """As typed, for the record."""
    replace: bool = False
    """Write over a pack of this name and version."""

    @property
    def folder(self) -> Path:
        """Of the pack."""
        return self.models / f"{self.name}-{self.version}"


def export(request: ExportRequest, on_batch: OnBatch = lambda _: None) -> Card:
    """Make a model pack that the node loads.

    Calibration and thresholds are fitted again on the weights as they are stored: what is served is what was
    calibrated. The folder appears whole or not at all.

    Args:
        request: What to make.
        on_batch: Told how many slices each batch had.

    Returns:
        The card, as written.

    Raises:
        DataError: The runs do not make a model, their split leaks, the data do not bear the operating point or the
            intended use, or the pack is there already.
    """
    _check_name(request)
    trained = open_trained(request.runs, request.cache, request.device)
    _check_runs(request, trained)
    request.models.mkdir(parents=True, exist_ok=True)
    with _appearing(request) as folder:
        draft = write_pack(folder, _draft(request, trained), *(n.state_dict() for n in trained.networks.values()))
        result = _calibrated_as_stored(folder, request, trained, on_batch)
        card = replace(
            draft, calibration=result.calibration, thresholds=result.thresholds,
            limits=(*account.limits(trained, result), *request.limits),
        )  # fmt: skip
        _check_use(request, result)
        card = replace(card, performance=_measured(folder, card, trained, result, on_batch))
        write_card(folder, card)
        verify_pack(folder)
    return card


def _check_name(request: ExportRequest) -> None:
    for what, text in (("name", request.name), ("version", request.version)):
        if not NAME.fullmatch(text):
            raise DataError(f"--{what} {text!r}: use letters, digits, dots, underscores, and hyphens between them")
    if request.folder.exists() and not request.replace:
        raise DataError(f"{request.folder}: is there already; choose another --version, or replace it with --replace")
    if request.folder.exists() and not (request.folder / CARD_NAME).is_file():
        raise DataError(f"{request.folder}: is no model pack and stays as it is; choose another --name or --version")


def _check_runs(request: ExportRequest, trained: Trained) -> None:
    if trained.labels != LABELS:
        raise DataError(f"{trained.runs[0].folder}: says nothing of subtypes; name its subtype run too")
    if trained.recipe.split != "patient":
        raise DataError(
            f"{trained.runs[0].folder}: split {trained.recipe.split} leaks, its figures are no claim for a card; train "
            "again with --set split=patient"
        )
    layout = trained.cache.manifest.layout
    if request.intended_use == "site-validated" and layout != "studies":
        raise DataError(f'intended use "site-validated" needs studies of the site; this cache holds {layout}')


def _check_use(request: ExportRequest, result: Calibrated) -> None:
    if request.intended_use == "site-validated" and not result.is_supported:
        n = result.operating_points["review"].n_positive
        raise DataError(f'intended use "site-validated": {n} positive studies do not bear the review threshold')


def _draft(request: ExportRequest, trained: Trained) -> Card:
    """All of the card but what is measured on the stored weights."""
    recipe = trained.recipe
    return Card(
        request.name, request.version, request.intended_use,
        Networks(recipe.architecture, storage=request.storage, trunk=trained.trunk, places=recipe.places),
        Thresholds(0.5, 0.5, dict.fromkeys(SUBTYPES, 0.5)), recipe.preprocessing, aggregation=recipe.aggregation,
        training=account.training(trained, request.command),
    )  # fmt: skip


def _calibrated_as_stored(folder: Path, request: ExportRequest, trained: Trained, on_batch: OnBatch) -> Calibrated:
    earlier = None if request.options else read_calibration(trained.runs[0].folder)
    options = request.options or (earlier.options if earlier else Options())
    pack = load_pack(folder, trained.device)
    rows = calibration_rows(trained.recipe, trained.cache.index)
    slices = (trained.cache, rows, trained.recipe.preprocessing)
    scores = score_networks(pack.networks, slices, trained.device, on_batch)
    return calibrated(scores, trained.cache.index, replace(options, aggregation=trained.recipe.aggregation))


def _measured(folder: Path, card: Card, trained: Trained, result: Calibrated, on_batch: OnBatch) -> Performance:
    """What the stored pack does on the test part, and what its storage cost."""
    index = trained.cache.index
    parts = split_rows(index, trained.recipe.split, trained.recipe.split_salt)
    pack = load_pack(folder, trained.device)
    slices = (trained.cache, parts[TEST], trained.recipe.preprocessing)
    scores = score_networks(pack.networks, slices, trained.device, on_batch)
    stored, raw = judged(card, scores, index), judged(replace(card, calibration=Calibration()), scores, index)
    losses = dict.fromkeys(LABELS, 0.0)
    if card.networks.storage != "fp32":
        exact = judged(card, trained.scores(parts[TEST], on_batch), index)
        losses = {label: round(auroc(*exact.of_slices(label)) - auroc(*stored.of_slices(label)), 5) for label in LABELS}
    leaks = leakage(trained.cache, {"train": parts["train"], TEST: parts[TEST]}, trained.recipe.split)
    return replace(
        performance(card, stored), data=account.tested(trained, parts[TEST], one_line(leaks)),
        notes=account.notes(trained, result) + _storage_note(card, losses), storage_loss=losses,
        calibration_error={label: _errors(raw.of_slices(label), stored.of_slices(label)) for label in LABELS},
    )  # fmt: skip


def _errors(before: tuple[Floats, Bools], after: tuple[Floats, Bools]) -> CalibrationError:
    return CalibrationError(round(calibration_error(*before), 4), round(calibration_error(*after), 4))


def _storage_note(card: Card, losses: Mapping[str, float]) -> tuple[str, ...]:
    notable = [label for label, loss in losses.items() if math.isfinite(loss) and abs(loss) > NOTABLE_LOSS]
    if not notable:
        return ()
    return (f"Storage as {card.networks.storage} moves the AUROC of {', '.join(notable)} by more than {NOTABLE_LOSS}.",)


def performance(card: Card, said: Judged) -> Performance:
    """Figures of a pack on slices it was not trained on.

    Args:
        card: Its thresholds.
        said: What it says of them.

    Returns:
        AUROC by label, what the thresholds do, and the numbers; figures that cannot be had are NaN.
    """
    areas = {
        label: Auroc(
            round(auroc(*said.of_slices(label)), 4), round(auroc(*said.of_studies(label)), 4),
            int(said.of_slices(label)[1].sum()), int(said.of_studies(label)[1].sum()),
        )
        for label in LABELS
    }  # fmt: skip
    p, bleeds = said.of_studies(LABELS[0])
    operation = {}
    for name in ("review", "urgent"):
        flagged = p >= card.all_thresholds()[name]
        operation[name] = OperatingPoint(_share(flagged[bleeds]), _share(~flagged[~bleeds]))
    return Performance("", len(said.slice_truth), len(said.studies), areas, operation)


def _share(hits: npt.NDArray[np.bool_]) -> float:
    return round(float(hits.mean()), 4) if len(hits) else math.nan


@contextmanager
def _appearing(request: ExportRequest) -> Iterator[Path]:
    """A hidden folder beside the pack's that takes its place at the end, or vanishes."""
    part = request.models / f".{request.folder.name}.{os.getpid()}.part"
    part.mkdir()
    try:
        yield part
        if request.folder.exists():
            former = request.folder.rename(f"{part}.former")
            part.rename(request.folder)
            shutil.rmtree(former)
        else:
            part.rename(request.folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
