"""What a split by image flatters: one recipe on phantoms that each have a pattern of their own, split in two ways.

Every study's tissue gets a smooth pattern that all its slices share and no other study has, as a patient's anatomy and
a scanner's shading are. Both networks make as many steps of as many slices (the split by image has 80 % of them to draw
from, the one by patient 70 %); each is measured on the test part of its own split, and both on the same phantoms that
are in neither.

    python benchmarks/leak.py
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from triage.nn.predict import pick_device
from triage.phantom import PhantomSpec
from triage.records import ANY, LABELS
from triage.train.cache import Cache, CachedSlice, CacheWriter, Frame, Manifest, Rows
from triage.train.leakage import leakage, one_line
from triage.train.loop import FitOptions, fit
from triage.train.metrics import auroc, bootstrap_by_patient
from triage.train.phantoms import study_slices
from triage.train.recipes import Recipe, Split, overridden, recipe_named
from triage.train.runs import Run, load_network
from triage.train.scores import score
from triage.train.speed import suited
from triage.train.splits import parts_of

SPLITS: tuple[Split, ...] = ("image-random", "patient")

PATTERN_FIELDS = 6
"""Fields of a pattern across a slice: about as wide as a bleed."""

TISSUE_HU = -200
"""Air stays air."""

FRESH_SEED = 1_000_000
"""From here on phantoms that are in no split."""

SIZE_PX, FOV_MM, SLICES = 64, 220.0, 8
"""Eight slices, 5 mm apart, around the ventricles: most show a bleed where the study has one."""

SPEC = PhantomSpec(size_px=96, n_slices=SLICES, p_bleed=0.5, volume_ml=(8.0, 40.0))


@dataclass(frozen=True, slots=True)
class Measured:
    """AUROC by slice of some slices, and its 95 % interval by patient."""

    auroc: float
    interval: tuple[float, float]
    slices: int
    studies: int

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.auroc:.3f} ({low:.3f}-{high:.3f}), {self.slices} slices of {self.studies} studies"


def textured(job: tuple[int, float]) -> tuple[int, list[CachedSlice]]:
    """The slices of one phantom, with its seed's pattern."""
    seed, texture_hu = job
    _, slices = study_slices((seed, SPEC, Frame(SIZE_PX, FOV_MM)))
    fields = np.random.default_rng(seed).standard_normal((PATTERN_FIELDS, PATTERN_FIELDS))
    pattern = ndimage.zoom(fields, SIZE_PX / PATTERN_FIELDS, order=1)
    pattern *= texture_hu / pattern.std()
    return seed, [replace(one, hu=laid_on(one.hu, pattern)) for one in slices]


def laid_on(hu: npt.NDArray[np.int16], pattern: npt.NDArray[np.float64]) -> npt.NDArray[np.int16]:
    changed = hu + np.where(hu > TISSUE_HU, np.rint(pattern), 0)
    return np.clip(changed, -1024, 3071).astype(np.int16)


def one_thread() -> None:
    torch.set_num_threads(1)


def made(jobs: Sequence[tuple[int, float]], workers: int) -> Iterator[tuple[int, list[CachedSlice]]]:
    if workers == 1:
        yield from map(textured, jobs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), one_thread) as pool:
        yield from pool.map(textured, jobs)


def write_cache(folder: Path, seeds: range, texture_hu: float, workers: int) -> Cache:
    frame = Frame(SIZE_PX, FOV_MM)
    writer = CacheWriter(folder, str(seeds), frame)
    for seed, slices in made([(seed, texture_hu) for seed in seeds], workers):
        writer.append(str(seed), slices)
    return writer.finish(Manifest("phantoms", frame, 0.0, f"{len(seeds)} phantoms, texture {texture_hu:g} HU", "leak"))


def recipe_of(split: Split, epochs: int, draws: int) -> Recipe:
    """Ours for any bleed, small enough for two cores, and free to learn by heart."""
    changes = {
        "architecture": "resnet18", "pretrained": "false", "split": split, "augmentation": "none",
        "window_jitter": "false", "sampler": "plain", "select": "last", "learning_rate": "1e-3", "batch": "32",
        "epochs": str(epochs), "draws": str(draws), "preprocessing.fov_mm": str(FOV_MM),
        "preprocessing.resize_px": str(SIZE_PX), "preprocessing.crop_px": str(SIZE_PX),
    }  # fmt: skip
    return suited(overridden(recipe_named("triage-binary"), changes), pick_device("auto"))


def measured(run: Run, cache: Cache, rows: Rows) -> Measured:
    scores = score(load_network(run), run.recipe.labels, (cache, rows, run.recipe.preprocessing))
    logits, truth = scores.column(ANY), cache.index.labels[rows, LABELS.index(ANY)]
    patients = cache.index.patient[rows]
    interval = bootstrap_by_patient(logits, truth, patients)
    return Measured(auroc(logits, truth), interval, len(rows), len(set(patients)))


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--texture-hu", type=float, default=30.0, help="standard deviation of the patterns")
    parser.add_argument("--workers", type=int, default=2, help="processes that make phantoms")
    parser.add_argument("--quick", action="store_true", help="see that it runs; the figures mean nothing")
    arguments = parser.parse_args(given)
    studies, epochs = (60, 1) if arguments.quick else (arguments.studies, arguments.epochs)
    draws = 32 if arguments.quick else int(0.7 * studies * SLICES)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cache = write_cache(folder / "cache", range(studies), arguments.texture_hu, arguments.workers)
        seeds = range(FRESH_SEED, FRESH_SEED + max(studies // 3, 6))
        fresh = write_cache(folder / "fresh", seeds, arguments.texture_hu, arguments.workers)
        positive = cache.index.labels[:, LABELS.index(ANY)].mean()
        print(
            f"{studies} phantoms of {SLICES} slices, {100 * positive:.0f} % with a bleed, patterns of "
            f"{arguments.texture_hu:g} HU; ResNet-18 at {SIZE_PX} px, {epochs} epochs of {draws} slices"
        )
        print("AUROC by slice (95 % interval by patient)", flush=True)
        own = {}
        for split in SPLITS:
            recipe = recipe_of(split, epochs, draws)
            parts = parts_of(recipe, cache.index)
            run = fit(recipe, cache, folder / split, FitOptions())
            own[split] = measured(run, cache, parts["test"])
            print(one_line(leakage(cache, parts, split)))
            print(f"  its own test part  {own[split]}")
            print(f"  other phantoms     {measured(run, fresh, np.arange(len(fresh)))}", flush=True)
    gap = own["image-random"].auroc - own["patient"].auroc
    print(
        f"gap between the test parts: {gap:+.3f} ({time.perf_counter() - begin:.0f} s, {torch.get_num_threads()} "
        f"threads, {recipe.precision}, torch {torch.__version__})"
    )


if __name__ == "__main__":
    main()
