"""Image files and labels -> one unit of work a study; finds, names by pseudonyms and matches files, decodes none."""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from triage.dicom.pseudonyms import Kind, Pseudonyms, pseudonym, read_pseudonyms
from triage.errors import DataError, InstanceError
from triage.train.cache import Aside
from triage.train.labels import Labels

SHOWN = 5
"""Names written out in a note; the whole list is in unmatched.csv."""

MAX_COVERAGE_MM = 300.0
"""Most extent of a series that selection takes for a head."""

Truth = tuple[bool, ...]
"""As LABELS."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file that may hold an image."""

    path: str
    """Relative to the folder of images, with forward slashes; may name a patient, so it goes into no cache."""
    size_bytes: int

    @property
    def stem(self) -> str:
        """RSNA's image id."""
        return os.path.splitext(self.path.rpartition("/")[2])[0]  # noqa: PTH122 (a Path takes ten times as long)


@dataclass(frozen=True, slots=True)
class Named:
    """A file and who it belongs to, or why that cannot be read."""

    path: str
    names: Pseudonyms | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a unit."""

    path: str
    name: str
    series: str
    truth: Truth | None = None
    """None where the labels are the study's."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A study on its way into the cache."""

    study: str
    patient: str
    images: tuple[Image, ...]
    """Ordered by path."""
    truth: Truth | None = None
    """Of the whole study; None where images have their own."""
    n_slices: int = 0
    """At most so many will come out."""


@dataclass(frozen=True)
class Plan:
    """What is to be done."""

    units: tuple[Unit, ...]
    """Ordered by study."""
    asides: tuple[Aside, ...] = ()
    """Files that could not be read."""
    unlabelled: tuple[str, ...] = ()
    """Images, or studies, that the label file does not name."""
    without_image: tuple[str, ...] = ()
    """Names of the label file without an image."""
    notes: tuple[str, ...] = field(default=())

    @property
    def n_slices(self) -> int:
        """At most so many slices will come out."""
        return sum(unit.n_slices for unit in self.units)


