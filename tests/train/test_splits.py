from dataclasses import replace

import numpy as np
import pytest
from indexes import labels_of, make_index, shuffled

from triage.errors import DataError
from triage.records import LABELS, SUBTYPES
from triage.train.recipes import recipe_named
from triage.train.splits import FRACTIONS, describe, parts_of, require_positives, split_hash, split_rows

BINARY, SUBTYPE = recipe_named("thesis-binary"), recipe_named("thesis-subtype-run1")


def test_the_sizes_of_the_source_come_out() -> None:
    index = make_index([24 + k % 22 for k in range(19_529)])
    parts = parts_of(BINARY, index)
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 78_116, "test": 19_529}
    assert len(np.unique(np.concatenate(list(parts.values())))) == 97_645
    bleeding = index.labels[:, 0]
    subtype = parts_of(SUBTYPE, index)
    for name, rows in subtype.items():
        assert rows.tolist() == parts[name][bleeding[parts[name]]].tolist()


def test_parts_of_patients_are_disjoint_and_whole() -> None:
    index = make_index([5] * 3000, patient_of=[k // 2 for k in range(3000)])
    parts = split_rows(index, "patient", "1")
    assert list(parts) == list(FRACTIONS)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(index)))
    patients = {name: set(index.patient[rows]) for name, rows in parts.items()}
    assert sum(len(p) for p in patients.values()) == 1500
    for name, fraction in FRACTIONS.items():
        assert len(patients[name]) / 1500 == pytest.approx(fraction, abs=4 * np.sqrt(fraction * (1 - fraction) / 1500))


def test_more_patients_move_none() -> None:
    small, large = make_index([4] * 300), make_index([4] * 2000)
    before = {p: name for name, rows in split_rows(small, "patient", "1").items() for p in small.patient[rows]}
    after = {p: name for name, rows in split_rows(large, "patient", "1").items() for p in large.patient[rows]}
    assert {p: after[p] for p in before} == before


def test_the_split_of_patients_is_that_of_every_version() -> None:
    """What was split once stays so: a changed hash would let patients of a test part into training."""
    index = make_index([1] * 60)
    parts = split_rows(index, "patient", "1")
    assert index.patient[parts["test"]].tolist() == ["p1", "p4", "p26", "p37", "p46", "p56"]


@pytest.mark.parametrize("split", ["patient", "image-random"])
def test_salt_draws_another_split_and_order_does_not(split: str) -> None:
    recipe = replace(BINARY, choice="all", split=split)  # type: ignore[arg-type]  # one of the two literals
    index = make_index([7] * 100)
    mixed, _ = shuffled(index)
    first = split_hash(parts_of(recipe, index), index)
    assert split_hash(parts_of(recipe, mixed), mixed) == first
    assert split_hash(parts_of(replace(recipe, split_salt="2"), index), index) != first


def test_hash_tells_parts_apart() -> None:
    index = make_index([2])
    one, other = np.array([0]), np.array([1])
    hashes = {
        split_hash({"train": one, "test": other}, index),
        split_hash({"train": other, "test": one}, index),
        split_hash({"train": np.array([0, 1]), "test": np.zeros(0, np.int64)}, index),
    }
    assert len(hashes) == 3
    assert split_hash({"test": other, "train": one}, index) in hashes


def test_an_empty_part_is_named() -> None:
    with pytest.raises(DataError, match=r"split patient: part \w+ is empty \(2 patients in all\).*split_salt"):
        split_rows(make_index([30, 30]), "patient", "1")
    with pytest.raises(DataError, match=r"split image-random: part train is empty \(1 images in all\)"):
        split_rows(make_index([1]), "image-random", "1")


def test_a_part_without_bleeds_is_named() -> None:
    index = make_index([40] * 10, labels_of(400))
    with pytest.raises(DataError, match=r"part train has no slice with a bleed \(40 without one\)"):
        parts_of(SUBTYPE, index)


def test_a_choice_of_nothing_is_named() -> None:
    with pytest.raises(DataError, match="choice above_middle_5: no slice is chosen"):
        parts_of(BINARY, make_index([2, 1]))


def test_a_label_without_a_positive_is_named() -> None:
    index = make_index([60], labels_of(20, intraparenchymal=10, intraventricular=10, subarachnoid=10, subdural=10))
    rows = np.arange(60)
    require_positives(rows, index, ("any",))
    with pytest.raises(DataError, match="no positive slice for 'epidural' in part train"):
        require_positives(rows, index, SUBTYPES)
    with pytest.raises(DataError, match="no positive slice for 'any' in part calibration"):
        require_positives(np.arange(20), index, LABELS, "calibration")


def test_parts_are_described() -> None:
    index = make_index([4, 4, 4], labels_of(8, subdural=4), patient_of=[0, 0, 1])
    assert describe({"train": np.arange(8), "test": np.arange(8, 12)}, index) == {
        "train": {"slices": 8, "studies": 2, "patients": 1, "positives": dict.fromkeys(LABELS, 0)},
        "test": {"slices": 4, "studies": 1, "patients": 1,
                 "positives": dict.fromkeys(LABELS, 0) | {"any": 4, "subdural": 4}},
    }  # fmt: skip
