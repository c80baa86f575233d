"""A run on its way home from a machine that lets little through: in small parts, put together again.

    RUN, there --write_parcel--> recipe.json run.json metrics.jsonl parcel.json weights-01.safetensors ...
    those --assemble--> RUN, here

Weights go as fp16 and what has one axis as it is: variances of batch norm leave fp16's range. The cache of phantoms
stays behind; its seeds make it anew.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from triage.errors import DataError
from triage.phantom import PROFILES, VERSION
from triage.train.cache import Cache, file_hash, write_atomically
from triage.train.data import frame_of
from triage.train.phantoms import PhantomData, inputs_of, spec_of, write_phantoms
from triage.train.recipes import Recipe
from triage.train.runs import BEST, FACTS, METRICS, RECIPE, Run, load_network, open_run, read_weights, write_weights
from triage.train.splits import describe, parts_of, split_hash

PARCEL = "parcel.json"

PART_BYTES = 15 * 2**20
"""Of a part, at most."""


@dataclass(frozen=True, slots=True)
class Base:
    """The phantoms of a run's cache: for validation, calibration and test."""

    first_seed: int
    studies: int
    image_px: int
    profile: str = "wide"

    def data(self, recipe: Recipe) -> PhantomData:
        """As `write_phantoms` takes it."""
        seeds = range(self.first_seed, self.first_seed + self.studies)
        spec = spec_of(PROFILES[self.profile], self.image_px)
        return PhantomData(seeds, frame_of(recipe.preprocessing), spec)


