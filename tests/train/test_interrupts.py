"""Runs that are cut short anywhere and go on as if nothing had been; real signals, a real small network."""

import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from train.small import small

from triage.errors import TrainingError
from triage.train.cache import Cache
from triage.train.calibrate import CALIBRATION
from triage.train.interrupts import Interrupts
from triage.train.loop import Event, FitOptions, fit
from triage.train.runs import BEST, CHECKPOINT, open_run, read_weights

torch.set_num_threads(1)

LONG = small("demo", epochs="1", draws="60", batch="2", precision="fp32", augmentation="crop_flip")
"""Thirty steps."""


def state(folder: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(folder / CHECKPOINT, weights_only=True)["learner"]["model"])


def assert_same(one: Path, other: Path) -> None:
    for a, b in ((state(one), state(other)), (read_weights(one / BEST), read_weights(other / BEST))):
        assert set(a) == set(b)
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert open_run(other).facts["finished"] is True


@pytest.fixture(scope="module")
def straight(phantom_cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(LONG, phantom_cache, tmp_path_factory.mktemp("straight") / "run", FitOptions()).folder


def test_ctrl_c_within_a_step_loses_nothing(phantom_cache: Cache, tmp_path: Path, straight: Path) -> None:
    """The signal comes from another thread, in the middle of whatever the network is doing."""

    def interrupt(event: Event) -> None:
        if event.step == 20:
            threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        fit(LONG, phantom_cache, tmp_path / "run", FitOptions(on_event=interrupt))
    assert 20 < torch.load(tmp_path / "run" / CHECKPOINT, weights_only=True)["learner"]["step"] < 30
    fit(LONG, phantom_cache, tmp_path / "run", FitOptions(resume=True))
    assert_same(straight, tmp_path / "run")


@pytest.mark.parametrize("step", [20, 30])
def test_a_kill_before_the_first_checkpoint_or_after_the_last_step(
    phantom_cache: Cache, tmp_path: Path, straight: Path, step: int
) -> None:
    """A RuntimeError goes through without saving, as a kill does; Ctrl-C at the last step is before its epoch's end."""

    def stop(event: Event) -> None:
        if event.step == step and event.epoch_line is None:
            if step == 20:
                raise RuntimeError("killed")
            signal.raise_signal(signal.SIGINT)

    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        fit(LONG, phantom_cache, tmp_path / "run", FitOptions(on_event=stop))
    assert open_run(tmp_path / "run").facts["finished"] is False
    fit(LONG, phantom_cache, tmp_path / "run", FitOptions(resume=True))
    assert_same(straight, tmp_path / "run")


def test_a_finished_run_that_is_resumed_stays_as_it_is(phantom_cache: Cache, tmp_path: Path, straight: Path) -> None:
    before = open_run(straight).facts
    after = fit(LONG, phantom_cache, straight, FitOptions(resume=True, command="again")).facts
    assert {key: after[key] for key in ("finished", "best_epoch", "command", "steps")} == {
        "finished": True, "best_epoch": 1, "command": before["command"], "steps": 30,
    }  # fmt: skip


def test_the_second_ctrl_c_is_not_waited_for() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert interrupts.noted
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.stop()
    assert signal.getsignal(signal.SIGINT) is before


def test_other_weights_are_not_left_with_the_calibration_of_the_former(phantom_cache: Cache, tmp_path: Path) -> None:
    recipe = small("demo", epochs="2", draws="16")
    fit(recipe, phantom_cache, tmp_path / "run", FitOptions(stop_after=1))
    (tmp_path / "run" / CALIBRATION).write_text("{}")
    fit(recipe, phantom_cache, tmp_path / "run", FitOptions(resume=True))
    assert not (tmp_path / "run" / CALIBRATION).exists()


def test_a_full_disk_is_told_and_what_was_there_stays(phantom_cache: Cache, tmp_path: Path) -> None:
    """The limit of a file's size stands for the disk."""
    folder = tmp_path / "run"
    recipe = small("demo", epochs="2", draws="16")
    fit(recipe, phantom_cache, folder, FitOptions(stop_after=1))
    before = (folder / CHECKPOINT).read_bytes()
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(TrainingError, match=r"the disk said: .*; make room and go on with --resume"):
            fit(recipe, phantom_cache, folder, FitOptions(resume=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (folder / CHECKPOINT).read_bytes() == before
    assert not list(folder.glob("*.part"))
