"""The gate before another pack is activated: two packs on the same slices, paired differences by study, a verdict.

    pack A, pack B --the same slices--> P by study --patients drawn again, the same for both--> differences, B - A

Pairing takes out what both find hard, so far fewer studies are needed than to measure either alone.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from triage.errors import DataError
from triage.nn.pack import Pack, load_pack
from triage.records import ANY, LABELS
from triage.train.cache import Cache, Rows
from triage.train.data import check_suits
from triage.train.judged import Judged, judged, score_networks
from triage.train.metrics import auroc_of_counts, patient_draws
from triage.train.splits import split_rows

Floats = npt.NDArray[np.float64]

INTERVAL = (2.5, 97.5)
"""Percentiles of the drawn differences: a 95 % interval."""

LEAST_DRAWS = 100
"""Draws with both classes that a percentile needs to mean anything."""

Verdict = Literal["not worse", "worse", "worse: not shown otherwise"]

Part = Literal["unseen", "all", "validation", "calibration", "test"]
"""unseen: the test part where a pack was trained on this very cache, the whole cache where none was."""

OnBatch = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Gate:
    """What "not worse" means, and on which slices."""

    margin: float = 0.02
    """B may lose this much and still pass."""
    repetitions: int = 2000
    seed: int = 1
    part: Part = "unseen"
    split_salt: str = "1"
    """Of the split, where a part is named and no pack says with which it was trained."""
    device: torch.device | str = "cpu"
    cache_b: Cache | None = None
    """The same slices as B wants them, where it wants others than A; None: both take the one cache."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of both packs, by study."""

    figure: str
    a: float
    b: float
    difference: float
    """B - A."""
    low: float
    high: float
    """95 % interval of the difference."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the gate found."""

    pack_a: str
    pack_b: str
    verdict: Verdict
    reason: str
    margin: float
    differences: tuple[Difference, ...]
    data: str
    n_slices: int
    n_studies: int
    n_patients: int
    n_positive: int
    """Studies with a bleed."""
    warnings: tuple[str, ...] = ()

    @property
    def is_not_worse(self) -> bool:
        """Whether pack B may take the place of pack A."""
        return self.verdict == "not worse"

    def line(self) -> str:
        """The verdict in one line."""
        return f"{self.pack_b} against {self.pack_a}, margin {self.margin:g}: {self.verdict}; {self.reason}"

    def document(self) -> dict[str, Any]:
        """As JSON types; figures that cannot be had are null."""
        table = asdict(self) | {"is_not_worse": self.is_not_worse, "line": self.line()}
        table["differences"] = [
            {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in asdict(one).items()}
            for one in self.differences
        ]
        return table


def compare(pack_a: Path, pack_b: Path, cache: Cache, gate: Gate, on_batch: OnBatch = lambda _: None) -> Comparison:
    """Compare two packs.

    Args:
        pack_a: The one in service.
        pack_b: The one that is to take its place.
        cache: Slices with their truth.
        gate: Margin, draws, part.
        on_batch: Told how many slices each batch of each network had.

    Returns:
        "not worse" where the interval of the AUROC of any bleed, B - A, lies above -margin, and sensitivity at review
        is not shown to be lower by more than it. "worse" where one of them lies below. Neither shown: worse too, for a
        gate does not open on what the data cannot say.

    Raises:
        DataError: A pack wants other slices than the cache holds, or the slices show no bleed, or nothing else.
        PackError: A pack is refused.
    """
    packs = load_pack(pack_a, gate.device), load_pack(pack_b, gate.device)
    caches = cache, gate.cache_b or cache
    for pack, own in zip(packs, caches, strict=True):
        check_suits(pack.card.preprocessing, own)
    _require_same_slices(*caches)
    rows, told, warnings = _rows(packs, caches, gate)
    said = tuple(_judged(pack, own, rows, on_batch) for pack, own in zip(packs, caches, strict=True))
    bleeds = said[0].of_studies(ANY)[1]
    if bleeds.all() or not bleeds.any():
        raise DataError(f"{told}: {int(bleeds.sum())} of {len(bleeds)} studies bleed; both kinds are needed")
    differences = _differences(packs, said, gate)
    verdict, reason = _verdict(differences, gate.margin)
    name_a, name_b = (f"{pack.card.name} {pack.card.version}" for pack in packs)
    return Comparison(
        name_a, name_b, verdict, reason, gate.margin, tuple(differences.values()), told, len(rows), len(bleeds),
        len({one.patient for one in said[0].studies}), int(bleeds.sum()), warnings,
    )  # fmt: skip


def _require_same_slices(one: Cache, other: Cache) -> None:
    for what in ("image", "patient", "labels"):
        if not np.array_equal(getattr(one.index, what), getattr(other.index, what)):
            raise DataError(
                f"{one.folder} and {other.folder}: hold different slices ({what}); prepare both from the same files "
                "and labels, a hospital's with one --salt-file"
            )


