"""Label files -> truth by image or by study: the RSNA 2019 training CSV and a hospital's own table; opens no image."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from triage.errors import DataError
from triage.records import ANY, LABELS, SUBTYPES
from triage.train.cache import Bools, Strings, file_hash

By = Literal["image", "SOPInstanceUID", "StudyInstanceUID"]
"""What a row names: an image by the name of its file (RSNA), or an image or a study by its UID."""

UID_COLUMNS: tuple[By, ...] = ("SOPInstanceUID", "StudyInstanceUID")

RSNA_COLUMNS = ("ID", "Label")

LABEL_OF_NAME = {label: place for place, label in enumerate(LABELS)}

MAX_QUOTED = 4
"""Characters of a faulty label that are repeated in an error."""

WHOLE = (1 << len(LABELS)) - 1
"""Bits of an image that has all its labels."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Counts by which a distributed training set is known; the RSNA 2019 challenge had two."""

    number: int
    n_rows: int
    """Data rows of its CSV: six for each block."""
    n_images: int
    """Without the duplicated ids."""


STAGE_1 = Stage(1, 4_045_572, 674_258)
"""674,262 blocks of which four are repetitions."""

STAGE_2 = Stage(2, 4_516_842, 752_803)
"""752,807 blocks of which four are repetitions."""


@dataclass(frozen=True)
class Labels:
    """The truth that a label file states."""

    path: Path
    by: By
    names: Strings
    """(n,), each once, in the order of the file."""
    truth: Bools
    """(n, 6), columns as LABELS."""
    n_rows: int
    """Data rows of the file."""
    sha256: str
    """Of the file."""
    duplicated: tuple[str, ...] = ()
    """Names that were there more than once, always with the same labels."""
    notes: tuple[str, ...] = field(default=())
    """Lines for a person; no UID in them."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def stage(self) -> int | None:
        """Number of the RSNA 2019 stage whose whole training set this is, by its counts; None for anything else."""
        counts = (self.n_rows, len(self))
        known = (s.number for s in (STAGE_1, STAGE_2) if self.by == "image" and (s.n_rows, s.n_images) == counts)
        return next(known, None)

    @property
    def source(self) -> str:
        """One line for a person: what this is."""
        counts = f"{self.n_rows:,} rows, {len(self):,} {'studies' if self.by == 'StudyInstanceUID' else 'images'}"
        if self.by != "image":
            return f"a table by {self.by}: {counts}"
        if self.stage is None:
            return f"RSNA 2019 layout, not the whole of a known stage: {counts}"
        return f"RSNA 2019 stage {self.stage} training set: {counts}"

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Where each name stands."""
        return {str(name): row for row, name in enumerate(self.names)}


def read_labels(path: Path) -> Labels:
    """Read a label file of either kind; its header says which.

    Args:
        path: CSV: `ID,Label` as RSNA distributes it, or a table with a UID and six columns (see `read_table`).

    Returns:
        The labels.

    Raises:
        DataError: It is missing, or something in it cannot be used; the message names the line.
    """
    header = next(_rows(path), (0, []))[1]
    if set(header) & set(UID_COLUMNS):
        return read_table(path)
    if set(header) & set(RSNA_COLUMNS):
        return read_rsna_labels(path)
    raise DataError(
        f"{path}: line 1 has no column ID and Label (RSNA 2019), StudyInstanceUID or SOPInstanceUID; add the header"
    )


def read_rsna_labels(path: Path) -> Labels:
    """Read the training labels of RSNA 2019: rows `ID_xxx_subtype,label`, six for each image.

    Args:
        path: `stage_1_train.csv`, `stage_2_train.csv` or a part of one.

    Returns:
        The labels, duplicated ids dropped.

    Raises:
        DataError: A column is missing, a label is not 0 or 1, a subtype unknown, an image has not all six labels, or
            the labels of a duplicated id differ.
    """
    rows = _rows(path)
    columns = _places(path, next(rows, (0, []))[1], RSNA_COLUMNS)
    seen: dict[str, int] = {}
    positive: dict[str, int] = {}
    duplicated: dict[str, None] = {}
    n_rows = 0
    for line, row in rows:
        name, place, value = _rsna_row(path, line, row, columns)
        bit = 1 << place
        bits = seen.get(name, 0)
        if bits & bit:
            duplicated[name] = None
            if bool(positive.get(name, 0) & bit) != value:
                raise DataError(f"{path}: line {line}: {name} is there twice, {LABELS[place]} once 0 and once 1;"
                                " remove the wrong one")  # fmt: skip
        seen[name] = bits | bit
        if value:
            positive[name] = positive.get(name, 0) | bit
        n_rows += 1
    _check_whole(path, seen)
    masks = np.array([positive.get(name, 0) for name in seen], np.uint8)
    truth = (masks[:, None] >> np.arange(len(LABELS)) & 1).astype(np.bool_)
    return _labels(path, "image", (list(seen), truth, n_rows), tuple(duplicated))


