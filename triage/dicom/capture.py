"""Result + evidence + sources -> Secondary Captures (PS3.3 A.8.1, A.8.5) of a positive study; writes no files."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from pydicom import Dataset

import triage
from triage.dicom import codes, wording
from triage.dicom.contours import outlines
from triage.dicom.documents import object_uid
from triage.dicom.equipment import MODEL_NAME, NodeIdentity, Times, analysis_times, code_item, stamp
from triage.dicom.evidence import copy_patient_and_study
from triage.dicom.pages import (
    Contour,
    PixelArray,
    View,
    key_page,
    legend,
    slice_place,
    slice_scores,
    summary_lines,
    summary_page,
    timeline_lines,
)
from triage.dicom.pictures import WINDOW_CENTER_HU, WINDOW_WIDTH_HU, head_box, orientation_letters
from triage.dicom.sources import Arrival, Sources
from triage.records import ANY, ActivationMap, Outcome, Result, Volume

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""Single-frame: every viewer shows it."""

MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.7.4"
"""Multi-frame True Color: all pages in one instance."""

PAGE_NUMBER_VECTOR = 0x00182001
"""What the frames of a multi-frame capture follow each other by (PS3.3 C.7.6.6.1.1)."""

TIME_FORMAT = "%Y-%m-%d %H:%M:%S"

SERIES_NUMBER = 9002
"""The report is 9001."""

SERIES_NAME = "AI ICH summary"

SCANNER_CLOCK = "Acquired (scanner clock)"
"""Of an acquisition time without a zone: the time line's is the node's, and the scanner's may be another one."""

NAME_PART = 3
"""Shortest part of a patient's name that is looked for within words of the series description; one of two letters is
looked for as a word, an initial not at all."""


@dataclass(frozen=True, slots=True)
class _Page:
    """One picture, before it is part of an instance."""

    pixels: PixelArray
    shown: tuple[Dataset, ...]
    """Headers of the slices it shows."""
    comments: str
    letters: tuple[str, str] | None
    """Of its right and its lower edge; None for the summary, or where the slice's orientation is unknown."""


def build_captures(
    result: Result, evidence: Sequence[Dataset], sources: Sources, node: NodeIdentity
) -> list[Dataset]:
    """Build the captures of one analysis: a summary page, then the key slices, most suspicious first.

    A study without a suspicion gets none: a picture that says "no hemorrhage" invites over-trust.

    Args:
        result: What the analysis says.
        evidence: Items of `load_evidence` of the files in `sources`, among them every key slice.
        sources: What was analysed, where the networks looked, and when the images came.
        node: Who reports, how many key slices at most, and in one instance or one a page.

    Returns:
        RGB images of one series, summary first, all of one size; or one image of as many frames. Empty unless the
        result is positive.
    """
    volume = sources.volume
    if result.outcome is not Outcome.POSITIVE or volume is None or not evidence:
        return []
    times = analysis_times(result, evidence[0])
    view = _view(result, evidence, sources, key_slices(result, node.max_key_slices))
    pages = _pages(result, evidence, volume, view)
    is_multi_frame = node.capture_mode == "multiframe"
    captures = [_multi_frame(pages)] if is_multi_frame else [_single_frame(page) for page in pages]
    for number, capture in enumerate(captures, 1):
        copy_patient_and_study(evidence[0], capture)
        _identify(capture, result, node, number)
        stamp(capture, result.model, node, times, evidence[0])
        capture.DateOfSecondaryCapture = times.finished.strftime("%Y%m%d")
        capture.TimeOfSecondaryCapture = times.finished.strftime("%H%M%S.%f")
    return captures


def key_slices(result: Result, most: int) -> tuple[int, ...]:
    """Choose the slices to show: in turn the best of each present finding, most probable finding first.

    Args:
        result: A positive result.
        most: How many at most.

    Returns:
        Indices into the volume, each once, in order of choice.
    """
    present = sorted((f for f in result.findings if f.present), key=lambda f: (f.label != ANY, -f.p))
    longest = max((len(f.key_slices) for f in present), default=0)
    in_turn = [f.key_slices[rank] for rank in range(longest) for f in present if rank < len(f.key_slices)]
    return tuple(dict.fromkeys(in_turn))[:most]


