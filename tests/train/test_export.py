from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from train.small import small

from triage.errors import DataError
from triage.nn.card import Calibration, Card
from triage.nn.pack import load_pack, read_card, verify_pack
from triage.records import ANY, LABELS
from triage.train import account
from triage.train.cache import Cache
from triage.train.calibrate import CALIBRATION, calibration_rows, read_calibration
from triage.train.export import ExportRequest, export
from triage.train.judged import judged, score_networks
from triage.train.loop import FitOptions, fit
from triage.train.metrics import auroc, calibration_error
from triage.train.operating import Options
from triage.train.runs import write_run
from triage.train.splits import split_rows
from triage.train.trained import calibrate, open_trained

torch.set_num_threads(1)

SHOWN = Options(allow_unsupported=True)
"""Sixty heads bear no bound."""

QUICK = {"epochs": "1", "draws": "32", "pretrained": "false"}

COMMAND = "triage-train fit --cache /data/secret/cache --recipe triage-joint"


@pytest.fixture(scope="module")
def runs(phantom_cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A short run of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    options = FitOptions(command=COMMAND)
    recipes = {name: small(f"triage-{name}", **QUICK) for name in ("joint", "binary", "subtype")}
    return {name: fit(recipe, phantom_cache, folder / name, options).folder for name, recipe in recipes.items()}


Request = Callable[..., ExportRequest]


@pytest.fixture
def request_of(tmp_path: Path, runs: dict[str, Path]) -> Request:
    def make(*names: str, **changes: object) -> ExportRequest:
        values = {"version": "1", "models": tmp_path / "models", "storage": "fp32", "options": SHOWN} | changes
        return ExportRequest(tuple(runs[name] for name in names), "small", **values)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="module")
def shared(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Card]:
    """A joint run exported as int8."""
    models = tmp_path_factory.mktemp("models")
    command = f"triage-train export {runs['joint']} --name small --version 0.3"
    request = ExportRequest((runs["joint"],), "small", "0.3", models, options=SHOWN, command=command)
    return request.folder, export(request)


