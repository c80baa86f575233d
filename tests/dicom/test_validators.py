"""Every object of every case before judges that nobody here wrote: dciodvfy, dcentvfy, dsrdump, PixelMed, highdicom."""

import subprocess
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dicom.results_data import (
    ALL_ON,
    GE_HEAD,
    SERIES,
    STUDY,
    VALIDATED,
    build_all,
    ct_series,
    enhanced_ct,
    ge_head,
    judge_composite,
    make_result,
    make_volume,
    need,
    negative,
    not_analysed,
    pixelmed,
    remove,
    set_to,
    write_objects,
)
from highdicom import ko, sr
from pydicom import dcmread
from pydicom.sr.codedict import codes as standard

from triage.dicom import codes
from triage.dicom.equipment import NodeIdentity
from triage.dicom.objects import build_objects
from triage.dicom.sources import Sources
from triage.phantom import PhantomSpec, generate
from triage.phantom.writer import WriterOptions, write_series
from triage.records import ANY, SUBTYPES, ObjectKind, Result

MULTIFRAME = "one multi-frame capture"

DOCUMENTS = {ObjectKind.REPORT, ObjectKind.REGIONS, ObjectKind.KEY_OBJECT, ObjectKind.REJECTION}

SLAVIC, JAPANESE = "Ďurčová^Ľubica", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"


@dataclass(frozen=True)
class Case:
    """Objects of one analysis, and the images beside which they must stand in one study."""

    objects: list[Path]
    sources: list[Path]


Cases = dict[str, Case]


def brief(result: Result) -> Result:
    """With fewer thresholds and one key slice a finding: PixelMed's time goes to the many that some cases do have."""
    findings = tuple(replace(f, key_slices=f.key_slices[:1]) for f in result.findings)
    return replace(result, thresholds={"urgent": 0.8, "review": 0.5}, findings=findings)


def plain_cases(folder: Path) -> Cases:
    """One synthetic study, judged in every way there is."""
    paths = ct_series(folder / "ct")
    volume = make_volume(paths)
    results: dict[str, tuple[Result, NodeIdentity]] = {
        label: (brief(make_result(volume, (label,), run=i)), ALL_ON) for i, label in enumerate(SUBTYPES, 10)
    }
    results |= {
        "several": (make_result(volume, SUBTYPES, run=2, model=VALIDATED), ALL_ON),
        "by default": (make_result(volume), NodeIdentity()),
        "negative": (negative(volume, run=3), ALL_ON),
        "not analysed": (not_analysed(run=4), ALL_ON),
        "comprehensive": (brief(make_result(volume, run=5)), replace(ALL_ON, sop_class="comprehensive")),
        "enhanced": (brief(make_result(volume, run=6)), replace(ALL_ON, sop_class="enhanced")),
        MULTIFRAME: (brief(make_result(volume, run=7)), replace(ALL_ON, capture_mode="multiframe")),
    }
    cases = {name: Case(write_objects(build_all(paths, result, node), folder / name), paths)
             for name, (result, node) in results.items()}  # fmt: skip
    superseding = {
        "superseding": brief(make_result(volume, SUBTYPES[:2], run=8)),
        "superseding, negative": negative(volume, run=9),
    }
    before = cases["several"].objects[0]
    for name, result in superseding.items():
        objects = build_all(paths, result, predecessor=before)
        cases[name] = Case([before, *write_objects(objects, folder / name)], paths)
    return cases


def odd_cases(folder: Path) -> Cases:
    """Studies unlike the plain one; dcentvfy compares bytes, so only UTF-8 can be set beside its sources."""
    missing = ("StudyID", "StudyTime", "PatientSex", "SliceThickness", "Manufacturer")
    made = {
        "Slovak": ct_series(folder / "sk", set_to("SpecificCharacterSet", ["", "ISO 2022 IR 101"]),
                            set_to("PatientName", SLAVIC), set_to("StudyDescription", "CT hlavy natívne")),
        "Japanese": ct_series(folder / "jp", set_to("SpecificCharacterSet", ["ISO 2022 IR 13", "ISO 2022 IR 87"]),
                              set_to("PatientName", JAPANESE)),
        "UTF-8": ct_series(folder / "utf8", set_to("PatientName", f"{SLAVIC}=山田^太郎"),
                           set_to("StudyDescription", "КТ головы")),
        "lacking": ct_series(folder / "lacking", remove(*missing)),
        "Enhanced CT": enhanced_ct(folder / "multi"),
    }  # fmt: skip
    cases = {}
    for name, paths in made.items():
        objects = build_all(paths, brief(make_result(make_volume(paths))))
        cases[name] = Case(write_objects(objects, folder / name), paths if name == "UTF-8" else [])
    return cases


