import hashlib
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from triage.errors import PackError
from triage.nn.architectures import Network, build
from triage.nn.card import Card, Networks, read_card, write_card
from triage.nn.pack import load_pack, pack_folders, verify_pack, write_pack
from triage.nn.preprocess import Preprocessing
from triage.records import LABELS

Write = Callable[..., Path]


def images(n: int = 4) -> torch.Tensor:
    return torch.randn(n, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def rehash(folder: Path) -> None:
    """Make the card agree with altered files, as someone who edits both would."""
    card = read_card(folder)
    write_card(folder, replace(card, files={n: hashlib.sha256((folder / n).read_bytes()).hexdigest()
                                            for n in card.files}))  # fmt: skip


def test_what_is_loaded_is_what_was_written(write: Write) -> None:
    pack = load_pack(write(networks=Networks("resnet18", storage="fp32")))
    torch.manual_seed(1)
    for network, heads in ((pack.binary, 1), (pack.subtype, 5)):
        original = build("resnet18", heads).eval()
        with torch.inference_mode():
            torch.testing.assert_close(network(images()), original(images()))
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())
    assert pack.identity.name == "tiny"
    assert pack.identity.version == "1.2"
    assert pack.identity.architecture == "resnet18"
    assert pack.identity.is_demonstration


def test_storage_changes_size_much_and_answers_little(write: Write) -> None:
    answers, sizes = {}, {}
    for storage in ("fp32", "fp16", "int8"):
        folder = write(networks=Networks("resnet18", storage=storage), version=storage)
        sizes[storage] = (folder / "binary.safetensors").stat().st_size
        pack = load_pack(folder)
        assert {p.dtype for p in pack.binary.parameters()} == {torch.float32}
        with torch.inference_mode():
            answers[storage] = torch.cat([pack.binary(images()), pack.subtype(images())], dim=1)
    assert sizes["fp16"] < 0.51 * sizes["fp32"]
    assert sizes["int8"] < 0.26 * sizes["fp32"]
    spread = answers["fp32"].std()
    assert (answers["fp16"] - answers["fp32"]).abs().max() < 0.01 * spread
    assert (answers["int8"] - answers["fp32"]).abs().max() < 0.1 * spread


def test_int8_is_within_half_a_step_of_each_channel(write: Write) -> None:
    folder = write(networks=Networks("resnet18", storage="int8"))
    stored = load_file(folder / "binary.safetensors")
    torch.manual_seed(1)
    weight = build("resnet18", 1).state_dict()["trunk.layer2.0.conv1.weight"]
    values = stored["trunk.layer2.0.conv1.weight"]
    scale = stored["trunk.layer2.0.conv1.weight.int8_scale"]
    assert values.dtype == torch.int8
    assert scale.shape == (128,)
    error = (values.float() * scale[:, None, None, None] - weight).abs()
    assert (error <= 0.501 * scale[:, None, None, None]).all()
    assert (values.flatten(1).abs().amax(dim=1) == 127).all()


def test_identity_covers_card_and_weights(write: Write) -> None:
    folder = write()
    first = load_pack(folder).identity.sha256
    assert load_pack(folder).identity.sha256 == first
    card = read_card(folder)
    write_card(folder, replace(card, thresholds=replace(card.thresholds, review=0.41)))
    second = load_pack(folder).identity.sha256
    state = load_file(folder / "subtype.safetensors")
    state["heads.2.bias"] += 1
    save_file(state, folder / "subtype.safetensors")
    rehash(folder)
    assert len({first, second, load_pack(folder).identity.sha256}) == 3


def test_one_file_holds_all_heads_of_a_shared_trunk(write: Write) -> None:
    folder = write(networks=Networks("resnet18", storage="fp32", trunk="shared"))
    assert sorted(path.name for path in folder.iterdir()) == ["card.toml", "network.safetensors"]
    pack = load_pack(folder)
    torch.manual_seed(1)
    original = build("resnet18", 6).eval()
    assert pack.binary is pack.subtype
    assert list(pack.networks) == [LABELS]
    with torch.inference_mode():
        torch.testing.assert_close(pack.binary(images()), original(images()))
    lines = verify_pack(folder)
    assert lines[0] == "tiny 1.2 (demonstration), resnet18, one trunk for all labels"
    assert "network.safetensors: 44.8 MB as fp32, 11.2 M values, hash agrees" in lines


def test_a_pack_with_places_keeps_its_pyramid(tmp_path: Path, write: Write) -> None:
    folder = write(networks=Networks("resnet18", storage="int8", trunk="shared", places=True))
    pack = load_pack(folder)
    torch.manual_seed(1)
    original = build("resnet18", 6, places=True).eval()
    with torch.inference_mode():
        wanted, places = original.look(images())
        network = pack.networks[LABELS]
        assert isinstance(network, Network)
        found, stored = network.look(images())
    assert places is not None
    assert stored is not None
    assert (found - wanted).abs().max() < 0.1 * wanted.std()
    assert (stored - places).abs().max() < 0.1 * places.std()
    card = read_card(folder)
    assert card.networks.places
    write_card(folder, replace(card, networks=replace(card.networks, places=False)))
    with pytest.raises(PackError, match=r"pyramid\.\S+ is unknown"):
        load_pack(folder)
    with pytest.raises(PackError, match=r"pyramid\.\S+ is missing"):
        write_pack(tmp_path / "new", card, build("resnet18", 6).state_dict())


