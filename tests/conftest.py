"""What tests of whole stages share: tiny real networks, small synthetic heads as DICOM files, shared real data."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores; before torch reads it
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from bench import COMPLETION, PACS, Bench

from triage.config import BUNDLED_PACK, Config
from triage.dicom.equipment import NodeIdentity
from triage.dicom.pixels import Decoder
from triage.nn.architectures import build
from triage.nn.card import Card, Networks, Thresholds
from triage.nn.pack import load_pack, write_pack
from triage.nn.preprocess import Preprocessing
from triage.phantom import PhantomSpec, generate
from triage.phantom.writer import WriterOptions, write_series
from triage.pipeline import Tools
from triage.reception import Receiver
from triage.records import SUBTYPES
from triage.store.db import open_database
from triage.store.files import Store
from triage.worker import Worker

SHARED = Path(__file__).parents[2] / "shared" / "data"
"""Real DICOM files that are not part of the project."""

SENSITIVE, BLIND = 0.0001, 0.9999
"""Review thresholds that random networks exceed always, and never."""

PhantomMaker = Callable[..., list[Path]]


def write_tiny_pack(folder: Path, review: float) -> Path:
    """A pack of small random networks: real in every respect but its judgement."""
    torch.manual_seed(5)
    card = Card(
        name="tiny",
        version="1",
        intended_use="demonstration",
        networks=Networks("resnet18", storage="int8"),
        thresholds=Thresholds(max(review, 0.5), review, dict.fromkeys(SUBTYPES, min(review, 0.5))),
        preprocessing=Preprocessing(resize_px=64, crop_px=64, fov_mm=220.0),
    )
    states = [build("resnet18", heads).state_dict() for heads in (1, 5)]
    write_pack(folder / "tiny-1", card, *states)
    return folder / "tiny-1"


@pytest.fixture(scope="session")
def sensitive_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finds every study positive."""
    return write_tiny_pack(tmp_path_factory.mktemp("sensitive"), SENSITIVE)


@pytest.fixture(scope="session")
def blind_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finds every study negative."""
    return write_tiny_pack(tmp_path_factory.mktemp("blind"), BLIND)


@pytest.fixture(scope="session")
def demo_pack() -> Path:
    """The pack that comes with the project."""
    return Path(__file__).parents[1] / BUNDLED_PACK


@pytest.fixture
def phantom_files(tmp_path: Path) -> PhantomMaker:
    """Write a small synthetic head; the same seed gives the same study."""

    def make(seed: int = 1, n_slices: int = 24, *quirks: str) -> list[Path]:
        study = generate(seed, PhantomSpec(n_slices=n_slices, size_px=96, subtypes=(), fov_mm=230.0))
        return write_series(study, tmp_path / f"phantom-{seed}-{n_slices}-{'-'.join(quirks)}", WriterOptions(quirks))

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real DICOM files."""
    if not SHARED.is_dir():
        pytest.skip("the shared folder with real DICOM files is not beside the project")
    return SHARED


@pytest.fixture
def bench(tmp_path: Path, sensitive_pack: Path) -> Iterator[Bench]:
    store = Store(tmp_path / "data")
    store.prepare()
    with Decoder(20.0) as decoder, open_database(f"sqlite:///{tmp_path}/data/triage.db", tmp_path / "data") as db:
        tools = Tools(load_pack(sensitive_pack), decoder, clock=lambda: node.now)
        worker = Worker(Config(destinations=(PACS,), completion=COMPLETION), db, store, tools, NodeIdentity())
        node = Bench(db, store, worker, Receiver(db, store, 0, clock=lambda: node.now))
        yield node
