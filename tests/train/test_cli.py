"""The commands of `triage-train`, in process: what they print and how they exit."""

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from train.rsna_data import RsnaSpec, write_rsna
from train.small import SMALL_PIXELS

from triage.train.cache import Cache
from triage.train.cli import main
from triage.train.recipes import RECIPES
from triage.train.runs import open_run

torch.set_num_threads(1)

Run = Callable[..., tuple[int, str, str]]

QUICK = [part for key, text in SMALL_PIXELS.items() for part in ("--set", f"{key}={text}")] + [
    "--set", "batch=16", "--set", "draws=16", "--epochs", "2",
]  # fmt: skip


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        code = caught.value.code
        return (code if isinstance(code, int) else 0), out, err

    return run


def test_recipes_are_listed_and_shown_with_their_origins(run: Run) -> None:
    code, out, _ = run("recipe", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(RECIPES)
    code, out, _ = run("recipe", "show", "thesis-binary", "--set", "epochs=3")
    assert code == 0
    assert {"stated", "inferred", "assumed"} <= set(out.split())
    assert "epochs was 50" in out
    code, out, _ = run("recipe", "show", "thesis-subtype-run3", "--json")
    fields = {one["field"]: one for one in json.loads(out)["fields"]}
    assert fields["learning_rate"] | {"why": ""} == {
        "field": "learning_rate", "value": "0.01", "origin": "stated", "why": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("recipe", "show", "thesis"), "recipe 'thesis': unknown; use one of thesis-cnn"),
        (("recipe", "show", "demo", "--set", "speed=9"), "--set speed: no such field"),
        (("recipe", "show", "demo", "--set", "batch"), "--set batch: write it as FIELD=VALUE"),
        (("recipe", "show", "demo", "--set", "batch=many"), "--set batch=many: must be"),
        (("fit", "--out", "run"), "name --recipe and --cache, or go on with --resume"),
        (("fit", "--out", "run", "--resume"), "no training run"),
        (("fit", "--out", "run", "--recipe", "demo", "--cache", "none"), "no training cache"),
        (("leakage", "none"), "no training cache"),
        (("evaluate", "none"), "none: no such folder; name a run or a model pack"),
        (("export", "none", "--name", "a", "--version", "1"), "no training run"),
        (("compare", "a", "b", "--data", "c"), "no training cache"),
        (("demo", "--out", "pack", "--work", "w"), "name it <name>-<version>"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("triage-train: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID\nID_000000001_any\n", "Label"),
        ("ID,Label\nID_000000001_any,2\n", "neither 0 nor 1"),
        ("ID,Label\nID_000000001_any,1\n", "ID_000000001"),
    ],
)
def test_wrong_labels_are_one_line_and_exit_code_2(run: Run, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels.csv").write_text(text)
    code, _, err = run("prepare", "--images", "images", "--labels", "labels.csv", "--out", "cache")
    assert code == 2
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "cache" / "cache.json").exists()


def test_a_label_without_positives_cannot_be_trained(run: Run, tmp_path: Path) -> None:
    truth = write_rsna(tmp_path / "rsna", RsnaSpec(n_studies=40, n_slices=2, size_px=32, p_bleed=0.0))
    prepare = ("prepare", "--images", truth.images, "--labels", truth.labels, "--out", "cache", "--size-px", "64")
    code, _, err = run(*prepare, "--workers", "1")
    assert code == 0, err
    code, _, err = run("fit", "--out", "run", "--recipe", "triage-joint", "--cache", "cache", "--pretrained", "none",
                       "--set", "preprocessing.resize_px=64", "--set", "preprocessing.crop_px=64")  # fmt: skip
    assert code == 2
    assert "no positive slice for 'any' in part train" in err


def test_fit_resumes_by_itself_and_the_leak_is_told(run: Run, phantom_cache: Cache) -> None:
    code, _, err = run("fit", "--out", "run", "--recipe", "demo", "--cache", phantom_cache.folder, *QUICK,
                       "--stop-after", "1")  # fmt: skip
    assert code == 0, err
    code, out, err = run("fit", "--out", "run", "--resume")
    assert code == 0, err
    assert "2 epochs, 2 steps" in out
    code, out, _ = run("leakage", phantom_cache.folder, "--split", "image-random", "--choice", "above_middle_5")
    assert code == 0
    assert "split image-random: test shares" in out
    code, out, _ = run("leakage", phantom_cache.folder)
    assert "no shared patient or study" in out
    code, out, _ = run("verify", phantom_cache.folder)
    assert "480 slices of 60 studies, 60 patients" in out


