"""The training cache on disk: framed Hounsfield slices in memory-mapped shards, an index, a manifest of hashes.

    CACHE/ cache.json          manifest: what it holds and how it was made; there only when the cache is whole
           index.csv           one line a slice
           hu-00000.bin ...    int16 (SHARD_SLICES, size_px, size_px), little endian
           bleeds-00000.bin .. uint8 likewise, where every pixel's truth is known (phantoms): 0, or 1 + place
                           in SUBTYPES
           aside.csv           what was set aside, and why

No name, patient ID or UID is in it: studies, series and patients are salted hashes.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from triage.errors import DataError
from triage.records import LABELS
from triage.train.index import (
    COLUMNS,
    Bools,
    CachedSlice,
    Floats,
    Index,
    Rows,
    Strings,
    line_of,
    parse_index,
)

__all__ = [
    "ASIDE", "FORMAT", "INDEX", "JOURNAL", "MANIFEST", "SHARD_SLICES", "Aside", "Bools", "Cache", "CacheWriter",
    "CachedSlice", "Floats", "Frame", "Index", "Manifest", "Rows", "Strings", "file_hash", "open_cache",
    "parse_manifest", "read_manifest_text", "shard_name", "verify", "write_atomically",
]  # fmt: skip

FORMAT = 1
"""Version of the layout and of the preprocessing before it; a reader refuses any other. Raised with every change that
gives a slice other values."""

SHARD_SLICES = 4096
"""Slices a shard; 512 MiB at 256 pixels."""

MANIFEST, INDEX, ASIDE, JOURNAL = "cache.json", "index.csv", "aside.csv", "journal.csv"

AGAIN = "run prepare again with another --out"


@dataclass(frozen=True, slots=True)
class Frame:
    """How slices were brought to one size: `triage.nn.preprocess.framed` with these two."""

    size_px: int = 256
    fov_mm: float = 0.0
    """Side of the square around the head; 0 keeps the whole image, padded to square."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a cache says about itself; cache.json."""

    layout: str
    """Where it came from: "rsna", "studies" or "phantoms"."""
    frame: Frame
    slab_mm: float
    """Thin slices were averaged to about this thickness, as the node averages them; 0: none were."""
    source: str
    """One line for a person: the stage that was recognised, or the seeds of phantoms."""
    inputs: str
    """SHA-256 over what it was made from, by which a second run over the same input is recognised."""
    n_slices: int = 0
    n_studies: int = 0
    n_patients: int = 0
    n_aside: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    """Positive slices by label."""
    notes: tuple[str, ...] = ()
    """Lines for a person: duplicated ids dropped, images without labels, labels without images."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 by file name."""
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class Aside:
    """An image or series that is not in the cache, and why."""

    image: str
    reason: str


