"""One training step: a batch of slices in, the weights moved, its loss out; keeps no count and writes nothing."""

from typing import Any

import torch
from torch import nn

from triage.train.data import RawBatch, batch_of, coarse, step_generator, step_seed
from triage.train.learner import AUTOCAST, Learner, loss_of, rate_at
from triage.train.recipes import Recipe


def one_step(learner: Learner, model: nn.Module, raw: RawBatch, rank: int = 0) -> Any:
    """One batch: forward, loss, backward, step.

    Args:
        learner: Its optimiser moves; its counts are the caller's to move.
        model: Of the learner, perhaps compiled or shared with other processes.
        raw: The slices.
        rank: Of this process.

    Returns:
        The loss, on its device (a number on a CPU).
    """
    recipe, device = learner.recipe, learner.device
    place = (recipe.seed, learner.epoch, learner.step_in_epoch, rank)
    torch.manual_seed(step_seed(*place))  # dropout's, which differs between processes
    rng = step_generator(device, *place)
    batch = batch_of(raw, recipe, device, rng)
    if learner.step < recipe.coarse_share * learner.total_steps:
        batch = coarse(batch, recipe.coarse_px)
    images = batch.images
    if recipe.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    if recipe.schedule == "cosine":
        for group in learner.optimiser.param_groups:
            group["lr"] = rate_at(recipe, learner.step, learner.total_steps)
    with torch.autocast(device.type, AUTOCAST[recipe.precision], enabled=recipe.precision != "fp32"):
        answers = model(images)
    loss = loss_of(recipe, answers, batch)
    learner.optimiser.zero_grad(set_to_none=True)
    learner.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    if recipe.clip_norm:
        learner.scaler.unscale_(learner.optimiser)
        nn.utils.clip_grad_norm_(learner.model.parameters(), recipe.clip_norm)
    learner.scaler.step(learner.optimiser)
    learner.scaler.update()
    return float(loss.detach()) if device.type == "cpu" else loss.detach()


def quickened(model: nn.Module, recipe: Recipe, device: torch.device) -> nn.Module:
    """The model as its steps run it: compiled where the recipe says so and there is a GPU."""
    if not recipe.compiled or device.type != "cuda":
        return model
    compiled: nn.Module = torch.compile(model, dynamic=False)  # type: ignore[assignment]  # it stays callable as a module
    return compiled


def set_algorithms(recipe: Recipe) -> None:
    """Choose between algorithms that repeat themselves to the bit and the quickest ones."""
    torch.use_deterministic_algorithms(recipe.deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = not recipe.deterministic
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32: bf16 is there for who wants speed
