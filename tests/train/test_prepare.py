import csv
import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom import dcmread
from train.rsna_data import QUIRKS, RsnaSpec, RsnaTruth, StudiesSpec, StudiesTruth, write_rsna, write_studies

from triage.dicom.headers import read_instance
from triage.dicom.pixels import Decoder, read_slice, read_volume
from triage.dicom.selection import select
from triage.errors import DataError, TrainingError
from triage.nn.predict import slabs_of
from triage.nn.preprocess import Preprocessing, framed
from triage.phantom import PhantomSpec, generate
from triage.phantom.writer import write_series
from triage.records import LABELS
from triage.train.cache import JOURNAL, Cache, open_cache, verify
from triage.train.prepare import SALT_FILE, UNMATCHED, PrepareOptions, Progress, prepare

torch.set_num_threads(1)

SMALL = PrepareOptions(size_px=64, workers=1)


@pytest.fixture(scope="module")
def rsna(tmp_path_factory: pytest.TempPathFactory) -> RsnaTruth:
    """Eight studies with every quirk."""
    return write_rsna(tmp_path_factory.mktemp("rsna") / "data", RsnaSpec(quirks=QUIRKS))


@pytest.fixture(scope="module")
def made(rsna: RsnaTruth) -> Cache:
    return prepare(rsna.images, rsna.labels, rsna.images.parent.parent / "cache", SMALL)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> StudiesTruth:
    """Two thick studies and a thin one."""
    return write_studies(tmp_path_factory.mktemp("studies") / "data", StudiesSpec(thin=1))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def rows_of(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return dict(list(csv.reader(file))[1:])


def test_every_usable_image_is_there_with_its_labels(rsna: RsnaTruth, made: Cache) -> None:
    index = made.index
    assert sorted(index.image) == rsna.usable
    for name, truth in zip(index.image, index.labels, strict=True):
        assert tuple(truth) == rsna.truth[str(name)]
    assert made.manifest.counts == {label: int(n) for label, n in zip(LABELS, index.labels.sum(axis=0), strict=True)}
    assert made.manifest.layout == "rsna"
    assert made.manifest.source.startswith("RSNA 2019 layout, not the whole of a known stage")
    verify(made)


def test_studies_lie_together_and_ascend(rsna: RsnaTruth, made: Cache) -> None:
    index = made.index
    starts = [k for k in range(len(index)) if k == 0 or index.study[k] != index.study[k - 1]]
    assert len(starts) == len(set(index.study)) == 8
    for begin, end in zip(starts, [*starts[1:], len(index)], strict=True):
        truth = np.array([rsna.position_mm[str(name)] for name in index.image[begin:end]])
        positions = index.position_mm[begin:end]
        assert (np.diff(truth) >= 0).all()
        np.testing.assert_allclose(np.diff(positions), np.diff(truth), atol=1e-2)
        assert len({rsna.study[str(name)] for name in index.image[begin:end]}) == 1


def test_images_at_one_position_are_both_kept(rsna: RsnaTruth, made: Cache) -> None:
    study = next(study for study, quirks in rsna.quirk.items() if "dup" in quirks)
    there = [k for k, name in enumerate(made.index.image) if rsna.study[str(name)] == study]
    assert (np.diff(made.index.position_mm[there]) == 0).sum() == 1


def test_patients_with_two_studies_have_one_name(rsna: RsnaTruth, made: Cache) -> None:
    names: dict[str, set[str]] = {}
    for image, patient in zip(made.index.image, made.index.patient, strict=True):
        names.setdefault(rsna.patient[str(image)], set()).add(str(patient))
    assert len(names) == 6
    assert all(len(some) == 1 for some in names.values())
    assert made.manifest.n_patients == 6


def test_pixels_are_those_of_the_node_and_faults_are_mended(rsna: RsnaTruth, made: Cache) -> None:
    frame = Preprocessing(resize_px=64, crop_px=64)
    repairs = {}
    with Decoder(20.0) as decoder:
        for row, name in enumerate(map(str, made.index.image)):
            instance = read_instance(rsna.images / f"{name}.dcm", any_uid=True)
            plane = instance.slices[0]
            hu, mended = read_slice(instance.path, plane, decoder)
            assert plane.spacing_mm is not None
            expected = framed(torch.from_numpy(hu)[None], frame, plane.spacing_mm)[0].numpy()
            np.testing.assert_array_equal(made.hu(np.array([row]))[0], expected)
            assert made.index.repairs[row] == "+".join(mended)
            repairs[rsna.study[name]] = mended
    by_quirk = {quirk: repairs[study] for study, quirks in rsna.quirk.items() for quirk in quirks}
    assert by_quirk["wrap12"] == ("wrap12",)
    assert by_quirk["pad2000"] == ("pad2000",)


def test_broken_files_are_set_aside_with_the_reason(rsna: RsnaTruth, made: Cache) -> None:
    asides = rows_of(made.folder / "aside.csv")
    assert set(asides) == set(rsna.broken)
    assert made.manifest.n_aside == 2
    for name, quirk in rsna.broken.items():
        assert ("too short" if "truncated" in quirk else "same value") in asides[name]


def test_what_does_not_match_is_listed_and_counted(rsna: RsnaTruth, made: Cache) -> None:
    unmatched = rows_of(made.folder / UNMATCHED)
    assert unmatched == dict.fromkeys(rsna.unlabelled, "labels") | dict.fromkeys(rsna.imageless, "image")
    notes = "\n".join(made.manifest.notes)
    assert "3 images without labels: ID_" in notes
    assert "2 labels without images: ID_" in notes
    assert "2 names in the label file more than once" in notes


def test_the_bytes_do_not_depend_on_the_number_of_workers(rsna: RsnaTruth, made: Cache, tmp_path: Path) -> None:
    other = prepare(rsna.images, rsna.labels, tmp_path / "cache", replace(SMALL, workers=2))
    assert content(other.folder) == content(made.folder)
    assert other.identity == made.identity


def test_a_second_run_does_nothing_and_says_so(rsna: RsnaTruth, made: Cache) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.folder.iterdir()}
    told: list[Progress] = []
    again = prepare(rsna.images, rsna.labels, made.folder, replace(SMALL, workers=2), told.append)
    assert again.identity == made.identity
    assert [one.phase for one in told] == ["labels", "unchanged"]
    assert {path: path.stat().st_mtime_ns for path in made.folder.iterdir()} == before


