"""Sources, results and judges for the tests of result objects: real files, and tools that nobody here wrote."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from triage.dicom.equipment import NodeIdentity
from triage.dicom.evidence import load_evidence
from triage.dicom.objects import ResultObject, build_objects
from triage.dicom.sources import SentObject, Sources
from triage.records import (
    ANY,
    SUBTYPES,
    ActivationMap,
    Finding,
    ModelIdentity,
    Outcome,
    Priority,
    Result,
    SeriesVerdict,
    SetAside,
    Slice,
    SliceScore,
    Volume,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
STUDY, SERIES = "1.2.826.0.1.3680043.8.498.1.1", "1.2.826.0.1.3680043.8.498.1.2"
GE_HEAD = Path(__file__).parents[2].parent / "shared" / "data" / "ge_head"
SIZE = 64
Change = Callable[[Dataset], object]

DEMO = ModelIdentity("ich-demo", "0.1", "ab" * 32, "demonstration", "resnet18")
VALIDATED = ModelIdentity("ich-site", "2.0", "cd" * 32, "site-validated", "resnet152")

STARTED_AT = 1_790_000_000.25


def ct_header(index: int) -> Dataset:
    """A complete, conforming header of one slice."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID, ds.SOPInstanceUID = CT, f"{SERIES}.{index + 1}"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20240105"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "101500"
    ds.AccessionNumber, ds.Modality, ds.Manufacturer = "ACC0001", "CT", "SYNTHETIC"
    ds.ManufacturerModelName, ds.SoftwareVersions = "PhantomCT", "1"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription, ds.SeriesDescription = "CT HEAD WO CONTRAST", "Head 5.0 H31s"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "SYNTHETIC^Head", "TEST-0001", "19500101", "F"
    ds.BodyPartExamined, ds.SliceThickness, ds.KVP, ds.PatientPosition = "HEAD", "5", "120", "HFS"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, SERIES
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = "1", "2", "1", str(index + 1)
    ds.ImagePositionPatient = ["-112", "-112", f"{-40 + 5 * index}"]
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = f"{SERIES}.900", ""
    ds.PixelSpacing = ["3.5", "3.5"]
    return ds


