"""Labels + DICOM -> a training cache; resumable, in several processes, the same bytes however many.

    files -> named by pseudonyms -> units of one study -> slices (in workers) -> CacheWriter, in order of study

It writes the cache and nothing else, and prints nothing.
"""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from triage.errors import DataError, TrainingError
from triage.records import LABELS
from triage.train.cache import (
    FORMAT,
    JOURNAL,
    MANIFEST,
    Cache,
    CacheWriter,
    Frame,
    Manifest,
    open_cache,
    parse_manifest,
    read_manifest_text,
    write_atomically,
)
from triage.train.labels import Labels, labels_without_positives, read_labels
from triage.train.pool import Pool, Worker
from triage.train.slices import Making, make_slices
from triage.train.sources import (
    ImageFile,
    Named,
    Plan,
    find_files,
    inputs_hash,
    labelled_files,
    name_files,
    plan,
    shortened,
)

RSNA_SALT = "RSNA 2019 intracranial hemorrhage"
"""RSNA's identifiers are pseudonyms already and public; with one salt for all, splits agree between machines."""

SALT_FILE, UNMATCHED = "salt.key", "unmatched.csv"

MIN_SALT_CHARACTERS = 16

DEFAULT_SLAB_MM = {"rsna": 0.0, "studies": 5.0}
"""RSNA labels single slices and most of its series are thick; a hospital's thin series are averaged as in the node."""

MARGIN = 1.02
"""Disk needed beyond the pixels: index and journal."""

FILES_A_JOB = 64

UNREADABLE = "unreadable files"
"""Name of the unit that holds what belongs to no study."""

Phase = Literal["labels", "headers", "slices", "hashes", "unchanged"]


@dataclass(frozen=True, slots=True)
class PrepareOptions:
    """How a cache is made."""

    size_px: int = 256
    fov_mm: float = 0.0
    """See cache.Frame."""
    slab_mm: float | None = None
    """Thin slices are averaged to about this; 0: they are left; None: as DEFAULT_SLAB_MM says."""
    workers: int = 0
    """Processes; 0: one a core."""
    salt_file: Path | None = None
    """With the salt of an earlier cache, so that data can grow and each patient stays in its part of the split; None:
    RSNA's constant, or a new secret one in OUT/salt.key."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is."""

    phase: Phase
    """"unchanged": the cache was there already."""
    done: int = 0
    """Files ("headers") or studies ("slices")."""
    total: int = 0
    slices: int = 0
    """Slices written, those of an interrupted run among them."""
    n_slices: int = 0
    """At most so many will be."""
    needed_bytes: int = 0
    """That will still be written."""
    aside: int = 0
    """Images set aside so far in this run."""


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class _Task:
    """What is to be prepared, once labels and files are known."""

    images: Path
    out: Path
    labels: Labels
    files: list[ImageFile]
    options: PrepareOptions
    salt: str

    @property
    def layout(self) -> str:
        return "rsna" if self.labels.by == "image" else "studies"

    @property
    def frame(self) -> Frame:
        return Frame(self.options.size_px, self.options.fov_mm)

    @property
    def slab_mm(self) -> float:
        return DEFAULT_SLAB_MM[self.layout] if self.options.slab_mm is None else self.options.slab_mm

    @property
    def inputs(self) -> str:
        return inputs_hash(self.files, self.labels, FORMAT, self.layout, asdict(self.frame), self.slab_mm, self.salt)


def prepare(
    images: Path,
    labels: Path,
    out: Path,
    options: PrepareOptions | None = None,
    on_progress: OnProgress = lambda _: None,
) -> Cache:
    """Make a training cache; an interrupted run goes on, a second one over the same input does nothing.

    Args:
        images: Folder of RSNA's files, or of ordinary studies.
        labels: RSNA's CSV, or a table by UID; its header says which.
        out: Folder of the cache.
        options: How.
        on_progress: Told how far it is.

    Returns:
        The cache, open.

    Raises:
        DataError: Labels, images, options, disk space or what is in `out` do not allow it; nothing was written then.
        TrainingError: It stopped on the way; the same call goes on.
    """
    on_progress(Progress("labels"))
    task = _task(images, labels, out, options or PrepareOptions())
    inputs = task.inputs
    if (out / MANIFEST).exists():
        if parse_manifest(read_manifest_text(out), out).inputs != inputs:
            raise DataError(f"{out}: holds a finished cache of other inputs; name another --out or remove that folder")
        on_progress(Progress("unchanged"))
        return open_cache(out)
    begun = CacheWriter(out, inputs, task.frame) if (out / JOURNAL).exists() else None
    with Pool(task.options.workers) as pool, _disk_errors(out):
        work = _plan(task, pool, on_progress)
        needed = _check_room(task, work)
        if task.salt != RSNA_SALT:
            _keep_salt(task)
        writer = begun or CacheWriter(out, inputs, task.frame)
        _write_slices(task, work, (pool, writer), lambda p: on_progress(_with_needs(p, needed)))
        on_progress(Progress("hashes"))
        _write_unmatched(out, work)
        return writer.finish(_manifest(task, work, inputs))


def _with_needs(progress: Progress, needed_bytes: int) -> Progress:
    return Progress(progress.phase, progress.done, progress.total, progress.slices, progress.n_slices, needed_bytes,
                    progress.aside)  # fmt: skip


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise TrainingError(
            f"{out}: stopped, the disk said: {e.strerror}; make room or mend it and run the same again, it goes on"
        ) from e


