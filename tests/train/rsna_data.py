"""Phantom heads as training data on disk: in the layout of RSNA 2019, and as a hospital's studies with labels."""

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pydicom import Dataset, config, dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from scipy import ndimage

from triage.phantom import PhantomSpec, PhantomStudy, generate
from triage.phantom.writer import QUIRKS as WRITER_QUIRKS
from triage.phantom.writer import WriterOptions, write_series
from triage.records import LABELS, SUBTYPES

RSNA_ORDER = (*SUBTYPES, "any")
"""Of the rows of one image."""

RSNA_ELEMENTS = (
    "SOPInstanceUID", "Modality", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "StudyID",
    "ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel", "PhotometricInterpretation", "Rows",
    "Columns", "PixelSpacing", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "WindowCenter",
    "WindowWidth", "RescaleIntercept", "RescaleSlope", "PixelData",
)  # fmt: skip
"""All that RSNA's files have; no SOP class, no numbers, no thickness, no maker."""

QUIRKS = (
    "truncated", "constant", "wrap12", "pad2000", "tilt", "dup", "nonsquare", "overflow",
    "csv_duplicate", "unlabelled", "imageless",
)  # fmt: skip
"""Faults known of such data. Each is laid on one study: the first on the first, and so on, again from the first after
the last. Header windows are multi-valued in every other file anyway."""

TILT_DEG = 18.0

TISSUE_HU = -200

SPACING_MM = 10.0
"""Twelve slices so far apart cover a head."""


@dataclass(frozen=True, slots=True)
class RsnaSpec:
    """What to write."""

    n_studies: int = 8
    n_slices: int = 12
    size_px: int = 64
    seed: int = 1
    p_bleed: float = 0.6
    second_studies: int = 2
    """So many of the studies are second ones of patients who have another."""
    texture_hu: float = 0.0
    """Standard deviation of a smooth pattern that all slices of a study share and no other study has."""
    quirks: tuple[str, ...] = ()
    """From QUIRKS."""
    csv_name: str = "stage_2_train.csv"