def add_pixels(ds: Dataset, hu: np.ndarray) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = hu.shape[-2:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "HU"
    ds.PixelData = hu.astype("<i2").tobytes()
    ds["PixelData"].VR = "OW"


def write(ds: Dataset, path: Path, transfer_syntax: str = ExplicitVRLittleEndian) -> Path:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(transfer_syntax)
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.file_meta = meta
    dcmwrite(path, ds, enforce_file_format=True)
    return path


def head_hu(n: int = 8) -> np.ndarray:
    """(n, SIZE, SIZE): skull around brain, with a bright spot to the patient's left in the fourth slice."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    radius = np.hypot(x, y * 0.85)
    image = np.where(radius < 24, 32.0, np.where(radius < 27, 1000.0, -1000.0))
    hu = np.repeat(image[None], n, axis=0)
    hu[3:4, 28:34, 42:48] = 70.0
    return hu.astype(np.float32)


def ct_series(folder: Path, *changes: Change, n: int = 8) -> list[Path]:
    """Write a series whose every header went through the changes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, hu in enumerate(head_hu(n)):
        ds = ct_header(index)
        add_pixels(ds, hu)
        for change in changes:
            change(ds)
        paths.append(write(ds, folder / f"{index:03d}.dcm"))
    return paths


def enhanced_ct(folder: Path, n: int = 8) -> list[Path]:
    """One multi-frame file: no plane attributes at its root, which is what trips readers."""
    folder.mkdir(parents=True, exist_ok=True)
    ds = ct_header(0)
    for keyword in ("PixelSpacing", "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient"):
        del ds[keyword]
    ds.SOPClassUID, ds.SOPInstanceUID, ds.NumberOfFrames = ENHANCED_CT, f"{SERIES}.500", n
    add_pixels(ds, head_hu(n))
    return [write(ds, folder / "enhanced.dcm")]


def remove(*keywords: str) -> Change:
    def change(ds: Dataset) -> None:
        for keyword in keywords:
            if keyword in ds:
                del ds[keyword]

    return change


def set_to(keyword: str, value: object) -> Change:
    return lambda ds: setattr(ds, keyword, value)


def make_volume(paths: Sequence[Path]) -> Volume:
    """The volume of files written here, or of the GE head."""
    headers = [dcmread(p) for p in paths]
    if len(headers) == 1 and "NumberOfFrames" in headers[0]:
        hu = headers[0].pixel_array.astype(np.float32)
        slices = tuple(Slice(str(headers[0].SOPInstanceUID), frame + 1) for frame in range(len(hu)))
        return Volume(hu, slices, tuple(5.0 * i for i in range(len(hu))), (3.5, 3.5), 5.0)
    hu = np.stack([np.clip(h.pixel_array * 1.0, -1024, 3071) for h in headers]).astype(np.float32)
    slices = tuple(Slice(
        str(h.SOPInstanceUID), 1, tuple(map(float, h.ImagePositionPatient)),  # type: ignore[arg-type]  # 3 and 6 long
        tuple(map(float, h.ImageOrientationPatient)), (3.5, 3.5), 5.0, int(h.InstanceNumber))  # type: ignore[arg-type]  # 6 long
        for h in headers)  # fmt: skip
    return Volume(hu, slices, tuple(float(h.ImagePositionPatient[2]) for h in headers),
                  tuple(map(float, headers[0].PixelSpacing)), 5.0)  # type: ignore[arg-type]  # 2 long


def make_result(volume: Volume, present: Sequence[str] = ("intraparenchymal",), **changes: object) -> Result:
    """A positive result with the given subtypes; changed at will."""
    key = (3, 4, 2)
    findings = [Finding(ANY, 0.973, 0.5, True, key)]
    findings += [Finding(s, 0.951 if s in present else 0.021, 0.4, s in present, key[:2] if s in present else ())
                 for s in SUBTYPES]  # fmt: skip
    scores = tuple(SliceScore(s.sop_instance_uid, s.frame, {f.label: f.p / (1 + abs(i - 3)) for f in findings})
                   for i, s in enumerate(volume.slices))  # fmt: skip
    values: dict[str, object] = {
        "study_uid": STUDY, "outcome": Outcome.POSITIVE, "priority": Priority.URGENT, "reason": "", "model": DEMO,
        "started_at": STARTED_AT, "duration_s": 2.5, "series_uid": SERIES, "findings": tuple(findings),
        "verdicts": (SeriesVerdict(SERIES, True, ("soft kernel",), len(scores), 2, "Head 5.0 H31s"),),
        "slice_scores": scores, "device": "cpu", "n_slices": len(scores), "spacing_mm": 5.0,
        "thresholds": {"urgent": 0.8, "review": 0.5, **dict.fromkeys(SUBTYPES, 0.4)},
    }  # fmt: skip
    return Result(**(values | changes))  # type: ignore[arg-type]  # the types are those of Result, checked by use


def negative(volume: Volume, **changes: object) -> Result:
    findings = (Finding(ANY, 0.031, 0.5, False, ()),)
    scores = tuple(SliceScore(s.sop_instance_uid, s.frame, {ANY: 0.02}) for s in volume.slices)
    values: dict[str, object] = {"outcome": Outcome.NEGATIVE, "priority": Priority.ROUTINE, "findings": findings,
                                 "slice_scores": scores}  # fmt: skip
    return make_result(volume, **(values | changes))  # type: ignore[arg-type]  # by keyword


def not_analysed(reason: str = "no usable series: series 1: localizer", **changes: object) -> Result:
    values: dict[str, object] = {
        "study_uid": STUDY, "outcome": Outcome.NOT_ANALYSED, "priority": Priority.ROUTINE, "reason": reason,
        "model": DEMO, "started_at": STARTED_AT, "duration_s": 0.5,
        "set_aside": (SetAside("", 1, "notes.txt: no DICOM data set"),),
    }  # fmt: skip
    return Result(**(values | changes))  # type: ignore[arg-type]  # as above


def make_activations(volume: Volume, result: Result) -> tuple[ActivationMap, ...]:
    """A hill over the bright spot of `head_hu`, for every present finding on each of its key slices."""
    rows, columns = volume.hu.shape[1:]
    y, x = np.mgrid[:rows, :columns]
    hill = np.exp(-((y - 0.48 * rows) ** 2 + (x - 0.7 * columns) ** 2) / (2 * (0.08 * rows) ** 2)).astype(np.float32)
    return tuple(ActivationMap(f.label, i, 6 * hill - 1) for f in result.findings if f.present for i in f.key_slices)


ALL_ON = NodeIdentity(
    node_name="node-07", max_key_slices=3, regions=True, presentation_state=True, activation_map=True)  # fmt: skip
"""A node that makes every kind of object."""

SUPERSEDED = tuple(
    SentObject(f"1.2.840.10008.5.1.4.1.1.{sop_class}", f"{STUDY}.7.{i}", f"{STUDY}.7{sop_class.replace('.', '')}")
    for i, sop_class in enumerate(("7", "7", "88.59", "11.1", "30", "88.34"))
)
"""Captures, a selection, a presentation state, a map and a report of regions of an earlier analysis."""


def build_all(
    paths: Sequence[Path], result: Result | None = None, node: NodeIdentity = ALL_ON, predecessor: Path | None = None
) -> list[ResultObject]:
    """Every object of a positive analysis of those files, or of the result given; a predecessor brings a rejection."""
    volume = make_volume(paths)
    result = result or make_result(volume)
    sources = Sources(paths, volume, predecessor, make_activations(volume, result),
                      SUPERSEDED if predecessor is not None else ())  # fmt: skip
    return build_objects(result, sources, node)


def write_objects(objects: Sequence[ResultObject], folder: Path) -> list[Path]:
    """One file an object, named by kind and number."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}-{o.kind}.dcm" for i, o in enumerate(objects)]
    for path, result_object in zip(paths, objects, strict=True):
        with path.open("wb") as file:
            result_object.write(file)
    return paths


def items(ds: Dataset, meaning: str) -> list[Dataset]:
    """Content items with that concept name, at any depth."""
    found = []
    for item in ds.get("ContentSequence", ()):
        if item.get("ConceptNameCodeSequence") and item.ConceptNameCodeSequence[0].CodeMeaning == meaning:
            found.append(item)
        found += items(item, meaning)
    return found


def case(paths: list[Path], **changes: Any) -> tuple[Result, list[Dataset], Sources]:
    """What the objects of a positive study are built from."""
    volume = make_volume(paths)
    result = make_result(volume, **changes)
    return result, load_evidence(paths), Sources(paths, volume, activations=make_activations(volume, result))


def text_of(ds: Dataset) -> str:
    """Every text and code meaning of a content tree, one a line."""
    return "\n".join(str(e.value) for e in ds.iterall() if e.keyword in ("TextValue", "CodeMeaning", "NumericValue"))


def ge_head() -> list[Path]:
    """The real head, from below to above."""
    if not GE_HEAD.is_dir():
        pytest.skip(f"no shared data at {GE_HEAD}")
    paths = sorted(GE_HEAD.glob("*.dcm"))
    return sorted(paths, key=lambda p: float(dcmread(p, stop_before_pixels=True).ImagePositionPatient[2]))


# --- judges

JARS = [Path("/usr/share/java") / f"{name}.jar"
        for name in ("pixelmed", "commons-codec", "javax.json", "vecmath", "commons-net", "jmdns")]  # fmt: skip
JAVA = ["java", "-XX:TieredStopAtLevel=1",
        *(f"-Djdk.xml.{limit}=0" for limit in ("xpathTotalOpLimit", "xpathExprOpLimit", "xpathExprGrpLimit"))]

VALIDATE_ALL = """
import com.pixelmed.validate.DicomSRValidator;
class ValidateAll {
    public static void main(String[] files) throws Exception {
        DicomSRValidator validator = new DicomSRValidator();
        for (String file : files) {
            System.out.println("File: " + file);
            System.out.println(validator.validate(file));
        }
    }
}
"""
"""Java's single-file launch: the rules are compiled once for all files, which takes most of the validator's time."""

DCIODVFY_ALLOWED = (
    "needed to build DICOMDIR",  # study date, time and ID are type 2: as empty as the scanner sent them
    "Retired Person Name form",  # a name of one component, as sent
    "DeviceUID(0018,1002)> - Attribute is not present in standard DICOM IOD",  # IHE AIR asks for it
    "Unrecognized defined term = <QUANTITY>",  # PS3.3 C.8.32.3.1.1 has it; the tool's rules are older
)
DCENTVFY_ALLOWED = (
    "Different information entities for attribute - Element=<AccessionNumber>",  # the tool's own tables disagree
)
PIXELMED_ALLOWED = ("705057003",)  # Presence: not in the tool's template


def need(*programs: str) -> None:
    """Skip, or fail where the peers are required, when a tool is missing."""
    missing = [p for p in programs if shutil.which(p) is None]
    if "java" in programs:
        missing += [str(jar) for jar in JARS[:1] if not jar.exists()]
    if missing and os.environ.get("REQUIRE_PEERS") == "1":
        pytest.fail(f"missing: {', '.join(missing)}")
    if missing:
        pytest.skip(f"missing: {', '.join(missing)}")


def judge_composite(paths: Sequence[Path], together: Sequence[Path] = ()) -> None:
    """dciodvfy on each file, dcentvfy on all of one study, `together` too: no error, only the known warnings."""
    need("dciodvfy", "dcentvfy")
    for path in paths:
        said = _say(["dciodvfy", "-new", str(path)])
        bad = [line for line in said if line.startswith(("Error", "Warning")) and not _any_in(DCIODVFY_ALLOWED, line)]
        assert not bad, f"{path.name}: {bad}"
    said = _say(["dcentvfy", *map(str, (*paths, *together))])
    bad = [line for line in said if line.startswith(("Error", "Warning")) and not _any_in(DCENTVFY_ALLOWED, line)]
    assert not bad, bad


def pixelmed(paths: Sequence[Path]) -> dict[Path, list[str]]:
    """By file, what PixelMed's SR validator finds wrong and is not known; in a run for each of two processors."""
    need("java")
    jars = ":".join(str(jar) for jar in JARS if jar.exists())
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as runs:
        source = Path(folder) / "ValidateAll.java"
        source.write_text(VALIDATE_ALL)
        parts = [part for part in (paths[::2], paths[1::2]) if part]
        commands = [[*JAVA, "-cp", jars, str(source), *map(str, part)] for part in parts]
        said = "\n".join(line for lines in runs.map(_say, commands) for line in lines)
    spoken: dict[Path, list[str]] = {}
    for part in said.split("File: ")[1:]:
        name, *lines = part.splitlines()
        assert any("Root Template Validation Complete" in line for line in lines), part
        spoken[Path(name)] = [
            line for line in lines if line.startswith(("Error", "Warning")) and not _any_in(PIXELMED_ALLOWED, line)
        ]
    assert set(spoken) == set(paths), said
    return spoken


def _say(command: list[str]) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=480)
    return (done.stdout + done.stderr).splitlines()


def _any_in(parts: Sequence[str], line: str) -> bool:
    return any(part in line for part in parts)
