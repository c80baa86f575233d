from dataclasses import replace

import numpy as np
import pytest

from triage.records import LABELS, SUBTYPES
from triage.train.cache import Cache
from triage.train.metrics import auroc
from triage.train.strata import OTHERS, UNKNOWN, Answers, kernel_kinds, strata, thickness_bands


def answers(cache: Cache, labels: tuple[str, ...] = LABELS) -> Answers:
    rng = np.random.default_rng(2)
    truth = {label: cache.index.labels[:, LABELS.index(label)] for label in labels}
    p = {label: np.clip(0.5 * t + 0.7 * rng.random(len(t)), 0, 1) for label, t in truth.items()}
    half = np.arange(len(cache)) < len(cache) // 2
    return Answers(replace(cache.index, manufacturer=np.where(half, "ACME", "")), p, truth)


def test_each_stratum_is_measured_alone(phantom_cache: Cache) -> None:
    given = answers(phantom_cache)
    tables = {one["by"]: one for one in strata(given, (40, 1))}
    rows = tables["manufacturer"]["rows"]
    assert [row["name"] for row in rows] == ["ACME", UNKNOWN]
    assert sum(row["slices"] for row in rows) == len(phantom_cache)
    half = given.index.manufacturer == "ACME"
    assert rows[0]["auroc"] == pytest.approx(auroc(given.p["any"][half], given.truth["any"][half]))
    assert rows[0]["low"] < rows[0]["auroc"] < rows[0]["high"]


def test_what_nobody_knows_is_left_out(phantom_cache: Cache) -> None:
    index = replace(answers(phantom_cache).index, kernel=np.full(len(phantom_cache), ""))
    given = replace(answers(phantom_cache), index=index)
    assert "kernel" not in {one["by"] for one in strata(given, (5, 1))}


def test_subtypes_alone_give_their_mean(phantom_cache: Cache) -> None:
    row = strata(answers(phantom_cache, SUBTYPES), (5, 1))[0]["rows"][0]
    assert row["positives"] is None
    assert 0.5 < row["auroc"] <= 1


def test_names_of_strata(phantom_cache: Cache) -> None:
    index = phantom_cache.index.take(np.arange(5))
    index = replace(index, thickness_mm=np.array([0.6, 1.5, 5.0, 8.0, np.nan]),
                    kernel=np.array(["H31s", "BONE", "XY", "", "FC68"]))  # fmt: skip
    assert thickness_bands(index).tolist() == [
        "below 1.5 mm", "1.5 to below 3.5 mm", "3.5 to below 6 mm", "6 mm and more", UNKNOWN,
    ]  # fmt: skip
    assert kernel_kinds(index).tolist()[:4] == ["soft: H31s", "sharp: BONE", "XY", UNKNOWN]


def test_many_small_strata_are_counted_together(phantom_cache: Cache) -> None:
    names = np.array([f"maker {k % 30}" for k in range(len(phantom_cache))])
    given = replace(answers(phantom_cache), index=replace(phantom_cache.index, manufacturer=names))
    rows = strata(given, (5, 1))[0]["rows"]
    assert len(rows) == 12
    assert rows[-1]["name"] == OTHERS
    assert sum(row["slices"] for row in rows) == len(phantom_cache)
