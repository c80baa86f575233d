"""Networks in several ways, at work: training steps and inference for `train_speed.py`; measures nothing itself.

Needs nothing but torch, torchvision, numpy, scipy and safetensors.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from triage.nn.architectures import build
from triage.records import LABELS
from triage.train.cache import Cache, Rows
from triage.train.data import Batch, batch_of, read_ahead, step_generator
from triage.train.learner import AUTOCAST, Learner, Start, build_learner, loss_of, training_mode
from triage.train.recipes import Recipe, overridden, recipe_named

Work = Callable[[], int]
"""Does a known amount of work; the number of images."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a network is run."""

    precision: str = "fp32"
    channels_last: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        said = (self.precision, "channels-last" * self.channels_last, "compiled" * self.compiled)
        return ", ".join(filter(None, said))


@dataclass(frozen=True, slots=True)
class Job:
    """One network in one way."""

    architecture: str
    way: Way
    device: torch.device
    batch: int
    steps: int
    input_px: int
    compiler: str
    """Backend of torch.compile."""


def random_batches(cache: Cache, batches: int, size: int) -> list[Rows]:
    rows = np.random.default_rng(1).integers(0, len(cache), batches * size)
    return list(rows.reshape(batches, size))


def training_recipe(changes: dict[str, str]) -> Recipe:
    return overridden(recipe_named("triage-binary"), {"pretrained": "false", **changes})


def learning(job: Job) -> tuple[Learner, nn.Module]:
    recipe = training_recipe(
        {
            "architecture": job.architecture, "precision": job.way.precision, "batch": str(job.batch),
            "channels_last": str(job.way.channels_last).lower(), "preprocessing.crop_px": str(job.input_px),
        }
    )  # fmt: skip
    learner = build_learner(recipe, job.device, 1, Start())
    training_mode(learner.model)
    return learner, in_way(learner.model, job)


def in_way(model: nn.Module, job: Job) -> nn.Module:
    if not job.way.compiled:
        return model
    compiled: nn.Module = torch.compile(model, backend=job.compiler)  # type: ignore[assignment]  # still callable
    return compiled


def one_step(learner: Learner, model: nn.Module, batch: Batch) -> None:
    """As `triage.train.loop` makes it."""
    recipe, images = learner.recipe, batch.images
    if recipe.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(learner.device.type, AUTOCAST[recipe.precision], enabled=recipe.precision != "fp32"):
        answers = model(images)
    loss = loss_of(recipe, answers, batch)
    learner.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    nn.utils.clip_grad_norm_(learner.model.parameters(), recipe.clip_norm)
    learner.optimiser.step()


def finished(job: Job) -> int:
    """Wait until the device is done; the images of a work."""
    if job.device.type == "cuda":
        torch.cuda.synchronize()
    return job.batch * job.steps


def images_of(job: Job) -> torch.Tensor:
    images = torch.rand(job.batch, 3, job.input_px, job.input_px, device=job.device)
    return images.contiguous(memory_format=torch.channels_last) if job.way.channels_last else images


def training(job: Job) -> Work:
    """Steps on one and the same batch, already on the device."""
    learner, model = learning(job)
    labels = (torch.arange(job.batch * len(LABELS), device=job.device).view(job.batch, -1) % 2).float()
    batch = Batch(images_of(job), labels, None)

    def work() -> int:
        for _ in range(job.steps):
            one_step(learner, model, batch)
        return finished(job)

    return work


def inferring(job: Job) -> Work:
    network = build(job.architecture, 1).eval().to(job.device)
    if job.way.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    model, images, precision = in_way(network, job), images_of(job), job.way.precision

    def work() -> int:
        with torch.inference_mode(), torch.autocast(job.device.type, AUTOCAST[precision], enabled=precision != "fp32"):
            for _ in range(job.steps):
                model(images)
        return finished(job)

    return work


def fed(cache: Cache) -> Callable[[Job], Work]:
    """Training as `triage-train fit` does it: read from the cache, augmented on the device."""

    def make(job: Job) -> Work:
        learner, model = learning(job)
        batches = random_batches(cache, job.steps, job.batch)

        def work() -> int:
            for k, raw in enumerate(read_ahead(cache, batches, False)):
                rng = step_generator(job.device, k)
                one_step(learner, model, batch_of(raw, learner.recipe, job.device, rng))
            return finished(job)

        return work

    return make


def fitting(make: Callable[[Job], Work], job: Job) -> tuple[Job, Work]:
    """The job with the largest batch that fits, and its work, done once."""
    while (work := tried(make, job)) is None:
        free(job.device)
        job = replace(job, batch=job.batch // 2)
    return job, work


def tried(make: Callable[[Job], Work], job: Job) -> Work | None:
    """The work of a job, done once; None where memory does not suffice."""
    try:
        work = make(job)
        work()
    except torch.OutOfMemoryError:
        if job.batch == 1:
            raise
        return None
    return work


def free(device: torch.device) -> None:
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
