"""RSNA's layout to a model pack that the node loads, by the commands a user types."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from train.rsna_data import QUIRKS, RsnaSpec, RsnaTruth, write_rsna

from triage.cli import main as triage
from triage.nn.pack import read_card, verify_pack
from triage.phantom import PhantomSpec, generate
from triage.phantom.writer import write_series
from triage.records import LABELS
from triage.train.cli import main as triage_train

torch.set_num_threads(1)

Run = Callable[..., tuple[int, str, str]]

PIXELS = ("--set", "preprocessing.resize_px=64", "--set", "preprocessing.crop_px=64")

QUICK = (*PIXELS, "--set", "batch=8", "--set", "draws=32", "--set", "precision=fp32", "--pretrained", "none")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command: exit code, standard output, standard error."""

    def run(main: Callable[[list[str]], None], *arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        code = caught.value.code
        return (code if isinstance(code, int) else 0), out, err

    return run


@pytest.fixture(scope="module")
def rsna(tmp_path_factory: pytest.TempPathFactory) -> RsnaTruth:
    """Every quirk once, in forty studies."""
    spec = RsnaSpec(n_studies=40, n_slices=8, size_px=64, p_bleed=0.85, quirks=QUIRKS)
    return write_rsna(tmp_path_factory.mktemp("rsna"), spec)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def cache(rsna: RsnaTruth, folder: Path) -> Path:
    out = folder / "cache"
    with pytest.raises(SystemExit) as caught:
        triage_train(["prepare", "--images", str(rsna.images), "--labels", str(rsna.labels), "--out", str(out),
                      "--size-px", "64", "--workers", "1"])  # fmt: skip
    assert caught.value.code == 0
    return out


def test_prepare_says_what_it_found(rsna: RsnaTruth, cache: Path, run: Run) -> None:
    again = ("prepare", "--images", rsna.images, "--labels", rsna.labels, "--out", cache, "--size-px", "64")
    code, out, err = run(triage_train, *again)
    assert code == 0
    assert "nothing to do" in err
    manifest = json.loads((cache / "cache.json").read_text())
    assert manifest["n_slices"] == len(rsna.usable)
    assert "not the whole of a known stage" in out
    assert f"{manifest['n_aside']} set aside" in out
    assert manifest["n_aside"] >= 1
    with (cache / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["image"] for row in rows} == set(rsna.usable)
    for row in rows:
        assert tuple(row[label] == "1" for label in LABELS) == rsna.truth[row["image"]]


def test_from_fit_to_a_study_judged_by_the_node(cache: Path, folder: Path, run: Run, tmp_path: Path) -> None:
    """One trunk with six heads; a small ResNet."""
    joint = folder / "joint"
    fit = ("fit", "--recipe", "triage-joint", "--cache", cache, "--out", joint, "--arch", "resnet18", "--epochs", "2")
    code, out, err = run(triage_train, *fit, *QUICK)
    assert (code, "2 epochs, 8 steps" in out) == (0, True), err
    assert "epoch 2: train loss" in err
    code, out, err = run(triage_train, "evaluate", joint, "--split", "test", "--repetitions", "50")
    assert code == 0, err
    assert "split patient: no shared patient or study" in out
    assert out.count("by study ") == out.count("by slice ") == 6
    document = json.loads((joint / "evaluation-test" / "report.json").read_text())
    assert set(document["by_slice"]["labels"]) == set(LABELS)
    assert (joint / "evaluation-test" / "report.html").stat().st_size > 50_000
    export = ("export", joint, "--name", "tiny", "--version", "1", "--models", tmp_path / "models")
    code, _, err = run(triage_train, *export)
    assert code == 2  # a handful of studies bears no bound, and says how many it needs
    assert "positive" in err
    code, out, err = run(triage_train, *export, "--allow-unsupported")
    assert code == 0, err
    pack = tmp_path / "models" / "tiny-1"
    assert verify_pack(pack)[0] == "tiny 1 (demonstration), resnet18, one trunk for all labels"
    card = read_card(pack)
    assert card.networks.trunk == "shared"
    assert "recipe triage-joint" in card.training.run
    assert card.performance.n_studies > 0
    _judged_by_the_node(pack, run, tmp_path)


def test_the_same_commands_with_resnet152_and_two_steps(cache: Path, folder: Path, run: Run, tmp_path: Path) -> None:
    """A binary and a subtype model, as in the source."""
    runs = []
    for kind in ("binary", "subtype"):
        out = folder / f"{kind}-152"
        fit = ("fit", "--recipe", f"triage-{kind}", "--cache", cache, "--out", out, "--arch", "resnet152")
        code, said, err = run(triage_train, *fit, *QUICK, "--max-steps", "2", "--set", "batch=2")
        assert (code, "2 steps" in said) == (0, True), err
        runs.append(out)
    code, said, err = run(triage_train, "evaluate", *runs, "--repetitions", "20")
    assert code == 0, err
    assert said.count("by study ") == 6
    code, _, err = run(triage_train, "export", *runs, "--name", "large", "--version", "1", "--models",
                       tmp_path / "models", "--allow-unsupported")  # fmt: skip
    assert code == 0, err
    pack = tmp_path / "models" / "large-1"
    card = read_card(pack)
    assert (card.networks.architecture, card.networks.trunk) == ("resnet152", "separate")
    assert sum(p.stat().st_size for p in pack.iterdir()) < 130 * 2**20
    _judged_by_the_node(pack, run, tmp_path)


def _judged_by_the_node(pack: Path, run: Run, tmp_path: Path) -> None:
    study = generate(5, PhantomSpec(size_px=96, n_slices=12, spacing_mm=10.0, subtypes=("epidural",)))
    write_series(study, tmp_path / "head")
    config = tmp_path / "node.toml"
    config.write_text(f'[model]\npack = "{pack}"\ndevice = "cpu"\n')
    code, out, err = run(triage, "analyse", tmp_path / "head", "--config", config, "--json")
    assert code == 0, err
    (document,) = json.loads(out)
    assert document["outcome"] in ("positive", "negative"), document["reason"]
    assert document["n_slices"] == 12
    assert document["model"]["name"] == read_card(pack).name
