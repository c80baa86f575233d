"""How quick a recipe is here: images a second, measured with steps that are thrown away; and in which precision."""

import time

import numpy as np
import torch

from triage.train.cache import Cache
from triage.train.data import read_ahead
from triage.train.learner import Start, build_learner, training_mode
from triage.train.recipes import Recipe, overridden
from triage.train.step import one_step, quickened, set_algorithms

WARM_STEPS, STEPS = 6, 30
"""Steps before the clock runs, in which algorithms are chosen and code is compiled; and those it runs over."""


def images_a_second(recipe: Recipe, cache: Cache, device: torch.device, steps: int = STEPS) -> float:
    """Measure.

    Args:
        recipe: As it would be trained; a start from random weights is as quick as any.
        cache: Any slices of the right frame.
        device: Where.
        steps: To run the clock over.

    Returns:
        Images a second, reading and augmentation with them.

    Raises:
        RuntimeError: What torch says, of memory or of compiling.
    """
    set_algorithms(recipe)
    learner = build_learner(recipe, device, WARM_STEPS + steps, Start() if not recipe.pretrained else None)
    model = quickened(learner.model, recipe, device)
    training_mode(learner.model)
    rows = np.arange(len(cache))
    batches = [np.resize(np.roll(rows, -k * recipe.batch), recipe.batch) for k in range(WARM_STEPS + steps)]
    begin = time.monotonic()
    for k, raw in enumerate(read_ahead(cache, batches, recipe.place_weight > 0)):
        if k == WARM_STEPS:
            _wait(device)
            begin = time.monotonic()
        one_step(learner, model, raw)
        learner.step_in_epoch += 1
    _wait(device)
    return steps * recipe.batch / (time.monotonic() - begin)


KNOWS_BF16 = ("avx512_bf16", "amx_bf16", "bf16")
"""Any of these says that a processor computes in bf16; others only imitate it, at a half to a ninth of
the speed of fp32."""


def suited(recipe: Recipe, device: torch.device) -> Recipe:
    """A recipe in fp32 where the processor only imitates its bf16 and no command line asked for that.

    Args:
        recipe: Any.
        device: Where it is to run.

    Returns:
        The recipe, or one with the change on record.
    """
    able = torch.cpu.get_capabilities()
    if device.type != "cpu" or recipe.precision != "bf16" or any(able.get(name) for name in KNOWS_BF16):
        return recipe
    return recipe if "precision" in recipe.overrides else overridden(recipe, {"precision": "fp32"})


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
