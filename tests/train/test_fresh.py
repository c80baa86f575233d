"""Phantoms made while a run trains: the same whatever was interrupted, never twice, and never waited for in vain."""

import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from train.small import SMALL, small

from triage import phantom
from triage.errors import DataError, TrainingError
from triage.phantom import PhantomSpec, PhantomStudy
from triage.train.cache import Cache
from triage.train.fresh import Fresh, Order, asked_rows, order_of
from triage.train.loop import FitOptions, fit
from triage.train.recipes import Recipe
from triage.train.runs import CHECKPOINT, epochs_of, open_run

SPEC = PhantomSpec(size_px=32, n_slices=2, p_bleed=1.0)


def recipe_of(**changes: str) -> Recipe:
    """Quick to train and to save."""
    quick = {"fresh": "3", "draws": "6", "batch": "6", "epochs": "3", "optimiser": "sgd", "momentum": "0"}
    return small("phantom-joint", **(quick | changes))


def fresh(recipe: Recipe, folder: Path, background: bool = False, spec: PhantomSpec = SPEC) -> Fresh:
    return Fresh(order_of(recipe, folder / "fresh", spec), 1, background)


def test_three_epochs_straight_and_one_and_two_in_the_background_give_identical_weights(
    phantom_cache: Cache, tmp_path: Path
) -> None:
    recipe = recipe_of()
    with fresh(recipe, tmp_path / "a") as made:
        straight = fit(recipe, phantom_cache, tmp_path / "straight", FitOptions(fresh=made))
    with fresh(recipe, tmp_path / "b") as made:
        fit(recipe, phantom_cache, tmp_path / "parts", FitOptions(fresh=made, stop_after=1))
    with fresh(recipe, tmp_path / "c", background=True) as made:
        parts = fit(recipe, phantom_cache, tmp_path / "parts", FitOptions(fresh=made, resume=True))
        assert not (made.order.folder / "epoch-00002").exists()  # used and deleted
    assert not (tmp_path / "c" / "fresh").exists()
    one, other = (torch.load(run.folder / CHECKPOINT, weights_only=True)["learner"] for run in (straight, parts))
    assert one["step"] == other["step"] == 3
    assert all(torch.equal(one["model"][key], other["model"][key]) for key in one["model"])
    assert [line["train_loss"] for line in epochs_of(straight)] == [line["train_loss"] for line in epochs_of(parts)]
    assert "3 phantoms an epoch" in straight.facts["fresh_source"]


def test_no_phantom_is_made_twice_nor_is_in_a_cache(tmp_path: Path) -> None:
    def seeds(order: Order, epochs: int) -> set[int]:
        return {seed for epoch in range(epochs) for seed in order.data(epoch).seeds}

    one, other = (order_of(recipe_of(seed=seed), tmp_path) for seed in ("0", "1"))
    assert len(seeds(one, 50)) == 150
    assert not seeds(one, 50) & seeds(other, 50)
    assert min(seeds(one, 50)) > 10 * 10**8 > max(SMALL.seeds)


def test_the_subtypes_are_trained_on_slices_that_bleed(tmp_path: Path) -> None:
    recipe = recipe_of(kind="subtype")
    with fresh(recipe, tmp_path) as made:
        cache = made.chunk(5)
    rows = asked_rows(recipe, cache.index)
    assert 0 < len(rows) < len(cache) or cache.index.labels[:, 0].all()
    assert cache.index.labels[rows, 0].all()
    assert len(asked_rows(recipe_of(), cache.index)) == len(cache)


def test_a_seed_that_fails_is_told_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with fresh(recipe_of(), tmp_path / "whole") as made:
        seeds, whole = made.order.data(0).seeds, made.chunk(0)

    def generate(seed: int, spec: PhantomSpec) -> PhantomStudy:
        if seed == seeds[1]:
            raise ZeroDivisionError("no room")
        return phantom.generate(seed, spec)

    monkeypatch.setattr("triage.train.phantoms.generate", generate)
    with fresh(recipe_of(), tmp_path / "cut") as made:
        cut = made.chunk(0)
    assert (whole.manifest.n_studies, cut.manifest.n_studies) == (3, 2)
    assert f"phantom of seed {seeds[1]} left out: ZeroDivisionError: no room" in capsys.readouterr().err


def test_processes_that_died_are_told_and_not_waited_for(tmp_path: Path) -> None:
    with fresh(recipe_of(fresh="1000000"), tmp_path, background=True) as made:
        made.start(0)
        for process in multiprocessing.active_children():
            process.kill()
        with pytest.raises(TrainingError, match=r"make phantoms ended \(code -9.* --resume"):
            made.chunk(0)


def test_ctrl_c_while_waiting_goes_through(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with fresh(recipe_of(), tmp_path) as made, pytest.raises(KeyboardInterrupt):
        made.chunk(0, interrupt)


def test_a_run_goes_on_with_its_own_phantoms_only(phantom_cache: Cache, tmp_path: Path) -> None:
    recipe = recipe_of(epochs="2")
    with pytest.raises(DataError, match="fresh is 3; phantoms must be made"):
        fit(recipe, phantom_cache, tmp_path / "run", FitOptions())
    with fresh(recipe, tmp_path) as made:
        fit(recipe, phantom_cache, tmp_path / "run", FitOptions(fresh=made, stop_after=1))
    assert open_run(tmp_path / "run").facts["finished"] is False
    with (
        fresh(recipe, tmp_path, spec=PhantomSpec(size_px=32, n_slices=3)) as others,
        pytest.raises(DataError, match="begun on other fresh phantoms"),
    ):
        fit(recipe, phantom_cache, tmp_path / "run", FitOptions(fresh=others, resume=True))


def test_a_run_whose_time_is_over_is_saved_to_go_on(phantom_cache: Cache, tmp_path: Path) -> None:
    recipe = small("demo", epochs="1", draws="16", batch="8")
    late = fit(recipe, phantom_cache, tmp_path / "run", FitOptions(until=0.0))
    assert (late.facts["steps"], late.facts["finished"]) == (0, False)
    assert fit(recipe, phantom_cache, tmp_path / "run", FitOptions(resume=True)).facts["finished"] is True


def test_phantoms_are_waited_for_no_longer_than_there_is_time(
    phantom_cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock jumps past the end while the first phantoms are waited for; they are too many ever to be there."""
    recipe = recipe_of(fresh="100000", epochs="1")
    clock = iter([0.0])
    monkeypatch.setattr("triage.train.loop.time", SimpleNamespace(monotonic=lambda: next(clock, 2.0)))
    with fresh(recipe, tmp_path, background=True) as made:
        run = fit(recipe, phantom_cache, tmp_path / "run", FitOptions(fresh=made, until=1.0))
    assert (run.facts["steps"], run.facts["finished"]) == (0, False)