@dataclass
class RsnaTruth:
    """What was written."""

    images: Path
    """Folder of the files."""
    labels: Path
    """The CSV."""
    truth: dict[str, tuple[bool, ...]] = field(default_factory=dict)
    """By image id, as LABELS; of every image written, labelled or not."""
    study: dict[str, str] = field(default_factory=dict)
    """StudyInstanceUID by image id."""
    patient: dict[str, str] = field(default_factory=dict)
    """PatientID by image id."""
    position_mm: dict[str, float] = field(default_factory=dict)
    """Along the normal, from the lowest slice."""
    quirk: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By StudyInstanceUID."""
    broken: dict[str, str] = field(default_factory=dict)
    """Image ids that cannot be used, and the quirks of their study: "truncated" or "constant" among them."""
    unlabelled: tuple[str, ...] = ()
    """Image ids without rows."""
    imageless: tuple[str, ...] = ()
    """Ids of rows without image."""
    duplicated: tuple[str, ...] = ()
    """Ids whose rows are there twice."""

    @property
    def usable(self) -> list[str]:
        """Image ids that must end in a cache."""
        return sorted(set(self.truth) - set(self.broken) - set(self.unlabelled))


def write_rsna(folder: Path, spec: RsnaSpec | None = None) -> RsnaTruth:
    """Write phantoms in the layout of RSNA 2019, as it is distributed.

    Args:
        folder: Gets a folder of DICOM files and the CSV beside it.
        spec: What to write.

    Returns:
        The truth; the same spec gives the same files.
    """
    spec = spec or RsnaSpec()
    if unknown := set(spec.quirks) - set(QUIRKS):
        raise ValueError(f"unknown quirk {min(unknown)}")
    rng = random.Random(spec.seed)
    out = RsnaTruth(folder / Path(spec.csv_name).stem, folder / spec.csv_name)
    out.images.mkdir(parents=True)
    patients = [_id(rng, 8) for _ in range(spec.n_studies)]
    n_first = spec.n_studies - spec.second_studies
    for k in range(spec.n_studies):
        quirks = tuple(q for i, q in enumerate(spec.quirks) if i % spec.n_studies == k)
        patient = patients[k if k < n_first else k - n_first]
        _write_study(out, _phantom(spec, k, quirks), (patient, _id(rng, 10), _id(rng, 10)), quirks, rng)
    _choose_gaps(out, spec, rng)
    _write_csv(out, rng)
    return out


def _id(rng: random.Random, digits: int) -> str:
    return f"ID_{rng.getrandbits(4 * digits):0{digits}x}"


def _phantom(spec: RsnaSpec, k: int, quirks: Sequence[str]) -> PhantomStudy:
    study = generate(
        1000 * spec.seed + k,
        PhantomSpec(
            n_slices=spec.n_slices, size_px=spec.size_px, spacing_mm=SPACING_MM, p_bleed=spec.p_bleed,
            tilt_deg=TILT_DEG if "tilt" in quirks else 0.0,
        ),
    )  # fmt: skip
    return textured(study, spec.texture_hu, 1000 * spec.seed + k) if spec.texture_hu else study


def textured(study: PhantomStudy, texture_hu: float, seed: int) -> PhantomStudy:
    """The study with one smooth pattern of its own, laid on the tissue of every slice."""
    rng = np.random.default_rng(seed)
    rows, columns = study.hu.shape[1:]
    pattern = ndimage.zoom(rng.standard_normal((6, 6)), (rows / 6, columns / 6), order=1)
    pattern *= texture_hu / pattern.std()
    hu = study.hu + np.where(study.hu > TISSUE_HU, np.rint(pattern), 0).astype(np.int16)
    return replace(study, hu=np.clip(hu, -1024, 3071).astype(np.int16))


def _write_study(
    out: RsnaTruth, study: PhantomStudy, uids: tuple[str, str, str], quirks: tuple[str, ...], rng: random.Random
) -> None:
    patient, study_uid, series_uid = uids
    names = {"truncated": "short"}
    options = WriterOptions(tuple(q for q in (names.get(q, q) for q in quirks) if q in WRITER_QUIRKS))
    plain = out.images / "plain"
    paths = write_series(study, plain, options)
    truths = study.slice_labels()
    out.quirk[study_uid] = quirks
    for path in paths:
        # "again.dcm" is the second image at the position of the slice in the first third.
        k = len(truths) // 3 if path.stem == "again" else int(path.stem) - 1
        image = _id(rng, 9)
        _rewrite(path, out.images / f"{image}.dcm", (image, patient, study_uid, series_uid), multivalued=k % 2 == 1)
        out.truth[image] = tuple(map(bool, truths[k]))
        out.study[image], out.patient[image] = study_uid, patient
        out.position_mm[image] = study.positions_mm[k]
        if k == len(truths) // 2:
            out.broken |= dict.fromkeys([image] if set(quirks) & {"truncated", "constant"} else [], " ".join(quirks))
        path.unlink()
    plain.rmdir()


def _rewrite(path: Path, to: Path, names: tuple[str, str, str, str], multivalued: bool) -> None:
    """The same image with the header that RSNA left it."""
    with config.disable_value_validation():
        whole, ds = dcmread(path), Dataset()
        elements = ("SOPInstanceUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "StudyID")
        for keyword, value in zip(elements, (*names, ""), strict=True):
            setattr(whole, keyword, value)
        if multivalued:
            whole.WindowCenter, whole.WindowWidth = ["00036", "00036"], ["00080", "00080"]
        for keyword in RSNA_ELEMENTS:
            ds[keyword] = whole[keyword]
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, ds.SOPInstanceUID
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        FileDataset(str(to), ds, preamble=b"\0" * 128, file_meta=meta).save_as(to, enforce_file_format=True)


def _choose_gaps(out: RsnaTruth, spec: RsnaSpec, rng: random.Random) -> None:
    """Images without rows, rows without image, rows that are there twice."""
    sound = sorted(set(out.truth) - set(out.broken))
    if "unlabelled" in spec.quirks:
        out.unlabelled = tuple(rng.sample(sound, 3))
    if "imageless" in spec.quirks:
        out.imageless = tuple(sorted(_id(rng, 9) for _ in range(2)))
    if "csv_duplicate" in spec.quirks:
        out.duplicated = tuple(rng.sample([name for name in sound if name not in out.unlabelled], 2))


def _write_csv(out: RsnaTruth, rng: random.Random) -> None:
    names = [name for name in out.truth if name not in out.unlabelled] + list(out.imageless)
    rng.shuffle(names)
    with out.labels.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("ID", "Label"))
        for name in [*names, *out.duplicated]:
            truth = dict(zip(LABELS, out.truth.get(name, (False,) * len(LABELS)), strict=True))
            writer.writerows((f"{name}_{label}", int(truth[label])) for label in RSNA_ORDER)


@dataclass(frozen=True, slots=True)
class StudiesSpec:
    """What to write as a hospital's studies."""

    n_studies: int = 3
    n_slices: int = 24
    """Of a thick series, 5 mm apart."""
    thin: int = 0
    """So many of the studies have a thin series instead: four times the slices, 1.25 mm apart."""
    size_px: int = 64
    seed: int = 1
    by: str = "StudyInstanceUID"
    """Or SOPInstanceUID."""
    quirks: tuple[str, ...] = ()
    """Of the phantom writer, on every study."""


