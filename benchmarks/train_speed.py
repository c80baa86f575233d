"""Images a second of training's parts: preparing, the cached loader, a training step here, ResNet-152 on a GPU.

The ways to be compared take turns within each round; a first round, which is not counted, warms files, caches and
compilers: the disk is not measured. Times by CPU count the processes' own seconds, so that another program's load blurs
them less.

    python benchmarks/train_speed.py --parts prepare loader step --rounds 5
    python benchmarks/train_speed.py --parts gpu

The last three parts need nothing but torch, torchvision, numpy, scipy and safetensors.
"""

import argparse
import csv
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from networks import Job, Way, Work, fed, fitting, free, inferring, random_batches, training, training_recipe

from triage.nn.predict import device_name
from triage.phantom import PhantomSpec, generate
from triage.records import LABELS
from triage.train.cache import SHARD_SLICES, Cache, CachedSlice, CacheWriter, Frame, Manifest, open_cache
from triage.train.data import batch_of, read_ahead, step_generator
from triage.train.recipes import Recipe

if TYPE_CHECKING:
    from pydicom import Dataset

CPU = torch.device("cpu")

BATCH = 64
"""Of the loader, as triage-binary has it."""

JPEG_LS, JPEG_2000 = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"
"""Transfer syntaxes, both without loss."""

GOAL = "goal 3,000 a core"

OTHERS = {
    ("resnet152", "train", "bf16, channels-last"): "timm, AMP: RTX 3090 501",
    ("resnet152", "infer", "bf16, channels-last"): "timm, AMP: RTX 3090 1,606, RTX 4090 2,348",
    ("resnet152", "infer", "bf16, channels-last, compiled"): "timm, AMP: RTX 4090 3,647",
}
"""Images/s at 224 px as timm's tables state them."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    studies: int = 10
    slices: int = 32
    """Of a study, as DICOM and in the loader's cache."""
    dicom_px: int = 512
    cached: int = SHARD_SLICES + 512
    """Slices in the loader's cache: more than one shard."""
    batches: int = 20
    """Of a reading with windows; augmentation takes a quarter, bare reading ten times as many."""
    input_px: int = 224
    cpu_batch: int = 8
    cpu_steps: int = 2
    gpu_train: int = 64
    gpu_infer: int = 256
    """Batch sizes, halved until they fit."""
    gpu_steps: int = 20
    gpu_architecture: str = "resnet152"
    cpu_architectures: tuple[str, ...] = ("resnet18", "resnet152")
    compiler: str = "inductor"


QUICK = Sizes(1, 4, 64, 64, 1, 32, 2, 1, 2, 2, 1, "resnet18", ("resnet18",), "eager")
"""Shows that everything runs; its figures mean nothing."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Images a second."""

    wall: float
    cpu: float
    """Of CPU time: what one core does."""


CPU_WAYS = (Way(), Way(channels_last=True), Way("bf16"), Way("bf16", channels_last=True))
GPU_WAYS = (Way(), Way("bf16"), Way("bf16", channels_last=True), Way("bf16", channels_last=True, compiled=True))


@dataclass(frozen=True, slots=True)
class Table:
    """Prints lines as they become known."""

    rounds: int
    warms_up: bool = True
    """Whether a round that is not counted comes first."""
    on_gpu: bool = False
    """CPU time says nothing then."""

    def measure(self, works: dict[str, Work], beside: dict[str, str] | None = None) -> None:
        """Let works take turns and print a line for each."""
        rates: dict[str, list[Rate]] = {name: [] for name in works}
        if self.warms_up:
            for work in works.values():
                work()
        for _ in range(self.rounds):
            for name, work in works.items():
                rates[name].append(timed(work))
        for name, values in rates.items():
            cpu = "-" if self.on_gpu else told([rate.cpu for rate in values])
            self.say(f"{name:70} {told([rate.wall for rate in values]):>24} {cpu:>24}  {(beside or {}).get(name, '')}")

    def say(self, line: str) -> None:
        print(line.rstrip(), flush=True)


def told(values: list[float]) -> str:
    digits = 0 if max(values) >= 100 else 1
    numbers = (statistics.median(values), min(values), max(values))
    return "{} ({}-{})".format(*(f"{value:,.{digits}f}" for value in numbers))


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def timed(work: Work) -> Rate:
    begin, cpu_begin = time.perf_counter(), cpu_seconds()
    n = work()
    return Rate(n / (time.perf_counter() - begin), n / (cpu_seconds() - cpu_begin))


