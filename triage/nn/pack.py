"""Model packs: verify, load and write folders of safetensors and a card; never unpickles, never fetches.

    models/<name>-<version>/ card.toml, and binary.safetensors with subtype.safetensors, or network.safetensors

A pack that is not exactly what its card says is refused: the card is what a hospital signed for.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from triage.errors import PackError
from triage.nn.architectures import build
from triage.nn.card import (
    CARD_NAME,
    Card,
    Networks,
    check,
    parse_card,
    read_card,
    read_text,
    write_card,
)
from triage.nn.stored import State, expanded, stored
from triage.records import ANY, SUBTYPES, ModelIdentity

__all__ = ["Card", "Pack", "load_pack", "read_card", "verify_pack", "write_pack"]


@dataclass(frozen=True, slots=True)
class Pack:
    """A verified pack, ready to judge."""

    card: Card
    identity: ModelIdentity
    networks: dict[tuple[str, ...], nn.Module]
    """By the labels of its heads, in evaluation mode, on `device`: images -> (n, heads) logits. One or two of them."""
    device: torch.device

    def labels_with(self, label: str) -> tuple[str, ...]:
        """The labels of the network that speaks of a label."""
        return next(labels for labels in self.networks if label in labels)

    @property
    def binary(self) -> nn.Module:
        """The network that speaks of any bleed."""
        return self.networks[self.labels_with(ANY)]

    @property
    def subtype(self) -> nn.Module:
        """The network that speaks of subtypes; the same one where the trunk is shared."""
        return self.networks[self.labels_with(SUBTYPES[0])]


def load_pack(folder: Path, device: torch.device | str = "cpu") -> Pack:
    """Verify a pack and load its networks.

    Args:
        folder: `models/<name>-<version>/`.
        device: Where the networks are to run; `triage.nn.predict.pick_device` chooses one.

    Returns:
        The pack; weights are fp32 whatever their storage.

    Raises:
        PackError: Something is missing, altered or inconsistent; one line that names it and what to do.
    """
    card, identity, states = _read(folder)
    device = torch.device(device)
    networks = {}
    for name, labels in card.networks.heads.items():
        network = _empty(card.networks, len(labels))
        network.load_state_dict(states[name], assign=True)
        network.eval().requires_grad_(False).to(device)
        nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)
        networks[labels] = network
    return Pack(card, identity, networks, device)


def pack_folders(models: Path) -> list[Path]:
    """Find model packs.

    Args:
        models: Folder of packs.

    Returns:
        The folders in it that hold a card, by name.
    """
    # a name that begins with a dot is a pack in the making
    return sorted(card.parent for card in models.glob(f"[!.]*/{CARD_NAME}"))


def verify_pack(folder: Path) -> list[str]:
    """Check everything about a pack.

    Args:
        folder: `models/<name>-<version>/`.

    Returns:
        Lines for a person: what the pack is and what was checked.

    Raises:
        PackError: As `load_pack`.
    """
    card, identity, states = _read(folder)
    lines = [
        f"{identity.name} {identity.version} ({identity.intended_use}), {identity.architecture}"
        + (", one trunk for all labels" if card.networks.trunk == "shared" else ""),
        f"sha256 {identity.sha256}",
    ]
    for name, state in states.items():
        size_mb = (folder / name).stat().st_size / 1e6
        values = sum(t.numel() for t in state.values())
        lines.append(f"{name}: {size_mb:.1f} MB as {card.networks.storage}, {values / 1e6:.1f} M values, hash agrees")
    for label, auroc in card.performance.auroc.items():
        lines.append(f"{label}: AUROC {auroc.slice:.3f} by slice, {auroc.study:.3f} by study")
    return [*lines, *card.limits]


def write_pack(folder: Path, card: Card, *weights: State) -> Card:
    """Write a pack; weights are stored as `card.networks.storage` says.

    Args:
        folder: New or existing folder; its files are replaced.
        card: Its `files` are filled in here.
        *weights: States of the one-head and of the subtype network; or of the one network where the card says that
            its trunk is shared. Floating point.

    Returns:
        The card as written.

    Raises:
        PackError: The card's values or the states' names or shapes are wrong; nothing is written then.
    """
    check(replace(card, files={}))
    heads = card.networks.heads
    if len(weights) != len(heads):
        raise PackError(f"networks.trunk {card.networks.trunk!r} takes {len(heads)} network(s), not {len(weights)}")
    states = dict(zip(heads, weights, strict=True))
    for name, labels in heads.items():
        _check_state(states[name], _empty(card.networks, len(labels)), name)
    folder.mkdir(parents=True, exist_ok=True)
    for name, state in states.items():
        (folder / name).write_bytes(save_tensors(stored(state, card.networks.storage)))
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in states}
    card = replace(card, files=hashes)
    write_card(folder, card)
    return card


def _read(folder: Path) -> tuple[Card, ModelIdentity, dict[str, dict[str, torch.Tensor]]]:
    """Read card and weights once, so that what is hashed is what is used."""
    text = read_text(folder)
    card = parse_card(text, folder / CARD_NAME)
    heads = card.networks.heads
    if set(card.files) != set(heads):
        raise PackError(f"{folder / CARD_NAME}: files must name {' and '.join(heads)}; get the pack again")
    whole = hashlib.sha256(text.encode("utf-8"))
    states = {}
    for name, labels in heads.items():
        path = folder / name
        try:
            content = path.read_bytes()
        except OSError as e:
            raise PackError(f"{path}: cannot be read ({e.strerror}); get the pack again") from e
        digest = hashlib.sha256(content).hexdigest()
        if digest != card.files[name]:
            raise PackError(f"{path}: sha256 is {digest}, the card says {card.files[name]}; get the pack again")
        whole.update(content)
        states[name] = _state(content, path)
        _check_state(states[name], _empty(card.networks, len(labels)), path)
    identity = ModelIdentity(card.name, card.version, whole.hexdigest(), card.intended_use, card.networks.architecture)
    return card, identity, states


def _empty(networks: Networks, heads: int) -> nn.Module:
    """A network without memory for its weights: names and shapes only."""
    with torch.device("meta"):
        return build(networks.architecture, heads, networks.places)


def _check_state(state: State, network: nn.Module, where: Path | str) -> None:
    """Raise PackError unless names, shapes and values of a state fit a network."""
    wanted = network.state_dict()
    if odd := sorted(set(wanted) ^ set(state)):
        kind = "missing" if odd[0] in wanted else "unknown"
        raise PackError(f"{where}: tensor {odd[0]} is {kind} ({len(odd)} such); card and weights do not match")
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            shapes = f"{tuple(tensor.shape)}, the card's architecture needs {tuple(wanted[name].shape)}"
            raise PackError(f"{where}: tensor {name} has shape {shapes}; card and weights do not match")
        if tensor.is_floating_point() != wanted[name].is_floating_point():
            raise PackError(f"{where}: tensor {name} is {tensor.dtype}, not {wanted[name].dtype}; get the pack again")
        if not torch.isfinite(tensor).all():
            raise PackError(f"{where}: tensor {name} holds values that are not finite; get the pack again")


def _state(content: bytes, path: Path) -> dict[str, torch.Tensor]:
    """The state in a weight file, floating point in fp32."""
    try:
        return expanded(load_tensors(content))
    except SafetensorError as e:
        raise PackError(f"{path}: not a safetensors file: {e}; get the pack again") from e
    except ValueError as e:
        raise PackError(f"{path}: {e}; get the pack again") from e
