"""Figures by manufacturer, slice thickness and kernel, so that a mean over all does not hide a weak scanner."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from triage.dicom.kernels import is_sharp
from triage.records import ANY
from triage.train.cache import Index
from triage.train.metrics import Bools, Floats, auroc, bootstrap_by_patient

Strings = npt.NDArray[np.str_]

BANDS_MM = ((1.5, "below 1.5 mm"), (3.5, "1.5 to below 3.5 mm"), (6.0, "3.5 to below 6 mm"), (np.inf, "6 mm and more"))
"""Upper edge, exclusive, and name of each band of slice thickness."""

UNKNOWN = "not known"

MOST_ROWS = 12
"""Strata shown of one kind; the smallest ones beyond are counted together."""

OTHERS = "all others"


@dataclass(frozen=True)
class Answers:
    """What was said of n slices and what is true."""

    index: Index
    """Of those slices."""
    p: Mapping[str, Floats]
    """By label, (n,)"""
    truth: Mapping[str, Bools]


def strata(answers: Answers, draws: tuple[int, int]) -> list[dict[str, Any]]:
    """Measure each stratum.

    Args:
        answers: By slice.
        draws: Of the bootstrap by patient: resamplings and seed.

    Returns:
        One table for each of manufacturer, thickness and kernel that is known of any slice: "by", "figure" and "rows"
        of "name", "slices", "studies", "positives", "auroc", "low" and "high".
    """
    columns: dict[str, Callable[[Index], Strings]] = {
        "manufacturer": lambda index: _named(index.manufacturer),
        "slice thickness": thickness_bands,
        "kernel": kernel_kinds,
    }
    figure = "AUROC of any bleed" if ANY in answers.p else "mean AUROC of the subtypes"
    tables = []
    for by, column in columns.items():
        names = column(answers.index)
        if (names != UNKNOWN).any():
            rows = [_row(name, which, answers, draws) for name, which in _groups(names)]
            tables.append({"by": by, "figure": figure, "rows": rows})
    return tables


def thickness_bands(index: Index) -> Strings:
    """(n,) name of each slice's band of thickness."""
    names = np.array([name for _, name in BANDS_MM] + [UNKNOWN])
    edges = [edge for edge, _ in BANDS_MM[:-1]]
    band = np.digitize(np.nan_to_num(index.thickness_mm), edges)
    return names[np.where(np.isfinite(index.thickness_mm), band, len(BANDS_MM))]


def kernel_kinds(index: Index) -> Strings:
    """(n,) "soft: H31s", "sharp: BONE", or the bare name where its kind is not known."""
    kinds = {True: "sharp: ", False: "soft: ", None: ""}
    names, group = np.unique(_named(index.kernel), return_inverse=True)
    return np.array([kinds[is_sharp(name)] + name for name in names.tolist()])[group]


def _named(column: Strings) -> Strings:
    return np.where(column == "", UNKNOWN, column)


def _groups(names: Strings) -> Iterator[tuple[str, Bools]]:
    """Each name and where it is: bands from thin to thick, others by frequency; what is not known comes last."""
    found, counts = np.unique(names, return_counts=True)
    bands = [name for _, name in BANDS_MM]
    ordered = sorted(
        zip(found.tolist(), counts.tolist(), strict=True),
        key=lambda one: (one[0] == UNKNOWN, bands.index(one[0]) if one[0] in bands else 0, -one[1]),
    )
    kept = [name for name, _ in ordered[: MOST_ROWS if len(ordered) <= MOST_ROWS else MOST_ROWS - 1]]
    for name in kept:
        yield name, names == name
    rest = ~np.isin(names, kept)
    if rest.any():
        yield OTHERS, rest


def _row(name: str, which: Bools, answers: Answers, draws: tuple[int, int]) -> dict[str, Any]:
    index = answers.index
    row: dict[str, Any] = {
        "name": name, "slices": int(which.sum()), "studies": len(np.unique(index.study[which])),
        "positives": None, "low": None, "high": None,
    }  # fmt: skip
    if ANY in answers.p:
        p, truth = answers.p[ANY][which], answers.truth[ANY][which]
        low, high = bootstrap_by_patient(p, truth, index.patient[which], draws=draws)
        return row | {"positives": int(truth.sum()), "auroc": auroc(p, truth), "low": low, "high": high}
    values = [auroc(answers.p[label][which], answers.truth[label][which]) for label in answers.p]
    known = [v for v in values if np.isfinite(v)]
    return row | {"auroc": float(np.mean(known)) if known else np.nan}