def write_parcel(run: Run, base: Base, out: Path, parts: tuple[int, int] | None = None) -> list[str]:
    """Write what must come home.

    Args:
        run: With at least one epoch ended.
        base: What its cache was made from.
        out: Folder to write to.
        parts: First and last part of the weights to write, from 1; None for all. Documents are always written.

    Returns:
        Lines for a person: what is there, and what is left.

    Raises:
        DataError: The run has no weights yet.
    """
    weights = {key: _small(value) for key, value in sorted(read_weights(run.folder / BEST).items())}
    groups = _groups(weights)
    scratch = run.folder / "parcel"
    scratch.mkdir(exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, keys in enumerate(groups, 1):
        path = scratch / f"weights-{number:02d}.safetensors"
        save_file({key: weights[key] for key in keys}, path)
        entries.append({"file": path.name, "sha256": file_hash(path), "bytes": path.stat().st_size})
        if parts is None or parts[0] <= number <= parts[1]:
            shutil.copyfile(path, out / path.name)
    shutil.rmtree(scratch)
    told: dict[str, Any] = {
        "parts": entries, "epoch": run.facts.get("best_epoch", 0), "phantom": VERSION,
        "base": {"first_seed": base.first_seed, "studies": base.studies, "image_px": base.image_px,
                 "profile": base.profile},
        "inputs": inputs_of(base.data(run.recipe)),
    }  # fmt: skip
    write_atomically(out / PARCEL, json.dumps(told, indent=2).encode())
    for name in (RECIPE, FACTS, METRICS):
        if (run.folder / name).exists():
            shutil.copyfile(run.folder / name, out / name)
    here = range(1, len(groups) + 1) if parts is None else range(parts[0], min(parts[1], len(groups)) + 1)
    size = sum(int(str(entries[k - 1]["bytes"])) for k in here)
    return [f"{out}: parts {[*here]} of {len(groups)} ({size / 2**20:.1f} MiB), epoch {told['epoch']}"]


def _small(value: torch.Tensor) -> torch.Tensor:
    return value.half() if value.is_floating_point() and value.dim() > 1 else value


def _groups(weights: dict[str, torch.Tensor]) -> list[list[str]]:
    """Keys of each part; a tensor larger than a part has one of its own."""
    groups: list[list[str]] = [[]]
    room = PART_BYTES
    for key, value in weights.items():
        need = value.nbytes + len(key) + 100  # and its line in the file's header
        if need > room and groups[-1]:
            groups.append([])
            room = PART_BYTES
        groups[-1].append(key)
        room -= need
    return groups


def assemble(
    folders: Sequence[Path], into: tuple[Path, Path], studies: int = 0, workers: int = 0,
    on_study: Callable[[int, int], None] = lambda _done, _total: None,
) -> Run:  # fmt: skip
    """Make a run whole from the parts that came home; its cache is made anew from its seeds.

    Args:
        folders: Where the parts and documents lie, in any order; documents may be there twice.
        into: Folder of the run to make; and that of its cache, which is made where it is not there already.
        studies: Phantoms of the cache, if more than the lent machine had: the first are the same and no part of the
            split by patient loses one, so there is more to calibrate and to test on. 0: as many as there.
        workers: Processes that make phantoms; 0: one a core.
        on_study: Told how many phantoms are there, of how many.

    Returns:
        The run, ready for calibrate, export and evaluate.

    Raises:
        DataError: A part is missing or damaged, or these phantoms are others than the run's.
    """
    run, cache = into
    if (run / RECIPE).exists():
        raise DataError(f"{run}: holds a run already; name another --run")
    files = {path.name: path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()}
    try:
        parcel = json.loads(files[PARCEL].read_text(encoding="utf-8"))
        entries, base = parcel["parts"], Base(**parcel["base"])
        inputs, epoch = parcel["inputs"], int(parcel["epoch"])
    except KeyError as e:
        raise DataError(f"{', '.join(map(str, folders))}: {e.args[0]} is missing") from e
    except (OSError, ValueError, TypeError) as e:
        raise DataError(f"{files[PARCEL]}: damaged ({e})") from e
    weights = _weights(files, entries)
    if missing := [name for name in (RECIPE, FACTS) if name not in files]:
        raise DataError(f"{', '.join(map(str, folders))}: {missing[0]} is missing")
    there = open_run(files[RECIPE].parent)
    data = base.data(there.recipe)
    if inputs_of(data) != inputs:
        raise DataError(
            f"the run is of phantoms of version {parcel.get('phantom')}, this is version {VERSION}; use that one"
        )
    data = replace(base, studies=max(studies, base.studies)).data(there.recipe)
    made = write_phantoms(cache, data, workers, on_study)
    run.mkdir(parents=True, exist_ok=True)
    write_weights(run / BEST, weights, epoch)
    if METRICS in files:
        shutil.copyfile(files[METRICS], run / METRICS)
    write_atomically(run / FACTS, json.dumps(_facts(there, made), indent=2).encode())
    shutil.copyfile(files[RECIPE], run / RECIPE)
    whole = open_run(run)
    load_network(whole)
    return whole


def _weights(files: dict[str, Path], entries: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """All tensors, fp32 again, from parts whose hashes are right."""
    weights: dict[str, torch.Tensor] = {}
    for number, entry in enumerate(entries, 1):
        path = files.get(entry["file"])
        if path is None:
            raise DataError(f"{entry['file']} is missing; fetch it with --parts {number}-{number}")
        if file_hash(path) != entry["sha256"]:
            raise DataError(f"{path}: damaged on its way; fetch it again with --parts {number}-{number}")
        weights |= {key: value.float() if value.is_floating_point() else value
                    for key, value in read_weights(path).items()}  # fmt: skip
    return weights


def _facts(there: Run, cache: Cache) -> dict[str, Any]:
    """Facts of the run with the cache as it lies here; pixels may differ in a bit between processors, seeds do not."""
    away = {key: there.facts[key] for key in ("cache", "manifest_sha256")}
    parts = parts_of(there.recipe, cache.index)
    return there.facts | {
        "cache": str(cache.folder.resolve()), "manifest_sha256": cache.identity, "source": cache.manifest.source,
        "split": describe(parts, cache.index), "split_sha256": split_hash(parts, cache.index), "trained_on": away,
    }  # fmt: skip
