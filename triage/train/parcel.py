"""A run on its way home from a machine that lets little through: in small parts, put together again.

    RUN, there --write_parcel--> parcel.json int8-01.safetensors int8-02.safetensors ... --assemble--> RUN, here

Weights go as int8, which is what a pack holds, or as fp16 at twice the size; what has one axis goes as it is. The
run's documents are in parcel.json. The cache of phantoms stays behind; its seeds make it anew.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from triage.errors import DataError
from triage.nn.card import Storage
from triage.nn.stored import expanded, stored
from triage.phantom import PROFILES, VERSION
from triage.train.cache import Cache, file_hash, write_atomically
from triage.train.data import frame_of
from triage.train.phantoms import PhantomData, inputs_of, spec_of, write_phantoms
from triage.train.recipes import Recipe, from_document
from triage.train.runs import BEST, FACTS, METRICS, RECIPE, Run, load_network, open_run, read_weights, write_weights
from triage.train.splits import describe, parts_of, split_hash

PARCEL = "parcel.json"

PART_BYTES = 15 * 2**20
"""Of a part, at most."""

LINE_BYTES = 300
"""More than a tensor's line in a file's header takes."""


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


def write_parcel(run: Run, base: Base, out: Path, storage: Storage, parts: tuple[int, int] | None = None) -> list[str]:
    """Write what must come home; what an earlier epoch left there is replaced.

    Args:
        run: With at least one epoch ended.
        base: What its cache was made from.
        out: Folder to write to.
        storage: Of the weights.
        parts: First and last part of the weights to write, from 1; None for all. Documents are always written.

    Returns:
        Lines for a person: what is there, and what is left.

    Raises:
        DataError: The run has no weights yet.
    """
    weights = stored(read_weights(run.folder / BEST), storage)
    groups = in_parts(weights)
    first, last = parts or (1, len(groups))
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, keys in enumerate(groups, 1):
        path = run.folder / f"{storage}-{number:02d}.safetensors"
        save_file({key: weights[key] for key in keys}, path)
        entries.append({"file": path.name, "sha256": file_hash(path), "bytes": path.stat().st_size})
        if first <= number <= last:
            _moved(path, out / path.name)
        path.unlink(missing_ok=True)
    told: dict[str, Any] = {
        "parts": entries, "epoch": run.facts.get("best_epoch", 0), "phantom": VERSION, "storage": storage,
        "base": asdict(base), "inputs": inputs_of(base.data(run.recipe)),
        "documents": {name: _text(run.folder / name) for name in (RECIPE, FACTS, METRICS)},
    }  # fmt: skip
    write_atomically(out / PARCEL, json.dumps(told, indent=2).encode())
    here = range(max(first, 1), min(last, len(groups)) + 1)
    size = sum(int(str(entries[k - 1]["bytes"])) for k in here)
    return [f"{out}: {storage} parts {[*here]} of {len(groups)} ({size / 2**20:.1f} MiB), epoch {told['epoch']}"]


def _moved(path: Path, to: Path) -> None:
    """Replace a file whole, also by one of another disk: a machine may be taken away at any moment."""
    part = to.with_suffix(".part")
    shutil.copyfile(path, part)
    part.replace(to)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def in_parts(weights: dict[str, torch.Tensor]) -> list[list[str]]:
    """Share tensors out to parts: the largest first, each into the first part that has room.

    Args:
        weights: By key.

    Returns:
        Keys of each part; a tensor larger than a part has one of its own.
    """
    parts: list[list[str]] = []
    rooms: list[int] = []
    for key in sorted(weights, key=lambda key: (-weights[key].nbytes, key)):
        need = weights[key].nbytes + LINE_BYTES
        at = next((k for k, room in enumerate(rooms) if room >= need), len(parts))
        if at == len(parts):
            parts.append([])
            rooms.append(PART_BYTES)
        parts[at].append(key)
        rooms[at] -= need
    return parts


def assemble(
    folders: Sequence[Path], into: tuple[Path, Path], studies: int = 0, workers: int = 0,
    on_study: Callable[[int, int], None] = lambda _done, _total: None,
) -> Run:  # fmt: skip
    """Make a run whole from the parts that came home; its cache is made anew from its seeds.

    Args:
        folders: Where the parts lie, in any order; the last one's parcel.json counts.
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
    if PARCEL not in files:
        raise DataError(f"{', '.join(map(str, folders))}: {PARCEL} is missing")
    try:
        parcel = json.loads(files[PARCEL].read_text(encoding="utf-8"))
        documents, base = parcel["documents"], Base(**parcel["base"])
        recipe, facts = from_document(json.loads(documents[RECIPE])), json.loads(documents[FACTS])
        entries, inputs, epoch = parcel["parts"], parcel["inputs"], int(parcel["epoch"])
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise DataError(f"{files[PARCEL]}: damaged ({type(e).__name__}: {e})") from e
    weights = _weights(files, entries)
    if inputs_of(base.data(recipe)) != inputs:
        raise DataError(
            f"the run is of phantoms of version {parcel.get('phantom')}, this is version {VERSION}; use that one"
        )
    data = replace(base, studies=max(studies, base.studies)).data(recipe)
    made = write_phantoms(cache, data, workers, on_study)
    run.mkdir(parents=True, exist_ok=True)
    write_weights(run / BEST, weights, epoch)
    write_atomically(run / METRICS, documents.get(METRICS, "").encode())
    facts = _facts(recipe, facts, made) | {"brought_home_as": parcel.get("storage")}
    write_atomically(run / FACTS, json.dumps(facts, indent=2).encode())
    write_atomically(run / RECIPE, documents[RECIPE].encode())
    whole = open_run(run)
    load_network(whole)
    return whole


def _weights(files: dict[str, Path], entries: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """All tensors, fp32 again, from parts whose hashes are right."""
    tensors: dict[str, torch.Tensor] = {}
    for number, entry in enumerate(entries, 1):
        path = files.get(entry["file"])
        if path is None:
            raise DataError(f"{entry['file']} is missing; fetch it with --parts {number}-{number}")
        if file_hash(path) != entry["sha256"]:
            raise DataError(f"{path}: damaged on its way; fetch it again with --parts {number}-{number}")
        tensors |= read_weights(path)
    return expanded(tensors)


def _facts(recipe: Recipe, there: dict[str, Any], cache: Cache) -> dict[str, Any]:
    """Facts of the run with the cache as it lies here; pixels may differ in a bit between processors, seeds do not."""
    away = {key: there.get(key) for key in ("cache", "manifest_sha256")}
    parts = parts_of(recipe, cache.index)
    return there | {
        "cache": str(cache.folder.resolve()), "manifest_sha256": cache.identity, "source": cache.manifest.source,
        "split": describe(parts, cache.index), "split_sha256": split_hash(parts, cache.index), "trained_on": away,
    }  # fmt: skip