def phantom_case(folder: Path) -> Case:
    study = generate(3, PhantomSpec(n_slices=12, size_px=64, subtypes=("intraparenchymal",), fov_mm=230.0))
    paths = write_series(study, folder / "phantom", WriterOptions(()))
    paths = sorted(paths, key=lambda p: float(dcmread(p, stop_before_pixels=True).ImagePositionPatient[2]))
    header = dcmread(paths[0], stop_before_pixels=True)
    result = make_result(make_volume(paths), study_uid=str(header.StudyInstanceUID),
                         series_uid=str(header.SeriesInstanceUID))  # fmt: skip
    return Case(write_objects(build_all(paths, brief(result)), folder / "of phantom"), paths)


def real_case(folder: Path) -> Case:
    paths = ge_head()
    header = dcmread(paths[0], stop_before_pixels=True)
    result = make_result(make_volume(paths), study_uid=str(header.StudyInstanceUID), tilt_deg=18.5,
                         series_uid=str(header.SeriesInstanceUID))  # fmt: skip
    before = write_objects(build_all(paths, result, NodeIdentity(captures=False)), folder / "real head, before")[0]
    objects = build_all(paths, replace(brief(result), run=2), predecessor=before)
    return Case(write_objects(objects, folder / "real head"), [])  # anonymised by hand: dcentvfy minds


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    folder = tmp_path_factory.mktemp("cases")
    cases = plain_cases(folder) | odd_cases(folder) | {"phantom": phantom_case(folder)}
    return cases | ({"real head": real_case(folder)} if GE_HEAD.is_dir() else {})


