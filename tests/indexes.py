"""Synthetic indexes: names, positions and labels as tests want them; and caches written from them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from triage.records import ANY, LABELS
from triage.train.cache import Bools, Cache, CachedSlice, CacheWriter, Frame, Index, Manifest, Rows


def make_index(
    lengths: Sequence[int], labels: Bools | None = None, patient_of: Sequence[int] | None = None, seed: int = 0
) -> Index:
    """An index of studies of some lengths, 5 mm slices.

    Args:
        lengths: Slices of each study.
        labels: (n, 6); None for 15 % of bleeds, of one or two subtypes.
        patient_of: Number of each study's patient; None for one patient a study.
        seed: Of random labels.

    Returns:
        The index; names of images are unlike their order.
    """
    n = sum(lengths)
    study = np.repeat(np.arange(len(lengths)), lengths)
    patient = study if patient_of is None else np.asarray(patient_of)[study]
    within = np.concatenate([np.arange(k) for k in lengths]) if n else np.zeros(0)
    image = np.array([f"ID_{(k * 2654435761) % 2**32:08x}" for k in range(n)], np.str_)
    names = [np.char.add(letter, number.astype(np.str_)) for letter, number in (("s", study), ("p", patient))]
    empty = np.full(n, "", np.str_)
    return Index(
        image=image, study=names[0], series=names[0], patient=names[1], position_mm=5.0 * within - 60,
        spacing_mm=np.full((n, 2), 0.5), thickness_mm=np.full(n, 5.0), manufacturer=empty, kernel=empty,
        repairs=empty, labels=random_labels(n, seed) if labels is None else labels,
    )  # fmt: skip


def random_labels(n: int, seed: int = 0, p_bleed: float = 0.15) -> Bools:
    """(n, 6) labels: some slices bleed, the subtypes unlike often, one in five bleeds of two subtypes."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((n, len(LABELS)), np.bool_)
    bleeding = np.flatnonzero(rng.random(n) < p_bleed)
    labels[bleeding, LABELS.index(ANY)] = True
    often = np.array([0.02, 0.3, 0.18, 0.2, 0.3])
    labels[bleeding, 1 + rng.choice(5, len(bleeding), p=often)] = True
    second = bleeding[rng.random(len(bleeding)) < 0.2]
    labels[second, 1 + rng.choice(5, len(second), p=often)] = True
    return labels


def labels_of(n_without: int, **n_with: int) -> Bools:
    """(n, 6) labels of so many slices without a bleed, then so many with each subtype alone."""
    blocks = [np.zeros((n_without, len(LABELS)), np.bool_)]
    for label, n in n_with.items():
        block = np.zeros((n, len(LABELS)), np.bool_)
        block[:, [LABELS.index(ANY), LABELS.index(label)]] = True
        blocks.append(block)
    return np.concatenate(blocks)


def shuffled(index: Index, seed: int = 0) -> tuple[Index, Rows]:
    """The same slices in another order, and the rows they came from."""
    rows: Rows = np.random.default_rng(seed).permutation(len(index)).astype(np.int64)
    return index.take(rows), rows


def write_cache(folder: Path, index: Index, hu: npt.NDArray[np.int16], fov_mm: float = 0.0) -> Cache:
    """A cache of the slices of an index, with (n, side, side) HU."""
    frame = Frame(hu.shape[-1], fov_mm)
    writer = CacheWriter(folder, "inputs", frame)
    writer.append("all", [
        CachedSlice(
            image=str(index.image[k]), study=str(index.study[k]), series=str(index.series[k]),
            patient=str(index.patient[k]), position_mm=float(index.position_mm[k]),
            spacing_mm=(float(index.spacing_mm[k, 0]), float(index.spacing_mm[k, 1])),
            thickness_mm=float(index.thickness_mm[k]), labels=tuple(index.labels[k].tolist()), hu=hu[k],
        )
        for k in range(len(index))
    ])  # fmt: skip
    return writer.finish(Manifest("phantoms", frame, 0.0, "for a test", "inputs"))
