"""One slice of a training cache: on its way in, as a line of index.csv, and as a row of the index; no pixels' files."""

import csv
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from triage.records import LABELS

NAMES = ("image", "study", "series", "patient")
NUMBERS = ("position_mm", "row_spacing_mm", "column_spacing_mm", "thickness_mm")
FACTS = ("manufacturer", "kernel", "repairs")
COLUMNS = (*NAMES, *NUMBERS, *FACTS, *LABELS)
"""Of index.csv."""

Strings = npt.NDArray[np.str_]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]
"""Numbers of slices in a cache, from 0."""


@dataclass(frozen=True, slots=True)
class CachedSlice:
    """One slice on its way into a cache."""

    image: str
    """RSNA's image id, or a salted hash of the SOP Instance UID."""
    study: str
    series: str
    patient: str
    position_mm: float
    """Along the normal of its series, towards the head; NaN where unknown."""
    spacing_mm: tuple[float, float]
    """Of the original pixels."""
    thickness_mm: float
    """NaN where unknown."""
    labels: tuple[bool, ...]
    """As LABELS."""
    hu: npt.NDArray[np.int16]
    """(size_px, size_px), framed."""
    manufacturer: str = ""
    kernel: str = ""
    repairs: tuple[str, ...] = ()
    bleeds: npt.NDArray[np.uint8] | None = None
    """(size_px, size_px)"""


@dataclass(frozen=True)
class Index:
    """index.csv as columns of n slices; a study's slices lie together, caudal to cranial."""

    image: Strings
    study: Strings
    series: Strings
    patient: Strings
    position_mm: Floats
    spacing_mm: Floats
    """(n, 2)"""
    thickness_mm: Floats
    manufacturer: Strings
    kernel: Strings
    repairs: Strings
    labels: Bools
    """(n, 6), columns as LABELS."""

    def __len__(self) -> int:
        return len(self.image)

    def take(self, rows: Rows) -> "Index":
        """The index of some slices, in that order."""
        return Index(**{name: column[rows] for name, column in vars(self).items()})


def parse_index(text: str) -> Index:
    """Read the text of index.csv."""
    reader = csv.reader(io.StringIO(text))
    next(reader)
    columns = list(zip(*reader, strict=True)) or [() for _ in COLUMNS]
    by_name: dict[str, Any] = dict(zip(COLUMNS, columns, strict=True))
    numbers: dict[str, Any] = {name: np.array(by_name[name], np.float64) for name in NUMBERS}
    spacing = np.stack([numbers.pop("row_spacing_mm"), numbers.pop("column_spacing_mm")], axis=1)
    labels = np.stack([np.array(by_name[label]) == "1" for label in LABELS], axis=1)
    texts: dict[str, Any] = {name: np.array(by_name[name], np.str_) for name in (*NAMES, *FACTS)}
    return Index(spacing_mm=spacing, labels=labels, **texts, **numbers)


def line_of(one: CachedSlice) -> list[str]:
    """The values of a slice's line, as COLUMNS."""
    numbers = [f"{v:.6g}" for v in (one.position_mm, *one.spacing_mm, one.thickness_mm)]
    names = [one.image, one.study, one.series, one.patient]
    facts = [one.manufacturer, one.kernel, "+".join(one.repairs)]
    return [*names, *numbers, *facts, *("01"[v] for v in one.labels)]
