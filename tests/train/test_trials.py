"""Honest tests of a pack: a tiny real network on tiny phantoms, the phantom as a real head, pictures that are drawn."""

import json
import math
import shutil
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageDraw

from triage.errors import DataError
from triage.nn.architectures import build
from triage.nn.card import Card, Networks, Thresholds, Training
from triage.nn.pack import load_pack, read_card, write_pack
from triage.nn.predict import judge
from triage.nn.preprocess import Preprocessing
from triage.phantom import SHIFTED, PhantomSpec, generate
from triage.phantom.profile import USUAL
from triage.phantom.study import Truth
from triage.phantom.writer import WriterOptions, write_series
from triage.records import ANY, LABELS, SUBTYPES, ActivationMap, FloatArray
from triage.train.assessed import assess, plain_volume
from triage.train.cli import main
from triage.train.errors_shown import MOST, Errors, ErrorShown
from triage.train.pointing import Hit, hit_of, pointing
from triage.train.trial_records import (
    ALL,
    BANDS_ML,
    LARGE,
    Case,
    above,
    area,
    band_of,
    detections,
    notes,
    painted_areas,
    told,
)
from triage.train.trials import TrialsRequest, document_of, into_card, run_trials
from triage.train.trials_page import write_trials
from triage.train.trials_phantom import FIRST_SEEDS, PhantomSet, check_unseen
from triage.train.trials_pictures import AIR_HU, BONE_HU, PictureSet, hounsfield, kind_of, read_picture
from triage.train.trials_real import ImplantSet, Paint, read_heads
from triage.train.trials_text import trial_lines

torch.set_num_threads(1)

TINY = PhantomSpec(size_px=64, n_slices=6)


def tiny_pack(folder: Path, review: float) -> Path:
    torch.manual_seed(5)
    card = Card(
        "tiny", "1", "demonstration", Networks("resnet18", storage="int8", trunk="shared"),
        Thresholds(max(review, 0.5), review, dict.fromkeys(SUBTYPES, min(review, 0.5))),
        Preprocessing(resize_px=64, crop_px=64, fov_mm=220.0),
    )  # fmt: skip
    write_pack(folder, card, build("resnet18", 6).state_dict())
    return folder


@pytest.fixture(scope="module")
def keen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pack(tmp_path_factory.mktemp("keen") / "tiny-1", 0.0001)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A series without a bleed as DICOM files."""
    folder = tmp_path_factory.mktemp("study") / "head"
    study = generate(11, PhantomSpec(size_px=64, n_slices=20, subtypes=()))
    write_series(study, folder, WriterOptions())
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures as the FDA's are: a margin, a frame, a head in a brain window, the kind in the name."""
    folder = tmp_path_factory.mktemp("pictures")
    for k, kind in enumerate(("None", "round", "epidural", "subdural", "None")):
        picture = Image.new("RGBA", (300, 300), (255, 255, 255, 255))
        pen = ImageDraw.Draw(picture)
        pen.rectangle((10, 10, 289, 289), fill=(0, 0, 0, 255))
        pen.ellipse((60, 40, 240, 260), fill=(255, 255, 255, 255))
        pen.ellipse((70, 50, 230, 250), fill=(112, 112, 112, 255))
        if kind != "None":
            pen.ellipse((120, 120, 150 + 5 * k, 150), fill=(255, 255, 255, 255))
        picture.save(folder / f"{k:03}_9.0_yrs_{kind}_120kV.png")
    return folder


@dataclass(frozen=True)
class Blob:
    hu: npt.NDArray[np.int16]
    mask: npt.NDArray[np.bool_]
    truth: Truth


def blobs(
    hu: FloatArray, positions_mm: tuple[float, ...], spacing_mm: tuple[float, float], thickness_mm: float
) -> Paint:
    """Paints squares of blood; intraventricular ones have no room."""
    del positions_mm, thickness_mm

    def paint(label: str, volume_ml: tuple[float, float], seed: int) -> Blob:
        if label == "intraventricular":
            raise ValueError("no room")
        side = round(math.sqrt(volume_ml[1] * 1000 / 10 / (spacing_mm[0] * spacing_mm[1])))
        mask = np.zeros(hu.shape, np.bool_)
        row = 20 + seed % 5
        mask[10:12, row : row + side, 20 : 20 + side] = True
        stage = "chronic" if label == "subdural" else "acute"
        return Blob(np.where(mask, 60, hu).astype(np.int16), mask, Truth(label, "", 1.0, 60.0, False, stage))

    return paint