def _judged(pack: Pack, cache: Cache, rows: Rows, on_batch: OnBatch) -> Judged:
    scores = score_networks(pack.networks, (cache, rows, pack.card.preprocessing), pack.device, on_batch)
    return judged(pack.card, scores, cache.index)


def _rows(packs: tuple[Pack, Pack], caches: tuple[Cache, Cache], gate: Gate) -> tuple[Rows, str, tuple[str, ...]]:
    """The slices to compare on, what they are called, and what there is to warn of."""
    cards, cache = [pack.card for pack in packs], caches[0]
    identities = {one.identity for one in caches}
    warnings = [f"{card.name} {card.version} does not say which cache it was trained on; if it was this one, its "
                "figures flatter" for card in cards if not card.training.manifest]  # fmt: skip
    trained = [card for card in cards if card.training.manifest in identities]
    part = gate.part if gate.part != "unseen" else ("test" if trained else "all")
    if part != "test":
        warnings += [f"{card.name} {card.version} was fitted on slices of part {part} of this cache: its figures "
                     "flatter" for card in trained]  # fmt: skip
    if part == "all":
        return np.arange(len(cache)), f"{cache.manifest.source}; every slice", tuple(warnings)
    salts = sorted({card.training.split_salt for card in trained}) or [gate.split_salt]
    rows = np.arange(len(cache))
    for salt in salts:
        rows = np.intersect1d(rows, split_rows(cache.index, "patient", salt)[part])
    if not len(rows):
        raise DataError(f"{cache.folder}: no slice that neither pack was trained on; compare on another cache")
    return rows, f"{cache.manifest.source}; part {part} of the split by patient", tuple(warnings)


def _differences(packs: tuple[Pack, Pack], said: tuple[Judged, ...], gate: Gate) -> dict[str, Difference]:
    """By figure: AUROC of each label, sensitivity and specificity at the review thresholds."""
    studies = said[0].studies
    patients, of_study = np.unique([one.patient for one in studies], return_inverse=True)
    figures: dict[str, list[Callable[[Floats], float]]] = {}
    for pack, judgement in zip(packs, said, strict=True):
        for label in LABELS:
            figures.setdefault(f"AUROC {label}", []).append(_auroc_of_weights(*judgement.of_studies(label)))
        p, bleeds = judgement.of_studies(ANY)
        flagged = p >= pack.card.thresholds.review
        figures.setdefault("sensitivity at review", []).append(_share_of_weights(flagged, bleeds))
        figures.setdefault("specificity at review", []).append(_share_of_weights(~flagged, ~bleeds))
    drawn: dict[str, list[float]] = {figure: [] for figure in figures}
    for times in patient_draws(len(patients), (gate.repetitions, gate.seed)):
        weights = times[of_study]
        for figure, (a, b) in figures.items():
            drawn[figure].append(b(weights) - a(weights))
    once = np.ones(len(studies))
    return {
        figure: _difference(figure, (a(once), b(once)), np.array(drawn[figure])) for figure, (a, b) in figures.items()
    }


def _difference(figure: str, values: tuple[float, float], drawn: Floats) -> Difference:
    a, b = values
    kept = drawn[np.isfinite(drawn)]
    low, high = np.percentile(kept, INTERVAL) if len(kept) >= LEAST_DRAWS else (math.nan, math.nan)
    return Difference(figure, *(round(float(v), 4) for v in (a, b, b - a, low, high)))


def _auroc_of_weights(p: Floats, truth: npt.NDArray[np.bool_]) -> Callable[[Floats], float]:
    """AUROC as a function of how often each study counts; sorts once."""
    values, group = np.unique(p, return_inverse=True)

    def figure(weights: Floats) -> float:
        positives, negatives = (np.bincount(group, weights * which, len(values)) for which in (truth, ~truth))
        return auroc_of_counts(positives.astype(np.float64), negatives.astype(np.float64))

    return figure


def _share_of_weights(hits: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> Callable[[Floats], float]:
    """Share of hits among some studies, as a function of how often each study counts."""

    def figure(weights: Floats) -> float:
        n = weights @ among
        return float(weights @ (hits & among) / n) if n > 0 else math.nan

    return figure


def _verdict(differences: dict[str, Difference], margin: float) -> tuple[Verdict, str]:
    auroc, sensitivity = differences[f"AUROC {ANY}"], differences["sensitivity at review"]
    for one in (auroc, sensitivity):
        if one.high < -margin:
            return "worse", f"{_told(one)}, all of it below {-margin:g}"
    if auroc.low >= -margin:
        return "not worse", f"{_told(auroc)}, all of it at or above {-margin:g}; {_told(sensitivity)}"
    return "worse: not shown otherwise", f"{_told(auroc)} reaches below {-margin:g}; compare on more studies"


def _told(one: Difference) -> str:
    interval = f"[{one.low:+.3f}, {one.high:+.3f}]"
    return f"{one.figure} {one.a:.3f} -> {one.b:.3f}, difference {one.difference:+.3f} {interval}"
