"""Result + activation maps -> Parametric Map of the class activation (PS3.3 A.75); no files."""

from collections.abc import Sequence

import numpy as np
from highdicom import VOILUTTransformation, pm
from pydicom import Dataset

from triage.dicom import codes, wording
from triage.dicom.documents import CT_IMAGE, object_uid, stand_ins
from triage.dicom.equipment import MANUFACTURER, MODEL_NAME, NodeIdentity, analysis_times, stamp
from triage.dicom.evidence import copy_patient_and_study
from triage.dicom.sources import Sources
from triage.records import ANY, ActivationMap, Outcome, Result

SERIES_NUMBER = 9006

SERIES_NAME = "AI ICH activation"

NEEDED = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
          "Rows", "Columns")  # fmt: skip
"""Attributes of a source image that place a map in the patient."""

COPIED = (*NEEDED, "PositionReferenceIndicator", "LossyImageCompression", "LossyImageCompressionRatio",
          "LossyImageCompressionMethod")  # fmt: skip


def build_activation_map(
    result: Result, evidence: Sequence[Dataset], sources: Sources, node: NodeIdentity
) -> Dataset | None:
    """Build the map of any hemorrhage over its key slices: where in them the network looked, as numbers.

    The subtypes' maps are left out: receivers that show parametric maps at all show one quantity a map.

    Args:
        result: What the analysis says.
        evidence: Items of `load_evidence`, among them every key slice.
        sources: Activation maps.
        node: Who reports.

    Returns:
        A Parametric Map of float values, a frame a key slice; None unless the result is positive and a key slice that
        is placed in the patient has a map. Enhanced CT is passed over: the place of its frames lies in groups, which
        the evidence does not hold.
    """
    frames = _frames(result, evidence, sources) if result.outcome is Outcome.POSITIVE else []
    if not frames:
        return None
    source = evidence[0]
    values = np.stack([np.asarray(m.values, dtype=np.float32) for _, m in frames])
    low, high = float(values.min()), float(max(values.max(), values.min() + 1e-6))
    mapping = pm.RealWorldValueMapping(
        lut_label="ACTIVATION", lut_explanation="What places speak for a hemorrhage, not calibrated",
        unit=codes.NO_UNITS, value_range=(low, high), intercept=0.0, slope=1.0,
        quantity_definition=codes.CLASS_ACTIVATION)  # fmt: skip
    ds: Dataset = pm.ParametricMap(
        source_images=[image for image, _ in frames], pixel_array=values, series_number=SERIES_NUMBER,
        series_instance_uid=object_uid(result, node, "activation-series"),
        sop_instance_uid=object_uid(result, node, "activation"), instance_number=1, manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL_NAME, software_versions="-", device_serial_number=node.node_name,
        contains_recognizable_visual_features=False, real_world_value_mappings=[mapping],
        voi_lut_transformations=[VOILUTTransformation(window_center=(low + high) / 2, window_width=high - low)],
        content_label="AI_ICH_CAM",
        content_description=wording.series_description(SERIES_NAME, result.model),
        series_description=wording.series_description(SERIES_NAME, result.model),
    )  # fmt: skip
    _settle(ds, object_uid(result, node, "activation-dimensions"))
    copy_patient_and_study(source, ds)
    stamp(ds, result.model, node, analysis_times(result, source), source)
    return ds


def _frames(
    result: Result, evidence: Sequence[Dataset], sources: Sources
) -> list[tuple[Dataset, ActivationMap]]:
    """Key slices that are like the first of them, from below to above, each with its map."""
    finding = result.finding(ANY)
    by_uid = {str(ds.SOPInstanceUID): ds for ds in evidence}
    maps = {m.index: m for m in sources.activations if m.label == ANY}
    frames: list[tuple[Dataset, ActivationMap]] = []
    for index in sorted(finding.key_slices) if finding is not None else ():
        ds = by_uid[result.slice_scores[index].sop_instance_uid]
        if index not in maps or ds.SOPClassUID != CT_IMAGE or any(ds.get(k) in (None, "") for k in NEEDED):
            continue
        if not min(ds.SliceThickness, *ds.PixelSpacing) > 0:  # some scanners write 0 for a thickness
            continue
        if maps[index].values.shape != (ds.Rows, ds.Columns):
            continue
        image = stand_ins([ds])[0]
        for keyword in COPIED:
            if keyword in ds:
                image.add(ds[keyword])
        first = frames[0][0] if frames else image
        if all(image[k].value == first[k].value for k in NEEDED if k != "ImagePositionPatient"):
            frames.append((image, maps[index]))
    return frames


def _settle(ds: Dataset, dimensions_uid: str) -> None:
    """What highdicom draws by chance, or does not know."""
    for item in (*ds.DimensionOrganizationSequence, *ds.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions_uid
    ds.BodyPartExamined = "HEAD"  # else Laterality is asked for (type 2C)
