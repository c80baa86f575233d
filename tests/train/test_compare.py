import contextlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from train.small import SMALL

from triage.errors import DataError
from triage.nn.architectures import build
from triage.nn.card import Card, Networks, Thresholds, Training
from triage.nn.pack import load_pack, write_pack
from triage.nn.preprocess import Preprocessing
from triage.phantom import PhantomSpec
from triage.records import ANY, LABELS, SUBTYPES
from triage.train.cache import Cache, Frame
from triage.train.compare import Comparison, Gate, compare
from triage.train.judged import judged, score_networks
from triage.train.metrics import auroc
from triage.train.phantoms import write_phantoms
from triage.train.splits import split_rows

torch.set_num_threads(1)

PIXELS = Preprocessing(resize_px=64, crop_px=64, fov_mm=220.0)

QUICK = Gate(repetitions=300)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Thirty small heads; half of them bleed, much."""
    spec = PhantomSpec(size_px=64, n_slices=6, p_bleed=0.5)
    data = replace(SMALL, seeds=range(30), spec=spec)
    return write_phantoms(tmp_path_factory.mktemp("gate") / "cache", data, workers=1)


def write(
    folder: Path, seed: int, version: str, review: float = 0.5, pixels: Preprocessing = PIXELS, **training: str
) -> Path:
    """A pack of random weights: two seeds judge differently, and nobody knows which is better."""
    torch.manual_seed(seed)
    card = Card(
        "small", version, "demonstration", Networks("resnet18", trunk="shared"),
        Thresholds(max(review, 0.9), review, dict.fromkeys(SUBTYPES, 0.5)), pixels,
        training=Training(**({"manifest": "elsewhere"} | training)),
    )  # fmt: skip
    write_pack(folder / f"small-{version}", card, build("resnet18", 6).state_dict())
    return folder / f"small-{version}"


def salt_for(cache: Cache) -> str:
    """One that gives every part slices, and the test part some with and some without a bleed.

    Which salts do depends on the phantoms' version, which is part of their names.
    """
    for salt in map(str, range(100)):
        with contextlib.suppress(DataError):
            bleeding = cache.index.labels[split_rows(cache.index, "patient", salt)["test"], 0]
            if bleeding.any() and not bleeding.all():
                return salt
    raise AssertionError("no salt does")


def figure(comparison: Comparison, name: str) -> tuple[float, float, float, float, float]:
    one = next(d for d in comparison.differences if d.figure == name)
    return one.a, one.b, one.difference, one.low, one.high


def test_a_pack_is_not_worse_than_itself(cache: Cache, tmp_path: Path) -> None:
    pack = write(tmp_path, 1, "1")
    found = compare(pack, pack, cache, QUICK)
    assert found.is_not_worse
    assert found.verdict == "not worse"
    assert all((d.difference, d.low, d.high) == (0.0, 0.0, 0.0) for d in found.differences if np.isfinite(d.low))
    assert (found.n_studies, found.n_patients, found.n_slices) == (30, 30, 180)
    assert found.data.endswith("every slice")
    assert found.warnings == ()
    assert found.line().startswith("small 1 against small 1, margin 0.02: not worse; AUROC any ")


def test_differences_are_paired_and_have_a_sign(cache: Cache, tmp_path: Path) -> None:
    packs = [write(tmp_path, seed, str(seed)) for seed in (1, 2)]
    forth, back = compare(packs[0], packs[1], cache, QUICK), compare(packs[1], packs[0], cache, QUICK)
    assert [d.figure for d in forth.differences] == [
        *(f"AUROC {label}" for label in LABELS), "sensitivity at review", "specificity at review"
    ]  # fmt: skip
    for name in (f"AUROC {ANY}", "sensitivity at review"):
        a, b, difference, low, high = figure(forth, name)
        assert difference == pytest.approx(b - a, abs=1e-3)
        assert low <= difference <= high
        assert figure(back, name) == pytest.approx((b, a, -difference, -high, -low), abs=1e-3)
    assert not (forth.is_not_worse and back.is_not_worse)
    assert compare(packs[0], packs[1], cache, QUICK) == forth  # the seed decides


def test_the_margin_decides(cache: Cache, tmp_path: Path) -> None:
    one, other = (write(tmp_path, seed, str(seed)) for seed in (1, 2))
    wide = compare(one, other, cache, replace(QUICK, margin=1.0))
    assert wide.verdict == "not worse"
    narrow = compare(one, other, cache, replace(QUICK, margin=-1.0))  # B would have to be better by all there is
    assert narrow.verdict == "worse"
    between = compare(one, other, cache, replace(QUICK, margin=1e-4))
    if between.verdict == "worse: not shown otherwise":
        assert "compare on more studies" in between.reason
    assert not between.is_not_worse or figure(between, f"AUROC {ANY}")[3] >= -1e-4


def test_a_pack_that_flags_nothing_does_not_pass_by_its_auroc(cache: Cache, tmp_path: Path) -> None:
    bold, timid = write(tmp_path, 1, "1", review=1e-6), write(tmp_path, 1, "2", review=0.999999)
    found = compare(bold, timid, cache, QUICK)
    assert figure(found, f"AUROC {ANY}")[2] == 0.0
    assert figure(found, "sensitivity at review")[:3] == (1.0, 0.0, -1.0)
    assert found.verdict == "worse"
    assert "sensitivity at review 1.000 -> 0.000" in found.line()
    assert compare(timid, bold, cache, QUICK).is_not_worse


def test_slices_that_were_trained_on_are_left_out(cache: Cache, tmp_path: Path) -> None:
    salt = salt_for(cache)
    known = write(tmp_path, 1, "1", manifest=cache.identity, split_salt=salt)
    stranger = write(tmp_path, 2, "2")
    rows = split_rows(cache.index, "patient", salt)["test"]
    bleeding = cache.index.labels[rows, 0]
    assert bleeding.any()
    assert not bleeding.all()
    found = compare(known, stranger, cache, QUICK)
    assert found.n_slices == len(rows)
    assert "part test of the split by patient" in found.data
    assert found.warnings == ()
    everything = compare(known, stranger, cache, replace(QUICK, part="all"))
    assert everything.n_slices == len(cache)
    assert everything.warnings == ("small 1 was fitted on slices of part all of this cache: its figures flatter",)


def test_a_card_that_says_nothing_of_its_data_is_warned_of(cache: Cache, tmp_path: Path) -> None:
    pack = write(tmp_path, 1, "1", manifest="")
    assert "does not say which cache" in compare(pack, pack, cache, QUICK).warnings[0]


def test_packs_that_want_slices_of_different_sizes_are_compared_on_the_same_ones(cache: Cache, tmp_path: Path) -> None:
    spec = PhantomSpec(size_px=64, n_slices=6, p_bleed=0.5)
    data = replace(SMALL, seeds=range(30), spec=spec, frame=Frame(48, 200.0))
    smaller = write_phantoms(tmp_path / "smaller", data, workers=1)
    pixels = replace(PIXELS, resize_px=48, crop_px=48, fov_mm=200.0)
    one = write(tmp_path, 1, "1")
    other = write(tmp_path, 2, "2", pixels=pixels)
    with pytest.raises(DataError, match="64 px"):
        compare(one, other, cache, QUICK)
    found = compare(one, other, cache, replace(QUICK, cache_b=smaller))
    alone = compare(other, other, smaller, QUICK)
    assert figure(found, "AUROC any")[1] == figure(alone, "AUROC any")[0]
    assert found.n_slices == 180
    salt = salt_for(cache)
    known = write(tmp_path, 2, "3", pixels=pixels, manifest=smaller.identity, split_salt=salt)
    rows = split_rows(cache.index, "patient", salt)["test"]
    assert compare(one, known, cache, replace(QUICK, cache_b=smaller)).n_slices == len(rows)
    fewer = write_phantoms(tmp_path / "fewer", replace(data, seeds=range(29)), workers=1)
    with pytest.raises(DataError, match="hold different slices"):
        compare(one, other, cache, replace(QUICK, cache_b=fewer))


def test_what_cannot_be_compared_is_refused(cache: Cache, tmp_path: Path) -> None:
    pack = write(tmp_path, 1, "1")
    other = replace(SMALL, seeds=range(3), spec=PhantomSpec(size_px=64, n_slices=4, subtypes=()))
    healthy = write_phantoms(tmp_path / "healthy", other, workers=1)
    with pytest.raises(DataError, match="0 of 3 studies bleed; both kinds are needed"):
        compare(pack, pack, healthy, QUICK)
    framed = replace(other, frame=replace(SMALL.frame, size_px=96))
    with pytest.raises(DataError, match="prepare again with"):
        compare(pack, pack, write_phantoms(tmp_path / "framed", framed, workers=1), QUICK)


def test_the_document_is_json(cache: Cache, tmp_path: Path) -> None:
    pack = write(tmp_path, 1, "1")
    found = compare(pack, pack, cache, QUICK)
    document = json.loads(json.dumps(found.document(), allow_nan=False))
    assert document["is_not_worse"] is True
    assert document["verdict"] == "not worse"
    assert document["differences"][0]["figure"] == "AUROC any"


def test_auroc_of_packs_is_that_of_the_metrics(cache: Cache, tmp_path: Path) -> None:
    """The weighted figure with every study counted once is the plain one."""
    path = write(tmp_path, 1, "1")
    pack = load_pack(path)
    scores = score_networks(pack.networks, (cache, np.arange(len(cache)), PIXELS), torch.device("cpu"))
    said = judged(pack.card, scores, cache.index)
    found = compare(path, path, cache, QUICK)
    for label in LABELS:
        plain = auroc(*said.of_studies(label))
        assert figure(found, f"AUROC {label}")[0] == pytest.approx(plain, abs=1e-4, nan_ok=True)
