"""The command for a lent machine: what fits into the time, and the way home in parts."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from triage.errors import DataError, TrainingError
from triage.nn.architectures import build
from triage.nn.card import Storage
from triage.nn.stored import stored
from triage.train.cache import open_cache
from triage.train.fresh import Fresh
from triage.train.lent import END_S, UNFINISHED, Pace, main, planned
from triage.train.parcel import PARCEL, Base, assemble, in_parts, write_parcel
from triage.train.phantoms import write_phantoms
from triage.train.recipes import overridden, recipe_named
from triage.train.runs import BEST, Run, load_network, open_run, open_run_cache, read_weights, write_run, write_weights

BASE = Base(7, 1, 32)

SIZES = {
    "architecture": "resnet18", "preprocessing.resize_px": "32", "preprocessing.crop_px": "32", "fresh": "2",
    "split": "image-random", "precision": "fp32",
}  # fmt: skip
RECIPE = overridden(recipe_named("phantom-joint"), SIZES)


def test_what_is_planned_fills_the_time_and_keeps_both_busy() -> None:
    recipe, slices = recipe_named("phantom-joint"), 30_000
    for pace, seconds in ((Pace(2000.0, 800.0), 480.0), (Pace(1200.0, 600.0), 420.0), (Pace(100.0, 800.0), 60.0)):
        changes = planned(recipe, slices, pace, seconds)
        draws, epochs = int(changes["draws"]), int(changes["epochs"])
        assert draws % recipe.batch == 0
        assert draws <= 4 * slices
        took = epochs * max(draws / pace.images_s + END_S, slices / pace.slices_s if epochs > 1 else 0.0)
        assert 0.88 * seconds < took < 0.96 * seconds, pace
    assert planned(overridden(recipe, {"epochs": "3", "draws": "128"}), slices, Pace(1.0, 1.0), 60.0) == {}


def made_run(folder: Path) -> Run:
    cache = write_phantoms(folder / "cache", BASE.data(RECIPE), 1)
    torch.manual_seed(1)
    network = build("resnet18", 6, places=True)
    write_run(folder / "run", RECIPE, {"cache": str(cache.folder), "manifest_sha256": "of another processor",
                                       "epochs": 3, "steps": 9, "best_epoch": 3, "finished": True})  # fmt: skip
    write_weights(folder / "run" / BEST, network.state_dict(), 3)
    return open_run(folder / "run")


def test_a_run_comes_home_in_parts(tmp_path: Path) -> None:
    there = made_run(tmp_path / "there")
    (line,) = write_parcel(there, BASE, tmp_path / "one", "fp16", (1, 1))
    assert "fp16 parts [1] of 2" in line
    home = (tmp_path / "home", tmp_path / "there" / "cache")
    with pytest.raises(DataError, match=r"fp16-02\.safetensors is missing; fetch it with --parts 2-2"):
        assemble([tmp_path / "one"], home)
    write_parcel(there, BASE, tmp_path / "two", "fp16", (2, 2))
    run = assemble([tmp_path / "two", tmp_path / "one"], home)
    assert run.manifest_sha256 != there.manifest_sha256
    assert run.facts["trained_on"]["manifest_sha256"] == "of another processor"
    before, after = read_weights(there.folder / BEST), load_network(run).state_dict()
    assert set(before) == set(after)
    for key, value in before.items():
        wanted = value.half().float() if value.dim() > 1 else value
        assert torch.equal(wanted, after[key]), key
    with pytest.raises(DataError, match="holds a run already"):
        assemble([tmp_path / "one"], home)


def test_int8_that_comes_home_is_the_int8_of_a_pack(tmp_path: Path) -> None:
    there = made_run(tmp_path / "there")
    write_parcel(there, BASE, tmp_path / "out", "int8")
    run = assemble([tmp_path / "out"], (tmp_path / "home", tmp_path / "there" / "cache"))
    of_pack = stored(read_weights(there.folder / BEST), "int8")
    for key, value in stored(load_network(run).state_dict(), "int8").items():
        assert torch.allclose(value, of_pack[key], rtol=1e-6, atol=0.0), key
    assert run.facts["brought_home_as"] == "int8"


@pytest.mark.parametrize(("storage", "calls"), [("int8", 1), ("fp16", 2)])
def test_a_resnet152_fits_what_calls_let_through(tmp_path: Path, storage: Storage, calls: int) -> None:
    """Eight files of 16 MiB come back from a call, 64 MiB together; one is parcel.json, and one may be a log."""
    with torch.device("meta"):
        whole = build("resnet152", 6, places=True).state_dict()
        sizes = {key: torch.empty_like(value, device="meta") for key, value in whole.items()}
    groups = in_parts({key: value.half() if storage == "fp16" else value.char() for key, value in sizes.items()})
    assert len(groups) <= 4 * calls
    assert sorted(key for group in groups for key in group) == sorted(sizes)


def test_more_phantoms_at_home_begin_with_those_of_the_lent_machine(tmp_path: Path) -> None:
    there = made_run(tmp_path / "there")
    write_parcel(there, BASE, tmp_path / "out", "int8")
    run = assemble([tmp_path / "out"], (tmp_path / "run", tmp_path / "cache"), studies=2, workers=1)
    cache, before = open_run_cache(run), open_cache(there.cache_folder)
    assert (cache.manifest.n_studies, before.manifest.n_studies) == (2, 1)
    assert cache.index.image[: len(before)].tolist() == before.index.image.tolist()
    assert run.facts["split"]["train"]["studies"] == 2


def test_what_was_damaged_or_is_of_other_phantoms_is_refused(tmp_path: Path) -> None:
    there = made_run(tmp_path / "there")
    out, home = tmp_path / "out", (tmp_path / "home", tmp_path / "there" / "cache")
    write_parcel(there, BASE, out, "fp16")
    with pytest.raises(DataError, match=r"parcel\.json is missing"):
        assemble([tmp_path / "there" / "run"], home)
    whole = (out / PARCEL).read_text()
    (out / PARCEL).write_text(json.dumps(json.loads(whole) | {"inputs": "other", "phantom": "1"}))
    with pytest.raises(DataError, match="phantoms of version 1, this is version"):
        assemble([out], home)
    (out / PARCEL).write_text(whole)
    part = np.fromfile(out / "fp16-02.safetensors", np.uint8)
    part[-1] ^= 1
    part.tofile(out / "fp16-02.safetensors")
    with pytest.raises(DataError, match=r"fp16-02\.safetensors: damaged on its way"):
        assemble([out], home)


def command(work: Path, *more: str) -> list[str]:
    return ["--work", str(work), "--out", str(work / "out"), "--studies", "1", "--image-px", "32", *more]


def test_a_finished_run_is_only_written_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_run(tmp_path)
    assert main(command(tmp_path, "--parts", "2", "--storage", "fp16")) == 0
    assert "fp16 parts [2] of 2" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["fp16-02.safetensors", "parcel.json"]
    assert main(command(tmp_path, "--parts", "all")) == 1
    assert "--parts all: write it as I-J" in capsys.readouterr().err


def test_without_time_a_run_is_written_out_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run(tmp_path)
    write_run(run.folder, RECIPE, run.facts | {"finished": False})
    assert main(command(tmp_path, "--minutes", "0")) == UNFINISHED
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["int8-01.safetensors", "parcel.json"]
    assert main(command(tmp_path / "none", "--minutes", "0")) == 1
    assert "no run that could be written out; give it more --minutes" in capsys.readouterr().err


def test_every_epoch_leaves_what_must_come_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine may be taken away in the middle of an epoch."""

    def fail(*_: object) -> None:
        raise TrainingError("taken away")

    monkeypatch.setattr(Fresh, "used", fail)  # after the first epoch
    monkeypatch.setattr("triage.train.lent.Fresh", partial(Fresh, background=False))
    sizes = [f"--set={key}={value}" for key, value in SIZES.items()]
    epochs = [
        "--set=epochs=2",
        "--set=optimiser=sgd",
        "--set=draws=8",
        "--set=batch=4",
        "--workers=1",
        "--trial-steps=1",
        "--studies=30",
    ]
    assert main(command(tmp_path, *sizes, *epochs)) == 1
    run = assemble([tmp_path / "out"], (tmp_path / "home", tmp_path / "cache"))
    assert (run.facts["epochs"], run.facts["finished"]) == (1, False)