# ---- prepare ---------------------------------------------------------------------------------------------------------


def prepare_part(table: Table, sizes: Sizes, folder: Path) -> None:
    torch.set_num_threads(1)
    names = {"raw": "", "JPEG-LS lossless": JPEG_LS, "JPEG 2000 lossless": JPEG_2000}
    works = {}
    for name, syntax in names.items():
        images, labels = folder / name / "images", folder / name / "labels.csv"
        size_kb = write_dicom(images, labels, syntax, sizes)
        works[f"prepare, one core: {name}, {size_kb:.0f} kB a slice"] = preparing(images, labels, folder)
    table.measure(works)


def write_dicom(images: Path, labels: Path, syntax: str, sizes: Sizes) -> float:
    """Write the same head as several studies, and a label for every slice.

    Returns:
        Mean size of a file, kB.
    """
    from pydicom import dcmread

    from triage.phantom.writer import write_series

    head = generate(1, PhantomSpec(size_px=sizes.dicom_px, n_slices=sizes.slices))
    truths = head.slice_labels()
    lines: list[list[Any]] = []
    paths: list[Path] = []
    for k in range(sizes.studies):
        paths += write_series(replace(head, seed=1 + k), images / str(k))
    for i, path in enumerate(paths):
        ds = dcmread(path)
        lines.append([ds.SOPInstanceUID, *map(int, truths[i % sizes.slices])])
        if syntax:
            compress(ds, syntax)
            ds.save_as(path)
    with labels.open("w", newline="") as file:
        csv.writer(file).writerows([["SOPInstanceUID", *LABELS], *lines])
    return statistics.mean(path.stat().st_size for path in paths) / 1000


def compress(ds: "Dataset", syntax: str) -> None:
    """Compress the pixels of a data set without loss, in place."""
    from openjpeg.utils import encode_array
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID

    if syntax == JPEG_LS:
        ds.compress(syntax, generate_instance_uid=False)
        return
    monochrome = 2
    codestream = encode_array(ds.pixel_array, bits_stored=ds.BitsStored, photometric_interpretation=monochrome)
    ds.PixelData = encapsulate([codestream])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = UID(syntax)


def preparing(images: Path, labels: Path, folder: Path) -> Work:
    from triage.train.prepare import PrepareOptions, prepare

    def work() -> int:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            # As for RSNA's data: single slices with labels of their own.
            return len(prepare(images, labels, Path(out) / "cache", PrepareOptions(workers=1, slab_mm=0.0)))

    return work


# ---- the cached loader -----------------------------------------------------------------------------------------------


