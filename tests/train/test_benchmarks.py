"""The benchmarks of training run; their figures are for a quiet machine, not for a test."""

import importlib
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Lines of `train_speed.py --quick`, the part for a GPU tried on the CPU."""
    importlib.import_module("train_speed").main(["--quick", "--rounds", "1", "--threads", "1", "--device", "cpu"])
    return capsys.readouterr().out.splitlines()


def test_every_part_of_training_is_timed(said: list[str]) -> None:
    first_words = [line.split()[0] for line in said[3:]]
    assert first_words.count("prepare,") == 3
    assert first_words.count("cached") == 1
    assert first_words.count("and") == 3
    assert first_words.count("train") == 4 + 6
    assert first_words.count("infer") == 4
    assert not [line for line in said if "not to be had" in line]


def test_without_a_cuda_device_one_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    importlib.import_module("train_speed").main(["--quick", "--parts", "gpu"])
    assert capsys.readouterr().out.splitlines()[-1] == "gpu: left out, there is no CUDA device"


def test_a_leak_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module("leak").main(["--quick", "--workers", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("split image-random: test shares ")
    assert lines[5].startswith("split patient: no shared patient or study")
    assert lines[-1].startswith("gap between the test parts: ")
