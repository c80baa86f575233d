"""A checkpoint: everything a run needs to go on, written whole or not at all, read without executing anything."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from triage.errors import DataError
from triage.train.learner import Learner
from triage.train.recipes import Recipe, from_document, to_document

FORMAT = 1


def save_checkpoint(path: Path, learner: Learner, manifest_sha256: str) -> None:
    """Write a checkpoint atomically.

    Args:
        path: Replaced.
        learner: Its state is saved, and its recipe.
        manifest_sha256: Identity of the cache.
    """
    content = {
        "format": FORMAT, "recipe": to_document(learner.recipe), "manifest_sha256": manifest_sha256,
        "torch": str(torch.__version__), "learner": learner.state(),
    }  # fmt: skip
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load_checkpoint(path: Path, recipe: Recipe, manifest_sha256: str) -> dict[str, Any]:
    """Read the learner's state of a checkpoint.

    Args:
        path: Of the checkpoint.
        recipe: That is to go on.
        manifest_sha256: Of the cache it is to go on with.

    Returns:
        What `Learner.restore` takes.

    Raises:
        DataError: It is missing, damaged, or of another recipe or cache; the message names the fields that differ.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state: dict[str, Any] = content["learner"]
        saved = from_document(content["recipe"])
        version, manifest = content["format"], content["manifest_sha256"]
    except FileNotFoundError as e:
        raise DataError(f"{path}: no checkpoint to go on from; leave out --resume") from e
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as e:
        raise DataError(f"{path}: the checkpoint is damaged ({type(e).__name__}); start a new run") from e
    if version != FORMAT:
        raise DataError(f"{path}: a checkpoint of version {version}, this is {FORMAT}; start a new run")
    if differing := differences(saved, recipe):
        raise DataError(f"{path}: a checkpoint of another recipe ({'; '.join(differing)}); start a new run")
    if manifest != manifest_sha256:
        raise DataError(f"{path}: a checkpoint of a run on another cache; name that cache or start a new run")
    return state


def differences(saved: Recipe, wanted: Recipe) -> list[str]:
    """Fields in which two recipes differ, as text.

    More epochs or steps are no difference where nothing depends on their number.
    """
    one, other = to_document(saved), to_document(wanted)
    free = {"origins", "overrides", "title"} | (set() if counts_steps(wanted) else {"epochs", "max_steps"})
    return [f"{key} was {one[key]}, is {other[key]}" for key in one if key not in free and one[key] != other[key]]


def counts_steps(recipe: Recipe) -> bool:
    """Whether what a step does depends on how many there will be."""
    return recipe.schedule == "cosine" or recipe.coarse_share > 0
