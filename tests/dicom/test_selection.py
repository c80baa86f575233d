"""The rules of selection on synthetic studies, and its result on real ones."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicom.intake_data import ROOT_UID, Change, put
from pydicom import Dataset

from triage.dicom.headers import read_instance
from triage.dicom.selection import select
from triage.errors import UnreadableInstance
from triage.records import Instance, Selection, SeriesVerdict

Maker = Callable[..., list[Path]]
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def read_all(*groups: list[Path]) -> list[Instance]:
    instances = [read_instance(path) for paths in groups for path in paths]
    random.Random(3).shuffle(instances)
    return instances


def read_folder(folder: Path) -> list[Instance]:
    instances = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            instances.append(read_instance(path))
        except UnreadableInstance:
            continue  # DIRFILE
    return instances


def only(selection: Selection) -> SeriesVerdict:
    (verdict,) = selection.verdicts
    return verdict


def set_to(**values: object) -> Change:
    def change(ds: Dataset) -> None:
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return change


def lying(*orientation: float) -> Change:
    return set_to(ImageOrientationPatient=[f"{v:.7f}" for v in orientation])


def test_a_plain_head_is_chosen_with_what_was_found(ct_series: Maker) -> None:
    selection = select(read_all(ct_series()))
    assert selection.series_uid == f"{ROOT_UID}.2"
    assert selection.reason == ""
    assert selection.stack is not None
    assert len(selection.stack.slices) == len(selection.instances) == 28
    verdict = only(selection)
    assert verdict.chosen
    assert verdict.score == 100
    assert verdict.reasons == (
        "28 axial slices of 5 mm covering 140 mm", "kernel H31s (soft)", "gantry tilt 0.0 degrees")  # fmt: skip


REJECTED: list[tuple[Change, str]] = [
    (set_to(SOPClassUID=SECONDARY_CAPTURE), "Secondary Capture Image is no CT image"),
    (set_to(SOPClassUID="1.2.3.4"), "an unknown SOP class is no CT image"),
    (set_to(Modality="PT"), "Modality is 'PT', not CT"),
    (lambda ds: ds.__delitem__("PixelData"), "no image"),
    (set_to(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "ImageType says 'LOCALIZER'"),
    (set_to(ImageType=["DERIVED", "SECONDARY", "MPR"]), "ImageType says 'SECONDARY', 'MPR'"),
    (set_to(ImageType=["DERIVED", "PRIMARY", "OTHER"]), "derived and not axial"),
    (set_to(ScanOptions="SURVIEW"), "ScanOptions says 'SURVIEW'"),
    (set_to(ContrastBolusAgent="Omnipaque 350"), "ContrastBolusAgent is 'Omnipaque 350'"),
    (set_to(SeriesDescription="CTA Head"), "SeriesDescription 'CTA Head' says 'CTA'"),
    (set_to(ProtocolName="Angio Head"), "ProtocolName 'Angio Head' says 'Angio'"),
    (set_to(SeriesDescription="Head COR"), "SeriesDescription 'Head COR' says 'COR'"),
    (set_to(SeriesDescription="Dose Report"), "says 'Dose'"),
    (set_to(SeriesDescription="C-SPINE"), "SeriesDescription is 'C-SPINE', not the head"),
    (set_to(SeriesDescription="5mm", BodyPartExamined="CHEST"), "BodyPartExamined is 'CHEST', not the head"),
    (set_to(SeriesDescription="5mm", BodyPartExamined="", StudyDescription="Routine"), "no sign of a head"),
    (set_to(ConvolutionKernel=["H70h", "3"]), "ConvolutionKernel 'H70h' is a sharp one"),
    (set_to(ConvolutionKernel="", SeriesDescription="Head bone"), "SeriesDescription 'Head bone' says 'bone'"),
    (set_to(RescaleType="MGML"), "RescaleType is 'MGML', not Hounsfield units"),
    (lambda ds: ds.__delitem__("RescaleSlope"), "28 of 28 slices have no RescaleSlope"),
    (lambda ds: ds.__delitem__("ImagePositionPatient"), "28 of 28 slices have no valid ImagePositionPatient"),
    (lying(1, 0, 0, 0.5, 1, 0), "not orthonormal"),
    (lying(0, 1, 0, 0, 0, -1), "not axial: the slices lean 90 degrees"),
    (set_to(PixelSpacing=["0", "0"]), "28 of 28 slices have no valid PixelSpacing"),
]


@pytest.mark.parametrize(("change", "reason"), REJECTED, ids=[reason for _, reason in REJECTED])
def test_every_rule_gives_its_reason_with_the_value(ct_series: Maker, change: Change, reason: str) -> None:
    selection = select(read_all(ct_series(change=change)))
    assert selection.series_uid is None
    assert selection.stack is None
    verdict = only(selection)
    assert not verdict.chosen
    assert verdict.score is None
    assert any(reason in r for r in verdict.reasons), verdict.reasons
    assert reason in selection.reason
    assert "SECRET" not in selection.reason.upper()
    assert ROOT_UID not in selection.reason


ACCEPTED: list[Change] = [
    set_to(ImageType=["DERIVED", "PRIMARY", "AXIAL"]),
    set_to(SeriesDescription="HEAD iDose (3)"),
    set_to(SeriesDescription="Head w/o contrast", ProtocolName="CTA Head"),
    set_to(ContrastBolusAgent="NONE"),
    set_to(ContrastBolusAgent=""),
    set_to(BodyPartExamined="", StudyDescription="", SeriesDescription="Kopf nativ"),
    set_to(BodyPartExamined="NECK"),  # wrong, as it often is: the description says head
    set_to(ConvolutionKernel="unheard of"),
    set_to(SliceThickness=None),
    set_to(RescaleType="US"),
    set_to(SeriesDescription="", ProtocolName=""),
]


@pytest.mark.parametrize("change", ACCEPTED)
def test_what_only_looks_odd_is_taken(ct_series: Maker, change: Change) -> None:
    assert only(select(read_all(ct_series(change=change)))).chosen


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"n": 9, "step_mm": 10.0}, "only 9 slices, at least 10 needed"),
        ({"n": 15, "step_mm": 5.0}, "covers 75 mm, 80 to 300 mm needed"),
        ({"n": 70, "step_mm": 5.0}, "covers 350 mm"),
    ],
)
def test_extent(ct_series: Maker, fields: dict[str, object], reason: str) -> None:
    assert any(reason in r for r in only(select(read_all(ct_series(**fields)))).reasons)


def test_every_failed_rule_is_told(ct_series: Maker) -> None:
    change = set_to(SeriesDescription="Scout C-SPINE", ConvolutionKernel="BONE", ContrastBolusAgent="Iohexol")
    reasons = only(select(read_all(ct_series(change=change)))).reasons
    assert len(reasons) == 4


@pytest.mark.parametrize(("gone", "chosen"), [({7}, True), ({7, 15}, False)])
def test_missing_slices(ct_series: Maker, gone: set[int], chosen: bool) -> None:
    paths = [p for k, p in enumerate(ct_series()) if k not in gone]
    verdict = only(select(read_all(paths)))
    assert verdict.chosen is chosen
    assert any("missing" in r for r in verdict.reasons)


def test_a_change_of_step_is_not_called_missing(ct_series: Maker) -> None:
    def widen(ds: Dataset) -> None:
        k = int(ds.InstanceNumber) - 1
        ds.ImagePositionPatient = ["0", "0", str(4 * k if k < 14 else 4 * 14 + 7 * (k - 14))]

    selection = select(read_all(ct_series(change=widen)))
    assert selection.stack is not None
    assert selection.stack.missing == 0


def test_mixed_matrix_and_spacing(ct_series: Maker) -> None:
    def change(ds: Dataset) -> None:
        if int(ds.InstanceNumber) == 5:
            ds.Rows, ds.PixelSpacing = 16, ["9", "9"]

    reasons = only(select(read_all(ct_series(change=change)))).reasons
    assert "mixed matrix: 32x32 (27 images), 32x16 (1 images)" in reasons
    assert "mixed PixelSpacing: 7.1875 to 9 mm" in reasons


def test_tilted_slices_are_parallel_or_refused(ct_series: Maker) -> None:
    selection = select(read_all(ct_series(tilt_deg=-18.5)))
    assert selection.stack is not None
    assert selection.stack.tilt_deg == pytest.approx(18.5, abs=0.01)

    def turn(ds: Dataset) -> None:
        if int(ds.InstanceNumber) > 14:
            ds.ImageOrientationPatient = ["1", "0", "0", "0", f"{np.cos(0.2):.7f}", f"{np.sin(0.2):.7f}"]

    assert "not parallel" in only(select(read_all(ct_series(number=3, change=turn)))).reasons[0]


def test_a_localizer_in_the_same_series_is_left_out(ct_series: Maker) -> None:
    def change(ds: Dataset) -> None:
        if int(ds.InstanceNumber) == 1:
            ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
            ds.ImageOrientationPatient = ["0", "1", "0", "0", "0", "-1"]

    selection = select(read_all(ct_series(change=change)))
    assert len(selection.instances) == 27
    assert "1 of 28 images left out: ImageType says 'LOCALIZER'" in only(selection).reasons


def test_the_thickness_of_the_training_data_comes_first(ct_series: Maker) -> None:
    thin = ct_series(number=3, n=140, step_mm=1.0, description="Head 1.0 H31s")
    thick = ct_series(number=4)
    bone = ct_series(number=5, description="Head bone", change=set_to(ConvolutionKernel="H60s"))
    selection = select(read_all(thin, thick, bone))
    assert selection.series_uid == f"{ROOT_UID}.4"
    first, second, third = selection.verdicts
    assert [v.series_number for v in selection.verdicts] == [3, 4, 5]
    assert (first.chosen, second.chosen, third.chosen) == (False, True, False)
    assert first.score is not None
    assert first.reasons[0] == f"usable, but ranked below series 4 (score {first.score:g} against 100)"


def test_of_equal_series_the_first_is_chosen(ct_series: Maker) -> None:
    assert select(read_all(ct_series(number=7), ct_series(number=6))).series_uid == f"{ROOT_UID}.6"


def test_the_order_of_arrival_changes_nothing(ct_series: Maker) -> None:
    instances = read_all(ct_series(number=3, n=140, step_mm=1.0), ct_series(number=4))
    forwards, backwards = select(instances), select(instances[::-1])
    assert forwards.verdicts == backwards.verdicts
    assert forwards.stack == backwards.stack


def test_an_instance_counts_once(ct_series: Maker) -> None:
    instances = read_all(ct_series())
    again = [replace(i, path=Path("elsewhere")) for i in instances]
    selection = select([*instances, *again])
    assert only(selection).n_instances == 28
    assert selection.stack is not None
    assert not selection.stack.duplicates


def repeat(part: int, shift_mm: float, acquisition: str) -> Change:
    """Slices from number `part` + 1 on are another acquisition, from `shift_mm` above the first slice."""

    def change(ds: Dataset) -> None:
        k = int(ds.InstanceNumber) - 1
        if k >= part:
            ds.AcquisitionNumber = acquisition
            ds.ImagePositionPatient = ["-115", "-115", f"{-40 + shift_mm + 5 * (k - part)}"]

    return change


def test_two_acquisitions_of_one_head_are_split(ct_series: Maker) -> None:
    selection = select(read_all(ct_series(n=56, change=repeat(28, 0.0, "2"))))
    assert selection.stack is not None
    assert len(selection.instances) == 28
    assert {s.acquisition_number for s in selection.stack.slices} in ({1}, {2})
    assert any("of 2 in this series" in r for r in only(selection).reasons)


def test_acquisitions_that_continue_each_other_stay_together(ct_series: Maker) -> None:
    change = repeat(20, 95.0, "2")  # starts at the last position of the first 20 slices
    selection = select(read_all(ct_series(n=40, change=change)))
    assert selection.stack is not None
    assert (len(selection.stack.slices), len(selection.stack.duplicates)) == (39, 1)


def test_an_acquisition_a_slice_is_no_reason_to_split(ct_series: Maker) -> None:
    def change(ds: Dataset) -> None:
        ds.AcquisitionNumber = ds.InstanceNumber
        if int(ds.InstanceNumber) == 28:
            ds.ImagePositionPatient = ["-115", "-115", "-40"]

    selection = select(read_all(ct_series(change=change)))
    assert selection.stack is not None
    assert (len(selection.stack.slices), len(selection.stack.duplicates)) == (27, 1)


def test_many_slices_at_one_position_are_no_head(ct_series: Maker) -> None:
    def change(ds: Dataset) -> None:
        ds.ImagePositionPatient = ["0", "0", "0"]

    (reason,) = only(select(read_all(ct_series(change=change)))).reasons
    assert reason == "only 1 slice at different positions (27 repeat one), at least 10 needed"


def test_a_reason_is_short_and_without_control_characters(ct_series: Maker) -> None:
    def change(ds: Dataset) -> None:
        put(ds, "SeriesDescription", b"scout \x07\n" + b"x" * 3000)

    (reason,) = only(select(read_all(ct_series(change=change)))).reasons
    assert reason.isprintable()
    assert len(reason) < 120


def test_no_series_at_all() -> None:
    selection = select([])
    assert selection.reason == "no series received"


def test_real_study_with_localizer_and_secondary_captures(shared_data: Path) -> None:
    selection = select(read_folder(shared_data / "philips_phantom" / "S21570"))
    assert [(v.series_number, v.chosen, v.n_instances) for v in selection.verdicts] == [
        (100, False, 1), (201, True, 28), (401, False, 6)]  # fmt: skip
    localizer, head, captures = selection.verdicts
    assert head.description == "STD BRAIN 5MM"
    assert localizer.reasons == ("ImageType says 'LOCALIZER'", "ScanOptions says 'SURVIEW'")
    assert captures.reasons[0] == "Secondary Capture Image is no CT image"
    assert any("SECONDARY" in r for r in captures.reasons)


def test_real_head_tilted_with_two_steps(shared_data: Path) -> None:
    selection = select(read_folder(shared_data / "ge_head"))
    assert selection.stack is not None
    assert len(selection.stack.slices) == 28
    assert selection.stack.tilt_deg == pytest.approx(18.5, abs=0.1)
    assert selection.stack.missing == 0


def test_real_perfusion_map_report_and_localizer_are_refused(shared_data: Path) -> None:
    (perfusion,) = select([read_instance(shared_data / "single" / "eCT_Supplemental.dcm")]).verdicts
    assert perfusion.reasons == ("ImageType says 'PERFUSION', 'RCBF'", "ContrastBolusAgent is 'Iohexol'")
    (report,) = select([read_instance(shared_data / "odd" / "no-pixel-data.dcm")]).verdicts
    assert report.reasons[0] == "Basic Text SR is no CT image"
    (localizer,) = select([read_instance(shared_data / "odd" / "GH342.dcm")]).verdicts
    assert "ImageType says 'LOCALIZER'" in localizer.reasons


@pytest.mark.parametrize(
    ("folder", "reasons"),
    [
        ("gantrytilting", ["only 4 slices, at least 10 needed"]),
        ("notavolume", ["ImageType says 'CT_SOM5 MON'"]),
        ("sliceincrement/002", ["only 4 slices, at least 10 needed"]),
    ],
)
def test_real_geometry_of_heads(shared_data: Path, folder: str, reasons: list[str]) -> None:
    """These files say nothing of the body; they are made to say head, so that the next rules are reached."""
    instances = [replace(i, body_part="HEAD") for i in read_folder(shared_data / "geometry" / folder)]
    assert list(only(select(instances)).reasons) == reasons