def _task(images: Path, labels: Path, out: Path, options: PrepareOptions) -> _Task:
    if not 32 <= options.size_px <= 1024 or options.fov_mm < 0 or (options.slab_mm or 0) < 0 or options.workers < 0:
        raise DataError("size_px must be 32 to 1024; fov_mm, slab_mm and workers 0 or more")
    if out.resolve().is_relative_to(images.resolve()):
        raise DataError(f"{out}: lies within the folder of images; name a folder beside it")
    read = read_labels(labels)
    files = find_files(images, ".dcm" if read.by == "image" else "")
    table = labels.resolve()
    files = [file for file in files if (images / file.path).resolve() != table]
    return _Task(images, out, read, files, options, _salt(out, read, options))


def _salt(out: Path, labels: Labels, options: PrepareOptions) -> str:
    if options.salt_file is None and labels.by == "image":
        return RSNA_SALT
    path = options.salt_file or out / SALT_FILE
    if options.salt_file is None and not path.exists():
        return secrets.token_hex(32)
    try:
        salt = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{path}: the salt cannot be read ({type(e).__name__}); name the {SALT_FILE} of a cache") from e
    if len(salt) < MIN_SALT_CHARACTERS:
        raise DataError(f"{path}: no salt of {MIN_SALT_CHARACTERS} characters or more; name the {SALT_FILE} of a cache")
    return salt


def _keep_salt(task: _Task) -> None:
    path = task.out / SALT_FILE
    if not path.exists():
        task.out.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{SALT_FILE}.{os.getpid()}.part")  # whole or not at all, and never to be read by others
        part.touch(mode=0o600)
        part.write_text(f"{task.salt}\n", encoding="utf-8")
        part.replace(path)


def _name(job: tuple[Path, Sequence[str], str], _: Worker) -> list[Named]:
    return name_files(*job)


def _plan(task: _Task, pool: Pool, on_progress: OnProgress) -> Plan:
    """Read who the files belong to, group and match them."""
    files, unlabelled = task.files, list[str]()
    if task.labels.by == "image":
        files, unlabelled = labelled_files(files, task.labels)
    jobs = [
        (task.images, [file.path for file in files[begin : begin + FILES_A_JOB]], task.salt)
        for begin in range(0, len(files), FILES_A_JOB)
    ]
    named: list[Named] = []
    for some in pool.map(_name, jobs):
        named += some
        on_progress(Progress("headers", len(named), len(files)))
    return plan(named, task.labels, (task.salt, task.slab_mm), unlabelled)


def _check_room(task: _Task, work: Plan) -> int:
    """Bytes that will be written.

    Raises:
        DataError: The disk has no room for them.
    """
    whole = int(work.n_slices * task.options.size_px**2 * np.dtype(np.int16).itemsize * MARGIN)
    there = sum(path.stat().st_size for path in task.out.glob("hu-*.bin"))
    needed = max(0, whole - there)
    folder = next(folder for folder in (task.out, *task.out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{task.out}: needs {needed / 1e9:.3g} GB, {free / 1e9:.3g} GB free; make room or name another --out"
        )
    return needed


def _write_slices(
    task: _Task, work: Plan, means: tuple[Pool, CacheWriter], on_progress: OnProgress
) -> None:
    """Bring every unit that is not there yet into the cache, in order."""
    pool, writer = means
    making = Making(task.images, task.frame, task.slab_mm, any_uid=task.labels.by == "image")
    todo = [unit for unit in work.units if unit.study not in writer.done]
    done, slices, aside = len(work.units) - len(todo), writer.n_slices, len(work.asides)
    on_progress(Progress("slices", done, len(work.units), slices, work.n_slices, aside=aside))
    if UNREADABLE not in writer.done:
        writer.append(UNREADABLE, [], work.asides)
    for made in pool.map(make_slices, [(unit, making) for unit in todo]):
        if not made.slices and not (task.images / made.unit.images[0].path).exists():
            raise TrainingError(f"{task.images}: files have gone; bring them back and run the same again, it goes on")
        writer.append(made.unit.study, made.slices, made.asides)
        done, slices, aside = done + 1, slices + len(made.slices), aside + len(made.asides)
        on_progress(Progress("slices", done, len(work.units), slices, work.n_slices, aside=aside))


def _write_unmatched(out: Path, work: Plan) -> None:
    """Images without labels and labels without images, all of them."""
    lines = ["name,missing", *(f"{name},labels" for name in work.unlabelled)]
    lines += [f"{name},image" for name in work.without_image]
    write_atomically(out / UNMATCHED, "".join(f"{line}\n" for line in lines).encode())


def _manifest(task: _Task, work: Plan, inputs: str) -> Manifest:
    return Manifest(
        layout=task.layout,
        frame=task.frame,
        slab_mm=task.slab_mm,
        source=task.labels.source,
        inputs=inputs,
        notes=(*task.labels.notes, *work.notes, *_notes(task, work)),
    )


def _notes(task: _Task, work: Plan) -> Iterator[str]:
    by_study = task.labels.by == "StudyInstanceUID"
    if work.unlabelled:
        yield shortened("studies without labels" if by_study else "images without labels", work.unlabelled)
    if work.without_image:
        yield shortened("labels without images", work.without_image)
    truths = [unit.truth if unit.truth is not None else image.truth for unit in work.units for image in unit.images]
    missing = labels_without_positives(np.array(truths, np.bool_).reshape(-1, len(LABELS)))
    if missing:
        yield f"no positive image for {', '.join(missing)}: nothing can be learned about that"
    if by_study:
        yield "weak labels: slices inherit the study's label, so positive slices that show no bleed are among them"
    if task.layout == "studies":
        yield f"{SALT_FILE} links patients to their pseudonyms: keep it, and never hand it out with the cache"
