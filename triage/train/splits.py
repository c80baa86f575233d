"""Parts to train on and to measure on: by patient, or by image as the source did; reads no pixels.

    index --choice--> slices of the recipe --split--> parts --kind--> for the subtypes, the slices that bleed

The same cache, salt and recipe give the same parts on every machine: order comes from SHA-256, not from a generator.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from triage.errors import DataError
from triage.records import ANY, LABELS
from triage.train.cache import Index, Rows
from triage.train.choice import chosen_rows
from triage.train.recipes import Recipe, Split

FRACTIONS = {"train": 0.7, "validation": 0.1, "calibration": 0.1, "test": 0.1}
"""Expected shares of patients: to learn from, to choose an epoch by, to calibrate on, to report on."""

IMAGE_TRAIN_SHARE = 0.8
"""Exact share of the images to train on, rounded down, where images are drawn: 97,645 give 78,116 and 19,529."""

Parts = dict[str, Rows]
"""By name of the part, numbers of slices, ascending."""


def split_rows(index: Index, split: Split, salt: str) -> Parts:
    """Split slices into parts.

    By "patient", a hash of salt and patient alone decides a patient's part: more patients never move one, and no
    patient is in two parts. By "image-random", images are put in the order of the hash of salt and name, and the first
    80 % are trained on: slices of one study come to lie on both sides.

    Args:
        index: Of a cache, or of some of its slices.
        split: As the recipe says.
        salt: Another one draws another split.

    Returns:
        The parts, numbers within the index; "patient" gives those of FRACTIONS, "image-random" train and test.

    Raises:
        DataError: A part is empty.
    """
    if split == "image-random":
        order = np.argsort(_uniform(index.image, salt), kind="stable")
        n_train = int(IMAGE_TRAIN_SHARE * len(index))
        parts = {"train": np.sort(order[:n_train]), "test": np.sort(order[n_train:])}
    else:
        patients, of_slice = np.unique(index.patient, return_inverse=True)
        borders = list(itertools.accumulate(FRACTIONS.values()))[:-1]
        place = np.searchsorted(borders, _uniform(patients, salt), side="right")[of_slice]
        parts = {name: np.flatnonzero(place == k) for k, name in enumerate(FRACTIONS)}
    parts = {name: rows.astype(np.int64) for name, rows in parts.items()}
    for name, rows in parts.items():
        if not len(rows):
            have = f"{len(index)} images" if split == "image-random" else f"{len(set(index.patient))} patients"
            raise DataError(f"split {split}: part {name} is empty ({have} in all); {_todo(split)}")
    return parts


def parts_of(recipe: Recipe, index: Index) -> Parts:
    """The parts of a recipe: its choice of slices, then its split, then only slices that its heads are asked about.

    Args:
        recipe: Names choice, split, salt and kind.
        index: Of the whole cache.

    Returns:
        By part, rows of the cache, ascending. For the subtypes only slices with any bleed.

    Raises:
        DataError: A part is empty.
    """
    chosen = chosen_rows(index, recipe.choice)
    if not len(chosen):
        raise DataError(f"choice {recipe.choice}: no slice is chosen; use longer studies, or --set choice=all")
    parts = {name: chosen[rows] for name, rows in
             split_rows(index.take(chosen), recipe.split, recipe.split_salt).items()}  # fmt: skip
    if recipe.kind != "subtype":
        return parts
    bleeding = index.labels[:, LABELS.index(ANY)]
    for name, rows in parts.items():
        parts[name] = rows[bleeding[rows]]
        if not len(parts[name]):
            raise DataError(
                f"split {recipe.split}: part {name} has no slice with a bleed ({len(rows)} without one); "
                f"{_todo(recipe.split)}"
            )
    return parts


def _todo(split: Split) -> str:
    return "add images" if split == "image-random" else "add patients, or draw again with another --set split_salt=..."


def require_positives(rows: Rows, index: Index, labels: Sequence[str], part: str = "train") -> None:
    """Refuse a part in which a label has nothing to learn from.

    Args:
        rows: Of the part.
        index: Of the whole cache.
        labels: Of the recipe's heads.
        part: Its name, for the message.

    Raises:
        DataError: A label has no positive slice among the rows.
    """
    counts = index.labels[rows].sum(axis=0)
    for label in labels:
        if not counts[LABELS.index(label)]:
            raise DataError(
                f"no positive slice for {label!r} in part {part} ({len(rows):,} slices); add studies that show it, or "
                "draw again with another --set split_salt=..."
            )


def describe(parts: Mapping[str, Rows], index: Index) -> dict[str, dict[str, Any]]:
    """Sizes of parts, as JSON types for reports.

    Args:
        parts: Rows of the cache by part.
        index: Of the whole cache.

    Returns:
        By part: "slices", "studies", "patients", and "positives" (slices by label).
    """
    return {
        name: {
            "slices": len(rows),
            "studies": len(np.unique(index.study[rows])),
            "patients": len(np.unique(index.patient[rows])),
            "positives": dict(zip(LABELS, index.labels[rows].sum(axis=0).tolist(), strict=True)),
        }
        for name, rows in parts.items()
    }


def split_hash(parts: Mapping[str, Rows], index: Index) -> str:
    """SHA-256 over the names of the images of each part, whatever their order in the cache."""
    digest = hashlib.sha256()
    for name in sorted(parts):
        images = sorted(index.image[parts[name]].tolist())
        digest.update("\0".join([name, str(len(images)), *images, ""]).encode())
    return digest.hexdigest()


def _uniform(names: npt.NDArray[np.str_], salt: str) -> npt.NDArray[np.float64]:
    """A stable number in [0, 1) for each name."""
    begin = hashlib.sha256(f"{salt}\0".encode())
    numbers = np.empty(len(names))
    for k, name in enumerate(names.tolist()):
        one = begin.copy()
        one.update(name.encode())
        numbers[k] = (int.from_bytes(one.digest()[:8]) >> 11) / 2**53
    return numbers