@dataclass
class StudiesTruth:
    """What was written."""

    images: Path
    labels: Path
    truth: dict[str, tuple[bool, ...]] = field(default_factory=dict)
    """By the UID that the table names, as LABELS."""
    identifiers: set[str] = field(default_factory=set)
    """Every patient ID, name and UID written: none may be in a cache."""


def write_studies(folder: Path, spec: StudiesSpec | None = None) -> StudiesTruth:
    """Write phantoms as ordinary studies, a folder each, and a label table.

    Args:
        folder: Gets the folder `studies` and the table `labels.csv`.
        spec: What to write; studies with a bleed and without one take turns.

    Returns:
        The truth.
    """
    spec = spec or StudiesSpec()
    out = StudiesTruth(folder / "studies", folder / "labels.csv")
    for k in range(spec.n_studies):
        fine = 4 if k < spec.thin else 1
        bleed = ("subdural", "intraparenchymal", "epidural")[k // 2 % 3]
        phantom = PhantomSpec(
            n_slices=spec.n_slices * fine, size_px=spec.size_px, spacing_mm=5.0 / fine,
            subtypes=(bleed,) if k % 2 == 0 else (),
        )  # fmt: skip
        study = generate(1000 * spec.seed + k, phantom)
        paths = write_series(study, out.images / f"study{k}", WriterOptions(spec.quirks))
        whole = tuple(study.labels()[label] for label in LABELS)
        for path in paths:
            ds = dcmread(path, stop_before_pixels=True)
            out.identifiers |= {str(ds[k].value) for k in ("PatientID", "PatientName", "StudyInstanceUID",
                                                           "SeriesInstanceUID", "SOPInstanceUID")}  # fmt: skip
            if spec.by == "StudyInstanceUID":
                out.truth[str(ds.StudyInstanceUID)] = whole
            elif path.stem.isdigit():
                out.truth[str(ds.SOPInstanceUID)] = tuple(map(bool, study.slice_labels()[int(path.stem) - 1]))
    with out.labels.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((spec.by, *LABELS))
        writer.writerows((uid, *map(int, truth)) for uid, truth in out.truth.items())
    return out
