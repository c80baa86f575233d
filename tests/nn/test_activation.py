from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from triage.nn.architectures import CELL_PX, Network, build, spread
from triage.nn.card import Networks, Thresholds
from triage.nn.pack import Pack, load_pack
from triage.nn.predict import judge, slabs_of
from triage.nn.preprocess import Preprocessing, prepare
from triage.nn.pyramid import PLACE_PX
from triage.records import LABELS, SUBTYPES, Judgement, Volume

Write = Callable[..., Path]
MakeVolume = Callable[..., Volume]
ALL = Thresholds(0.9, 0.0001, dict.fromkeys(SUBTYPES, 0.0001))
"""Everything is present."""


def pack_of(write: Write, **changes: object) -> Pack:
    return load_pack(write(**({"thresholds": ALL} | changes)))


def keys_of(judgement: Judgement) -> list[tuple[str, int]]:
    return [(f.label, i) for f in judgement.findings if f.present for i in f.key_slices]


def passes(pack: Pack, volume: Volume) -> tuple[Judgement, list[int]]:
    """A judgement, and how many images each pass over a trunk's last stage had."""
    ran: list[int] = []
    trunks = {network.get_submodule("trunk.layer4") for network in pack.networks.values()}
    hooks = [t.register_forward_hook(lambda _, inputs, __: ran.append(len(inputs[0]))) for t in trunks]
    judgement = judge(pack, volume)
    for hook in hooks:
        hook.remove()
    return judgement, ran


@pytest.mark.parametrize("trunk", ["separate", "shared"])
def test_every_present_finding_has_a_map_on_each_key_slice(write: Write, volume: Volume, trunk: str) -> None:
    pack = pack_of(write, networks=Networks("resnet18", trunk=trunk))  # type: ignore[arg-type]  # one of the two
    judgement = judge(pack, volume)
    assert [(a.label, a.index) for a in judgement.activations] == keys_of(judgement)
    assert {a.label for a in judgement.activations} == set(LABELS)
    for a in judgement.activations:
        assert a.values.shape == volume.hu.shape[1:]
        assert a.values.dtype == np.float32
        assert np.isfinite(a.values).all()
        assert a.values.std() > 0


@pytest.mark.parametrize("trunk", ["separate", "shared"])
def test_a_map_tells_the_cells_of_its_own_head_and_slice(write: Write, volume: Volume, trunk: str) -> None:
    """By another road: cells of one prepared slice, looked up where their middles fall on the slice."""
    pack = pack_of(write, networks=Networks("resnet18", trunk=trunk))  # type: ignore[arg-type]  # one of the two
    slabs, _ = slabs_of(volume, 5.0)
    images = prepare(slabs, pack.card.preprocessing, volume.spacing_mm)
    middles = (np.array([0.5, CELL_PX + 0.5]) - 32) * (220 / 64) / 2.2 + 48  # of cells; the ball lies in the middle
    at = middles.astype(int).clip(0, 95)
    for a in judge(pack, volume).activations:
        labels = pack.labels_with(a.label)
        network = pack.networks[labels]
        assert isinstance(network, Network)
        cells = network.activation_maps(images[a.index : a.index + 1])[0, labels.index(a.label)].numpy()
        assert cells.shape == (2, 2)
        assert np.abs(a.values[np.ix_(at, at)] - cells).max() < 0.1 * np.ptp(cells) + 1e-6


def test_maps_of_places_are_finer_and_lie_where_the_places_are(write: Write, volume: Volume) -> None:
    """By another road: places of one prepared slice, looked up where their middles fall on the slice."""
    pack = pack_of(write, networks=Networks("resnet18", trunk="shared", places=True))
    slabs, _ = slabs_of(volume, 5.0)
    images = prepare(slabs, pack.card.preprocessing, volume.spacing_mm)
    middles = (PLACE_PX * (np.arange(8) + 0.5) - 32) * (220 / 64) / 2.2 + 48  # of places; the ball lies in the middle
    at = middles.astype(int).clip(0, 95)
    activations = judge(pack, volume).activations
    assert {a.label for a in activations} == set(LABELS)
    for a in activations:
        network = pack.networks[LABELS]
        assert isinstance(network, Network)
        cells = network.activation_maps(images[a.index : a.index + 1])[0, LABELS.index(a.label)].numpy()
        assert cells.shape == (8, 8)
        assert 0 < cells.min() <= cells.max() < 1
        assert np.abs(a.values[np.ix_(at, at)] - cells).mean() < 0.15 * np.ptp(cells)


def test_what_no_network_sees_is_zero(write: Write, volume: Volume) -> None:
    narrow = Preprocessing(resize_px=64, crop_px=64, fov_mm=110.0)
    for a in judge(pack_of(write, preprocessing=narrow), volume).activations:
        assert not a.values[:22].any()
        assert not a.values[:, -22:].any()
        assert a.values[30:66, 30:66].all()


def test_maps_of_averaged_slices_stand_on_the_slice_in_their_middle(write: Write, make_volume: MakeVolume) -> None:
    judgement = judge(pack_of(write), make_volume(n=16, spacing_mm=1.25))
    assert [(a.label, a.index) for a in judgement.activations] == keys_of(judgement)
    assert {a.index for a in judgement.activations} <= {1, 5, 9, 13}