def test_everything_is_measured_written_and_told(keen: Path, head: Path, drawn: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    request = TrialsRequest(
        keen, 4, TINY, negative=(head,), implants=ImplantSet(1, blobs), pictures=(PictureSet(drawn),)
    )  # fmt: skip
    found, errors = run_trials(request, lambda *what: told.append(what))
    shifted, usual = found.phantoms
    assert (shifted.n_studies, usual.n_studies, shifted.n_slices) == (4, 2, 24)
    assert (shifted.profile, shifted.first_seed) == (SHIFTED.name, FIRST_SEEDS[SHIFTED.name])
    assert shifted.sensitivity.value == 1.0  # the threshold is below everything
    assert shifted.by_slice[ANY].n == 24
    (negative,) = found.negatives
    assert (negative.outcome, negative.n_slices, negative.n_above, len(negative.scores)) == ("positive", 20, 20, 20)
    (painted,) = found.implants
    assert (painted.n, painted.no_room, painted.untouched_positive) == (20, 4, True)
    assert {d.label for d in painted.detections} == {"subdural, chronic", *SUBTYPES} - {"intraventricular"}
    assert all(d.slices_found == d.slices_before == 1.0 for d in painted.detections)
    assert painted.areas[LARGE].positives > 0
    (pictures,) = found.pictures
    assert (pictures.any.n, pictures.any.positives, set(pictures.kinds)) == (5, 3, {"intraparenchymal", "epidural",
                                                                                    "subdural"})  # fmt: skip
    assert ("phantoms, profile shifted", 4, 4) in told
    lines = trial_lines(found)
    assert not [line for line in lines if line.startswith("not measured")]
    assert any("positive, so that rates by study say little" in line for line in lines)
    assert len(notes(found)) >= 5
    paths = write_trials(tmp_path / "report", found, errors)
    document = json.loads(paths[0].read_text())
    assert document["negatives"][0]["scores"] == list(negative.scores)
    page = paths[1].read_text()
    HTMLParser().feed(page)
    assert "http" not in page.replace("http-equiv", "")
    assert str(head.parent.parent) not in page + paths[0].read_text()


def test_figures_go_into_the_card_once(keen: Path, drawn: Path, tmp_path: Path) -> None:
    pack = tmp_path / keen.name
    shutil.copytree(keen, pack)
    request = TrialsRequest(pack, 0, pictures=(PictureSet(drawn),))
    before = read_card(pack).performance.notes
    first, _ = run_trials(request)
    into_card(pack, first)
    assert list(read_card(pack).performance.notes) == [*before, *notes(first)]
    with pytest.raises(DataError, match="measure it again"):
        into_card(pack, first)
    again, _ = run_trials(request)
    into_card(pack, again)
    assert list(read_card(pack).performance.notes) == [*before, *notes(first)]


def test_the_same_test_gives_the_same_figures(keen: Path) -> None:
    request = TrialsRequest(keen, 1, TINY)
    one, other = (document_of(run_trials(replace(request, workers=n))[0]) for n in (1, 2))
    assert one == other


def test_scores_are_those_that_the_node_gives(keen: Path) -> None:
    study = generate(3, replace(TINY, spacing_mm=2.5, n_slices=12))
    volume = plain_volume(study.hu, study.positions_mm, study.spacing_mm, study.thickness_mm)
    pack = load_pack(keen)
    said, judgement = assess(pack, volume, with_maps=True), judge(pack, volume)
    assert {f.label: f.p for f in judgement.findings} == said.studies
    for k, one in enumerate(judgement.slice_scores):
        assert one.p == {label: said.slices[label][k] for label in LABELS}
    first = {f.label: f.key_slices[0] for f in judgement.findings}
    assert len(said.maps) == len(first)
    assert all(abs(m.index - first[m.label]) <= 1 for m in said.maps)


def test_only_what_differs_is_scored_again(keen: Path) -> None:
    study = generate(3, TINY)
    volume = plain_volume(study.hu, study.positions_mm, study.spacing_mm, study.thickness_mm)
    pack = load_pack(keen)
    before = assess(pack, volume)
    hu = volume.hu.copy()
    hu[2, 20:40, 20:40] = 60
    touched = replace(volume, hu=hu)
    said, whole = assess(pack, touched, before=before), assess(pack, touched)
    for label in LABELS:
        np.testing.assert_allclose(said.slices[label], whole.slices[label], atol=1e-5)
        assert (np.delete(said.slices[label], 2) == np.delete(before.slices[label], 2)).all() or label != ANY
    assert said.slices[ANY][2] != before.slices[ANY][2]


def test_seeds_that_were_trained_on_are_refused(keen: Path) -> None:
    card = load_pack(keen).card
    for seeds in ("seeds 1 to 900000002, 32 slices", "seeds from 1, the last epoch's to 900000002"):
        seen = replace(card, training=Training(data=f"phantoms, {seeds}"))
        with pytest.raises(DataError, match="trained on seeds 1 to 900000002"):
            check_unseen(seen, PhantomSet(SHIFTED, 1))
        check_unseen(seen, PhantomSet(USUAL, 10))


def test_cases_are_counted_by_band() -> None:
    cases = [Case("epidural", 0.01, False, 0, 0), Case("epidural", 3.0, True, 4, 3, study_change=0.2),
             Case("epidural", 4.9, False, 2, 0), Case("subdural", 500.0, True, 6, 6)]  # fmt: skip
    rows = detections(cases)
    assert [(d.label, d.band_ml, d.n, d.slices) for d in rows] == [
        ("epidural", BANDS_ML[0], 1, 0), ("epidural", BANDS_ML[1], 2, 6), ("subdural", BANDS_ML[-1], 1, 6),
    ]  # fmt: skip
    assert (rows[1].found.value, rows[1].slices_found, rows[1].study_change) == (0.5, 0.5, 0.2)
    studies, slices, n = above(rows, 1.0)
    assert (studies.value, slices, n) == (2 / 3, 9 / 12, 3)
    assert band_of(1.0) == BANDS_ML[1]


def test_old_blood_is_told_apart_and_what_was_found_before_it_was_painted() -> None:
    old = Case("subdural", 30.0, False, 4, 1, "isodense", 1)
    rows = detections([old, Case("subdural", 30.0, True, 4, 3, "acute", 0)])
    assert [(d.label, d.n, d.found.value) for d in rows] == [("subdural", 2, 0.5), ("subdural, isodense", 1, 0.0)]
    assert (rows[0].slices_found, rows[0].slices_before) == (0.5, 0.125)
    assert above(rows, 5.0)[2] == 2


def test_a_bleed_is_not_found_for_another_in_the_same_head(keen: Path) -> None:
    pair = replace(TINY, subtypes=("epidural", "subarachnoid"))
    found, _ = run_trials(TrialsRequest(keen, 1, pair))
    assert {d.label for d in found.phantoms[0].detections} == {ANY}


def test_few_or_perfect_answers_have_no_narrow_interval() -> None:
    names = np.arange(20).astype(np.str_)
    truth = np.arange(20) < 10
    p = np.where(truth, 0.9, 0.1)
    assert area(p, truth, names).low == pytest.approx(0.692, abs=0.001)  # ten of ten, Clopper and Pearson
    few = area(p[6:], truth[6:], names[6:])
    assert (few.value, few.positives) == (1.0, 4)
    assert np.isnan([few.low, few.high]).all()
    assert told(few) == "1.000"


def test_painted_slices_are_held_against_the_same_slices_untouched() -> None:
    lifted = Case("epidural", 9.0, True, 2, 1, p=(0.3, 0.9), p_before=(0.2, 0.1))
    areas = painted_areas([lifted, Case("epidural", 0.5, False, 1, 0, p=(0.5,), p_before=(0.5,))])
    assert (areas[LARGE].value, areas[LARGE].n, areas[LARGE].positives) == (1.0, 4, 2)
    assert 0.5 < areas[ALL].value < 1.0
    assert np.isnan(painted_areas([])[LARGE].value)


def test_a_map_is_held_against_the_bleed() -> None:
    bleed = np.zeros((8, 8), np.bool_)
    bleed[2, 2] = True
    values = np.zeros((8, 8), np.float32)
    values[2, 5], values[2, 2] = 1.0, 0.6
    hu = np.zeros((8, 8), np.float32)
    distance, overlaps, chance = hit_of(ActivationMap(ANY, 0, values), bleed, hu, (1.0, 2.0))
    assert (distance, overlaps, chance) == (6.0, True, 1 / 64)
    none = hit_of(ActivationMap(ANY, 0, values), np.zeros_like(bleed), hu, (1.0, 2.0))
    assert none == (np.inf, False, 0.0)
    hu[:, 6] = -1000
    assert hit_of(ActivationMap(ANY, 0, values), bleed, hu, (1.0, 2.0))[2] == 1 / 48  # the rest beside the head is none
    row = pointing("x", [Hit(ANY, "", 1.0, 0.0, True, 0.1), Hit(ANY, "", 1.0, *none)])
    assert (row.n, row.inside.value, row.on_slice, row.near) == (2, 0.5, 0.5, 0.5)


def test_greys_become_hounsfield_units_again(drawn: Path) -> None:
    clear, round_ = (hounsfield(read_picture(next(drawn.glob(f"{k:03}*"))), (80.0, 40.0)) for k in range(2))
    assert clear.shape == (512, 512)
    assert (clear[0, 0], clear[256, 80]) == (AIR_HU, AIR_HU)
    assert clear[256, 256] == pytest.approx(112 / 255 * 80, abs=0.2)
    assert clear[256, 101] == BONE_HU
    assert round_[230, 230] == 80.0  # white, but not of the skull


def test_a_bleed_as_white_as_the_skull_beside_it_is_no_bone() -> None:
    picture = Image.new("L", (512, 512), 0)
    pen = ImageDraw.Draw(picture)
    pen.ellipse((100, 60, 412, 452), fill=255)
    pen.ellipse((120, 80, 392, 432), fill=112)
    pen.chord((120, 80, 392, 432), 150, 210, fill=255)
    hu = hounsfield(np.asarray(picture), (80.0, 40.0))
    assert (hu[256, 130], hu[256, 108], hu[256, 404], hu[66, 256]) == (80.0, BONE_HU, BONE_HU, BONE_HU)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("001_12.0_yrs_None_120kV", ""), ("007_round_1mA", "intraparenchymal"), ("a-SubDural", "subdural")],
)
def test_names_say_the_kind(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_a_name_without_a_kind_is_refused() -> None:
    with pytest.raises(DataError, match="does not say a kind"):
        kind_of("picture_1")


def test_only_the_worst_answers_are_kept() -> None:
    errors = Errors()
    hu = np.zeros((4, 4), np.float32)
    for k in range(20):
        errors.add(ErrorShown("a", f"head {k}, slice 1", (), {ANY: 0.5 + k / 100}), hu)
        errors.add(ErrorShown("a", f"head {k}, slice 2", (), {ANY: 0.5}), hu)
        errors.add(ErrorShown("a", f"head {k}, slice 3", ("subdural",), {ANY: 0.9}), hu)
    shown = [one for one, _ in errors.all()]
    assert [one.name for one in shown] == [f"head {k}, slice 1" for k in range(19, 19 - MOST, -1)]


def test_a_folder_that_no_reader_takes_is_told(keen: Path, tmp_path: Path, head: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no DICOM image"):
        read_heads(tmp_path / "empty")
    files = sorted(head.rglob("*.dcm"))
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "1.dcm").write_bytes(files[0].read_bytes())
    request = TrialsRequest(keen, 0, negative=(tmp_path / "short",), implants=ImplantSet(1, blobs))
    found, _ = run_trials(request)
    assert found.negatives[0].outcome == "not analysed" or found.negatives[0].reason
    assert found.implants[0].reason
    assert any("not analysed" in line for line in trial_lines(found))
    assert any("not possible" in note for note in notes(found))


def command(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", *map(str, arguments)])
    out, err = capsys.readouterr()
    return (caught.value.code if isinstance(caught.value.code, int) else 0), out, err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--negative", "nowhere"), "nowhere: no such folder"),
        (("--implant", "nowhere"), "nowhere: no such folder"),
        (("--pictures", "nowhere"), "nowhere: no such folder"),
        (("--pictures", ".", "--window", "wide"), "--window wide: write it as WIDTH/LEVEL"),
        (("--pictures", ".", "--window", "80/nan"), "the level not within 4000 HU"),
        (("--pictures", "."), "holds no PNG file"),
        (("nowhere",), "nowhere: no such folder; name a run or a model pack"),
        (("--out", "file/report"), "file is no folder that can be written to"),
        (("--pictures", "torn"), "none.PNG: not a picture that can be read"),
    ],
)
def test_wrong_use_is_one_line(
    keen: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    option: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "none.PNG").write_bytes(b"\x89PNG")
    code, out, err = command(capsys, keen, "--phantoms", "0", *option)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_the_command_says_what_else_can_be_measured(
    keen: Path, drawn: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = command(capsys, keen, "--phantoms", "0", "--pictures", drawn, "--out", tmp_path / "r")
    assert code == 0, err
    assert "AUROC of any" in out
    assert "not measured: real series without a bleed (--negative), bleeds painted into real heads" in out
    assert (tmp_path / "r" / "trials.html").exists()
    code, _, err = command(capsys, keen, "--cache", tmp_path, "--negative", drawn)
    assert code == 2
    assert "are for a pack without --cache" in err


def test_real_heads_and_pictures(keen: Path, shared_data: Path) -> None:
    folder = shared_data / "ge_head"
    found, _ = run_trials(TrialsRequest(keen, 0, negative=(folder,), implants=ImplantSet(0, blobs)))
    assert found.negatives[0].n_slices == 28
    assert found.implants[0].untouched_positive
    pictures = shared_data / "insilico_png"
    path = next(pictures.glob("069_*"))
    hu = hounsfield(read_picture(path), (80.0, 40.0))
    brain = hu[200:300, 200:300]
    assert 28 < np.median(brain) < 36
    assert hu.min() == AIR_HU
    assert (hu == BONE_HU).mean() > 0.02
    lens = hounsfield(read_picture(next(pictures.glob("062_*"))), (80.0, 40.0))
    assert lens[290, 320] == 80.0
