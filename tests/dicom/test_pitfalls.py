"""What scanners really send, and what the libraries make of it: each pitfall known, once through every object."""

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom.results_data import (
    ALL_ON,
    CT,
    ENHANCED_CT,
    SERIES,
    Change,
    build_all,
    ct_series,
    enhanced_ct,
    items,
    judge_composite,
    make_activations,
    make_result,
    make_volume,
    remove,
    set_to,
    write_objects,
)
from pydicom import Dataset, dcmread
from pydicom.dataelem import DataElement

from triage.dicom.documents import LIBRARY_NEEDS
from triage.dicom.evidence import TYPE_2
from triage.dicom.objects import build_objects
from triage.dicom.sources import Sources
from triage.errors import StudyError
from triage.records import ObjectKind

KINDS = {ObjectKind.REPORT, ObjectKind.REGIONS, ObjectKind.KEY_OBJECT, ObjectKind.CAPTURE, ObjectKind.PRESENTATION,
         ObjectKind.ACTIVATION_MAP}  # fmt: skip
"""Of a positive study with everything asked for."""


def through_bytes(folder: Path, *changes: Change) -> dict[str, Dataset]:
    """By kind, one object of each as read back, of a series whose headers went through the changes."""
    objects = build_all(ct_series(folder / "ct", *changes))
    return {o.kind: dcmread(p) for o, p in zip(objects, write_objects(objects, folder / "out"), strict=True)}


def put(keyword: str, vr: str, value: Any) -> Change:
    """Sets a value that pydicom would not let through."""
    return lambda ds: ds.add(DataElement(keyword, vr, value, validation_mode=0))


@pytest.mark.parametrize("keyword", [*TYPE_2, "StudyDescription", "Manufacturer", "SpacingBetweenSlices"])
def test_pitfall_1_a_missing_attribute_costs_no_object(tmp_path: Path, keyword: str) -> None:
    read = through_bytes(tmp_path, remove(keyword))
    assert set(read) == KINDS
    if keyword in TYPE_2:
        assert all(keyword in ds and not ds[keyword].value for ds in read.values())


@pytest.mark.parametrize(("keyword", "lost"), [
    ("SliceThickness", {ObjectKind.ACTIVATION_MAP}), ("FrameOfReferenceUID", {ObjectKind.ACTIVATION_MAP}),
    ("PixelSpacing", {ObjectKind.ACTIVATION_MAP}), ("RescaleSlope", {ObjectKind.PRESENTATION}),
])  # fmt: skip
def test_pitfall_1_an_object_that_needs_what_is_missing_is_not_made(
    tmp_path: Path, keyword: str, lost: set[ObjectKind]
) -> None:
    whole, lacking = ct_series(tmp_path / "whole"), ct_series(tmp_path / "lacking", remove(keyword))
    volume = make_volume(whole)
    result = make_result(volume)
    sources = Sources(lacking, volume, activations=make_activations(volume, result))
    assert {o.kind for o in build_objects(result, sources, ALL_ON)} == KINDS - lost


@pytest.mark.parametrize("change", [
    put("PatientSex", "CS", "U"), put("PatientSex", "CS", "female"), put("PatientBirthDate", "DA", "19500000"),
    put("PatientBirthDate", "DA", "unknown"), put("StudyDate", "DA", ""), put("StudyTime", "TM", "noon"),
], ids=["sex U", "sex in words", "birth date 0", "birth date in words", "no study date", "time in words"])  # fmt: skip
def test_pitfall_2_odd_sexes_and_dates_become_empty(tmp_path: Path, change: Change) -> None:
    told = Dataset()
    change(told)
    [element] = told
    for ds in through_bytes(tmp_path, change).values():
        assert not ds[element.keyword].value