@dataclass(frozen=True)
class Cache:
    """A whole cache, open for reading."""

    folder: Path
    manifest: Manifest
    index: Index
    identity: str
    """SHA-256 of the manifest, and so of everything in the cache."""

    def __len__(self) -> int:
        return len(self.index)

    @property
    def has_bleeds(self) -> bool:
        """Whether every pixel's truth is known."""
        return "bleeds-00000.bin" in self.manifest.files

    @cached_property
    def _hu(self) -> list[npt.NDArray[np.int16]]:
        return self._shards("hu", "<i2")

    @cached_property
    def _bleeds(self) -> list[npt.NDArray[np.uint8]]:
        return self._shards("bleeds", "u1")

    def hu(self, rows: Rows) -> npt.NDArray[np.int16]:
        """Read slices.

        Args:
            rows: Which, in any order, repeated ones allowed.

        Returns:
            (len(rows), size_px, size_px) HU.
        """
        return self._read(self._hu, rows)

    def bleeds(self, rows: Rows) -> npt.NDArray[np.uint8]:
        """Read the truth of pixels: (len(rows), size_px, size_px), 0 or 1 + place in SUBTYPES; see `has_bleeds`."""
        return self._read(self._bleeds, rows)

    def _read(self, shards: Sequence[npt.NDArray[Any]], rows: Rows) -> npt.NDArray[Any]:
        size = self.manifest.frame.size_px
        out = np.empty((len(rows), size, size), shards[0].dtype if shards else np.int16)
        for k, row in enumerate(rows):
            out[k] = shards[row // SHARD_SLICES][row % SHARD_SLICES]
        return out

    def _shards(self, kind: str, dtype: str) -> list[Any]:
        size, shards = self.manifest.frame.size_px, []
        for i, begin in enumerate(range(0, len(self), SHARD_SLICES)):
            shape = (min(SHARD_SLICES, len(self) - begin), size, size)
            shards.append(np.memmap(self.folder / shard_name(kind, i), dtype, "r", shape=shape))
        return shards


def shard_name(kind: str, number: int) -> str:
    """File name of a shard."""
    return f"{kind}-{number:05d}.bin"


def open_cache(folder: Path) -> Cache:
    """Open a whole cache.

    Args:
        folder: As `triage-train prepare` or `triage-train phantoms` made it.

    Returns:
        The cache; shards are mapped, not read.

    Raises:
        DataError: It is missing, unfinished, of another version, or its files are not those of the manifest.
    """
    text = read_manifest_text(folder)
    manifest = parse_manifest(text, folder)
    index = (folder / INDEX).read_bytes() if (folder / INDEX).is_file() else b""
    if hashlib.sha256(index).hexdigest() != manifest.files.get(INDEX):
        raise DataError(f"{folder / INDEX}: not the one that {MANIFEST} names; {AGAIN}")
    cache = Cache(folder, manifest, parse_index(index.decode()), hashlib.sha256(text.encode()).hexdigest())
    if len(cache) == 0:
        raise DataError(f"{folder}: holds no slice; see {ASIDE} for the reasons")
    _check_shards(cache)
    return cache


def read_manifest_text(folder: Path) -> str:
    """The text of cache.json. Raises DataError when there is none."""
    try:
        return (folder / MANIFEST).read_text(encoding="utf-8")
    except OSError as e:
        begun = (folder / JOURNAL).exists()
        todo = "was not finished: run the same prepare again, it goes on" if begun else "name the --out of a prepare"
        raise DataError(f"{folder}: no training cache ({MANIFEST} is missing); it {todo}") from e


def parse_manifest(text: str, folder: Path) -> Manifest:
    """Read cache.json. Raises DataError when it is of another version or damaged."""
    try:
        table = json.loads(text)
        version = table.get("format")
        if version == FORMAT:
            frame, notes = Frame(**table.pop("frame")), tuple(table.pop("notes"))
            return Manifest(frame=frame, notes=notes, **table)
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise DataError(f"{folder / MANIFEST}: damaged ({type(e).__name__}); {AGAIN}") from e
    raise DataError(f"{folder}: made by preprocessing version {version}, this is version {FORMAT}; {AGAIN}")


def _check_shards(cache: Cache) -> None:
    """Sizes only: hashing 100 GB takes minutes; `verify` does it."""
    size = cache.manifest.frame.size_px**2
    for kind, width in (("hu", 2), ("bleeds", 1)):
        for i, begin in enumerate(range(0, len(cache), SHARD_SLICES)):
            path = cache.folder / shard_name(kind, i)
            if path.name not in cache.manifest.files and kind == "bleeds":
                continue
            wanted = min(SHARD_SLICES, len(cache) - begin) * size * width
            found = path.stat().st_size if path.is_file() else 0
            if found != wanted:
                raise DataError(f"{path}: {found} bytes, not {wanted}; {AGAIN}")


def verify(cache: Cache, on_file: Callable[[str], None] = lambda _: None) -> None:
    """Check the hash of every file.

    Args:
        cache: An open cache.
        on_file: Told each file's name before it is read.

    Raises:
        DataError: A file is missing or altered.
    """
    for name, digest in cache.manifest.files.items():
        on_file(name)
        if file_hash(cache.folder / name) != digest:
            raise DataError(f"{cache.folder / name}: altered since it was written; {AGAIN}")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, empty where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


class CacheWriter:
    """Writes a cache one unit (a study) after another, from the beginning or from where an interrupted run ended.

    After each unit the shards are synced and a line of the journal says how far they are good, so a kill at any
    moment costs one unit at most.
    """

    def __init__(self, folder: Path, inputs: str, frame: Frame, durable: bool = True) -> None:
        """Begin, or go on where the journal of the same inputs ends.

        Args:
            folder: Of the cache; made where it is missing.
            inputs: SHA-256 over what the cache is made from; see Manifest.inputs.
            frame: Of every slice.
            durable: Sync each unit to the disk and hash the shards; False for a cache that lives no longer than its
                run.

        Raises:
            DataError: The folder holds the beginnings of a cache of other inputs.
        """
        self.folder, self.inputs, self.frame, self._durable = folder, inputs, frame, durable
        folder.mkdir(parents=True, exist_ok=True)
        self._journal = folder / JOURNAL
        self.done: set[str] = set()
        """Units already written."""
        self._lines: list[list[str]] = []
        self._asides: list[Aside] = []
        if self._journal.exists():
            self._resume()
        else:
            self._note({"inputs": inputs})

    def _resume(self) -> None:
        """Read the journal; what it and the shards hold beyond its last whole line is cut off."""
        whole = [line for line in self._journal.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        os.truncate(self._journal, sum(map(len, whole)))
        if not whole:
            self._note({"inputs": self.inputs})
            return
        try:
            first, *entries = map(json.loads, whole)
        except ValueError as e:
            raise DataError(f"{self._journal}: damaged; name another --out or remove that folder") from e
        if first.get("inputs") != self.inputs:
            raise DataError(
                f"{self.folder}: holds an unfinished cache of other inputs; name another --out or remove that folder"
            )
        for entry in entries:
            self.done.add(entry["unit"])
            self._lines += entry["lines"]
            self._asides += [Aside(*a) for a in entry["asides"]]
        self._cut_shards()

    def _cut_shards(self) -> None:
        """Cut off what an interrupted unit wrote."""
        wanted = {self.folder / shard_name("hu", i) for i in range(-(-self.n_slices // SHARD_SLICES))}
        for path in wanted | set(self.folder.glob("*-?????.bin")):
            kind, number = path.stem.split("-")
            plane = self.frame.size_px**2 * (2 if kind == "hu" else 1)
            n = min(max(0, self.n_slices - int(number) * SHARD_SLICES), SHARD_SLICES)
            if not path.exists() or path.stat().st_size < n * plane:
                raise DataError(f"{path}: shorter than {JOURNAL} says; name another --out or remove that folder")
            os.truncate(path, n * plane)
            if n == 0:
                path.unlink()

    @property
    def n_slices(self) -> int:
        """Slices written so far, by earlier runs too."""
        return len(self._lines)

    def append(self, unit: str, slices: Sequence[CachedSlice], asides: Sequence[Aside] = ()) -> None:
        """Add a unit; its slices are ordered and belong to one study.

        Args:
            unit: Its name, found in `done` by a later run.
            slices: None where the whole unit is set aside.
            asides: What of it is set aside.
        """
        for kind in ("hu", "bleeds"):
            planes = [getattr(one, kind) for one in slices]
            if planes and all(plane is not None for plane in planes):
                self._write(kind, planes)
        lines = [line_of(one) for one in slices]
        self._note({"unit": unit, "lines": lines, "asides": [[a.image, a.reason] for a in asides]})
        self.done.add(unit)
        self._lines += lines
        self._asides += asides

    def _write(self, kind: str, planes: Sequence[npt.NDArray[Any]]) -> None:
        at = len(self._lines)
        for k, plane in enumerate(planes):
            number, place = divmod(at + k, SHARD_SLICES)
            path = self.folder / shard_name(kind, number)
            with path.open("r+b" if path.exists() else "w+b") as file:
                file.seek(place * plane.nbytes)
                file.write(np.ascontiguousarray(plane).astype(plane.dtype.newbyteorder("<")).tobytes())
                file.truncate()
                if self._durable and (k == len(planes) - 1 or place == SHARD_SLICES - 1):
                    file.flush()
                    os.fsync(file.fileno())

    def _note(self, entry: dict[str, Any]) -> None:
        with self._journal.open("ab") as file:
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            if self._durable:
                os.fsync(file.fileno())

    def finish(self, manifest: Manifest) -> Cache:
        """Write index and manifest; the cache is whole from then on.

        Args:
            manifest: Its counts and hashes are filled in here.

        Returns:
            The cache, open.
        """
        _write_csv(self.folder / INDEX, [COLUMNS, *self._lines])
        _write_csv(self.folder / ASIDE, [("image", "reason"), *((a.image, a.reason) for a in self._asides)])
        shards = {p.name: file_hash(p) if self._durable else "" for p in sorted(self.folder.glob("*.bin"))}
        index = parse_index((self.folder / INDEX).read_text(encoding="utf-8"))
        table = asdict(manifest) | {
            "n_slices": len(index), "n_studies": len(set(index.study)), "n_patients": len(set(index.patient)),
            "n_aside": len(self._asides),
            "counts": {label: int(n) for label, n in zip(LABELS, index.labels.sum(axis=0), strict=True)},
            "files": {name: file_hash(self.folder / name) for name in (INDEX, ASIDE)} | shards,
        }  # fmt: skip
        write_atomically(self.folder / MANIFEST, json.dumps(table, indent=2).encode())
        self._journal.unlink()
        return open_cache(self.folder)


def _write_csv(path: Path, lines: Sequence[Sequence[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines)
    write_atomically(path, text.getvalue().encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