def test_a_joint_run_becomes_a_pack_with_one_trunk(shared: tuple[Path, Card]) -> None:
    folder, card = shared
    assert sorted(path.name for path in folder.iterdir()) == ["card.toml", "network.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["small-0.3"]
    assert repr(read_card(folder)) == repr(card)  # an AUROC that cannot be had is not equal to itself
    assert (card.name, card.version, card.intended_use) == ("small", "0.3", "demonstration")
    assert (card.networks.trunk, card.networks.storage) == ("shared", "int8")
    assert verify_pack(folder)[0].endswith("one trunk for all labels")


def test_the_card_is_filled_from_the_run(shared: tuple[Path, Card], phantom_cache: Cache) -> None:
    _, card = shared
    assert card.training.data.startswith("Synthetic heads only")
    assert card.training.manifest == phantom_cache.identity
    assert card.training.split_salt == "1"
    run = card.training.run
    for told in ("recipe triage-joint", "batch 16 (was 64)", "preprocessing.resize_px 64 (was 256)", "seed 1",
                 "2 steps", "torch 2.", "exported by triage-train export joint --name small"):  # fmt: skip
        assert told in run
    assert "--cache cache" in run
    assert "secret" not in (text := repr(card))
    assert str(phantom_cache.folder.parent) not in text
    assert "no shared patient or study" in card.performance.data
    assert card.performance.notes[0].startswith("Test and training phantoms come from one generator")
    assert any("AN ESTIMATE ONLY" in note for note in card.performance.notes)
    assert any("review threshold is not supported" in limit for limit in card.limits)
    assert card.limits[0].startswith("Trained on no patient")
    rows = split_rows(phantom_cache.index, "patient", "1")["calibration"]
    there = phantom_cache.index.labels[rows].max(axis=0).tolist()
    bare = [label for label, shown in zip(LABELS, there, strict=True) if not shown]
    notes = [note for note in card.performance.notes if note.startswith("Not calibrated, for no study of the part")]
    assert [label for label in LABELS if notes and label in notes[0]] == bare


def test_a_label_that_no_study_shows_is_told_as_not_calibrated(runs: dict[str, Path]) -> None:
    trained = open_trained((runs["joint"],))
    result = calibrate(trained, SHOWN)
    points = result.operating_points | {"subdural": replace(result.operating_points["subdural"], n_positive=0)}
    assert any(
        note.startswith("Not calibrated, for no study of the part shows it:") and "subdural" in note
        for note in account.notes(trained, replace(result, operating_points=points))
    )


def test_performance_is_that_of_the_stored_weights_on_the_test_part(
    shared: tuple[Path, Card], runs: dict[str, Path], phantom_cache: Cache
) -> None:
    folder, card = shared
    rows = split_rows(phantom_cache.index, "patient", "1")["test"]
    pack = load_pack(folder)
    scores = score_networks(pack.networks, (phantom_cache, rows, card.preprocessing), torch.device("cpu"))
    said = judged(card, scores, phantom_cache.index)
    assert card.performance.n_slices == len(rows)
    assert card.performance.auroc[ANY].slice == pytest.approx(auroc(*said.of_slices(ANY)), abs=1e-4)
    assert card.performance.auroc[ANY].positive_studies == said.of_studies(ANY)[1].sum()
    exact = judged(card, open_trained([runs["joint"]]).scores(rows), phantom_cache.index)
    lost = auroc(*exact.of_slices(ANY)) - auroc(*said.of_slices(ANY))
    assert card.performance.storage_loss[ANY] == pytest.approx(lost, abs=1e-4)
    assert set(card.performance.storage_loss) == set(LABELS)
    raw = judged(replace(card, calibration=Calibration()), scores, phantom_cache.index)
    errors = card.performance.calibration_error[ANY]
    assert errors.before == pytest.approx(calibration_error(*raw.of_slices(ANY)), abs=1e-4)
    assert errors.after == pytest.approx(calibration_error(*said.of_slices(ANY)), abs=1e-4)


def test_a_pair_becomes_a_pack_with_a_trunk_each(request_of: Request) -> None:
    request = request_of("subtype", "binary")  # in any order
    card = export(request)
    assert card.networks.trunk == "separate"
    pack = load_pack(request.folder)
    assert [len(labels) for labels in pack.networks] == [1, 5]
    assert card.performance.storage_loss == dict.fromkeys(LABELS, 0.0)
    assert "recipe triage-binary" in card.training.run
    assert "recipe triage-subtype" in card.training.run


def test_options_of_an_earlier_calibration_are_kept(request_of: Request, runs: dict[str, Path]) -> None:
    trained = open_trained([runs["binary"], runs["subtype"]])
    result = calibrate(trained, replace(SHOWN, site_prevalence=0.06, aggregation="max"))
    assert read_calibration(runs["subtype"]) == read_calibration(runs["binary"]) == result
    assert result.aggregation == "top3_mean"  # the recipe's
    assert result.n_slices == len(calibration_rows(trained.recipe, trained.cache.index))
    card = export(request_of("binary", "subtype", options=None))
    assert card.calibration == result.calibration  # stored in fp32: the same weights
    assert card.thresholds == result.thresholds
    assert any("to a prevalence of 6.0%" in note for note in card.performance.notes)
    for name in ("binary", "subtype"):
        (runs[name] / CALIBRATION).unlink()


def test_too_few_studies_are_refused_and_leave_nothing(request_of: Request) -> None:
    request = request_of("joint", options=Options())
    with pytest.raises(DataError, match=r"study for|are missing"):
        export(request)
    assert list(request.models.iterdir()) == []


def test_a_version_names_one_pack(request_of: Request) -> None:
    request = request_of("joint")
    export(request)
    with pytest.raises(DataError, match="is there already"):
        export(request)
    assert export(replace(request, replace=True, storage="fp16")).networks.storage == "fp16"
    assert [path.name for path in request.models.iterdir()] == ["small-1"]
    (request.folder / "card.toml").unlink()
    with pytest.raises(DataError, match="no model pack and stays"):
        export(replace(request, replace=True))


@pytest.mark.parametrize(
    ("names", "changes", "problem"),
    [
        (("binary",), {}, "name its subtype run too"),
        (("subtype",), {}, "name one joint run, or a binary and a subtype run"),
        (("joint", "subtype"), {}, "name one joint run, or a binary and a subtype run"),
        (("joint",), {"version": "../1"}, "--version '../1'"),
        (("joint",), {"intended_use": "site-validated"}, "needs studies of the site; this cache holds phantoms"),
    ],
)
def test_what_makes_no_pack_is_refused(
    request_of: Request, names: tuple[str, ...], changes: dict[str, object], problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        export(request_of(*names, **changes))


def test_a_split_that_leaks_is_refused(request_of: Request, phantom_cache: Cache, tmp_path: Path) -> None:
    recipe = small("triage-joint", split="image-random", **QUICK)
    run = fit(recipe, phantom_cache, tmp_path / "leaky", FitOptions())
    with pytest.raises(DataError, match=r"split image-random leaks.* --set split=patient"):
        export(replace(request_of("joint"), runs=(run.folder,)))


def test_runs_that_do_not_belong_together_are_refused(
    request_of: Request, runs: dict[str, Path], tmp_path: Path
) -> None:
    trained = open_trained([runs["binary"], runs["subtype"]])
    other = trained.runs[1]
    for change, problem in (
        ({"recipe": replace(other.recipe, split_salt="2")}, r"differ in split_salt \(1 and 2\)"),
        ({"recipe": replace(other.recipe, architecture="resnet34")}, "differ in architecture"),
        ({"facts": other.facts | {"manifest_sha256": "00"}}, "trained on different caches"),
    ):
        run = replace(other, **change)
        write_run(tmp_path / "other", run.recipe, run.facts)
        with pytest.raises(DataError, match=problem):
            export(replace(request_of("binary"), runs=(runs["binary"], tmp_path / "other")))


def test_no_path_of_the_machine_gets_into_a_card() -> None:
    assert account.without_paths("fit --cache=/a/b/c '/x y/run 1' -n 3") == "fit --cache=c 'run 1' -n 3"
    assert account.without_paths("fit 'odd") == "fit"