def find_files(folder: Path, suffix: str = "") -> list[ImageFile]:
    """List the files of a folder and those below it.

    Args:
        folder: To look in.
        suffix: Which files, in small letters; all but hidden ones and DICOMDIR where it is empty.

    Returns:
        The files, ordered by path.

    Raises:
        DataError: The folder is missing or holds no such file.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name the folder with the images")

    def is_wanted(name: str) -> bool:
        return name.lower().endswith(suffix) if suffix else not name.startswith(".") and name != "DICOMDIR"

    files = [
        ImageFile(entry.path[len(str(folder)) :].replace(os.sep, "/").lstrip("/"), entry.stat().st_size)
        for entry in _entries(folder)
        if is_wanted(entry.name)
    ]
    if not files:
        raise DataError(f"{folder}: holds no {suffix or 'file'}; name the folder with the images")
    return sorted(files, key=lambda file: file.path)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    waiting = [str(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    waiting.append(entry.path)
                elif entry.is_file():
                    yield entry


def inputs_hash(files: Sequence[ImageFile], labels: Labels, *facts: object) -> str:
    """What a cache is made from, in one hash.

    Args:
        files: Ordered by path; known by name and size.
        labels: Known by the hash of their file.
        facts: Whatever else changes the cache.

    Returns:
        SHA-256, hexadecimal.
    """
    digest = hashlib.sha256(json.dumps([labels.sha256, *facts]).encode())
    for file in files:
        digest.update(f"\0{file.path}\0{file.size_bytes}".encode(errors="surrogateescape"))
    return digest.hexdigest()


def labelled_files(files: Sequence[ImageFile], labels: Labels) -> tuple[list[ImageFile], list[str]]:
    """Match RSNA's files, named as their images are, with the labels.

    Args:
        files: Any.
        labels: By image.

    Returns:
        The files that have labels, ordered by path; the images without labels.

    Raises:
        DataError: Two files have one name, or no file has a label.
    """
    stems = Counter(file.stem for file in files)
    twice = next((stem for stem, count in stems.items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{twice}: {stems[twice]} files of this name below the folder of images; leave one")
    found = [file for file in files if file.stem in labels.row_of]
    if not found:
        raise DataError(f"{labels.path}: names none of the {len(files)} images; name the labels of these images")
    return found, [file.stem for file in files if file.stem not in labels.row_of]


def name_files(folder: Path, paths: Sequence[str], salt: str) -> list[Named]:
    """Read who files belong to.

    Args:
        folder: Of the images.
        paths: Of the files, relative to it.
        salt: Of the pseudonyms.

    Returns:
        One entry a file, in that order.
    """
    return [_named(folder, path, salt) for path in paths]


def _named(folder: Path, path: str, salt: str) -> Named:
    try:
        return Named(path, read_pseudonyms(folder / path, salt))
    except InstanceError as e:
        return Named(path, None, str(e))


def plan(
    named: Sequence[Named], labels: Labels, means: tuple[str, float], unlabelled: Sequence[str] = ()
) -> Plan:
    """Group files into studies and give them their labels.

    Args:
        named: Files that may have labels, ordered by path.
        labels: By image or by study.
        means: The salt of the pseudonyms, and the thickness that thin slices will be averaged to (0: none are).
        unlabelled: Images that were left out already.

    Returns:
        The plan.

    Raises:
        DataError: No image has a label.
    """
    salt, slab_mm = means
    by_study = labels.by == "StudyInstanceUID"
    kind: Kind = "study" if by_study else "image"
    rows = labels.row_of
    if labels.by != "image":
        rows = {pseudonym(salt, kind, name): row for name, row in rows.items()}
    images, n_copies = _images(named, labels.by == "image")
    keys = {name: names.study if by_study else name for name, (_, names) in images.items()}
    groups: dict[str, list[str]] = {}
    for name in images:
        if keys[name] in rows:
            groups.setdefault(images[name][1].study, []).append(name)
    if not groups:
        raise DataError(
            f"{labels.path}: names none of the {len(images)} images that can be read; name the labels of these images"
        )
    have = set(keys.values())
    lines = labels.truth.tolist()
    truths = {key: tuple(lines[row]) for key, row in rows.items() if key in have}
    units = tuple(_unit(groups[study], images, (keys, truths, by_study), slab_mm) for study in sorted(groups))
    asides = tuple(Aside(_file_name(one.path, labels, salt), one.reason) for one in named if one.names is None)
    return Plan(
        units=units,
        asides=asides,
        unlabelled=(*unlabelled, *sorted(have - set(rows))),
        without_image=tuple(key for key in rows if key not in have),
        notes=tuple(_notes(units, images, n_copies)),
    )


def _images(named: Iterable[Named], by_stem: bool) -> tuple[dict[str, tuple[str, Pseudonyms]], int]:
    """Path and pseudonyms by name of the image, and how many further files held an image already seen."""
    images: dict[str, tuple[str, Pseudonyms]] = {}
    n_copies = 0
    for one in named:
        if one.names is not None:
            name = ImageFile(one.path, 0).stem if by_stem else one.names.image
            n_copies += name in images
            images.setdefault(name, (one.path, one.names))
    return images, n_copies


def _file_name(path: str, labels: Labels, salt: str) -> str:
    """What a file that tells no UID is called: RSNA's id, else a hash, for its path may name a patient."""
    return ImageFile(path, 0).stem if labels.by == "image" else f"file-{pseudonym(salt, 'image', path)}"


def _unit(
    members: Sequence[str],
    images: dict[str, tuple[str, Pseudonyms]],
    truth: tuple[dict[str, str], dict[str, Truth], bool],
    slab_mm: float,
) -> Unit:
    keys, truths, by_study = truth
    first = images[members[0]][1]
    own = {name: None if by_study else truths[keys[name]] for name in members}
    counts: Counter[str] = Counter()
    for name in members:
        counts[images[name][1].series] += images[name][1].n_frames
    n_slices = sum(counts.values())
    if by_study:
        n_slices = max(counts.values())
        if slab_mm > 0:
            # A slab is never thinner than two thirds of what is wanted, save at gaps; see preprocess.average_thin.
            n_slices = min(n_slices, math.ceil(1.5 * MAX_COVERAGE_MM / slab_mm))
    return Unit(
        study=first.study,
        patient=first.patient,
        images=tuple(Image(images[name][0], name, images[name][1].series, own[name]) for name in members),
        truth=truths[first.study] if by_study else None,
        n_slices=n_slices,
    )


def _notes(units: Sequence[Unit], images: dict[str, tuple[str, Pseudonyms]], n_copies: int) -> Iterator[str]:
    if n_copies:
        yield f"{n_copies} files hold an image that another file holds too; left out"
    nameless = len({names.study for _, names in images.values() if not names.has_patient})
    if nameless:
        yield f"{nameless} studies state no PatientID; each counts as a patient of its own"
    if len(units) > 1 and len({unit.patient for unit in units}) == 1:
        yield f"all {len(units)} studies have one and the same PatientID: they cannot be split by patient"


def shortened(what: str, names: Sequence[str]) -> str:
    """A note on names: how many, and the first few."""
    return f"{len(names):,} {what}: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
