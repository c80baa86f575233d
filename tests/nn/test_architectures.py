import subprocess
import sys

import pytest
import torch

from triage.nn.architectures import ARCHITECTURES, build


@pytest.mark.parametrize("heads", [1, 5])
def test_heads_are_parallel_and_single(heads: int) -> None:
    network = build("resnet18", heads).eval()
    weights = [tensor.shape for name, tensor in network.heads.named_parameters() if name.endswith("weight")]
    assert weights == [(1, 512)] * heads
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, heads)


@pytest.mark.parametrize(("architecture", "parameters"), [("resnet18", 11_177_025), ("resnet152", 58_145_857)])
def test_sizes_with_one_head_are_the_published_ones(architecture: str, parameters: int) -> None:
    with torch.device("meta"):
        network = build(architecture, 1)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_every_name_builds() -> None:
    for name in ARCHITECTURES:
        with torch.device("meta"):
            assert len(build(name, 5).heads) == 5


@pytest.mark.parametrize(("architecture", "heads"), [("vgg16", 1), ("resnet18", 0)])
def test_anything_else_is_refused(architecture: str, heads: int) -> None:
    with pytest.raises(ValueError, match=r"vgg16|at least one"):
        build(architecture, heads)


def test_judging_needs_no_dicom_database_or_network_library() -> None:
    """`nn` is importable alone; torchvision is fetched only when a network is built."""
    code = (
        "import sys, triage.nn.predict, triage.nn.pack\n"
        "heavy = {'pydicom', 'pynetdicom', 'highdicom', 'sqlalchemy', 'pydantic', 'torchvision'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
