"""What a split lets through: shared patients, shared studies, slices that look alike on both sides; draws no split.

    parts --index--> shared patients and studies
    parts --cache--> thumbnails in the brain window --difference hash--> slices that have a near-duplicate in train

A difference hash says of each two neighbouring fields of a thumbnail which one is brighter, so it is the same for the
same slice stored again with other noise, rounding or brightness.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from triage.nn.preprocess import BRAIN
from triage.train.cache import Bools, Cache, Index, Rows, Strings

TRAIN = "train"
"""The part that the others must not share anything with."""

THUMBNAIL_PX = (16, 17)
"""Rows and columns, which give 256 comparisons. Of the usual 64 too many are alike in any two heads: among pairs of
slices of different phantoms one in 800 differed by two or fewer."""

BRIGHTER = 0.01
"""A field counts as brighter from this difference on (0..1), so that noise in air and bone decides nothing."""

NEAR_BITS = 5
"""Slices are near-duplicates up to so many different comparisons of 256. Of 720 slices of 30 phantoms no two heads
were so near (the nearest differed by 7); 99 % of the same slices with 3 HU of noise added were, 88 % with 8 HU."""

EMPTY = 0.05
"""Slices whose thumbnail is darker on average (0..1) show next to nothing of a head and are not compared."""

CHUNK_SLICES = 256
"""Slices read at a time."""

CHUNK_PAIRS = 1 << 20
"""Pairs compared at a time."""

Hashes = npt.NDArray[np.uint64]
"""(n, 4)"""


@dataclass(frozen=True, slots=True)
class Overlap:
    """What one part has in common with train."""

    part: str
    slices: int
    patients: int
    shared_patients: int
    studies: int
    shared_studies: int
    with_sibling: int
    """Slices of which train has another slice of the same study."""
    near_duplicates: int
    """Slices of which train has one that looks the same, of whatever study."""


@dataclass(frozen=True, slots=True)
class Leakage:
    """What the parts of a split have in common with train."""

    split: str
    """Its name, for reports."""
    overlaps: tuple[Overlap, ...]
    """One for each part but train."""

    @property
    def shares(self) -> bool:
        """Whether any patient or study is on both sides."""
        return any(one.shared_patients or one.shared_studies for one in self.overlaps)


def leakage(
    cache: Cache, parts: Mapping[str, Rows], split: str = "", on_slices: Callable[[int], None] = lambda _: None
) -> Leakage:
    """Count what each part has in common with train.

    Args:
        cache: Every slice of the parts is read once.
        parts: Rows of the cache by part, "train" among them.
        split: Its name, for reports.
        on_slices: Told how many slices were read each time; in all as many as the parts have.

    Returns:
        The counts, exact for patients and studies.
    """
    train = fingerprints(cache, parts[TRAIN], on_slices)
    overlaps = []
    for part, rows in parts.items():
        if part != TRAIN:
            near = has_near(fingerprints(cache, rows, on_slices), train)
            overlaps.append(_overlap(cache.index, part, (parts[TRAIN], rows), int(near.sum())))
    return Leakage(split, tuple(overlaps))


def one_line(leakage: Leakage) -> str:
    """What a report says of a split, e.g. "split patient: no shared patient or study; 3 near-duplicate slices"."""
    name = f"split {leakage.split}" if leakage.split else "split"
    if not leakage.shares:
        return f"{name}: no shared patient or study; {_near_text(sum(o.near_duplicates for o in leakage.overlaps))}"
    return f"{name}: " + "; ".join(
        f"{o.part} shares {o.shared_patients:,} of {o.patients:,} patients, {o.shared_studies:,} of {o.studies:,} "
        f"studies with {TRAIN}; {100 * o.with_sibling / max(o.slices, 1):.1f} % of its slices have a neighbour of "
        f"their study there; {_near_text(o.near_duplicates)}"
        for o in leakage.overlaps
    )


def _near_text(n: int) -> str:
    return "no near-duplicate slice" if n == 0 else f"{n:,} near-duplicate {'slice' if n == 1 else 'slices'}"


def _overlap(index: Index, part: str, rows: tuple[Rows, Rows], near_duplicates: int) -> Overlap:
    (train_patients, train_studies), (patients, studies) = (
        (np.unique(index.patient[r]), np.unique(index.study[r])) for r in rows
    )
    return Overlap(
        part, slices=len(rows[1]), patients=len(patients), shared_patients=_shared(patients, train_patients),
        studies=len(studies), shared_studies=_shared(studies, train_studies),
        with_sibling=_shared(index.study[rows[1]], train_studies), near_duplicates=near_duplicates,
    )  # fmt: skip


def _shared(names: Strings, others: Strings) -> int:
    return int(np.isin(names, others).sum())


def fingerprints(cache: Cache, rows: Rows, on_slices: Callable[[int], None] = lambda _: None) -> tuple[Hashes, Bools]:
    """Difference hashes of slices.

    Args:
        cache: Where they are.
        rows: (n,) which.
        on_slices: Told how many slices were read each time.

    Returns:
        (n, 4) of 64 bits each; and (n,) whether the slice shows enough of a head to be compared.
    """
    hashes, shown = [np.zeros((0, 4), np.uint64)], [np.zeros(0, np.bool_)]
    for begin in range(0, len(rows), CHUNK_SLICES):
        chunk = rows[begin : begin + CHUNK_SLICES]
        seen = ((torch.from_numpy(cache.hu(chunk)).float() - BRAIN.center_hu) / BRAIN.width_hu + 0.5).clamp(0, 1)
        thumbnails = functional.adaptive_avg_pool2d(seen[:, None], THUMBNAIL_PX)[:, 0]
        brighter = thumbnails[:, :, 1:] > thumbnails[:, :, :-1] + BRIGHTER
        hashes.append(np.packbits(brighter.flatten(1).numpy(), axis=1).view(np.uint64))
        shown.append(thumbnails.mean(dim=(1, 2)).numpy() > EMPTY)
        on_slices(len(chunk))
    return np.concatenate(hashes), np.concatenate(shown)


def has_near(some: tuple[Hashes, Bools], others: tuple[Hashes, Bools]) -> Bools:
    """Which slices have a near-duplicate among others.

    With one band of bits more than may differ, two near hashes agree on one whole band at least; so only slices that
    agree on a band are compared, which is a few in a thousand pairs.

    Args:
        some: (n, 4) hashes and (n,) whether to compare, as from `fingerprints`.
        others: Likewise, m of them.

    Returns:
        (n,)
    """
    hashes, other_hashes = some[0], others[0][others[1]]
    found = np.zeros(len(hashes), np.bool_)
    for band in range(NEAR_BITS + 1):
        open_rows = np.flatnonzero(some[1] & ~found)
        for one, other in _agreeing(_band(hashes[open_rows], band), _band(other_hashes, band)):
            differing = np.bitwise_count(hashes[open_rows[one]] ^ other_hashes[other]).sum(axis=1)
            found[open_rows[one[differing <= NEAR_BITS]]] = True
    return found


def _band(hashes: Hashes, band: int) -> Hashes:
    """(n,) every sixth bit from one on: a band from all over the slice, for borders of it are alike in all heads."""
    bits = np.unpackbits(np.ascontiguousarray(hashes).view(np.uint8), axis=1)[:, band :: NEAR_BITS + 1]
    packed = np.packbits(bits, axis=1)
    return np.pad(packed, ((0, 0), (0, 8 - packed.shape[1]))).view(np.uint64)[:, 0]


def _agreeing(some: Hashes, others: Hashes) -> Iterator[tuple[Rows, Rows]]:
    """Places of equal values in two arrays, pair by pair, some pairs at a time."""
    order = np.argsort(others, kind="stable")
    first, last = (np.searchsorted(others[order], some, side=side) for side in ("left", "right"))
    counts = last - first
    chunk_of = np.cumsum(counts) // CHUNK_PAIRS
    for chunk in np.unique(chunk_of[counts > 0]):
        one = np.flatnonzero((chunk_of == chunk) & (counts > 0))
        many = counts[one]
        within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        yield np.repeat(one, many), order[np.repeat(first[one], many) + within]