def test_shared_and_separate_are_not_mixed_up(tmp_path: Path, write: Write, card: Card) -> None:
    folder = write(networks=Networks("resnet18", trunk="shared"))
    stated = read_card(folder)
    write_card(folder, replace(stated, networks=replace(stated.networks, trunk="separate")))
    with pytest.raises(PackError, match=r"files must name binary\.safetensors and subtype\.safetensors"):
        load_pack(folder)
    with pytest.raises(PackError, match=r"trunk 'separate' takes 2 network\(s\), not 1"):
        write_pack(tmp_path / "new", card, build("resnet18", 6).state_dict())
    shared = replace(card, networks=replace(card.networks, trunk="shared"))
    with pytest.raises(PackError, match=r"heads\.5\.bias is missing"):
        write_pack(tmp_path / "new", shared, build("resnet18", 5).state_dict())
    assert not (tmp_path / "new").exists()


def test_the_small_network_of_the_source_is_a_pack_too(write: Write) -> None:
    plain = Preprocessing(resize_px=224, crop_px=224)
    pack = load_pack(write(networks=Networks("thesis-cnn", storage="int8"), preprocessing=plain))
    with torch.inference_mode():
        assert pack.subtype(torch.rand(2, 3, 224, 224)).shape == (2, 5)


def test_verify_says_what_the_pack_is(write: Write) -> None:
    lines = verify_pack(write(limits=("knows cartoons only",)))
    assert lines[0] == "tiny 1.2 (demonstration), resnet18"
    assert "binary.safetensors: 11.3 MB as int8, 11.2 M values, hash agrees" in lines
    assert lines[-1] == "knows cartoons only"


def flip_a_byte(folder: Path) -> None:
    path = folder / "binary.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def swap_files(folder: Path) -> None:
    a, b = folder / "binary.safetensors", folder / "subtype.safetensors"
    keep = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(keep)
    rehash(folder)


def another_architecture(folder: Path) -> None:
    card = read_card(folder)
    write_card(folder, replace(card, networks=replace(card.networks, architecture="resnet34")))


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(folder / "binary.safetensors")
    change(state)
    save_file(state, folder / "binary.safetensors")
    rehash(folder)


def pickled(folder: Path) -> None:
    (folder / "binary.safetensors").write_bytes(pickle.dumps({"trunk": 1}))
    rehash(folder)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (flip_a_byte, r"binary\.safetensors: sha256 is"),
        (lambda f: (f / "subtype.safetensors").unlink(), r"subtype\.safetensors: cannot be read"),
        (lambda f: write_card(f, replace(read_card(f), files={})), "files must name"),
        (swap_files, r"tensor heads\.1\.bias is unknown \(8 such\)"),
        (another_architecture, r"is missing .* card and weights do not match"),
        (lambda f: edit(f, lambda s: s.update({"heads.0.weight": torch.zeros(1, 511)})), r"shape \(1, 511\)"),
        (lambda f: edit(f, lambda s: s["heads.0.bias"].fill_(torch.nan)), "not finite"),
        (lambda f: edit(f, lambda s: s.update({"heads.0.bias": torch.zeros(1).int()})), r"is torch\.int32"),
        (lambda f: edit(f, lambda s: s["heads.0.weight.int8_scale"].zero_()), "no positive scale"),
        (pickled, "not a safetensors file"),
    ],
)
def test_a_pack_that_disagrees_is_refused(write: Write, damage: Callable[[Path], object], problem: str) -> None:
    folder = write()
    damage(folder)
    for reader in (load_pack, verify_pack):
        with pytest.raises(PackError, match=problem) as caught:
            reader(folder)
        assert "\n" not in str(caught.value)


def test_nothing_is_written_for_wrong_weights(tmp_path: Path, card: Card) -> None:
    states = [build("resnet18", heads).state_dict() for heads in (1, 4)]
    with pytest.raises(PackError, match=r"heads\.4\.bias is missing"):
        write_pack(tmp_path / "new", card, *states)
    assert not (tmp_path / "new").exists()


def test_resnet152_goes_through_the_same_code(write: Write) -> None:
    pack = load_pack(write(networks=Networks("resnet152", storage="int8")))
    with torch.inference_mode():
        assert pack.binary(images(1)).shape == (1, 1)
        assert pack.subtype(images(1)).shape == (1, 5)
    assert pack.identity.architecture == "resnet152"


def test_a_pack_in_the_making_is_not_listed(write: Callable[..., Path]) -> None:
    folder = write()
    folder.rename(folder.with_name(".part"))
    assert pack_folders(folder.parent) == []