@pytest.mark.parametrize(
    ("knows", "asked", "trained_in"), [(False, "", "fp32"), (False, "precision=bf16", "bf16"), (True, "", "bf16")]
)
def test_what_a_processor_does_not_know_is_not_imitated(
    run: Run, phantom_cache: Cache, monkeypatch: pytest.MonkeyPatch, knows: bool, asked: str, trained_in: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": knows})
    more = ("--set", asked) if asked else ()
    fit = ("fit", "--out", "run", "--device", "cpu", "--recipe", "demo", "--cache", phantom_cache.folder, *QUICK)
    code, _, err = run(*fit, "--set", "batch=4", "--max-steps", "1", *more)
    assert code == 0, err
    assert ("training in fp32 (--set precision=bf16 insists)" in err) == (trained_in == "fp32")
    recipe = open_run(Path("run")).recipe
    assert (recipe.precision, recipe.overrides.get("precision")) == (trained_in, "bf16" if asked or not knows else None)


def test_ctrl_c_is_told_in_one_line(run: Run, phantom_cache: Cache) -> None:
    before = signal.getsignal(signal.SIGINT)
    timer = threading.Timer(3.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    code, _, err = run("fit", "--out", "run", "--recipe", "demo", "--cache", phantom_cache.folder, *QUICK,
                       "--set", "draws=16000")  # fmt: skip
    timer.join()
    assert code == 130
    assert err.splitlines()[-1].startswith("triage-train: interrupted; prepare, phantoms, demo and fit --resume go on")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_pack_is_exported_as_its_run_was_calibrated(run: Run, phantom_cache: Cache, tmp_path: Path) -> None:
    code, _, err = run("fit", "--out", "run", "--recipe", "demo", "--cache", phantom_cache.folder, *QUICK)
    assert code == 0, err
    code, _, err = run("calibrate", "run", "--target-sensitivity", "0.7", "--site-prevalence", "0.1",
                       "--allow-unsupported")  # fmt: skip
    assert code == 0, err
    code, _, err = run("export", "run", "--name", "a", "--version", "1", "--storage", "fp32")
    assert code == 0, err
    card = (tmp_path / "models" / "a-1" / "card.toml").read_text()
    assert "to a prevalence of 10.0%" in card
    assert "cannot show a sensitivity of 0.7" in card or "asked for was 0.7" in card
    code, _, err = run("export", "run", "--name", "b", "--version", "1", "--storage", "fp32", "--site-prevalence", "0")
    assert code == 0, err
    assert "to a prevalence of" not in (tmp_path / "models" / "b-1" / "card.toml").read_text()


def test_a_demonstration_pack_from_one_command(run: Run, tmp_path: Path) -> None:
    small = [part for key, text in {"draws": "32", "epochs": "1", "batch": "16", "preprocessing.resize_px": "48",
                                    "preprocessing.crop_px": "48"}.items()
             for part in ("--set", f"{key}={text}")]  # fmt: skip
    command = ("demo", "--out", "models/smoke-0.0", "--work", "work", "--studies", "40", "--shifted", "2",
               "--workers", "1", "--rounds", "2", *small)  # fmt: skip
    code, out, err = run(*command)
    assert code == 0, err
    assert "smoke 0.0 (demonstration), resnet18" in out
    card = (tmp_path / "models" / "smoke-0.0" / "card.toml").read_text()
    assert "Synthetic heads only" in card
    assert "started from init run" in card
    assert card.count("steps of 16 slices") == 2
    assert "learning_rate 0.001 (was 0.002)" in card
    assert "profile shifted, seeds 3000001 to 3000002" in card
    assert (tmp_path / "work" / "report" / "report.html").exists()
    code, out, err = run(*command)  # nothing is made or trained again
    assert code == 0, err
    assert "training" not in err
