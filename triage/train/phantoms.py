"""Phantoms straight into a training cache, with every pixel's truth; no DICOM between, no patient anywhere."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from triage.errors import DataError
from triage.nn.preprocess import Preprocessing, frame, framed
from triage.phantom import VERSION, PhantomSpec, generate
from triage.records import SUBTYPES
from triage.train.cache import (
    FORMAT,
    MANIFEST,
    Cache,
    CachedSlice,
    CacheWriter,
    Frame,
    Manifest,
    open_cache,
    parse_manifest,
    read_manifest_text,
)

LAYOUT = "phantoms"
"""Of the manifest; whatever is trained on it can only be for demonstration."""

BLEED_SHARE = 0.5
"""A framed pixel belongs to a bleed when at least this much of it does."""


@dataclass(frozen=True, slots=True)
class PhantomData:
    """Which phantoms, and how they lie in the cache."""

    seeds: range
    frame: Frame
    spec: PhantomSpec = field(default_factory=PhantomSpec)


def write_phantoms(
    out: Path, data: PhantomData, workers: int = 0, on_study: Callable[[int, int], None] = lambda _done, _total: None
) -> Cache:
    """Generate phantoms into a cache; an interrupted run goes on, a second one does nothing.

    Args:
        out: Folder of the cache.
        data: Which, and how.
        workers: Processes; 0: one a core.
        on_study: Told how many studies are there, of how many.

    Returns:
        The cache, open.

    Raises:
        DataError: The folder holds something else.
    """
    inputs = _inputs(data)
    if (out / MANIFEST).exists():
        if parse_manifest(read_manifest_text(out), out).inputs != inputs:
            raise DataError(f"{out}: holds a cache of other phantoms; name another folder or remove that one")
        return open_cache(out)
    writer = CacheWriter(out, inputs, data.frame)
    todo = [seed for seed in data.seeds if str(seed) not in writer.done]
    done = len(data.seeds) - len(todo)
    for seed, slices in _made(todo, data, workers or os.cpu_count() or 1):
        writer.append(str(seed), slices)
        done += 1
        on_study(done, len(data.seeds))
    spec = data.spec
    source = (
        f"Synthetic heads only (triage.phantom {VERSION}, profile {spec.profile.name}): {len(data.seeds)} phantoms, "
        f"seeds {data.seeds.start} to {data.seeds.stop - 1}, {spec.n_slices} slices of {spec.size_px} pixels"
    )
    return writer.finish(Manifest(LAYOUT, data.frame, 0.0, source, inputs))


def _inputs(data: PhantomData) -> str:
    facts = [FORMAT, VERSION, data.seeds.start, data.seeds.stop, asdict(data.frame), asdict(data.spec)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _made(seeds: Sequence[int], data: PhantomData, workers: int) -> Iterator[tuple[int, list[CachedSlice]]]:
    """Studies in the order of their seeds."""
    jobs = [(seed, data.spec, data.frame) for seed in seeds]
    if workers == 1:
        yield from map(study_slices, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        try:
            yield from pool.map(study_slices, jobs)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _one_thread() -> None:
    torch.set_num_threads(1)


def study_slices(job: tuple[int, PhantomSpec, Frame]) -> tuple[int, list[CachedSlice]]:
    """Generate one phantom and frame its slices.

    Args:
        job: Seed, spec and frame.

    Returns:
        The seed and the slices, caudal to cranial.
    """
    seed, spec, wanted = job
    study = generate(seed, spec)
    preprocessing = Preprocessing(fov_mm=wanted.fov_mm, resize_px=wanted.size_px, crop_px=wanted.size_px)
    hu = torch.from_numpy(study.hu.astype(np.float32))
    masks = torch.from_numpy(np.stack([study.masks[label] for label in SUBTYPES], axis=1).astype(np.float32))
    small = framed(hu, preprocessing, study.spacing_mm).numpy().astype(np.int16)
    shares, places = frame(masks, hu, preprocessing, study.spacing_mm).max(dim=1)
    bleeds = torch.where(shares >= BLEED_SHARE, places + 1, 0).numpy().astype(np.uint8)
    name = f"phantom-{VERSION}-{spec.profile.name}-{seed}"
    slices = [
        CachedSlice(
            image=f"{name}-{k}", study=name, series=name, patient=name, position_mm=study.positions_mm[k],
            spacing_mm=study.spacing_mm, thickness_mm=study.thickness_mm, labels=tuple(map(bool, labels)),
            hu=small[k], manufacturer="synthetic", kernel="", bleeds=bleeds[k],
        )
        for k, labels in enumerate(study.slice_labels())
    ]  # fmt: skip
    return seed, slices