def test_one_more_pass_sees_each_key_slice_once(write: Write, make_volume: MakeVolume) -> None:
    volume = make_volume(n=12)
    judgement, ran = passes(pack_of(write, networks=Networks("resnet18", trunk="shared")), volume)
    assert ran == [12, len({i for _, i in keys_of(judgement)})]
    judgement, ran = passes(pack_of(write), volume)
    of_any = {i for label, i in keys_of(judgement) if label == "any"}
    others = {i for label, i in keys_of(judgement) if label != "any"}
    assert ran == [12, 12, len(of_any), len(others)]


def test_negative_studies_and_callers_without_need_have_none(write: Write, volume: Volume) -> None:
    pack = pack_of(write, thresholds=Thresholds(0.999, 0.999, dict.fromkeys(SUBTYPES, 0.5)))
    judgement, ran = passes(pack, volume)
    assert (judgement.activations, ran) == ((), [6])
    assert judge(pack_of(write), volume, with_maps=False).activations == ()


def test_absent_subtypes_have_none(write: Write, volume: Volume) -> None:
    thresholds = Thresholds(0.9, 0.0001, dict.fromkeys(SUBTYPES, 0.9999) | {"subdural": 0.0001})
    assert {a.label for a in judge(pack_of(write, thresholds=thresholds), volume).activations} == {"any", "subdural"}


def test_the_thesis_network_has_none(write: Write, volume: Volume) -> None:
    pack = pack_of(write, networks=Networks("thesis-cnn"), preprocessing=Preprocessing(fov_mm=220.0))
    judgement = judge(pack, volume)
    assert keys_of(judgement)
    assert judgement.activations == ()


def test_the_same_volume_gives_the_same_maps(write: Write, volume: Volume) -> None:
    pack = pack_of(write)
    first, second = judge(pack, volume), judge(pack, volume)
    assert [a.values.tobytes() for a in first.activations] == [a.values.tobytes() for a in second.activations]
    volume.hu.setflags(write=False)
    assert len(judge(pack, volume).activations) == len(first.activations)


def test_half_precision_gives_float32_maps_that_differ_little(write: Write, volume: Volume) -> None:
    pack = pack_of(write)
    exact = {(a.label, a.index): a.values for a in judge(pack, volume).activations}
    for a in judge(pack, volume, "bf16").activations:
        assert a.values.dtype == np.float32
        if (a.label, a.index) in exact:
            wanted = exact[a.label, a.index]
            assert np.abs(a.values - wanted).max() < 0.1 * np.abs(wanted).max() + 0.02
            assert not np.array_equal(a.values, wanted)


def test_a_cell_is_spread_around_the_centre_of_its_receptive_field() -> None:
    """What a cell depends on, by the gradient, lies around the place that `spread` puts the cell at."""
    torch.manual_seed(2)
    network = build("resnet18", 1).eval()
    images = torch.randn(4, 3, 288, 288, requires_grad=True)
    network.activation_maps(images)[:, 0, 4, 3].sum().backward()  # type: ignore[no-untyped-call]  # torch's
    assert images.grad is not None
    weight = images.grad.square().sum(dim=(0, 1))
    at = torch.arange(288) + 0.5
    seen = [float((weight.sum(dim=1 - axis) * at).sum() / weight.sum()) for axis in (0, 1)]
    cells = torch.zeros(1, 1, 9, 9)
    cells[0, 0, 4, 3] = 1.0
    row, column = divmod(int(network.spread(cells, 288).argmax()), 288)
    assert (row, column) == (4 * CELL_PX, 3 * CELL_PX)
    assert seen == pytest.approx([row + 0.5, column + 0.5], abs=4.0)


def test_spreading_keeps_the_values_of_cells() -> None:
    cells = torch.arange(9.0).view(1, 1, 3, 3)
    found = spread(cells, 96, CELL_PX, 0.5)
    assert torch.allclose(found[:, :, ::CELL_PX, ::CELL_PX], cells, atol=1e-5)
    assert found[0, 0, 95, 95] >= 8.0


def test_a_place_is_spread_over_the_part_of_the_image_that_it_speaks_of() -> None:
    network = build("resnet18", 1, places=True)
    cells = torch.zeros(1, 1, 17, 17)
    cells[0, 0, 4, 3] = 1.0
    found = network.spread(cells, 136)[0, 0]
    middle = found[4 * PLACE_PX : 5 * PLACE_PX, 3 * PLACE_PX : 4 * PLACE_PX]
    torch.testing.assert_close(middle, middle.flip(0).flip(1), rtol=0, atol=1e-5)
    assert middle.min() > 0.25
    assert middle.max() == found.max()


def test_a_maximum_may_lie_between_cells() -> None:
    cells = torch.zeros(1, 1, 5, 5)
    cells[0, 0, 2, 1:3] = 1.0
    assert divmod(int(spread(cells, 136, CELL_PX, 0.5).argmax()), 136) == (2 * CELL_PX, 1.5 * CELL_PX)


def test_a_replaced_threshold_changes_no_map(write: Write, volume: Volume) -> None:
    """Maps speak of the raw logit."""
    pack = pack_of(write)
    stricter = replace(pack.card, thresholds=replace(ALL, urgent=0.95))
    first, second = judge(pack, volume).activations, judge(replace(pack, card=stricter), volume).activations
    assert [a.values.tobytes() for a in first] == [a.values.tobytes() for a in second]
