"""The command for a lent machine: what fits into the time, and the way home in parts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from triage.errors import DataError
from triage.nn.architectures import build
from triage.train.cache import open_cache
from triage.train.lent import Pace, main, planned
from triage.train.parcel import PARCEL, Base, assemble, write_parcel
from triage.train.phantoms import write_phantoms
from triage.train.recipes import overridden, recipe_named
from triage.train.runs import BEST, Run, load_network, open_run, open_run_cache, read_weights, write_run, write_weights

BASE = Base(7, 1, 32)

RECIPE = overridden(recipe_named("phantom-joint"), {
    "architecture": "resnet18", "preprocessing.resize_px": "32", "preprocessing.crop_px": "32", "fresh": "2",
    "split": "image-random",
})  # fmt: skip


def test_what_is_planned_ends_in_time_and_keeps_both_busy() -> None:
    recipe = recipe_named("phantom-joint")
    changes = planned(recipe, 30_000, Pace(2000.0, 800.0), 480.0)
    draws, epochs = int(changes["draws"]), int(changes["epochs"])
    assert draws % recipe.batch == 0
    assert draws == pytest.approx(75_000, abs=recipe.batch)  # as long as 30,000 phantoms take
    assert epochs * (draws / 2000.0) < 480.0
    assert epochs >= 9
    slow = planned(recipe, 30_000, Pace(100.0, 800.0), 60.0)
    assert int(slow["draws"]) == pytest.approx(30_000, abs=recipe.batch)
    assert slow["epochs"] == "1"
    assert planned(overridden(recipe, {"epochs": "3", "draws": "128"}), 30_000, Pace(1.0, 1.0), 60.0) == {}


def made_run(folder: Path) -> Run:
    cache = write_phantoms(folder / "cache", BASE.data(RECIPE), 1)
    torch.manual_seed(1)
    network = build("resnet18", 6)
    write_run(folder / "run", RECIPE, {"cache": str(cache.folder), "manifest_sha256": "of another processor",
                                       "epochs": 3, "steps": 9, "best_epoch": 3, "finished": True})  # fmt: skip
    write_weights(folder / "run" / BEST, network.state_dict(), 3)
    return open_run(folder / "run")


def test_a_run_comes_home_in_parts(tmp_path: Path) -> None:
    there = made_run(tmp_path / "there")
    (line,) = write_parcel(there, BASE, tmp_path / "one", (1, 1))
    assert "parts [1] of 2" in line
    home = (tmp_path / "home", tmp_path / "there" / "cache")
    with pytest.raises(DataError, match=r"weights-02\.safetensors is missing; fetch it with --parts 2-2"):
        assemble([tmp_path / "one"], home)
    write_parcel(there, BASE, tmp_path / "two", (2, 2))
    assert max(path.stat().st_size for path in tmp_path.glob("*/weights-*")) < 16 * 2**20
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


def test_more_phantoms_at_home_begin_with_those_of_the_lent_machine(tmp_path: Path) -> None:
    there = made_run(tmp_path / "there")
    write_parcel(there, BASE, tmp_path / "out")
    run = assemble([tmp_path / "out"], (tmp_path / "run", tmp_path / "cache"), studies=2, workers=1)
    cache, before = open_run_cache(run), open_cache(there.cache_folder)
    assert (cache.manifest.n_studies, before.manifest.n_studies) == (2, 1)
    assert cache.index.image[: len(before)].tolist() == before.index.image.tolist()
    assert run.facts["split"]["train"]["studies"] == 2


def test_what_was_damaged_or_is_of_other_phantoms_is_refused(tmp_path: Path) -> None:
    there = made_run(tmp_path / "there")
    out, home = tmp_path / "out", (tmp_path / "home", tmp_path / "there" / "cache")
    write_parcel(there, BASE, out)
    with pytest.raises(DataError, match=r"parcel\.json is missing"):
        assemble([tmp_path / "there" / "run"], home)
    whole = (out / PARCEL).read_text()
    (out / PARCEL).write_text(json.dumps(json.loads(whole) | {"inputs": "other", "phantom": "1"}))
    with pytest.raises(DataError, match="phantoms of version 1, this is version"):
        assemble([out], home)
    (out / PARCEL).write_text(whole)
    part = np.fromfile(out / "weights-02.safetensors", np.uint8)
    part[-1] ^= 1
    part.tofile(out / "weights-02.safetensors")
    with pytest.raises(DataError, match=r"weights-02\.safetensors: damaged on its way"):
        assemble([out], home)


def test_a_finished_run_is_only_written_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_run(tmp_path)
    code = main(["--work", str(tmp_path), "--out", str(tmp_path / "out"), "--parts", "2", "--studies", "1",
                 "--image-px", "32"])  # fmt: skip
    assert code == 0
    assert "parts [2] of 2" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "parcel.json", "recipe.json", "run.json", "weights-02.safetensors"
    ]  # fmt: skip
    assert main(["--work", str(tmp_path), "--out", str(tmp_path / "out"), "--parts", "all"]) == 1
    assert "--parts all: write it as I-J" in capsys.readouterr().err