def loader_part(table: Table, sizes: Sizes, folder: Path) -> None:
    torch.set_num_threads(1)
    cache = cache_in(folder, sizes)
    plain = {"augmentation": "none", "window_jitter": "false"}
    works = {
        "cached loader: int16 slices read ahead": reading(cache, sizes.batches * 10),
        "  and windows, 224 px, on the CPU": batching(cache, training_recipe(plain), sizes.batches),
        "  and augmentation (crop_flip), windows": batching(
            cache, training_recipe({"augmentation": "crop_flip"}), sizes.batches
        ),
        "  and augmentation (heads), windows": batching(cache, training_recipe({}), max(1, sizes.batches // 4)),
    }
    table.measure(works, {"cached loader: int16 slices read ahead": GOAL})


def cache_in(folder: Path, sizes: Sizes) -> Cache:
    """The cache in a folder; made where it is missing, of slices of 256 px: one head again and again."""
    if (folder / "cache").exists():
        return open_cache(folder / "cache")
    frame = Frame()
    head = generate(1, PhantomSpec(size_px=frame.size_px, n_slices=sizes.slices))
    writer = CacheWriter(folder / "cache", "benchmark", frame)
    for k in range(sizes.cached // sizes.slices):
        slices = [
            CachedSlice(f"{k}-{i}", str(k), str(k), str(k), float(i), (1.0, 1.0), 5.0, tuple(map(bool, labels)), hu)
            for i, (hu, labels) in enumerate(zip(head.hu, head.slice_labels(), strict=True))
        ]
        writer.append(str(k), slices)
    return writer.finish(Manifest("phantoms", frame, 0.0, "benchmark", "benchmark"))


def reading(cache: Cache, batches: int) -> Work:
    return lambda: sum(len(raw.hu) for raw in read_ahead(cache, random_batches(cache, batches, BATCH), False))


def batching(cache: Cache, recipe: Recipe, batches: int) -> Work:
    def work() -> int:
        images = 0
        for k, raw in enumerate(read_ahead(cache, random_batches(cache, batches, BATCH), False)):
            images += len(batch_of(raw, recipe, CPU, step_generator(CPU, k)).images)
        return images

    return work


# ---- networks --------------------------------------------------------------------------------------------------------


def step_part(table: Table, sizes: Sizes, _folder: Path) -> None:
    for architecture in sizes.cpu_architectures:
        works = {}
        where = f"{sizes.input_px} px, {torch.get_num_threads()} threads"
        for way in CPU_WAYS:
            job = Job(architecture, way, CPU, sizes.cpu_batch, sizes.cpu_steps, sizes.input_px, sizes.compiler)
            works[f"train {architecture}, {where}: {way}"] = training(job)
        table.measure(works)


def gpu_part(table: Table, sizes: Sizes, folder: Path, device: torch.device) -> None:
    torch.backends.cudnn.benchmark = True  # as training has it
    table = replace(table, warms_up=False, on_gpu=device.type == "cuda")  # `fitting` has done it
    table.say(f"{device_name(device)}, CUDA {torch.version.cuda}; fp32 convolutions in TF32, as torch has them")
    kinds: dict[str, tuple[Callable[[Job], Work], int, tuple[Way, ...]]] = {
        "train": (training, sizes.gpu_train, GPU_WAYS),
        "train from the cache": (fed(cache_in(folder, sizes)), sizes.gpu_train, GPU_WAYS[2:]),
        "infer": (inferring, sizes.gpu_infer, GPU_WAYS),
    }
    for kind, (make, batch, ways) in kinds.items():
        for way in ways:
            job = Job(
                sizes.gpu_architecture, way, device, batch, sizes.gpu_steps, sizes.input_px, sizes.compiler
            )
            try:
                job, work = fitting(make, job)
            except RuntimeError as e:  # a compiler that is not there, a precision the device lacks
                table.say(f"{kind} {job.architecture}: {way}: not to be had here ({str(e).splitlines()[0][:80]})")
                continue
            name = f"{kind} {job.architecture}, batch {job.batch}: {way}"
            table.measure({name: work}, {name: OTHERS.get((job.architecture, kind, str(way)), "")})
            del work
            free(device)


def cpu_name() -> str:
    facts = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    named = [line.partition(":")[2].strip() for line in facts.splitlines() if line.startswith("model name")]
    return named[0] if named else platform.processor() or "CPU"


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=("prepare", "loader", "step", "gpu"),
                        default=["prepare", "loader", "step", "gpu"])  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch, in the part step")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="of the part gpu; cpu tries it out")
    parser.add_argument("--quick", action="store_true", help="see that it runs; the figures mean nothing")
    arguments = parser.parse_args(given)
    sizes = QUICK if arguments.quick else Sizes()
    device = torch.device(arguments.device)
    table = Table(arguments.rounds, warms_up=not arguments.quick)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    table.say(f"{cpu_name()}, {os.cpu_count()} cores, load {load}; torch {torch.__version__}")
    table.say(f"images/s: median (min-max) of {arguments.rounds} rounds")
    table.say(f"{'':70} {'by the clock':>24} {'by CPU time, one core':>24}")
    with tempfile.TemporaryDirectory() as folder:
        for part in arguments.parts:
            if part == "prepare":
                prepare_part(table, sizes, Path(folder))
            elif part == "loader":
                loader_part(table, sizes, Path(folder))
            elif part == "step":
                torch.set_num_threads(arguments.threads)
                step_part(table, sizes, Path(folder))
            elif device.type == "cuda" and not torch.cuda.is_available():
                table.say("gpu: left out, there is no CUDA device")
            else:
                gpu_part(table, sizes, Path(folder), device)


if __name__ == "__main__":
    main()
