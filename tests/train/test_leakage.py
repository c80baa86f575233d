import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from indexes import make_index, write_cache

from triage.nn.preprocess import Preprocessing, framed
from triage.phantom import PhantomSpec, generate
from triage.train.cache import Cache
from triage.train.leakage import EMPTY, NEAR_BITS, Leakage, Overlap, fingerprints, has_near, leakage, one_line
from triage.train.splits import split_rows

torch.set_num_threads(1)

N_SLICES = 10
PATIENTS = 3


@pytest.fixture(scope="module")
def heads() -> np.ndarray:
    """Slices of three phantoms, (30, 128, 128) HU."""
    found = []
    for seed in range(PATIENTS):
        study = generate(seed, PhantomSpec(size_px=96, n_slices=N_SLICES, spacing_mm=14.0))
        whole = Preprocessing(resize_px=128, crop_px=128)
        found.append(framed(torch.from_numpy(study.hu), whole, study.spacing_mm).numpy())
    return np.concatenate(found).astype(np.int16)


@pytest.fixture
def cache(tmp_path: Path, heads: np.ndarray) -> Cache:
    """The three, and a fourth patient who has slices 3 to 7 of the first one under other names, with other noise."""
    copies = heads[3:8] + np.random.default_rng(0).normal(0, 2, heads[3:8].shape).round()
    hu = np.concatenate([heads, copies.astype(np.int16)])
    return write_cache(tmp_path / "cache", make_index([N_SLICES] * PATIENTS + [5]), hu)


def test_copies_are_found_in_another_patient(cache: Cache) -> None:
    read: list[int] = []
    found = leakage(cache, {"train": np.arange(30), "test": np.arange(30, 35)}, "patient", read.append)
    assert found.overlaps == (Overlap("test", 5, 1, 0, 1, 0, 0, near_duplicates=5),)
    assert sum(read) == 35
    assert one_line(found) == "split patient: no shared patient or study; 5 near-duplicate slices"


def test_other_heads_are_not_near(cache: Cache) -> None:
    parts = {"train": np.arange(20), "validation": np.arange(20, 25), "test": np.arange(25, 30)}
    found = leakage(cache, parts, "patient")
    assert [o.part for o in found.overlaps] == ["validation", "test"]
    assert one_line(found) == "split patient: no shared patient or study; no near-duplicate slice"


def test_shared_patients_and_studies_are_counted(cache: Cache) -> None:
    index = replace(cache.index, patient=np.array(["p0"] * 20 + ["p1"] * 15))  # studies s0, s1; s2, s3
    mixed = replace(cache, index=index)
    # train: half of s0 and s1; test: the other half of s0, all of s2
    parts = {"train": np.arange(5, 20), "test": np.r_[0:3, 20:30]}
    found = leakage(mixed, parts, "image-random")
    assert found.overlaps[0] == Overlap("test", 13, 2, 1, 2, 1, with_sibling=3, near_duplicates=0)
    assert one_line(found) == (
        "split image-random: test shares 1 of 2 patients, 1 of 2 studies with train; 23.1 % of its slices have a "
        "neighbour of their study there; no near-duplicate slice"
    )
    assert json.loads(json.dumps(dataclasses.asdict(found)))["overlaps"][0]["shared_patients"] == 1


def test_images_drawn_at_random_leave_a_sibling_in_training(tmp_path: Path) -> None:
    """Of five slices a study, P(a test slice has another one in train) = 1 - 0.2^4 = 99.84 %."""
    index = make_index([5] * 2000)
    noise = np.random.default_rng(0).integers(0, 80, (len(index), 20, 20)).astype(np.int16)
    cache = write_cache(tmp_path / "cache", index, noise)
    (overlap,) = leakage(cache, split_rows(index, "image-random", "1"), "image-random").overlaps
    assert overlap.slices == 2000
    assert overlap.with_sibling / overlap.slices == pytest.approx(1 - 0.2**4, abs=0.003)
    assert overlap.near_duplicates == 0
    patient = leakage(cache, split_rows(index, "patient", "1"), "patient")
    assert not patient.shares
    assert [o.part for o in patient.overlaps] == ["validation", "calibration", "test"]


def test_empty_slices_are_not_compared(tmp_path: Path) -> None:
    hu = np.full((4, 64, 64), -1000, np.int16)
    hu[:, :14, :14] = 60  # 5 % of the image, not bright: less than EMPTY
    cache = write_cache(tmp_path / "cache", make_index([2, 2]), hu)
    assert fingerprints(cache, np.arange(4))[1].tolist() == [False] * 4
    assert leakage(cache, {"train": np.array([0, 1]), "test": np.array([2, 3])}).overlaps[0].near_duplicates == 0
    assert EMPTY > 0.75 * 14**2 / 64**2


def test_near_is_up_to_the_stated_number_of_bits() -> None:
    """Banding misses no pair and adds none: the same as comparing every pair."""
    rng = np.random.default_rng(1)
    train = rng.integers(0, 2, (300, 256), dtype=np.uint8)
    test = train[rng.integers(0, 300, 200)].copy()
    for k, bits in enumerate(test):
        bits[rng.choice(256, k % (2 * NEAR_BITS + 2), replace=False)] ^= 1
    shown, other_shown = rng.random(200) < 0.9, rng.random(300) < 0.9
    distance = (test[:, None] != train[None]).sum(axis=2)
    wanted = ((distance <= NEAR_BITS) & other_shown).any(axis=1) & shown
    packed = [np.packbits(bits, axis=1).view(np.uint64) for bits in (test, train)]
    assert has_near((packed[0], shown), (packed[1], other_shown)).tolist() == wanted.tolist()
    assert 50 < wanted.sum() < 150


def test_many_pairs_are_compared_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triage.train.leakage.CHUNK_PAIRS", 100)
    same = np.zeros((70, 4), np.uint64)
    far = np.full((30, 4), 2**64 - 1, np.uint64)
    some = np.concatenate([far, same])
    found = has_near((some, np.ones(100, np.bool_)), (same[:60], np.ones(60, np.bool_)))
    assert found.tolist() == [False] * 30 + [True] * 70


def test_one_line_speaks_in_numbers_of_any_size() -> None:
    overlap = Overlap("test", 19_529, 11_000, 10_500, 13_131, 13_100, 19_498, 1)
    assert one_line(Leakage("image-random", (overlap,))) == (
        "split image-random: test shares 10,500 of 11,000 patients, 13,100 of 13,131 studies with train; 99.8 % of its "
        "slices have a neighbour of their study there; 1 near-duplicate slice"
    )