@pytest.mark.parametrize(("charset", "name"), [
    (["", "ISO 2022 IR 101"], "Ďurčová^Ľubica"),
    ("ISO_IR 144", "Люкceмбypг^Роза"),
    (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
    (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    ("GB18030", "Wang^XiaoDong=王^小东"),
    ("ISO_IR 192", "Řezníček^Jiří=山田^太郎=やまだ^たろう"),
], ids=["empty first set", "Cyrillic", "Japanese", "Korean", "Chinese", "UTF-8"])  # fmt: skip
def test_pitfall_3_names_arrive_unharmed_in_every_object(tmp_path: Path, charset: Any, name: str) -> None:
    read = through_bytes(tmp_path, set_to("SpecificCharacterSet", charset), set_to("PatientName", name))
    assert {(str(ds.PatientName), ds.SpecificCharacterSet) for ds in read.values()} == {(name, "ISO_IR 192")}


def test_pitfall_3_characters_outside_the_declared_set_are_no_question_marks(tmp_path: Path) -> None:
    """UTF-8 under a header that says Latin-1: nobody can know, but nothing is lost."""
    name = "Rezn\u00ed\u010dek^Ji\u0159\u00ed"
    paths = ct_series(tmp_path / "ct", set_to("PatientName", name), set_to("SpecificCharacterSet", "ISO_IR 192"))
    for path in paths:
        content = path.read_bytes()
        element = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 192"
        assert content.count(element) == 1
        path.write_bytes(content.replace(element, b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100"))
    names = {str(dcmread(p).PatientName) for p in write_objects(build_all(paths), tmp_path / "out")}
    assert len(names) == 1
    assert "?" not in "".join(names)
    assert names.pop().encode("latin-1").decode("utf-8") == name


def test_pitfall_4_the_image_library_takes_only_what_it_can_describe(tmp_path: Path) -> None:
    for name, change in (("empty", set_to("SliceThickness", None)), ("missing", remove("SliceThickness"))):
        report = through_bytes(tmp_path / name, change)[ObjectKind.REPORT]
        assert not items(report, "Image Library")
    [path] = enhanced_ct(tmp_path / "enhanced")
    assert not items(build_all([path])[0].dataset, "Image Library")
    ds, single = dcmread(path), dcmread(ct_series(tmp_path / "single", n=1)[0])
    for keyword in LIBRARY_NEEDS:  # of one plane, as some converters leave them at the root of many
        ds[keyword] = single[keyword]
    ds.save_as(path)
    assert not items(build_all([path])[0].dataset, "Image Library")
    whole = through_bytes(tmp_path / "whole")[ObjectKind.REPORT]
    assert len(items(items(whole, "Image Library")[0], "Source")) == 3


def test_pitfall_4_enhanced_ct_gets_what_can_name_frames(tmp_path: Path) -> None:
    objects = {o.kind: o.dataset for o in build_all(enhanced_ct(tmp_path))}
    assert set(objects) == KINDS - {ObjectKind.PRESENTATION, ObjectKind.ACTIVATION_MAP}
    image = objects[ObjectKind.KEY_OBJECT].ContentSequence[-1].ReferencedSOPSequence[0]
    assert (image.ReferencedSOPClassUID, list(image.ReferencedFrameNumber)) == (ENHANCED_CT, [3, 4, 5])


@pytest.mark.parametrize(("p", "said"), [
    (np.float32(0.9729999), 97.3), (np.float64(0.9729999), 97.3), (np.int64(1), 99.9), (0, 0.1), (0.99999, 99.9),
    (1 / 3, 33.3),
], ids=str)  # fmt: skip
def test_pitfall_5_numbers_of_any_kind_and_none_of_them_certain(tmp_path: Path, p: Any, said: float) -> None:
    paths = ct_series(tmp_path / "ct")
    result = make_result(make_volume(paths))
    finding = replace(result.findings[0], p=p)
    objects = build_all(paths, replace(result, findings=(finding, *result.findings[1:])))
    for path in write_objects(objects, tmp_path / "out")[:2]:
        value = items(dcmread(path), "Certainty of Finding")[0].MeasuredValueSequence[0]
        assert float(value.NumericValue) == said


@pytest.mark.parametrize("p", [math.nan, math.inf, -0.1, 1.1])
def test_pitfall_5_what_is_no_probability_is_told_by_its_label(tmp_path: Path, p: float) -> None:
    paths = ct_series(tmp_path / "ct")
    result = make_result(make_volume(paths))
    finding = replace(result.findings[0], p=p)
    with pytest.raises(StudyError, match=r"any: .* is no probability"):
        build_all(paths, replace(result, findings=(finding, *result.findings[1:])))


def test_pitfall_6_the_evaluations_are_appended(tmp_path: Path) -> None:
    box = items(through_bytes(tmp_path)[ObjectKind.REPORT], "Qualitative Evaluations")
    assert [i.ConceptNameCodeSequence[0].CodeMeaning for i in box[0].ContentSequence][:3] == [
        "Intracranial hemorrhage", "Priority", "Comment"]  # fmt: skip


def test_pitfall_7_regions_and_findings_are_never_mixed(tmp_path: Path) -> None:
    read = through_bytes(tmp_path)
    for kind, template in ((ObjectKind.REPORT, "1501"), (ObjectKind.REGIONS, "1410")):
        groups = items(read[kind], "Measurement Group")
        assert groups
        assert {g.ContentTemplateSequence[0].TemplateIdentifier for g in groups} == {template}


def test_pitfall_8_the_algorithms_manufacturer_is_left_to_the_observer(tmp_path: Path) -> None:
    for kind in (ObjectKind.REPORT, ObjectKind.REGIONS):
        ds = through_bytes(tmp_path / kind)[kind]
        assert "122405" not in [e.value for e in ds.iterall() if e.keyword == "CodeValue"]
        assert items(ds, "Device Observer Manufacturer")[0].TextValue == "ICH-Triage Project"


def test_pitfall_9_equipment_is_ours_and_has_its_device_uid(tmp_path: Path) -> None:
    for ds in through_bytes(tmp_path).values():
        purposes = [e.PurposeOfReferenceCodeSequence[0].CodeValue for e in ds.ContributingEquipmentSequence]
        assert purposes == ["109101", "109102"], "none of highdicom's own"
        assert ds.ContributingEquipmentSequence[1].DeviceUID
        assert (ds.Manufacturer, ds.DeviceSerialNumber) == ("ICH-Triage Project", "node-07")


def test_pitfall_10_no_text_is_longer_than_it_may_be(tmp_path: Path) -> None:
    def code(ds: Dataset) -> None:
        long, cut = Dataset(), Dataset()
        long.CodeValue, long.CodingSchemeDesignator, long.CodeMeaning = "CT", "99LOCAL", "m" * 64
        long.add(DataElement("CodeMeaning", "LO", "m" * 80, validation_mode=0))
        cut.CodingSchemeDesignator, cut.CodeMeaning = "99LOCAL", "a part of a code is another code"
        cut.add(DataElement("CodeValue", "SH", "C" * 17, validation_mode=0))
        ds.ProcedureCodeSequence = [long, cut]

    read = through_bytes(tmp_path, code, put("StudyDescription", "LO", "d" * 80))
    for ds in read.values():
        assert ds.StudyDescription == "d" * 64
        assert [(i.CodeValue, i.CodeMeaning) for i in ds.ProcedureCodeSequence] == [("CT", "m" * 64)]
        assert not ds.get("ContentCreatorName")


def test_pitfall_10_a_backslash_in_a_text_is_no_second_value(tmp_path: Path) -> None:
    paths = ct_series(tmp_path / "ct", set_to("StudyDescription", "CT\\HEAD"), set_to("PatientName", "A\\B^C"))
    files = write_objects(build_all(paths), tmp_path / "out")
    for ds in map(dcmread, files):
        assert (ds.StudyDescription, str(ds.PatientName)) == ("CT HEAD", "A B^C")
    judge_composite(files)


def test_pitfall_11_every_object_has_the_study_description(tmp_path: Path) -> None:
    assert {ds.StudyDescription for ds in through_bytes(tmp_path).values()} == {"CT HEAD WO CONTRAST"}


def test_pitfall_12_each_image_of_the_library_says_where_it_lies(tmp_path: Path) -> None:
    """highdicom leaves the frame of reference out at the group; what a reader needs stands at each image."""
    group = items(through_bytes(tmp_path)[ObjectKind.REPORT], "Image Library Group")[0]
    for image in group.ContentSequence:
        assert image.ReferencedSOPSequence[0].ReferencedSOPClassUID == CT
        assert [i.UID for i in items(image, "Frame of Reference UID")] == [f"{SERIES}.900"]


def test_pitfall_13_documents_are_tied_to_each_of_their_orders(tmp_path: Path) -> None:
    def orders(ds: Dataset) -> None:
        requests = []
        for i in (1, 2):
            request = Dataset()
            put("RequestedProcedureID", "SH", f"LONGER-THAN-SH-{i:04}")(request)
            put("AccessionNumber", "SH", f"ACCESSION-TOO-LONG-{i}")(request)
            request.RequestedProcedureDescription = "CT hlavy natívne"
            requests.append(request)
        ds.RequestAttributesSequence, ds.AccessionNumber = requests, ""
        put("PlacerOrderNumberImagingServiceRequest", "LO", "P" * 70)(ds)

    objects = build_all(ct_series(tmp_path / "ct", orders))
    files = write_objects(objects, tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is read; what builds and writes must not warn
        read = {o.kind: dcmread(p) for o, p in zip(objects, files, strict=True)}
        documents = [read[kind] for kind in (ObjectKind.REPORT, ObjectKind.REGIONS, ObjectKind.KEY_OBJECT)]
        # Values are decoded when they are first looked at
        told = [list(ds.ReferencedRequestSequence[i].iterall()) for ds in documents for i in (0, 1)]
    assert len(told) == 6
    for ds in documents:
        tied = [(r.AccessionNumber, r.RequestedProcedureID, r.RequestedProcedureDescription,
                 r.PlacerOrderNumberImagingServiceRequest) for r in ds.ReferencedRequestSequence]  # fmt: skip
        assert tied == [(f"ACCESSION-TOO-LONG-{i}", f"LONGER-THAN-SH-{i:04}", "CT hlavy natívne", "P" * 70)
                        for i in (1, 2)]  # fmt: skip


def test_pitfall_13_one_of_several_orders_keeps_its_own_accession_number(tmp_path: Path) -> None:
    """The images' number is that of one order; alone, it counts more than what the order's item says."""

    def orders(*numbers: str) -> Change:
        def change(ds: Dataset) -> None:
            ds.RequestAttributesSequence = [Dataset() for _ in numbers]
            for i, (request, number) in enumerate(zip(ds.RequestAttributesSequence, numbers, strict=True)):
                request.AccessionNumber, request.RequestedProcedureID = number, f"RP{i}"

        return change

    for case, (numbers, tied) in enumerate([
        (("ACC0001", "ACC0002", ""), ["ACC0001", "ACC0002", "ACC0001"]), (("STALE",), ["ACC0001"]),
    ]):  # fmt: skip
        report = build_all(ct_series(tmp_path / str(case), orders(*numbers)))[0].dataset
        assert [item.AccessionNumber for item in report.ReferencedRequestSequence] == tied


def test_pitfall_14_nothing_shadows_the_library_that_gdcm_imports() -> None:
    """A folder or module `dl` beside a program breaks `import gdcm`, and with it decoding."""
    root = Path(__file__).parents[2]
    assert not [p for folder in (root, root / "triage", root / "tests", root / "benchmarks")
                for p in folder.glob("dl*") if p.stem == "dl"]  # fmt: skip


def test_pitfall_numbers_with_too_many_digits_are_shortened(tmp_path: Path) -> None:
    paths = ct_series(tmp_path / "ct", put("PixelSpacing", "DS", ["0.48828125000000000", "0.48828125000000000"]),
                      put("SliceThickness", "DS", "5.00000000000000000"))  # fmt: skip
    objects = {o.kind: o.dataset for o in build_all(paths, node=ALL_ON)}
    assert set(objects) == KINDS
    assert items(objects[ObjectKind.REPORT], "Image Library")
