"""Phantoms straight into a training cache, with every pixel's truth; no DICOM between, no patient anywhere."""

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from triage.errors import DataError
from triage.nn.preprocess import Preprocessing, frame, framed
from triage.phantom import VERSION, PhantomSpec, Profile, generate
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
from triage.train.children import end_with_parent

LAYOUT = "phantoms"
"""Of the manifest; whatever is trained on it can only be for demonstration."""

BLEED_SHARE = 0.5
"""A framed pixel belongs to a bleed when at least this much of it does."""

IMAGE_PX = 256
"""Rows and columns of a phantom's image: about a pixel a millimetre, as networks of 224 px see it."""


def spec_of(profile: Profile, image_px: int = IMAGE_PX, p_bleed: float = 0.6) -> PhantomSpec:
    """Phantoms of a profile with nothing set that a scanner may choose: spacing, tilt, field of view, number of slices.

    Args:
        profile: Any.
        image_px: Rows and columns.
        p_bleed: Share of heads that bleed.

    Returns:
        The spec, of whole heads.
    """
    return PhantomSpec(n_slices=None, spacing_mm=None, tilt_deg=None, size_px=image_px, p_bleed=p_bleed,
                       profile=profile)  # fmt: skip


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
    inputs = inputs_of(data)
    if (out / MANIFEST).exists():
        if parse_manifest(read_manifest_text(out), out).inputs != inputs:
            raise DataError(f"{out}: holds a cache of other phantoms; name another folder or remove that one")
        return open_cache(out)
    writer = CacheWriter(out, inputs, data.frame)
    todo = [seed for seed in data.seeds if str(seed) not in writer.done]
    done = len(data.seeds) - len(todo)
    with studies(data, workers or os.cpu_count() or 1) as made:
        for seed, slices in made(todo):
            writer.append(str(seed), slices)
            done += 1
            on_study(done, len(data.seeds))
    return writer.finish(manifest_of(data))


def manifest_of(data: PhantomData) -> Manifest:
    """What a cache of phantoms says about itself, before its slices are counted."""
    spec = data.spec
    slices = f"{spec.n_slices} slices" if spec.n_slices else "slices of the whole head, each"
    source = (
        f"Synthetic heads only (triage.phantom {VERSION}, profile {spec.profile.name}): {len(data.seeds)} phantoms, "
        f"seeds {data.seeds.start} to {data.seeds.stop - 1}, {slices} of {spec.size_px} pixels"
    )
    return Manifest(LAYOUT, data.frame, 0.0, source, inputs_of(data))


def inputs_of(data: PhantomData) -> str:
    """SHA-256 over what decides the phantoms of a cache: seeds, spec, frame and version, but not their pixels."""
    facts = [FORMAT, VERSION, data.seeds.start, data.seeds.stop, asdict(data.frame), asdict(data.spec)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


NICE = 10

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}  # fmt: skip
"""Of processes that make phantoms, where it says nothing else: one thread each, and memory that is kept for the next
array and not handed back (a tenth faster with glibc)."""

Made = Iterator[tuple[int, list[CachedSlice]]]
"""Seeds and the slices of each."""


Job = tuple[int, PhantomSpec, Frame]
"""Seed, spec and frame of one phantom."""


@contextmanager
def studies(
    data: PhantomData, workers: int, work: Callable[[Job], tuple[int, list[CachedSlice]]] | None = None
) -> Iterator[Callable[[Iterable[int]], Made]]:
    """Processes that make phantoms, from entering the context to leaving it.

    Args:
        data: Spec and frame; its seeds do not count.
        workers: Processes; with one, this process.
        work: What makes one, a function of a module; None for `study_slices`.

    Yields:
        What makes the studies of seeds, in their order; may be called again and again.
    """
    work = work or study_slices
    if workers == 1:
        yield lambda seeds: map(work, ((seed, data.spec, data.frame) for seed in seeds))
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # read as a process begins
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin) as pool:
        try:
            yield lambda seeds: pool.map(work, [(seed, data.spec, data.frame) for seed in seeds])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin() -> None:
    """Begin the life of a process that makes phantoms; Ctrl-C is the parent's to deal with."""
    give_way()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def give_way() -> None:
    """Work in one thread, for there are as many processes as cores, and let one that trains go before."""
    torch.set_num_threads(1)
    os.nice(NICE)


def study_slices(job: Job) -> tuple[int, list[CachedSlice]]:
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
