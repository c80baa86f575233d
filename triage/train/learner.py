"""What a run trains: network, optimiser, schedule, losses; built from a recipe, saved and restored whole."""

import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional

from triage.errors import DataError
from triage.nn.architectures import RESNETS, THESIS_CNN, THESIS_CNN_PX, Network, build
from triage.nn.card import CARD_NAME
from triage.nn.pack import load_pack
from triage.nn.preprocess import constant
from triage.records import ANY
from triage.train.cache import file_hash
from triage.train.data import Batch
from triage.train.places import Looking, place_loss
from triage.train.recipes import Recipe
from triage.train.runs import load_network, open_run, read_weights

LOWEST_RATE = 0.01
"""A cosine schedule ends at this part of the peak."""

AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

SHA256_CHARACTERS = 8
"""Fewest characters of a hash that may be stated; as many as torchvision puts into its file names."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a new run starts from."""

    pretrained: Path | None = None
    """State dict of the trunk's torchvision model, or None."""
    sha256: str = ""
    """Stated hash of that file, whole or its beginning."""
    init: Path | None = None
    """Another run, or a pack, whose trunk and whose heads of the same labels are taken."""


@dataclass
class Learner:
    """Everything that changes while a run trains."""

    recipe: Recipe
    device: torch.device
    model: Looking
    optimiser: torch.optim.Optimizer
    plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None
    scaler: GradScaler
    total_steps: int
    epoch: int = 0
    """Epochs ended."""
    step: int = 0
    """Steps made, over all epochs."""
    step_in_epoch: int = 0
    losses: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Sum and number of this epoch's losses so far."""
    best: dict[str, float] = field(default_factory=dict)
    """Value and epoch of the weights that count."""
    seconds: float = 0.0
    """Time spent training by all sessions of the run."""

    @property
    def network(self) -> Network:
        """Without what only training needs."""
        return self.model.network

    def state(self) -> dict[str, Any]:
        """All of it, as tensors and plain types."""
        cuda = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        return {
            "model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(),
            "plateau": self.plateau.state_dict() if self.plateau else {}, "scaler": self.scaler.state_dict(),
            "random": [torch.get_rng_state(), *cuda], "epoch": self.epoch, "step": self.step,
            "step_in_epoch": self.step_in_epoch, "losses": list(self.losses), "best": dict(self.best),
            "seconds": self.seconds,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.plateau:
            self.plateau.load_state_dict(state["plateau"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"][0])
        if self.device.type == "cuda" and len(state["random"]) > 1:
            torch.cuda.set_rng_state(state["random"][1], self.device)
        self.epoch, self.step, self.step_in_epoch = state["epoch"], state["step"], state["step_in_epoch"]
        self.losses, self.best, self.seconds = list(state["losses"]), dict(state["best"]), state["seconds"]


def build_learner(recipe: Recipe, device: torch.device, total_steps: int, start: Start | None) -> Learner:
    """Build what a recipe trains.

    Args:
        recipe: Any.
        device: Where it runs.
        total_steps: Of the whole run, for the schedule.
        start: Of a new run; None for one that is restored.

    Returns:
        The learner, seeded.

    Raises:
        DataError: Weights to start from are missing or wrong, or parts of the recipe do not go together.
    """
    if recipe.architecture == THESIS_CNN and recipe.preprocessing.crop_px != THESIS_CNN_PX:
        raise DataError(f"{THESIS_CNN} takes {THESIS_CNN_PX} px; set preprocessing.crop_px to that")
    torch.manual_seed(recipe.seed)
    network = build(recipe.architecture, len(recipe.labels), recipe.places)
    if start is not None:
        _start(network, recipe, start)
    model = Looking(network)
    _freeze(model, recipe)
    model.to(device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    optimiser = _optimiser(model, recipe)
    plateau = None
    if recipe.schedule == "plateau":
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimiser, "min", factor=recipe.plateau_factor, patience=recipe.plateau_patience
        )
    scaler = GradScaler(device.type, enabled=recipe.precision == "fp16")
    return Learner(recipe, device, model, optimiser, plateau, scaler, total_steps)


def _optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(parameters, rate, recipe.momentum, weight_decay=decay)
    kind = torch.optim.Adam if recipe.optimiser == "adam" else torch.optim.AdamW
    return kind(parameters, rate, weight_decay=decay)


def _freeze(model: Looking, recipe: Recipe) -> None:
    """Leave only the parts to be trained with gradients."""
    if recipe.trainable == "all":
        return
    if recipe.trainable == "last_block" and recipe.architecture not in RESNETS:
        raise DataError(f"trainable=last_block needs a ResNet trunk, not {recipe.architecture}; use all or heads")
    trunk: Any = model.network.trunk
    trunk.requires_grad_(False)
    if recipe.trainable == "last_block":
        trunk.layer4.requires_grad_(True)


def training_mode(model: Looking) -> None:
    """Training mode, but not for frozen layers: their batch statistics stay as they were."""
    model.train()
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(p.requires_grad for p in own):
            module.eval()


def _start(network: Network, recipe: Recipe, start: Start) -> None:
    if start.pretrained is not None and start.init is not None:
        raise DataError("--init and --pretrained: a run starts from one of them; leave the other out")
    if start.init is not None:
        _take_from(network, recipe, start.init)
    elif start.pretrained is not None:
        trunk: nn.Module = network.trunk
        _check_stated(start.pretrained, start.sha256)
        state = {key: value for key, value in _foreign_weights(start.pretrained).items() if not key.startswith("fc.")}
        try:
            trunk.load_state_dict(state)
        except RuntimeError as e:
            raise DataError(
                f"--pretrained {start.pretrained}: not a state dict of torchvision's {recipe.architecture}"
            ) from e
    elif recipe.pretrained:
        raise DataError(
            f"recipe {recipe.name} starts from pretrained weights: name torchvision's state dict of "
            f"{recipe.architecture} with --pretrained FILE --pretrained-sha256 HASH, or say --pretrained none"
        )
    else:
        _quieten(network)


def _quieten(network: Network) -> None:
    """Let each block of three convolutions add nothing at first (Goyal 2017, arXiv 1706.02677).

    Random ones in a row of fifty make gradients a thousand times as large; so a ResNet-152 learns from the first steps.
    """
    for module in network.modules():
        if isinstance(last := getattr(module, "bn3", None), nn.BatchNorm2d):
            nn.init.zeros_(last.weight)


def _check_stated(path: Path, stated: str) -> None:
    found = file_hash(path)
    if not found:
        raise DataError(f"--pretrained {path}: cannot be read; name a file of weights")
    if len(stated) < SHA256_CHARACTERS:
        raise DataError(f"--pretrained-sha256: state the hash you expect of {path.name}; the file's is {found}")
    if not found.startswith(stated.lower()):
        raise DataError(f"--pretrained {path}: sha256 is {found}, not {stated}; get the file again")


def _foreign_weights(path: Path) -> dict[str, torch.Tensor]:
    """A state dict as torchvision distributes it, or safetensors; nothing in it is executed."""
    if path.suffix == ".safetensors":
        return read_weights(path)
    try:
        state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as e:
        raise DataError(f"--pretrained {path}: not a state dict that can be read ({type(e).__name__})") from e
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DataError(f"--pretrained {path}: not a state dict (a mapping of names to tensors)")
    return state


def _take_from(network: Network, recipe: Recipe, folder: Path) -> None:
    """Begin with the trunk, and the heads of the same labels, of another run or of a pack; the rest stays random."""
    donor, labels = _donor(recipe, folder)
    state, mine = donor.state_dict(), network.state_dict()
    for key in mine:
        source = key
        if key.startswith("heads."):
            label = recipe.labels[int(key.split(".")[1])]
            if label not in labels:
                continue
            source = f"heads.{labels.index(label)}.{key.split('.')[2]}"
        elif key.startswith("pyramid.") and (donor.pyramid is None or labels != recipe.labels):
            continue
        mine[key] = state[source]
    network.load_state_dict(mine)


def _donor(recipe: Recipe, folder: Path) -> tuple[Network, tuple[str, ...]]:
    """The network of a run or pack that has most to give, and its labels."""
    if (folder / CARD_NAME).is_file():
        pack = load_pack(folder)
        architecture = pack.card.networks.architecture
        labels = pack.labels_with(recipe.labels[0])
        network = pack.networks[labels]
        assert isinstance(network, Network)
    else:
        run = open_run(folder)
        architecture, labels, network = run.recipe.architecture, run.recipe.labels, load_network(run)
    if architecture != recipe.architecture:
        raise DataError(f"--init {folder}: its trunk is {architecture}, not {recipe.architecture}")
    return network, labels


def rate_at(recipe: Recipe, step: int, total_steps: int) -> float:
    """The learning rate of a step under a cosine schedule: up in a line, down in a half cosine."""
    progress = step / max(total_steps, 1)
    if progress < recipe.warm_up:
        part = progress / recipe.warm_up
    else:
        part = 0.5 + 0.5 * math.cos(math.pi * (progress - recipe.warm_up) / (1 - recipe.warm_up))
    return recipe.learning_rate * max(part, LOWEST_RATE)


def loss_of(recipe: Recipe, answers: tuple[torch.Tensor, torch.Tensor | None], batch: Batch) -> torch.Tensor:
    """The loss of a batch.

    Args:
        recipe: Weights.
        answers: (n, heads) logits, and those of places where they are asked for.
        batch: The truth.

    Returns:
        Weighted sum of the heads' binary cross entropies, and of the places'. Subtype heads learn P(subtype | bleed),
        so only from slices with one.
    """
    logits, places = answers
    logits = logits.float()
    weights = constant([recipe.loss_weights[c] for c in recipe.columns], logits.device)
    truth = torch.stack([batch.labels[:, column] for column in recipe.columns], dim=1)  # no index to be waited for
    each = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    bleeding = batch.labels[:, :1]
    counted = torch.cat([torch.ones_like(bleeding) if label == ANY else bleeding for label in recipe.labels], dim=1)
    loss = ((each * counted).sum(dim=0) / counted.sum(dim=0).clamp(min=1.0) * weights).sum()
    if places is not None and batch.places is not None:
        loss = loss + recipe.place_weight * place_loss(recipe, places, batch.places)
    return loss
