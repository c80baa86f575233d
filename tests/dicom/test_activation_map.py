from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from dicom.results_data import (
    SERIES,
    case,
    ct_series,
    enhanced_ct,
    make_volume,
    negative,
    set_to,
)
from pydicom import Dataset, dcmread, dcmwrite

from triage.dicom.activation_map import build_activation_map
from triage.dicom.equipment import NodeIdentity
from triage.dicom.sources import Sources
from triage.records import ANY, ActivationMap, Result

NODE = NodeIdentity(node_name="node-07")


def built(result: Result, evidence: list[Dataset], sources: Sources, path: Path) -> Dataset:
    ds = build_activation_map(result, evidence, sources, NODE)
    assert ds is not None
    dcmwrite(path, ds, enforce_file_format=True)
    return dcmread(path)


def test_values_come_back_where_they_belong(tmp_path: Path) -> None:
    result, evidence, sources = case(ct_series(tmp_path / "ct"))
    numbered = tuple(replace(m, values=m.values + m.index) for m in sources.activations if m.label == ANY)
    built(result, evidence, replace(sources, activations=numbered), tmp_path / "pm.dcm")
    image = highdicom.imread(tmp_path / "pm.dcm")
    volume = image.get_volume(apply_real_world_transform=True)
    assert volume.array.shape == (3, 64, 64)
    by_index = {m.index: m.values for m in numbered}
    for place, index in enumerate((2, 3, 4)):
        position = volume.map_indices_to_reference(np.array([[place, 0, 0]]))[0]
        index = round((position[2] + 40) / 5)
        assert index in (2, 3, 4)
        np.testing.assert_array_equal(volume.array[place], by_index[index])


def test_quantity_unit_and_warnings(tmp_path: Path) -> None:
    ds = built(*case(ct_series(tmp_path / "ct")), tmp_path / "pm.dcm")
    mapping = ds.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    quantity = mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0]
    assert (quantity.CodeValue, quantity.CodingSchemeDesignator) == ("130402", "DCM")
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    assert (ds.ContentQualification, ds.BurnedInAnnotation, ds.BodyPartExamined) == ("RESEARCH", "NO", "HEAD")
    assert (ds.SeriesNumber, ds.FrameOfReferenceUID) == (9006, f"{SERIES}.900")
    for text in (ds.SeriesDescription, ds.ContentDescription):
        assert text == "AI ICH activation - NOT FOR DIAGNOSTIC USE - DEMONSTRATION MODEL"
    frames = [f.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
              for f in ds.PerFrameFunctionalGroupsSequence]  # fmt: skip
    assert frames == [f"{SERIES}.5", f"{SERIES}.4", f"{SERIES}.3"]


def test_same_analysis_makes_the_same_bytes(tmp_path: Path) -> None:
    result, evidence, sources = case(ct_series(tmp_path / "ct"))
    for name in ("a", "b"):
        built(result, evidence, sources, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_none_where_there_is_nothing_to_map(tmp_path: Path) -> None:
    paths = ct_series(tmp_path / "ct")
    result, evidence, sources = case(paths)
    subtypes = tuple(m for m in sources.activations if m.label != ANY)
    assert build_activation_map(result, evidence, replace(sources, activations=subtypes), NODE) is None
    assert build_activation_map(negative(make_volume(paths)), evidence, sources, NODE) is None
    assert build_activation_map(*case(enhanced_ct(tmp_path / "enhanced")), NODE) is None


@pytest.mark.parametrize("keyword", ["SliceThickness", "FrameOfReferenceUID", "ImagePositionPatient", "PixelSpacing"])
def test_none_where_slices_have_no_place_in_the_patient(tmp_path: Path, keyword: str) -> None:
    result, evidence, sources = case(ct_series(tmp_path / "ct"))
    for ds in evidence:
        del ds[keyword]
    assert build_activation_map(result, evidence, sources, NODE) is None


@pytest.mark.parametrize(("keyword", "value"), [("SliceThickness", "0"), ("PixelSpacing", ["0", "0.5"])])
def test_none_where_slices_have_no_size(tmp_path: Path, keyword: str, value: Any) -> None:
    result, evidence, sources = case(ct_series(tmp_path / "ct", set_to(keyword, value)))
    assert build_activation_map(result, evidence, sources, NODE) is None


def test_slices_unlike_the_first_are_left_out(tmp_path: Path) -> None:
    result, evidence, sources = case(ct_series(tmp_path / "ct"))
    evidence[4].PixelSpacing = ["3", "3"]
    maps = tuple(ActivationMap(m.label, m.index, m.values[:32]) if m.index == 2 else m for m in sources.activations)
    ds = built(result, evidence, replace(sources, activations=maps), tmp_path / "pm.dcm")
    assert ds.NumberOfFrames == 1