def test_progress_says_how_far_and_how_much(rsna: RsnaTruth, tmp_path: Path) -> None:
    told: list[Progress] = []
    prepare(rsna.images, rsna.labels, tmp_path / "cache", SMALL, told.append)
    assert [one.phase for one in told[:2]] == ["labels", "headers"]
    assert told[1].total == len(rsna.usable) + 2
    slices = [one for one in told if one.phase == "slices"]
    assert [one.done for one in slices] == list(range(9))
    assert slices[-1].slices == len(rsna.usable)
    assert slices[-1].aside == 2
    assert slices[0].needed_bytes == int(94 * 64 * 64 * 2 * 1.02)
    assert told[-1].phase == "hashes"


SCRIPT = """
import signal, sys, time
from pathlib import Path
from triage.train.prepare import PrepareOptions, prepare

def tell(p):
    print(p.phase, p.done, flush=True)
    if (p.phase, p.done) == ("slices", 3):
        time.sleep(60)  # until it is killed, or the machine might be done before

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    images, labels, out, workers = sys.argv[1:]
    prepare(Path(images), Path(labels), Path(out), PrepareOptions(size_px=64, workers=int(workers)), tell)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on(rsna: RsnaTruth, made: Cache, tmp_path: Path, number: signal.Signals) -> None:
    script, out = tmp_path / "run.py", tmp_path / "cache"
    script.write_text(SCRIPT)
    args = [sys.executable, str(script), *map(str, (rsna.images, rsna.labels, out, 2))]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          start_new_session=True) as run:  # fmt: skip
        assert run.stdout is not None
        while run.stdout.readline() != "slices 3\n":
            assert run.poll() is None
        if number == signal.SIGINT:
            os.killpg(run.pid, number)  # as a terminal does
        else:
            run.send_signal(number)
        # Standard error is open as long as any worker lives: this returns only when none does.
        _, error = run.communicate(timeout=60)
    assert run.returncode != 0
    assert error.count("Traceback") == (number == signal.SIGINT)
    assert (out / JOURNAL).exists()
    told: list[Progress] = []
    prepare(rsna.images, rsna.labels, out, SMALL, told.append)
    first = next(one for one in told if one.phase == "slices")
    assert first.done >= 3
    assert first.slices >= 30
    assert content(out) == content(made.folder)


def stop_after(n: int, stop: Callable[[], None]) -> Callable[[Progress], None]:
    def on_progress(progress: Progress) -> None:
        if progress.phase == "slices" and progress.done == n:
            stop()

    return on_progress


def interrupt() -> None:
    raise KeyboardInterrupt


def kill_a_worker() -> None:
    child = multiprocessing.active_children()[0]
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)


def test_a_worker_that_dies_is_one_clear_error(tmp_path: Path) -> None:
    data = write_rsna(tmp_path / "data", RsnaSpec(n_studies=12, n_slices=10))
    out = tmp_path / "cache"
    with pytest.raises(TrainingError, match="a worker process was killed"):
        prepare(data.images, data.labels, out, replace(SMALL, workers=2), stop_after(1, kill_a_worker))
    assert multiprocessing.active_children() == []
    assert sorted(prepare(data.images, data.labels, out, SMALL).index.image) == data.usable


def test_want_of_room_is_told_before_anything_is_written(
    rsna: RsnaTruth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10**5, 10**5))
    with pytest.raises(DataError, match=r"needs 0\.000785 GB, 0\.0001 GB free"):
        prepare(rsna.images, rsna.labels, tmp_path / "cache", SMALL)
    assert not (tmp_path / "cache").exists()


def test_a_full_disk_on_the_way_is_a_stop(rsna: RsnaTruth, made: Cache, tmp_path: Path) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(TrainingError, match="No space left on device; make room"):
        prepare(rsna.images, rsna.labels, tmp_path / "cache", SMALL, stop_after(1, full))
    prepare(rsna.images, rsna.labels, tmp_path / "cache", SMALL)
    assert content(tmp_path / "cache") == content(made.folder)


@pytest.mark.parametrize("options", [replace(SMALL, size_px=32), replace(SMALL, fov_mm=200.0)])
def test_other_options_want_another_folder(rsna: RsnaTruth, made: Cache, options: PrepareOptions) -> None:
    with pytest.raises(DataError, match="finished cache of other inputs"):
        prepare(rsna.images, rsna.labels, made.folder, options)


def test_an_unfinished_cache_of_other_inputs_is_refused(rsna: RsnaTruth, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        prepare(rsna.images, rsna.labels, tmp_path / "cache", SMALL, stop_after(1, interrupt))
    with pytest.raises(DataError, match="unfinished cache of other inputs"):
        prepare(rsna.images, rsna.labels, tmp_path / "cache", replace(SMALL, size_px=32))


def test_a_cache_of_another_version_is_refused(rsna: RsnaTruth, made: Cache, tmp_path: Path) -> None:
    folder = shutil.copytree(made.folder, tmp_path / "cache")
    manifest = folder / "cache.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 0'))
    with pytest.raises(DataError, match="preprocessing version 0"):
        prepare(rsna.images, rsna.labels, folder, SMALL)


def test_what_cannot_be_prepared(rsna: RsnaTruth, tmp_path: Path) -> None:
    labels, out = tmp_path / "labels.csv", tmp_path / "cache"
    rows = "".join(f"ID_x_{label},0\n" for label in LABELS)
    labels.write_text(f"ID,Label\n{rows}")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"labels\.csv: names none of the 97 images"):
        prepare(rsna.images, labels, out, SMALL)
    with pytest.raises(DataError, match="no such folder"):
        prepare(tmp_path / "missing", labels, out, SMALL)
    with pytest.raises(DataError, match=r"holds no \.dcm"):
        prepare(empty, labels, out, SMALL)
    with pytest.raises(DataError, match="lies within the folder of images"):
        prepare(rsna.images, rsna.labels, rsna.images / "cache", SMALL)
    with pytest.raises(DataError, match="size_px"):
        prepare(rsna.images, rsna.labels, out, replace(SMALL, size_px=0))
    assert not out.exists()


def test_two_files_of_one_name(rsna: RsnaTruth, tmp_path: Path) -> None:
    images = tmp_path / "images"
    (images / "again").mkdir(parents=True)
    name = rsna.usable[0]
    for folder in (images, images / "again"):
        shutil.copy(rsna.images / f"{name}.dcm", folder)
    with pytest.raises(DataError, match=f"{name}: 2 files of this name"):
        prepare(images, rsna.labels, tmp_path / "cache", SMALL)


def test_a_file_whose_header_ends_early_is_set_aside(rsna: RsnaTruth, tmp_path: Path) -> None:
    images = shutil.copytree(rsna.images, tmp_path / "images")
    name = rsna.usable[0]
    path = images / f"{name}.dcm"
    path.write_bytes(path.read_bytes()[:300])
    cache = prepare(images, rsna.labels, tmp_path / "cache", SMALL)
    assert name in rows_of(cache.folder / "aside.csv")
    assert sorted(cache.index.image) == [one for one in rsna.usable if one != name]


def test_a_slice_without_position_is_kept_and_comes_last(rsna: RsnaTruth, made: Cache, tmp_path: Path) -> None:
    images = shutil.copytree(rsna.images, tmp_path / "images")
    name = str(made.index.image[2])
    ds = dcmread(images / f"{name}.dcm")
    del ds.ImagePositionPatient
    ds.save_as(images / f"{name}.dcm")
    index = prepare(images, rsna.labels, tmp_path / "cache", SMALL).index
    study = [str(image) for image, one in zip(index.image, index.study, strict=True) if one == index.study[2]]
    assert study[-1] == name
    assert np.isnan(index.position_mm[index.image == name]).all()
    assert np.isfinite(index.position_mm[index.image != name]).all()


def test_texture_is_a_studys_own(tmp_path: Path) -> None:
    spec = RsnaSpec(n_studies=2, second_studies=0, n_slices=4, p_bleed=0.0)
    plain, strong = (
        write_rsna(tmp_path / name, replace(spec, texture_hu=hu)) for name, hu in (("plain", 0.0), ("strong", 40.0))
    )
    assert sorted(plain.truth) == sorted(strong.truth)
    caches = [prepare(one.images, one.labels, tmp_path / f"cache-{k}", SMALL) for k, one in enumerate((plain, strong))]
    change = [(caches[1].hu(np.array([k])) - caches[0].hu(np.array([k])))[0] for k in range(8)]
    middle = [one[20:44, 20:44].astype(float).ravel() for one in change]
    assert np.corrcoef(middle[1], middle[2])[0, 1] > 0.9
    assert abs(np.corrcoef(middle[1], middle[5])[0, 1]) < 0.9


def test_studies_by_study(studies: StudiesTruth, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    cache = prepare(studies.images, studies.labels, out, SMALL)
    assert (cache.manifest.layout, cache.manifest.slab_mm, cache.manifest.n_studies) == ("studies", 5.0, 3)
    assert any("slices inherit the study's label" in note for note in cache.manifest.notes)
    assert any("no positive image for epidural" in note for note in cache.manifest.notes)
    salt = out / SALT_FILE
    assert salt.stat().st_mode & 0o777 == 0o600
    assert len(salt.read_text().strip()) == 64
    per_study = [set(map(tuple, cache.index.labels[cache.index.study == study])) for study in set(cache.index.study)]
    assert sorted(map(list, per_study)) == sorted([truth] for truth in studies.truth.values())
    assert set(cache.index.kernel) == {"STANDARD"}
    again = prepare(studies.images, studies.labels, out, SMALL)
    assert again.identity == cache.identity


def test_a_study_looks_as_it_does_to_the_node(tmp_path: Path) -> None:
    """Two of routine thickness, a thin one that is averaged, and an overlapping thick one that is not."""
    studies = write_studies(tmp_path / "data", StudiesSpec(thin=1))
    overlapping = generate(9, PhantomSpec(n_slices=48, size_px=64, spacing_mm=2.5, thickness_mm=5.0))
    paths = write_series(overlapping, studies.images / "study9")
    with studies.labels.open("a", encoding="utf-8") as file:
        file.write(f"{dcmread(paths[0], stop_before_pixels=True).StudyInstanceUID},0,0,0,0,0,0\n")
    cache = prepare(studies.images, studies.labels, tmp_path / "cache", replace(SMALL, fov_mm=220.0))
    pictures = {hashlib.sha256(cache.hu(np.array([k])).tobytes()).hexdigest() for k in range(len(cache))}
    frame = Preprocessing(resize_px=64, crop_px=64, fov_mm=220.0)
    expected = set()
    with Decoder(20.0) as decoder:
        for folder in sorted(studies.images.iterdir()):
            selection = select([read_instance(path) for path in sorted(folder.iterdir())])
            assert selection.stack is not None
            volume = read_volume(selection.stack, {i.sop_instance_uid: i.path for i in selection.instances}, decoder)
            hu, members = slabs_of(volume, 5.0)
            assert len(members) == (48 if folder.name == "study9" else 24)
            planes = framed(hu, frame, volume.spacing_mm).numpy().astype(np.int16)
            expected |= {hashlib.sha256(plane[None].tobytes()).hexdigest() for plane in planes}
    assert pictures == expected


def test_no_identifier_is_in_a_cache_even_an_unfinished_one(studies: StudiesTruth, tmp_path: Path) -> None:
    images = shutil.copytree(studies.images, tmp_path / "DOE^JOHN")
    (images / "DOE^JOHN.txt").write_text("no image")
    with pytest.raises(KeyboardInterrupt):
        prepare(images, studies.labels, tmp_path / "cache", SMALL, stop_after(2, interrupt))
    begun = content(tmp_path / "cache")
    cache = prepare(images, studies.labels, tmp_path / "cache", SMALL)
    assert cache.manifest.n_aside == 1
    whole = b"".join([*begun.values(), *content(cache.folder).values()])
    for identifier in (*studies.identifiers, "DOE", "PHANTOM"):
        assert identifier.encode() not in whole


def test_data_may_grow_and_keep_their_names(studies: StudiesTruth, tmp_path: Path) -> None:
    first = prepare(studies.images, studies.labels, tmp_path / "first", SMALL)
    more = write_studies(tmp_path / "more", StudiesSpec(n_studies=4, thin=1))
    salt_file = tmp_path / "first" / SALT_FILE
    grown = prepare(more.images, more.labels, tmp_path / "grown", replace(SMALL, salt_file=salt_file))
    assert set(first.index.patient) < set(grown.index.patient)
    assert set(first.index.image) < set(grown.index.image)
    assert (tmp_path / "grown" / SALT_FILE).read_text() == salt_file.read_text()
    other = prepare(studies.images, studies.labels, tmp_path / "other", SMALL)
    assert not set(first.index.patient) & set(other.index.patient)
    (tmp_path / "short").write_text("salt")
    for path in (tmp_path / "short", tmp_path / "missing"):
        with pytest.raises(DataError, match=f"name the {SALT_FILE} of a cache"):
            prepare(more.images, more.labels, tmp_path / "x", replace(SMALL, salt_file=path))


def test_studies_by_image_take_the_labelled_images_only(tmp_path: Path) -> None:
    data = write_studies(tmp_path / "data", StudiesSpec(n_studies=2, by="SOPInstanceUID", quirks=("localizer", "dup")))
    cache = prepare(data.images, data.labels, tmp_path / "cache", SMALL)
    assert len(cache) == len(data.truth) == 48
    assert cache.index.labels.sum(axis=0).tolist() == np.array(list(data.truth.values())).sum(axis=0).tolist()
    assert not any("inherit" in note for note in cache.manifest.notes)
    assert len(rows_of(cache.folder / UNMATCHED)) == 4


def test_a_slab_has_the_labels_of_all_its_slices(tmp_path: Path) -> None:
    spec = StudiesSpec(n_studies=1, thin=1, by="SOPInstanceUID")
    data = write_studies(tmp_path / "data", spec)
    cache = prepare(data.images, data.labels, tmp_path / "cache", SMALL)
    truth = np.array(list(data.truth.values())).reshape(24, 4, 6).any(axis=1)
    np.testing.assert_array_equal(cache.index.labels, truth)
    assert truth.any()
    np.testing.assert_allclose(cache.index.thickness_mm, 5.0)
    whole = prepare(data.images, data.labels, tmp_path / "whole", replace(SMALL, slab_mm=0.0))
    assert len(whole) == 96


def test_a_study_that_the_node_would_not_analyse_is_set_aside(studies: StudiesTruth, tmp_path: Path) -> None:
    images = shutil.copytree(studies.images, tmp_path / "images")
    for path in sorted((images / "study1").iterdir())[5:]:
        path.unlink()
    cache = prepare(images, studies.labels, tmp_path / "cache", SMALL)
    assert cache.manifest.n_studies == 2
    (reason,) = rows_of(cache.folder / "aside.csv").values()
    assert "only 5 slices" in reason
    assert open_cache(cache.folder).identity == cache.identity
