"""Real runs of a small network on phantoms, evaluated; and what cannot be evaluated."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from train.small import SMALL, small

from triage.errors import DataError
from triage.nn.card import Card, Networks, Thresholds, Training
from triage.nn.pack import write_pack
from triage.records import SUBTYPES
from triage.train.cache import Cache
from triage.train.calibrate import calibrated, write_calibration
from triage.train.evaluate import Request, evaluate
from triage.train.loop import FitOptions, fit
from triage.train.operating import Options
from triage.train.phantoms import write_phantoms
from triage.train.report import write_report
from triage.train.runs import FACTS, RECIPE, load_network, open_run
from triage.train.scores import score, slice_probabilities
from triage.train.splits import parts_of

torch.set_num_threads(1)

QUICK = {"epochs": "1", "draws": "16", "pretrained": "false", "precision": "fp32"}


@pytest.fixture(scope="module")
def runs(phantom_cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    recipes = {
        "binary": small("triage-binary", **QUICK), "subtype": small("triage-subtype", **QUICK),
        "joint": small("triage-joint", **QUICK),
    }  # fmt: skip
    for name, recipe in recipes.items():
        fit(recipe, phantom_cache, folder / name, FitOptions())
    relabelled(folder / "joint", folder / "leaky", split="image-random")
    relabelled(folder / "subtype", folder / "other", split_salt="2")
    return {path.name: path for path in folder.iterdir()}


def relabelled(run: Path, copy: Path, **changes: str) -> None:
    """A run whose recipe says something else."""
    shutil.copytree(run, copy)
    recipe = json.loads((copy / RECIPE).read_text())
    (copy / RECIPE).write_text(json.dumps(recipe | changes))


def test_a_run_is_measured_on_its_part(phantom_cache: Cache, runs: Mapping[str, Path], tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    result = evaluate(Request((runs["joint"],), repetitions=20, a_kind=2), lambda *what: told.append(what))
    document = result.document
    run = open_run(runs["joint"])
    rows = parts_of(run.recipe, phantom_cache.index)["test"]
    assert document["data"]["slices"] == len(rows)
    scores = score(load_network(run), run.recipe.labels, (phantom_cache, rows, run.recipe.preprocessing))
    p = slice_probabilities(scores)["any"]
    truth = phantom_cache.index.labels[rows, 0]
    assert document["by_slice"]["labels"]["any"]["brier"] == pytest.approx(np.mean((p - truth) ** 2))
    assert document["leakage"].startswith("split patient: no shared patient")
    assert [len(model["epochs"]) for model in document["models"]] == [1]
    assert "cache" not in document["models"][0]["facts"]
    assert ("scoring with joint", len(rows), len(rows)) in told
    assert result.pictures
    for path in write_report(tmp_path, document, result.pictures):
        assert str(phantom_cache.folder) not in path.read_text()


def test_a_pair_is_measured_together_in_either_order(phantom_cache: Cache, runs: Mapping[str, Path]) -> None:
    one = evaluate(Request((runs["binary"], runs["subtype"]), part="validation", repetitions=5, a_kind=0)).document
    other = evaluate(Request((runs["subtype"], runs["binary"]), part="validation", repetitions=5, a_kind=0)).document
    assert one["title"] == "binary + subtype"
    assert one["by_slice"] == other["by_slice"]
    assert len(one["by_slice"]["labels"]) == 6
    assert one["data"]["slices"] > one["data"]["positives"]["any"]


def test_a_subtype_run_alone_is_measured_on_slices_that_bleed(runs: Mapping[str, Path]) -> None:
    document = evaluate(Request((runs["subtype"],), repetitions=5, a_kind=0)).document
    assert document["data"]["bleeding_slices_only"]
    assert document["data"]["slices"] == document["data"]["positives"]["any"]


def test_a_split_by_image_says_that_it_leaks(runs: Mapping[str, Path]) -> None:
    document = evaluate(Request((runs["leaky"],), repetitions=5, a_kind=0)).document
    assert "test shares" in document["leakage"]


def test_all_slices_say_that_those_trained_on_are_among_them(phantom_cache: Cache, runs: Mapping[str, Path]) -> None:
    document = evaluate(Request((runs["joint"],), part="all", repetitions=5, a_kind=0)).document
    assert document["data"]["slices"] == len(phantom_cache)
    assert "trained on is among them" in document["leakage"]
    trained = evaluate(Request((runs["joint"],), part="train", repetitions=5, a_kind=0)).document
    assert "learnt by heart" in trained["leakage"]


@pytest.mark.parametrize(
    ("names", "part", "problem"),
    [
        ((), "test", "name one run, or a binary and a subtype run; 0 were named"),
        (("binary", "joint"), "test", "a pair is a binary and a subtype run, not binary and joint"),
        (("binary", "other"), "test", "different splits"),
        (("joint",), "exam", "part 'exam': this split has train, validation, calibration, test; or use all"),
        (("leaky",), "validation", "this split has train, test"),
        (("nothing",), "test", "no training run"),
    ],
)
def test_what_does_not_go_together_is_refused(
    runs: Mapping[str, Path], tmp_path: Path, names: tuple[str, ...], part: str, problem: str
) -> None:
    folders = tuple(runs.get(name, tmp_path / name) for name in names)
    with pytest.raises(DataError, match=problem) as caught:
        evaluate(Request(folders, part=part, repetitions=5))
    assert "\n" not in str(caught.value)


def test_a_pack_needs_a_cache(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="name it with --cache"):
        evaluate(Request(pack=tmp_path))
    with pytest.raises(DataError, match="not both"):
        evaluate(Request((tmp_path,), pack=tmp_path))


def test_a_pack_says_what_the_pair_says_that_it_is_made_of(
    phantom_cache: Cache, runs: Mapping[str, Path], tmp_path: Path
) -> None:
    states = [load_network(open_run(runs[name])).state_dict() for name in ("binary", "subtype")]
    thresholds = Thresholds(0.5, 0.5, dict.fromkeys(SUBTYPES, 0.5))
    pixels = open_run(runs["binary"]).recipe.preprocessing
    write_pack(tmp_path / "p", Card("small", "0.1", "demonstration", Networks("resnet18"), thresholds, pixels), *states)
    pair = evaluate(Request((runs["binary"], runs["subtype"]), repetitions=5, a_kind=0)).document
    pack = evaluate(Request(pack=tmp_path / "p", cache=phantom_cache.folder, repetitions=5, a_kind=0)).document
    assert pack["by_slice"] == pair["by_slice"]
    assert pack["by_study"] == pair["by_study"]
    assert pack["title"] == "small 0.1"
    assert pack["models"][0]["recipe"] is None
    assert pack["models"][0]["facts"]["sha256"]
    assert "Trained on: its card does not say" in pack["leakage"]
    write_report(tmp_path / "report", pack)


def test_a_pack_on_the_cache_it_was_trained_on_keeps_to_its_own_split(
    phantom_cache: Cache, runs: Mapping[str, Path], tmp_path: Path
) -> None:
    """With another salt, seven tenths of the test part were trained on."""
    run = open_run(runs["joint"])
    card = Card(
        "small", "0.1", "demonstration", Networks("resnet18", trunk="shared"),
        Thresholds(0.5, 0.5, dict.fromkeys(SUBTYPES, 0.5)), run.recipe.preprocessing,
        training=Training(manifest=phantom_cache.identity, split_salt="7"),
    )  # fmt: skip
    write_pack(tmp_path / "p", card, load_network(run).state_dict())
    request = Request(pack=tmp_path / "p", cache=phantom_cache.folder, repetitions=5, a_kind=0)
    document = evaluate(request).document
    rows = parts_of(replace(run.recipe, split_salt="7"), phantom_cache.index)["test"]
    assert (document["data"]["slices"], document["data"]["part"]) == (len(rows), "test")
    assert document["leakage"].startswith("split patient: no shared patient or study")
    with pytest.raises(DataError, match="trained on this cache, split with salt '7'"):
        evaluate(replace(request, salt="1"))
    whole = evaluate(replace(request, part="all", salt="1")).document
    assert "the part trained on is among them" in whole["leakage"]


def test_no_path_of_the_machine_that_trained_is_in_a_report(runs: Mapping[str, Path], tmp_path: Path) -> None:
    shutil.copytree(runs["joint"], tmp_path / "run")
    facts = json.loads((tmp_path / "run" / FACTS).read_text())
    facts["command"] = f"triage-train fit --cache {facts['cache']} --out /home/somebody/run --recipe demo"
    (tmp_path / "run" / FACTS).write_text(json.dumps(facts))
    document = evaluate(Request((tmp_path / "run",), repetitions=5, a_kind=0)).document
    assert document["models"][0]["facts"]["command"] == "triage-train fit --cache cache --out run --recipe demo"
    assert facts["cache"] not in json.dumps(document)


def test_calibration_and_thresholds_of_a_run_are_used(
    phantom_cache: Cache, runs: Mapping[str, Path], tmp_path: Path
) -> None:
    run = open_run(runs["joint"])
    rows = parts_of(run.recipe, phantom_cache.index)["calibration"]
    scores = score(load_network(run), run.recipe.labels, (phantom_cache, rows, run.recipe.preprocessing))
    fitted = calibrated(scores, phantom_cache.index, Options(allow_unsupported=True))
    shutil.copytree(runs["joint"], tmp_path / "run")
    write_calibration(tmp_path / "run", fitted)
    document = evaluate(Request((tmp_path / "run",), repetitions=5, a_kind=0)).document
    assert document["operation"]["origin"].startswith("calibrated on ")
    assert document["operation"]["calibration"]["slice"]["any"]["bias"] == fitted.slice["any"].bias
    assert document["by_study"]["labels"]["any"]["threshold"] == fitted.thresholds.review
    assert document["by_slice"]["labels"]["any"]["threshold"] == 0.5


def test_another_cache_is_taken_whole_or_not_at_all(runs: Mapping[str, Path], tmp_path: Path) -> None:
    data = replace(SMALL, seeds=range(1000, 1004))
    write_phantoms(tmp_path / "other", data, workers=1)
    with pytest.raises(DataError, match="not the cache that"):
        evaluate(Request((runs["joint"],), cache=tmp_path / "other"))
    request = Request((runs["joint"],), part="all", cache=tmp_path / "other", repetitions=5, a_kind=0)
    document = evaluate(request).document
    assert document["data"]["slices"] == 32
    assert "another cache than the one trained on" in document["leakage"]