@pytest.fixture(scope="module")
def faulty(cases: Cases, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report without its Device Observer UID: judges that never object prove nothing."""
    path = tmp_path_factory.mktemp("faulty") / "report.dcm"
    ds = dcmread(cases["negative"].objects[0])
    ds.ContentSequence = [i for i in ds.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue != "121012"]
    ds.save_as(path)
    return path


@pytest.fixture(scope="module")
def verdicts(cases: Cases, faulty: Path) -> dict[Path, list[str]]:
    """PixelMed on every document, in one run; of those whose trees differ in numbers and texts only, on the first."""
    trees: dict[tuple[object, ...], Path] = {}
    for name, case in cases.items():
        for path in filter(is_document, case.objects):
            trees.setdefault((name if name in ("phantom", "real head") else "", *tree(path)), path)
    return pixelmed([*trees.values(), faulty])


def tree(path: Path) -> list[tuple[str, str]]:
    """What templates rule: class, templates, relations, types, codes, in order."""
    ds = dcmread(path)
    ruled = ("TemplateIdentifier", "RelationshipType", "ValueType", "CodeValue", "GraphicType", "ReferencedFrameNumber")
    elements = (e for item in ds.ContentSequence for e in item.iterall())
    return [("SOPClassUID", str(ds.SOPClassUID)), *((e.keyword, str(e.value)) for e in elements if e.keyword in ruled)]


def is_document(path: Path) -> bool:
    return path.stem.partition("-")[2] in DOCUMENTS


def test_every_case_has_its_objects(cases: Cases) -> None:
    """What the other tests judge is there to be judged."""
    counts = {name: len(case.objects) for name, case in cases.items()}
    assert len(counts) == 20 + GE_HEAD.is_dir()
    assert counts["negative"] == counts["not analysed"] == 1
    assert counts["superseding, negative"] == 3
    kinds = {p.stem.partition("-")[2] for p in cases["superseding"].objects}
    assert kinds == set(ObjectKind) - {ObjectKind.MESSAGE}


def test_no_composite_object_has_a_fault(cases: Cases) -> None:
    """Each by itself, and all of one case beside its sources: the same patient, study and series everywhere."""
    for case in cases.values():
        judge_composite(case.objects, case.sources)


def test_no_document_has_a_fault(verdicts: dict[Path, list[str]], faulty: Path) -> None:
    assert len(verdicts) > 25
    assert not [fault for path, faults in verdicts.items() if path != faulty for fault in faults]


def test_dsrdump_reads_every_document(cases: Cases) -> None:
    need("dsrdump")
    for path in (p for case in cases.values() for p in case.objects if is_document(p)):
        done = subprocess.run(["dsrdump", str(path)], capture_output=True, text=True, errors="replace", check=False)
        assert done.returncode == 0
        assert not [line for line in done.stderr.splitlines() if line.startswith(("E:", "F:"))], done.stderr


def test_the_real_head_is_among_them(cases: Cases) -> None:
    ge_head()  # skips without it
    kinds = {p.stem.partition("-")[2] for p in cases["real head"].objects}
    assert kinds == set(ObjectKind) - {ObjectKind.MESSAGE}


def test_judges_find_faults_where_there_are_some(
    cases: Cases, verdicts: dict[Path, list[str]], faulty: Path, tmp_path: Path
) -> None:
    assert any("Device Observer UID" in fault for fault in verdicts[faulty])
    ds = dcmread(cases["by default"].objects[0])
    del ds.Modality
    ds.save_as(tmp_path / "composite.dcm")
    with pytest.raises(AssertionError, match="Modality"):
        judge_composite([tmp_path / "composite.dcm"])


def test_dsrdump_tells_the_findings(cases: Cases) -> None:
    need("dsrdump")
    text = dumped(cases["several"].objects[0])
    for code in codes.FINDINGS.values():
        assert f'{code.finding.value},SCT,"{code.finding.meaning}"' in text
    assert 'Certainty of Finding")="97.3"' in text
    assert text.count('Presence")=(52101004,SCT,"Present")') == 6
    assert "ACR Category 1 Actionable Finding" in text
    assert 'Presence")=(272519000,SCT,"Absent")' in dumped(cases["negative"].objects[0])
    assert "NOT ANALYSED" in dumped(cases["not analysed"].objects[0])


def dumped(path: Path) -> str:
    done = subprocess.run(["dsrdump", "+Pc", str(path)], capture_output=True, text=True, errors="replace", check=True)
    return done.stdout


def test_highdicom_reads_the_findings_back(cases: Cases) -> None:
    for name, present in (*((s, {s}) for s in SUBTYPES), ("several", set(SUBTYPES)), ("comprehensive", None),
                          ("enhanced", None)):  # fmt: skip
        wanted = {codes.FINDINGS[s] for s in present or {"intraparenchymal"}} | {codes.FINDINGS[ANY]}
        assert found(cases[name].objects[0]) == {(c.finding.value, c.site and c.site.value) for c in wanted}
    assert found(cases["negative"].objects[0]) == found(cases["not analysed"].objects[0]) == set()


def found(path: Path) -> set[tuple[str, str | None]]:
    """Finding and site of the groups that say present."""
    content: Any = sr.srread(path).content
    groups = content.get_image_measurement_groups()
    assert all(g.get_measurements(name=standard.DCM.CertaintyOfFinding) for g in groups) or len(groups) == 1
    return {(g.finding_type.value, g.finding_sites[0].value.value if g.finding_sites else None) for g in groups
            if g.get_qualitative_evaluations(name=codes.PRESENCE)[0].value.value == codes.PRESENT.value}  # fmt: skip


def test_highdicom_reads_the_selections_back(cases: Cases) -> None:
    [path] = [p for p in cases["by default"].objects if p.stem.endswith(ObjectKind.KEY_OBJECT)]
    document = ko.KeyObjectSelectionDocument.from_dataset(dcmread(path))
    assert [document.resolve_reference(r.referenced_sop_instance_uid) for r in document.content.get_references()] == [
        (STUDY, SERIES, f"{SERIES}.{i}") for i in (4, 5, 3)]  # fmt: skip


def test_names_arrive_unharmed(cases: Cases) -> None:
    for case, name in (("Slovak", SLAVIC), ("Japanese", JAPANESE)):
        assert {str(dcmread(p).PatientName) for p in cases[case].objects} == {name}


def test_objects_of_a_result_without_slices_refer_to_the_study(tmp_path: Path) -> None:
    paths = ct_series(tmp_path / "ct", n=1)
    build = partial(build_objects, not_analysed(), node=ALL_ON)
    [report] = write_objects(build(Sources(paths, None)), tmp_path / "out")
    judge_composite([report], paths)