def _view(result: Result, evidence: Sequence[Dataset], sources: Sources, chosen: tuple[int, ...]) -> View:
    """What the pages share."""
    assert sources.volume is not None
    times = analysis_times(result, evidence[0])
    return View(
        key_slices=chosen,
        box=head_box(sources.volume, chosen),
        series=_series_name(result, evidence[0]),
        software=f"{MODEL_NAME} {triage.__version__}",
        zone=f"UTC{times.offset[:3]}:{times.offset[3:]}",
        timeline=_timeline(times, evidence, sources.arrival),
        contours={i: c for i in chosen if (c := _contour(result, sources.activations, i)) is not None},
    )


def _timeline(times: Times, evidence: Sequence[Dataset], arrival: Arrival | None) -> tuple[tuple[str, str], ...]:
    """From the scanner to the result, as far as it is known."""

    def at(seconds: float) -> str:
        return datetime.fromtimestamp(seconds, times.started.tzinfo).strftime(TIME_FORMAT)

    acquired = min(filter(None, map(_acquired, evidence)), default="")
    when = SCANNER_CLOCK if acquired and "TimezoneOffsetFromUTC" not in evidence[0] else "Acquired"
    received = (
        (("First image received", at(arrival.first_at)), ("Last image received", at(arrival.last_at)))
        if arrival is not None else (("Images", "read from files"),))  # fmt: skip
    return ((when, acquired or "not stated"), *received, ("Analysis began", times.started.strftime(TIME_FORMAT)),
            ("Analysis ended", times.finished.strftime(TIME_FORMAT)))  # fmt: skip


def _acquired(source: Dataset) -> str:
    """When an image was acquired, as the scanner's clock said; empty where it says nothing usable."""
    stated = str(source.get("AcquisitionDateTime") or "")
    if not stated and source.get("AcquisitionDate") and source.get("AcquisitionTime"):
        stated = f"{source.AcquisitionDate}{source.AcquisitionTime}"
    digits = stated.partition(".")[0].ljust(14, "0")
    try:
        return datetime.strptime(digits, "%Y%m%d%H%M%S").strftime(TIME_FORMAT)
    except ValueError:
        return ""


def _contour(result: Result, activations: Sequence[ActivationMap], index: int) -> Contour | None:
    """Of the type that is most probable on a slice, among those found that have a map there; else of any hemorrhage."""
    maps = {a.label: a for a in activations if a.index == index}
    p = result.slice_scores[index].p
    types = [f.label for f in wording.present_subtypes(result) if f.label in maps]
    label = max(types, key=lambda label: p.get(label, 0.0), default=ANY)
    return Contour(label, outlines(maps[label])) if label in maps else None


def _pages(result: Result, evidence: Sequence[Dataset], volume: Volume, view: View) -> list[_Page]:
    by_uid = {str(ds.SOPInstanceUID): ds for ds in evidence}
    shown = [by_uid[volume.slices[i].sop_instance_uid] for i in view.key_slices]
    facts = (*wording.outcome_remarks(result), *summary_lines(result, view), *timeline_lines(view), *_stamps(result))
    pages = [_Page(summary_page(result, volume, view), tuple(shown) or (evidence[0],), " | ".join(facts), None)]
    for rank, index in enumerate(view.key_slices):
        facts = (wording.headline(result), f"this slice: {slice_scores(result, index)}", slice_place(volume, index),
                 legend(view, index), *_stamps(result))  # fmt: skip
        letters = orientation_letters(volume.slices[index])
        directions = (letters[1], letters[3]) if letters is not None else None
        pages.append(_Page(key_page(result, volume, view, rank), (shown[rank],), " | ".join(facts), directions))
    return pages


def _single_frame(page: _Page) -> Dataset:
    ds = _capture(page.pixels, page.shown)
    ds.SOPClassUID, ds.ImageComments = SECONDARY_CAPTURE, page.comments
    ds.PatientOrientation = list(page.letters) if page.letters is not None else None
    return ds


def _multi_frame(pages: Sequence[_Page]) -> Dataset:
    """All pages as frames (PS3.3 C.7.6.6, C.8.6.3, C.8.6.4)."""
    shown = {str(ds.SOPInstanceUID): ds for page in pages for ds in page.shown}
    ds = _capture(np.stack([page.pixels for page in pages]), tuple(shown.values()))
    ds.SOPClassUID, ds.ImageComments = MULTI_FRAME, pages[0].comments
    ds.PatientOrientation = None  # differs: the summary has none
    ds.NumberOfFrames, ds.FrameIncrementPointer = len(pages), PAGE_NUMBER_VECTOR
    ds.PageNumberVector = list(range(1, len(pages) + 1))
    return ds


