from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from triage.nn.architectures import build
from triage.nn.card import Card, Networks, Thresholds
from triage.nn.pack import write_pack
from triage.nn.preprocess import Preprocessing
from triage.records import SUBTYPES, Slice, Volume

torch.set_num_threads(1)

SMALL = Preprocessing(resize_px=64, crop_px=64, fov_mm=220.0)


def make_card(**changes: object) -> Card:
    values: dict[str, object] = {
        "name": "tiny", "version": "1.2", "intended_use": "demonstration",
        "networks": Networks("resnet18", storage="int8"),
        "thresholds": Thresholds(0.8, 0.4, dict.fromkeys(SUBTYPES, 0.5)),
        "preprocessing": SMALL,
    }  # fmt: skip
    return Card(**(values | changes))  # type: ignore[arg-type]  # the types are those of Card, checked by use


@pytest.fixture
def card() -> Card:
    return make_card()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a pack of small random networks whose card has the given fields."""

    def write(**changes: object) -> Path:
        card = make_card(**changes)
        torch.manual_seed(1)
        sizes = [len(labels) for labels in card.networks.heads.values()]
        networks = card.networks
        states = [build(networks.architecture, heads, networks.places).state_dict() for heads in sizes]
        folder = tmp_path / f"{card.name}-{card.version}"
        write_pack(folder, card, *states)
        return folder

    return write


def make_volume(n: int = 6, spacing_mm: float = 5.0, seed: int = 0) -> Volume:
    """A ball of brain in a shell of bone with noise, 96 x 96 pixels of 2.2 mm."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :96] - 47.5
    radius = np.hypot(y, x)
    image = np.where(radius < 32, 32.0, np.where(radius < 36, 1000.0, -1000.0))
    hu = image + rng.normal(0, 5, (n, 96, 96))
    return Volume(
        hu=hu.astype(np.float32),
        slices=tuple(Slice(f"1.2.3.{i}") for i in range(n)),
        positions_mm=tuple(spacing_mm * i for i in range(n)),
        spacing_mm=(2.2, 2.2),
        thickness_mm=spacing_mm,
    )


@pytest.fixture(name="make_volume")
def make_volume_fixture() -> Callable[..., Volume]:
    return make_volume


@pytest.fixture
def volume() -> Volume:
    return make_volume()
