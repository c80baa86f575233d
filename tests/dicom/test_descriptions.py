"""What descriptions say, in words met in hospitals."""

import pytest

from triage.dicom.descriptions import BONE, DERIVED, HEAD, OTHER_PART, says_contrast


@pytest.mark.parametrize("text", [
    "CTA Head", "CT Angio Kopf", "HEAD W CONTRAST", "Head with contrast", "Kopf KM", "C+ head", "head +C",
    "ARTERIAL", "portal venous", "Brain Perfusion", "head post", "Post contrast", "post-iv 5mm", "CE head",
    "contrast enhanced", "Mozog s kontrastom", "Bolus tracking", "SmartPrep", "dynamic", "delayed 5 min",
])  # fmt: skip
def test_contrast(text: str) -> None:
    assert says_contrast(text)


@pytest.mark.parametrize("text", [
    "", "Head 5.0 H31s", "CT HEAD WO CONTRAST", "head w/o contrast", "HEAD W/O IV CONTRAST", "without contrast",
    "non-contrast head", "NON CON 5MM", "Kopf nativ", "Kopf ohne KM", "Mozog bez kontrastu", "PLAIN BRAIN",
    "unenhanced", "NCCT", "sans contraste", "C- head", "POST FOSSA 2.5", "post-op head", "STD BRAIN 5MM",
    "Posterior fossa", "Start head", "1A TRAUMA/PLAIN HEAD DM /Head", "CT no contrast",
])  # fmt: skip
def test_no_contrast(text: str) -> None:
    assert not says_contrast(text)


@pytest.mark.parametrize("text", [
    "COR 3mm", "Sagittal", "MPR head", "3D VRT", "MIP 10mm", "Dose Report", "Exam Summary", "Scout", "Topogram 0.6",
    "Surview", "Iodine map", "VNC", "MonoE 70 keV", "Patient Protocol", "subtraction", "Screen Save",
])  # fmt: skip
def test_derived(text: str) -> None:
    assert DERIVED.search(text)


@pytest.mark.parametrize("text", [
    "iDose 5mm", "HEAD iDose (3)", "Low dosage?", "Head 5.0 H31s", "STD BRAIN 5MM", "Head Routine",
    "Stroke protocol", "Accord", "Cortex?", "Head monitor lamp",
])  # fmt: skip
def test_not_derived(text: str) -> None:
    assert not DERIVED.search(text)


@pytest.mark.parametrize("text", [
    "HEAD", "Brain", "SKULL", "Kopf", "Schädel nativ", "Schaedel", "CCT", "Crâne sans", "Hlava", "Mozog nativne",
    "mozek", "tête", "cerebro", "Neuro 5mm", "cabeza",
])  # fmt: skip
def test_head(text: str) -> None:
    assert HEAD.search(text)


@pytest.mark.parametrize("text", [
    "CHEST", "Abdomen", "C-Spine", "NECK", "Sinuses", "Orbits", "FACIAL BONES", "IAC", "hrudnik",
])  # fmt: skip
def test_other_part(text: str) -> None:
    assert OTHER_PART.search(text)
    assert not HEAD.search(text)


@pytest.mark.parametrize("text", [
    "Bone 1mm", "Knochen", "kost",
])  # fmt: skip
def test_bone(text: str) -> None:
    assert BONE.search(text)
