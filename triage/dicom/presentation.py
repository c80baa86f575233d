"""Result + activation maps -> Grayscale Softcopy Presentation State (PS3.3 A.33.1) over key slices; no new pixels."""

from collections.abc import Sequence

import numpy as np
from highdicom import ModalityLUTTransformation, pr
from highdicom.color import CIELabColor
from pydicom import Dataset

from triage.dicom import wording
from triage.dicom.capture import key_slices
from triage.dicom.contours import outlines
from triage.dicom.documents import CT_IMAGE, object_uid, stand_ins
from triage.dicom.equipment import MANUFACTURER, MODEL_NAME, NodeIdentity, Times, analysis_times, stamp
from triage.dicom.evidence import copy_patient_and_study
from triage.dicom.pictures import WINDOW_CENTER_HU, WINDOW_WIDTH_HU
from triage.dicom.sources import Sources
from triage.records import ANY, ActivationMap, Outcome, Result

SERIES_NUMBER = 9005

SERIES_NAME = "AI ICH marks"

LAYER_COLOR = CIELabColor(74.0, 24.0, 79.0)
"""Orange, which stands out from gray and is no color of a finding."""

TEXT_BOX = (0.0, 0.0, 1.0, 0.06)
"""Left, top, right, bottom in parts of the displayed area: its upper edge, where a head CT shows air."""

SHARED = ("Rows", "Columns", "RescaleSlope", "RescaleIntercept", "RescaleType")
"""What all images of one presentation state must have in common: it has one modality LUT and one displayed area."""


def build_presentation(
    result: Result, evidence: Sequence[Dataset], sources: Sources, node: NodeIdentity
) -> Dataset | None:
    """Build marks over the key slices of a positive study: window, contours of the activation, a line of text.

    Args:
        result: What the analysis says.
        evidence: Items of `load_evidence`, among them every key slice.
        sources: Activation maps.
        node: Who reports, and how many key slices at most.

    Returns:
        A presentation state; None unless the result is positive and a key slice is a CT image with a rescale slope of
        its own. Enhanced CT is passed over: its rescale lies in groups of frames, which the evidence does not hold.
    """
    images = _images(result, evidence, node) if result.outcome is Outcome.POSITIVE else {}
    if not images:
        return None
    source = evidence[0]
    times = analysis_times(result, source)
    layer = pr.GraphicLayer("AI", order=1, description="AI triage", display_color=LAYER_COLOR)
    first = next(iter(images.values()))
    ds: Dataset = pr.GrayscaleSoftcopyPresentationState(
        referenced_images=list(images.values()), series_number=SERIES_NUMBER, instance_number=1,
        series_instance_uid=object_uid(result, node, "presentation-series"),
        sop_instance_uid=object_uid(result, node, "presentation"), manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL_NAME, software_versions="", device_serial_number=node.node_name,
        content_label="AI_ICH", content_description=wording.series_description(SERIES_NAME, result.model),
        graphic_layers=[layer],
        graphic_annotations=[_marks(result, index, image, (layer, sources)) for index, image in images.items()],
        modality_lut_transformation=ModalityLUTTransformation(
            rescale_intercept=first.RescaleIntercept, rescale_slope=first.RescaleSlope, rescale_type="HU"),
        voi_lut_transformations=[
            pr.SoftcopyVOILUTTransformation(window_center=WINDOW_CENTER_HU, window_width=WINDOW_WIDTH_HU)],
        series_description=wording.series_description(SERIES_NAME, result.model),
    )  # fmt: skip
    _complete(ds, first, times)
    copy_patient_and_study(source, ds)
    stamp(ds, result.model, node, times, source)
    del ds.ContentDate, ds.ContentTime  # presentation states have a creation date instead
    return ds


def _images(result: Result, evidence: Sequence[Dataset], node: NodeIdentity) -> dict[int, Dataset]:
    """By index, the key slices that one presentation state can hold: those that are like the first of them."""
    by_uid = {str(ds.SOPInstanceUID): ds for ds in evidence}
    images: dict[int, Dataset] = {}
    for index in key_slices(result, node.max_key_slices):
        ds = by_uid[result.slice_scores[index].sop_instance_uid]
        if ds.SOPClassUID != CT_IMAGE or "RescaleSlope" not in ds or "RescaleIntercept" not in ds:
            continue
        image = stand_ins([ds])[0]
        image.SamplesPerPixel = 1
        for keyword in (*SHARED, "PixelSpacing"):
            if keyword in ds:
                image.add(ds[keyword])
        first = next(iter(images.values()), image)
        if all(image.get(k) == first.get(k) for k in SHARED):
            images[index] = image
    return images


def _marks(
    result: Result, index: int, image: Dataset, drawing: tuple[pr.GraphicLayer, Sources]
) -> pr.GraphicAnnotation:
    """Contours of what the network looked at in one slice, and the line of text."""
    layer, sources = drawing
    shown = _map(sources, index)
    contours = [
        pr.GraphicObject(pr.GraphicTypeValues.POLYLINE, np.asarray(points, dtype=float), pr.AnnotationUnitsValues.PIXEL)
        for points in (outlines(shown) if shown is not None else ())
    ]
    about = "Contour: where the AI looked. " if contours else ""
    demonstration = f" {wording.DEMONSTRATION}." if result.model.is_demonstration else ""
    text = pr.TextObject(
        f"{wording.headline(result)}. {about}{wording.NOT_FOR_DIAGNOSIS}.{demonstration}",
        pr.AnnotationUnitsValues.DISPLAY, bounding_box=TEXT_BOX)  # fmt: skip
    return pr.GraphicAnnotation([image], layer, graphic_objects=contours or None, text_objects=[text])


def _map(sources: Sources, index: int) -> ActivationMap | None:
    """The map of any hemorrhage in that slice, else that of a subtype."""
    maps = [m for m in sources.activations if m.index == index]
    return next((m for m in maps if m.label == ANY), maps[0] if maps else None)


def _complete(ds: Dataset, first: Dataset, times: Times) -> None:
    """What highdicom takes from the clock, or takes for granted."""
    ds.PresentationCreationDate = times.finished.strftime("%Y%m%d")
    ds.PresentationCreationTime = times.finished.strftime("%H%M%S.%f")
    ds.BodyPartExamined = "HEAD"  # else Laterality is asked for (type 2C)
    if "PixelSpacing" in first:  # pixels need not be square
        area = ds.DisplayedAreaSelectionSequence[0]
        del area.PresentationPixelAspectRatio
        area.PresentationPixelSpacing = first.PixelSpacing