def _capture(pixels: PixelArray, sources: Sequence[Dataset]) -> Dataset:
    """Image and Secondary Capture modules (PS3.3 C.7.6.1, C.7.6.3, C.8.6) of (rows, columns, 3) or a stack of such."""
    ds = Dataset()
    ds.Modality, ds.ConversionType = "OT", "WSD"
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    ds.BodyPartExamined = "HEAD"  # else Laterality is asked for (type 2C)
    ds.BurnedInAnnotation, ds.RecognizableVisualFeatures = "YES", "NO"
    ds.Rows, ds.Columns = pixels.shape[-3:-1]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.add_new("PixelData", "OB", pixels.tobytes())
    ds.LossyImageCompression = "00"
    lossy = next((s for s in sources if s.get("LossyImageCompression") == "01"), None)
    if lossy is not None:
        for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if keyword in lossy:
                ds.add(lossy[keyword])
    _refer(ds, sources)
    return ds


def _refer(ds: Dataset, sources: Sequence[Dataset]) -> None:
    """Name the images shown (PS3.3 C.7.6.1, Source Image Sequence; C.12.2, Common Instance Reference)."""
    ds.SourceImageSequence = []
    series: dict[str, dict[str, Dataset]] = {}
    for source in sources:
        reference = Dataset()
        reference.ReferencedSOPClassUID = source.SOPClassUID
        reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
        instances = series.setdefault(source.SeriesInstanceUID, {})
        if source.SOPInstanceUID not in instances:
            instances[source.SOPInstanceUID] = reference
            item = Dataset()
            item.update(reference)
            item.PurposeOfReferenceCodeSequence = [code_item(codes.SOURCE_IMAGE)]
            ds.SourceImageSequence.append(item)
    ds.ReferencedSeriesSequence = []
    for uid, instances in series.items():
        item = Dataset()
        item.SeriesInstanceUID, item.ReferencedInstanceSequence = uid, list(instances.values())
        ds.ReferencedSeriesSequence.append(item)


def _identify(ds: Dataset, result: Result, node: NodeIdentity, number: int) -> None:
    role = f"capture-{number}" if ds.SOPClassUID == SECONDARY_CAPTURE else "captures"
    ds.SOPInstanceUID = object_uid(result, node, role)
    ds.SeriesInstanceUID = object_uid(result, node, "capture-series")
    ds.SeriesNumber, ds.InstanceNumber = SERIES_NUMBER, number
    ds.SeriesDescription = wording.series_description(SERIES_NAME, result.model)
    what = "findings and key slices" if number == 1 else "key slice"
    ds.DerivationDescription = (
        f"{MODEL_NAME} {triage.__version__}, model {wording.model_line(result.model)}: {what}, window "
        f"{WINDOW_CENTER_HU:.0f}/{WINDOW_WIDTH_HU:.0f} HU, enlarged, AI scores burned in. " + " ".join(_stamps(result)))


def _stamps(result: Result) -> tuple[str, ...]:
    """What every text about a picture ends with."""
    demonstration = wording.DEMONSTRATION_WARNING if result.model.is_demonstration else ""
    return tuple(filter(None, (wording.pictures_remark(result), wording.DISCLAIMER, demonstration)))


def _series_name(result: Result, source: Dataset) -> str:
    """Number and description of the series analysed; the description is left out where it quotes the patient."""
    verdict = next((v for v in result.verdicts if v.series_uid == result.series_uid), None)
    number = verdict.series_number if verdict is not None else source.get("SeriesNumber")
    description = verdict.description if verdict is not None else str(source.get("SeriesDescription", ""))
    if _names_patient(description, source):
        description = ""
    return " - ".join(str(v) for v in (number, description) if v not in (None, "")) or "(no number)"


def _names_patient(text: str, source: Dataset) -> bool:
    """Whether a text quotes the patient's name, with or without accents, ID or date of birth."""
    said, name = _folded(text), _folded(str(source.get("PatientName", "")))
    words = re.findall(r"\w+", said)
    for part in re.findall(r"\w+", name):
        if part in said if len(part) >= NAME_PART else len(part) > 1 and part in words:
            return True
    secrets = [re.escape(_folded(str(source.PatientID)))] if source.get("PatientID") else []
    if birth_date := str(source.get("PatientBirthDate") or ""):
        year, month, day = birth_date[:4], f"0?{int(birth_date[4:6])}", f"0?{int(birth_date[6:8])}"
        secrets += [r"[\W_]*".join(order) for order in ((year, month, day), (day, month, year), (month, day, year))]
    return any(re.search(secret, said) for secret in secrets)


def _folded(text: str) -> str:
    """Text without case and accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).casefold()
