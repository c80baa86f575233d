"""Result + evidence + volume -> Secondary Captures (PS3.3 A.8.1) of a positive study; writes no files."""

from collections.abc import Sequence

from pydicom import Dataset

import triage
from triage.dicom import codes, wording
from triage.dicom.equipment import MODEL_NAME, NodeIdentity, Times, analysis_times, code_item, stamp
from triage.dicom.evidence import copy_patient_and_study
from triage.dicom.pages import (
    WINDOW_CENTER_HU,
    WINDOW_WIDTH_HU,
    PixelArray,
    View,
    head_box,
    key_page,
    orientation_letters,
    slice_place,
    slice_scores,
    summary_lines,
    summary_page,
)
from triage.dicom.uids import result_uid
from triage.records import ANY, Outcome, Result, Volume

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""Single-frame: every viewer shows it."""

SERIES_NUMBER = 9002
"""The report is 9001."""

SERIES_NAME = "AI ICH summary"

NAME_PART = 3
"""Shortest part of a patient's name that is looked for in the series description."""


def build_captures(
    result: Result, evidence: Sequence[Dataset], volume: Volume, node: NodeIdentity
) -> list[Dataset]:
    """Build the captures of one analysis: a summary page, then the key slices, most suspicious first.

    A study without a suspicion gets none: a picture that says "no hemorrhage" invites over-trust.

    Args:
        result: What the analysis says.
        evidence: Items of `load_evidence`, among them every key slice.
        volume: What was analysed; indices of the key slices point into it.
        node: Who reports, and how many key slices at most.

    Returns:
        RGB images of one series, summary first; empty unless the result is positive.
    """
    if result.outcome is not Outcome.POSITIVE or not evidence:
        return []
    times = analysis_times(result, evidence[0])
    chosen = key_slices(result, node.max_key_slices)
    view = View(
        key_slices=chosen, box=head_box(volume, chosen), series=_series_name(result, evidence[0]),
        finished=times.finished.strftime("%Y-%m-%d %H:%M:%S ") + f"UTC{times.offset[:3]}:{times.offset[3:]}",
        software=f"{MODEL_NAME} {triage.__version__}",
    )  # fmt: skip
    by_uid = {str(ds.SOPInstanceUID): ds for ds in evidence}
    sources = [by_uid[volume.slices[i].sop_instance_uid] for i in view.key_slices]
    summary = _capture(summary_page(result, volume, view), sources or [evidence[0]])
    facts = (*wording.outcome_remarks(result), *summary_lines(result, view), *_stamps(result))
    summary.ImageComments = " | ".join(facts)
    summary.PatientOrientation = None
    captures = [summary]
    for rank, index in enumerate(view.key_slices):
        capture = _capture(key_page(result, volume, view, rank), [sources[rank]])
        capture.ImageComments = " | ".join((
            wording.headline(result), f"this slice: {slice_scores(result, index)}", slice_place(volume, index),
            *_stamps(result)))  # fmt: skip
        letters = orientation_letters(volume.slices[index])
        capture.PatientOrientation = [letters[1], letters[3]] if letters is not None else None
        captures.append(capture)
    for number, capture in enumerate(captures, 1):
        _identify(capture, result, node, number)
        stamp(capture, result.model, node, times, evidence[0])
        _date(capture, times)
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


def _capture(pixels: PixelArray, sources: Sequence[Dataset]) -> Dataset:
    """Image and Secondary Capture modules of one picture (PS3.3 C.7.6.1, C.7.6.3, C.8.6)."""
    ds = Dataset()
    copy_patient_and_study(sources[0], ds)
    ds.Modality, ds.ConversionType = "OT", "WSD"
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    ds.BodyPartExamined = "HEAD"  # else Laterality is asked for (type 2C)
    ds.BurnedInAnnotation, ds.RecognizableVisualFeatures = "YES", "NO"
    ds.Rows, ds.Columns = pixels.shape[:2]
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
    def uid(role: str) -> str:
        return result_uid(result.study_uid, result.series_uid or "", result.model.sha256, result.run,
                          f"{node.node_name}/{role}")  # fmt: skip

    ds.SOPClassUID, ds.SOPInstanceUID = SECONDARY_CAPTURE, uid(f"capture-{number}")
    ds.SeriesInstanceUID, ds.SeriesNumber, ds.InstanceNumber = uid("capture-series"), SERIES_NUMBER, number
    ds.SeriesDescription = wording.series_description(SERIES_NAME, result.model)
    what = "findings and key slices" if number == 1 else "key slice"
    ds.DerivationDescription = (
        f"{MODEL_NAME} {triage.__version__}, model {wording.model_line(result.model)}: {what}, window "
        f"{WINDOW_CENTER_HU:.0f}/{WINDOW_WIDTH_HU:.0f} HU, enlarged, AI scores burned in. " + " ".join(_stamps(result)))


def _date(ds: Dataset, times: Times) -> None:
    ds.DateOfSecondaryCapture = times.finished.strftime("%Y%m%d")
    ds.TimeOfSecondaryCapture = times.finished.strftime("%H%M%S.%f")


def _stamps(result: Result) -> tuple[str, ...]:
    return (wording.DISCLAIMER, *([wording.DEMONSTRATION_WARNING] if result.model.is_demonstration else []))


def _series_name(result: Result, source: Dataset) -> str:
    """Number and description of the series analysed; the description is left out where it quotes the patient."""
    verdict = next((v for v in result.verdicts if v.series_uid == result.series_uid), None)
    number = verdict.series_number if verdict is not None else source.get("SeriesNumber")
    description = verdict.description if verdict is not None else str(source.get("SeriesDescription", ""))
    name = str(source.get("PatientName", ""))
    secrets = [part for part in name.replace("=", "^").replace(" ", "^").split("^") if len(part) >= NAME_PART]
    secrets += [str(v) for v in (source.get("PatientID"), source.get("PatientBirthDate")) if v]
    if any(secret.casefold() in description.casefold() for secret in secrets):
        description = ""
    return " - ".join(str(v) for v in (number, description) if v not in (None, "")) or "(no number)"
