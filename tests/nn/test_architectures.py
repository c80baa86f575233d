import subprocess
import sys

import pytest
import torch

from triage.nn.architectures import ARCHITECTURES, build
from triage.nn.pyramid import PLACE_PX


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


def test_with_a_pyramid_the_strongest_places_count_too() -> None:
    torch.manual_seed(4)
    network = build("resnet18", 5, places=True).eval()
    assert network.pyramid is not None
    images = torch.randn(3, 3, 96, 64)
    with torch.inference_mode():
        logits, places = network.look(images)
        assert places is not None
        assert places.shape == (3, 5, 96 // PLACE_PX, 64 // PLACE_PX)
        torch.testing.assert_close(network(images), logits)
        pooled = network.trunk(images)
        of_trunk = torch.cat([head(pooled) for head in network.heads], dim=1)
        torch.testing.assert_close(logits - of_trunk, places.flatten(2).exp().sum(dim=2).log(), rtol=1e-4, atol=1e-4)
        network.pyramid.weight.copy_(torch.tensor([0.0, 1.0, 2.0, 1.0, 1.0]))
        weighed = network(images) - of_trunk
        torch.testing.assert_close(weighed[:, 0], torch.zeros(3), rtol=0, atol=1e-5)
        torch.testing.assert_close(weighed[:, 2], 2 * (logits - of_trunk)[:, 2], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(network.activation_maps(images), places.sigmoid())


def test_a_place_speaks_of_what_lies_there() -> None:
    """A spot that moves across the image moves the middle of what changes among the places with it."""
    torch.manual_seed(7)
    network = build("resnet18", 4, places=True).eval()
    plain = torch.zeros(1, 3, 128, 128)

    def middle(row: int, column: int) -> tuple[float, float]:
        spotted = plain.clone()
        spotted[:, :, row - 4 : row + 4, column - 4 : column + 4] = 3.0
        with torch.inference_mode():
            moved = (network.activation_maps(spotted) - network.activation_maps(plain))[0].square().sum(dim=0)
        at = torch.arange(16) + 0.5
        down, along = (float((moved.sum(dim=1 - axis) * at).sum() / moved.sum()) for axis in (0, 1))
        return down, along

    for across in (32, 64, 96):
        rows, columns = zip(*(middle(down, across) for down in (24, 64, 104)), strict=True)
        assert rows[0] + 1 < rows[1] < rows[2] - 1
        assert max(columns) - min(columns) < 2
        assert rows[1] == pytest.approx(64 / PLACE_PX, abs=1.5)
        assert columns[1] == pytest.approx(across / PLACE_PX, abs=3.0)


def test_maps_are_float32_whatever_the_network_runs_in() -> None:
    network = build("resnet18", 1).eval()
    pointing = build("resnet18", 1, places=True).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert network(torch.zeros(1, 3, 64, 64)).dtype is torch.bfloat16
        for one in (network, pointing):
            assert one.activation_maps(torch.zeros(1, 3, 64, 64)).dtype is torch.float32


def test_the_thesis_network_has_no_maps() -> None:
    network = build("thesis-cnn", 1).eval()
    assert not network.has_maps
    assert build("resnet18", 1).has_maps
    with pytest.raises(ValueError, match="no activation maps"):
        network.activation_maps(torch.zeros(1, 3, 224, 224))
    with pytest.raises(ValueError, match="has no places"):
        build("thesis-cnn", 1, places=True)
