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


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_maps_are_what_makes_the_logits(architecture: str) -> None:
    torch.manual_seed(4)
    network = build(architecture, 5).eval()
    images = torch.randn(3, 3, 96, 64)
    with torch.inference_mode():
        maps, logits = network.activation_maps(images), network(images)
        biases = torch.cat([head.get_parameter("bias") for head in network.heads])
    assert maps.shape == (3, 5, 3, 2)
    assert maps.std() > 0
    torch.testing.assert_close(maps.mean(dim=(2, 3)) + biases, logits, rtol=1e-5, atol=1e-5)


def test_maps_are_float32_whatever_the_network_runs_in() -> None:
    network = build("resnet18", 1).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert network(torch.zeros(1, 3, 64, 64)).dtype is torch.bfloat16
        assert network.activation_maps(torch.zeros(1, 3, 64, 64)).dtype is torch.float32


def test_the_thesis_network_has_no_maps() -> None:
    network = build("thesis-cnn", 1).eval()
    assert not network.has_maps
    assert build("resnet18", 1).has_maps
    with pytest.raises(ValueError, match="no activation maps"):
        network.activation_maps(torch.zeros(1, 3, 224, 224))
