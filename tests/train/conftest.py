"""What tests of training share: a small cache of phantoms."""

import pytest
import torch
from train.small import SMALL

from triage.train.cache import Cache
from triage.train.phantoms import write_phantoms

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def phantom_cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_phantoms(tmp_path_factory.mktemp("phantoms") / "cache", SMALL, workers=1)