def _rsna_row(path: Path, line: int, row: Sequence[str], columns: Sequence[int]) -> tuple[str, int, bool]:
    """Image, place of the label in LABELS, and its value."""
    if len(row) <= max(columns):
        raise DataError(f"{path}: line {line} has {len(row)} columns, too few; mend or remove it")
    key, text = row[columns[0]], row[columns[1]]
    name, _, label = key.rpartition("_")
    place = LABEL_OF_NAME.get(label)
    if place is None or not name:
        raise DataError(f"{path}: line {line}: {key!r} does not end in one of {', '.join(LABELS)}; mend or remove it")
    return name, place, _value(path, line, text, f"{key}")


def _check_whole(path: Path, seen: dict[str, int]) -> None:
    part = next((name for name, bits in seen.items() if bits != WHOLE), None)
    if part is None:
        return
    missing = [label for place, label in enumerate(LABELS) if not seen[part] & 1 << place]
    raise DataError(f"{path}: {part} has no row for {', '.join(missing)}; add the rows, or remove the image's others")


def read_table(path: Path) -> Labels:
    """Read a hospital's table.

    Args:
        path: CSV with a column `StudyInstanceUID` or `SOPInstanceUID` (of both, the latter counts) and one for each
            of LABELS; other columns are ignored.

    Returns:
        The labels, repeated rows dropped.

    Raises:
        DataError: A column is missing, a label is not 0 or 1, a UID is missing, or the labels of a repeated one differ.
    """
    rows = _rows(path)
    header = next(rows, (0, []))[1]
    by = next((column for column in UID_COLUMNS if column in header), None)
    if by is None:
        raise DataError(f"{path}: line 1 has no column StudyInstanceUID or SOPInstanceUID; add it")
    columns = _places(path, header, (by, *LABELS))
    found: dict[str, tuple[int, tuple[bool, ...]]] = {}
    duplicated: dict[str, None] = {}
    n_rows = 0
    for line, row in rows:
        if len(row) <= max(columns):
            raise DataError(f"{path}: line {line} has {len(row)} columns, too few; mend or remove it")
        name = row[columns[0]]
        if not name:
            raise DataError(f"{path}: line {line} has no {by}; mend or remove it")
        values = tuple(_value(path, line, row[c], label) for c, label in zip(columns[1:], LABELS, strict=True))
        first, known = found.setdefault(name, (line, values))
        if first != line:
            duplicated[name] = None
        if known != values:
            raise DataError(f"{path}: lines {first} and {line} name one {by} with other labels; remove the wrong one")
        n_rows += 1
    truth = np.array([values for _, values in found.values()], np.bool_).reshape(-1, len(LABELS))
    return _labels(path, by, (list(found), truth, n_rows), tuple(duplicated))


def _labels(path: Path, by: By, read: tuple[list[str], Bools, int], duplicated: tuple[str, ...]) -> Labels:
    names, truth, n_rows = read
    if not names:
        raise DataError(f"{path}: no row below the header; name a file with labels")
    notes = []
    if duplicated:
        shown = f" ({_shortened(duplicated)})" if by == "image" else ""
        notes.append(f"{len(duplicated)} names in the label file more than once, with equal labels; kept once{shown}")
    if odd := int((truth[:, LABELS.index(ANY)] != truth[:, [LABELS.index(s) for s in SUBTYPES]].any(axis=1)).sum()):
        notes.append(f"{odd} rows of labels where '{ANY}' is not what the subtypes say; kept as they are")
    return Labels(path, by, np.array(names, np.str_), truth, n_rows, file_hash(path), duplicated, tuple(notes))


def labels_without_positives(truth: Bools) -> tuple[str, ...]:
    """Labels that no row has: nothing can be learned about them.

    Args:
        truth: (n, 6), columns as LABELS.

    Returns:
        Their names, in the order of LABELS.
    """
    return tuple(label for place, label in enumerate(LABELS) if not truth[:, place].any())


def _shortened(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and values of each row that is not empty, spaces around values removed.

    Raises:
        DataError: The file cannot be read as CSV in UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            for row in reader:
                if row:
                    yield reader.line_num, [value.strip() for value in row]
    except OSError as e:
        raise DataError(f"{path}: the label file cannot be read ({e.strerror}); name a CSV file") from e
    except (UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"{path}: no CSV in UTF-8 ({type(e).__name__}); save it as one") from e


def _places(path: Path, header: Sequence[str], columns: Sequence[str]) -> list[int]:
    missing = [column for column in columns if column not in header]
    if missing:
        raise DataError(f"{path}: line 1 has no column {', '.join(missing)}; the header must have {','.join(columns)}")
    return [header.index(column) for column in columns]


def _value(path: Path, line: int, text: str, name: str) -> bool:
    if text not in ("0", "1"):
        # What is longer is no slip of a label but perhaps another column, and that may be a patient's.
        shown = f"{text!r}, " if len(text) <= MAX_QUOTED else ""
        raise DataError(f"{path}: line {line}: the label of {name} is {shown}neither 0 nor 1; mend it")
    return text == "1"
