"""One study from files to a result, without network or database."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import UID

from triage.dicom.equipment import NodeIdentity
from triage.dicom.objects import build_objects
from triage.dicom.pixels import Decoder
from triage.nn.pack import load_pack
from triage.pipeline import Tools, analyse_study, read_studies, score_slices
from triage.records import LABELS, Outcome, Priority

Phantom = Callable[..., list[Path]]


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(20.0) as decoder:
        yield decoder


@pytest.fixture
def sensitive(sensitive_pack: Path, decoder: Decoder) -> Tools:
    return Tools(load_pack(sensitive_pack), decoder)


@pytest.fixture
def blind(blind_pack: Path, decoder: Decoder) -> Tools:
    return Tools(load_pack(blind_pack), decoder)


def test_a_positive_study_has_every_finding_and_objects_that_refer_to_its_slices(
    phantom_files: Phantom, sensitive: Tools
) -> None:
    paths = phantom_files()
    (study,) = read_studies(paths)
    analysis = analyse_study(study, sensitive)
    r = analysis.result
    assert (r.outcome, r.reason) == (Outcome.POSITIVE, "")
    assert r.priority in (Priority.URGENT, Priority.REVIEW)
    assert tuple(f.label for f in r.findings) == LABELS
    assert r.n_slices == len(r.slice_scores) == len(paths)
    assert r.model.sha256 == sensitive.pack.identity.sha256
    assert set(r.thresholds) == {"urgent", "review", *LABELS[1:]}
    maps = analysis.sources.activations
    assert [(a.label, a.index) for a in maps] == [(f.label, i) for f in r.findings for i in f.key_slices]
    assert analysis.sources.volume is not None
    assert {a.values.shape for a in maps} == {analysis.sources.volume.hu.shape[1:]}
    objects = build_objects(r, analysis.sources, NodeIdentity())
    kinds = [o.kind for o in objects]
    assert kinds[0] == "report"
    assert {"capture", "key_object"} < set(kinds)
    assert {str(o.dataset.StudyInstanceUID) for o in objects} == {study.study_uid}
    assert len({o.sop_instance_uid for o in objects}) == len(objects)


def test_a_negative_study_has_a_report_only(phantom_files: Phantom, blind: Tools) -> None:
    (study,) = read_studies(phantom_files())
    analysis = analyse_study(study, blind)
    assert (analysis.result.outcome, analysis.result.priority) == (Outcome.NEGATIVE, Priority.ROUTINE)
    assert [f.label for f in analysis.result.findings] == ["any"]
    assert analysis.sources.activations == ()
    assert [o.kind for o in build_objects(analysis.result, analysis.sources, NodeIdentity())] == ["report"]


def test_the_same_study_gives_the_same_scores_whatever_the_order_of_its_files(
    phantom_files: Phantom, sensitive: Tools
) -> None:
    paths = phantom_files()
    forward = analyse_study(read_studies(paths)[0], sensitive).result
    backward = analyse_study(read_studies(paths[::-1])[0], sensitive).result
    assert forward.slice_scores == backward.slice_scores
    assert forward.findings == backward.findings


def test_a_study_without_a_usable_series_says_why(phantom_files: Phantom, sensitive: Tools) -> None:
    (study,) = read_studies(phantom_files(n_slices=4))
    analysis = analyse_study(study, sensitive)
    assert analysis.result.outcome is Outcome.NOT_ANALYSED
    assert "4 slices" in analysis.result.reason
    (report,) = build_objects(analysis.result, analysis.sources, NodeIdentity())
    assert "Undetermined" in str(report.dataset)


def test_a_slice_with_short_pixels_is_set_aside_and_the_others_go_on(phantom_files: Phantom, blind: Tools) -> None:
    paths = phantom_files(1, 24, "short")
    (study,) = read_studies(paths)
    result = analyse_study(study, blind).result
    assert result.outcome is Outcome.NEGATIVE
    assert (result.n_slices, len(result.set_aside)) == (len(paths) - 1, 1)
    assert result.set_aside[0].reason


def test_files_are_grouped_by_study_and_what_is_no_image_is_told(phantom_files: Phantom, tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("no DICOM")
    studies = read_studies([note, *phantom_files(1, 12), *phantom_files(2, 12)])
    assert [len(s.instances) for s in studies] == [12, 12]
    assert [u.path for s in studies for u in s.unreadable] == [note]
    (alone,) = read_studies([note])
    assert (alone.study_uid, len(alone.unreadable)) == ("", 1)


def test_slices_are_scored_one_by_one_without_selection(
    phantom_files: Phantom, sensitive: Tools, tmp_path: Path
) -> None:
    paths = phantom_files(n_slices=3)
    broken = tmp_path / "broken.dcm"
    ds = dcmread(paths[0])
    ds.PixelData = ds.PixelData[:100]
    ds.SOPInstanceUID = UID("1.2.3.4.5")
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.save_as(broken)
    (study,) = read_studies([*paths, broken])
    scores = list(score_slices(study, sensitive))
    assert [s.path for s in scores] == [*paths, broken]
    for scored in scores[:3]:
        assert scored.score is not None
        assert 0.0 < scored.score.p["any"] < 1.0
    assert scores[3].score is None
    assert scores[3].reason


def test_a_real_head_with_a_tilted_gantry_is_ordered_by_position(shared_data: Path, blind: Tools) -> None:
    paths = sorted((shared_data / "ge_head").glob("*.dcm"))[::-1]
    (study,) = read_studies(paths)
    analysis = analyse_study(study, blind)
    result = analysis.result
    assert (result.outcome, result.n_slices, result.missing) == (Outcome.NEGATIVE, 28, 0)
    assert result.tilt_deg == pytest.approx(18.5, abs=0.1)
    volume = analysis.sources.volume
    assert volume is not None
    assert list(volume.positions_mm) == sorted(volume.positions_mm)
    assert [p.name for p in analysis.sources.evidence] != [p.name for p in paths]


def test_the_right_series_of_a_real_study_is_chosen(shared_data: Path, blind: Tools) -> None:
    folder = shared_data / "philips_phantom" / "S21570"
    (study,) = read_studies([p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "DIRFILE"])
    result = analyse_study(study, blind).result
    verdicts = {v.description: v for v in result.verdicts}
    chosen = [v for v in result.verdicts if v.chosen]
    assert [v.description for v in chosen] == ["STD BRAIN 5MM"]
    assert chosen[0].n_instances == 28
    assert all(v.reasons for v in verdicts.values())
