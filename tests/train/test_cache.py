import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from triage.errors import DataError
from triage.train import cache as module
from triage.train.cache import (
    FORMAT,
    INDEX,
    JOURNAL,
    MANIFEST,
    Aside,
    Cache,
    CachedSlice,
    CacheWriter,
    Frame,
    Manifest,
    open_cache,
    shard_name,
    verify,
)

FRAME = Frame(size_px=8)
SHARD = 5
SIZES = {"a": 4, "b": 3, "empty": 0, "c": 6}
"""Slices of each unit; they cross two ends of a shard."""

ASIDES = {"empty": (Aside("x", "broken, beyond repair"),)}


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_SLICES", SHARD)


def slices_of(unit: str, with_bleeds: bool = False) -> list[CachedSlice]:
    rng = np.random.default_rng(sum(map(ord, unit)))
    return [
        CachedSlice(
            image=f"{unit}{k}", study=unit, series=unit, patient="p", position_mm=float("nan") if k == 3 else 5.0 * k,
            spacing_mm=(0.5, 0.25), thickness_mm=5.0, labels=(k == 1, False, k == 1, False, False, False),
            hu=rng.integers(-1024, 3071, (8, 8)).astype(np.int16), manufacturer='Maker, "Inc"',
            repairs=("wrap12", "sign") if k == 0 else (),
            bleeds=rng.integers(0, 6, (8, 8)).astype(np.uint8) if with_bleeds else None,
        )
        for k in range(SIZES[unit])
    ]  # fmt: skip


def begin(folder: Path, inputs: str = "x") -> CacheWriter:
    return CacheWriter(folder, inputs, FRAME)


def go_on(folder: Path, with_bleeds: bool = False) -> Cache:
    """Write whatever is missing."""
    writer = begin(folder)
    for unit in SIZES:
        if unit not in writer.done:
            writer.append(unit, slices_of(unit, with_bleeds), ASIDES.get(unit, ()))
    return writer.finish(Manifest("rsna", FRAME, 0.0, "a test", "x", notes=("a note",)))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    cache = go_on(tmp_path / "cache", with_bleeds=True)
    written = [one for unit in SIZES for one in slices_of(unit, with_bleeds=True)]
    rows = np.array([12, 0, 5, 5, 4])
    np.testing.assert_array_equal(cache.hu(rows), np.stack([written[k].hu for k in rows]))
    np.testing.assert_array_equal(cache.bleeds(rows), np.stack([written[k].bleeds for k in rows]))
    index = cache.index
    assert index.image.tolist() == [one.image for one in written]
    assert index.labels.tolist() == [list(one.labels) for one in written]
    np.testing.assert_array_equal(index.position_mm, [one.position_mm for one in written])
    assert index.spacing_mm.tolist() == [[0.5, 0.25]] * 13
    assert set(index.manufacturer) == {'Maker, "Inc"'}
    assert index.repairs[0] == "wrap12+sign"
    assert index.take(rows).image.tolist() == [written[k].image for k in rows]
    manifest = cache.manifest
    assert (manifest.n_slices, manifest.n_studies, manifest.n_patients, manifest.n_aside) == (13, 3, 1, 1)
    assert (manifest.counts["any"], manifest.counts["subdural"]) == (3, 0)
    assert manifest.notes == ("a note",)
    assert sorted(manifest.files) == ["aside.csv", *(f"bleeds-0000{k}.bin" for k in range(3)),
                                      *(f"hu-0000{k}.bin" for k in range(3)), "index.csv"]  # fmt: skip
    verify(cache)
    assert open_cache(tmp_path / "cache").identity == cache.identity
    assert not (tmp_path / "cache" / JOURNAL).exists()


def test_phantoms_truth_is_there_only_where_it_was_given(tmp_path: Path) -> None:
    assert not go_on(tmp_path / "one").has_bleeds
    assert go_on(tmp_path / "other", with_bleeds=True).has_bleeds


def killed_while(unit: str, folder: Path, kill: Callable[[Path, Path], None]) -> Path:
    """A cache whose writer was killed while it wrote a unit; `kill` is given the states before and after it."""
    writer = begin(folder / "before")
    for name in SIZES:
        if name == unit:
            break
        writer.append(name, slices_of(name), ASIDES.get(name, ()))
    shutil.copytree(folder / "before", folder / "killed")
    begin(folder / "killed").append(unit, slices_of(unit), ASIDES.get(unit, ()))
    kill(folder / "before", folder / "killed")
    return folder / "killed"


@pytest.mark.parametrize("unit", ["a", "b", "empty", "c"])
@pytest.mark.parametrize("shards_there", [True, False])
def test_a_kill_at_any_point_costs_one_unit_at_most(tmp_path: Path, unit: str, shards_there: bool) -> None:
    whole = content(go_on(tmp_path / "whole").folder)

    def kill(before: Path, after: Path) -> None:
        old, new = ((folder / JOURNAL).read_bytes() for folder in (before, after))
        keep = {"0": old, "1": new[: len(old) + 1], "half": new[: (len(old) + len(new)) // 2], "all but one": new[:-1]}
        for name, journal in keep.items():
            folder = tmp_path / name
            shutil.copytree(after if shards_there else before, folder)
            (folder / JOURNAL).write_bytes(journal)
            assert content(go_on(folder).folder) == whole

    killed_while(unit, tmp_path, kill)


def test_a_kill_within_a_slice_is_mended(tmp_path: Path) -> None:
    whole = content(go_on(tmp_path / "whole").folder)

    def kill(before: Path, after: Path) -> None:
        (after / JOURNAL).write_bytes((before / JOURNAL).read_bytes())
        with (after / shard_name("hu", 1)).open("r+b") as file:
            file.truncate(3 * 128 + 17)

    assert content(go_on(killed_while("c", tmp_path, kill)).folder) == whole


@pytest.mark.parametrize("journal", [b"", b'{"inputs'])
def test_a_kill_at_the_very_beginning(tmp_path: Path, journal: bytes) -> None:
    whole = content(go_on(tmp_path / "whole").folder)
    begin(tmp_path / "cache")
    (tmp_path / "cache" / JOURNAL).write_bytes(journal)
    assert content(go_on(tmp_path / "cache").folder) == whole


def test_a_kill_before_the_journal_is_removed(tmp_path: Path) -> None:
    cache = go_on(tmp_path / "cache")
    (cache.folder / JOURNAL).write_text('{"inputs": "x"}\n')
    assert open_cache(cache.folder).identity == cache.identity


def test_a_unit_that_comes_out_empty_the_second_time_leaves_nothing(tmp_path: Path) -> None:
    writer = begin(tmp_path)
    writer.append("a", slices_of("a"))
    journal = (tmp_path / JOURNAL).read_bytes()
    writer.append("c", slices_of("c"))
    (tmp_path / JOURNAL).write_bytes(journal)
    again = begin(tmp_path)
    again.append("c", [], [Aside("c", "gone")])
    assert len(again.finish(Manifest("rsna", FRAME, 0.0, "", "x"))) == 4


def test_another_journal_is_refused(tmp_path: Path) -> None:
    begin(tmp_path).append("a", slices_of("a"))
    with pytest.raises(DataError, match="unfinished cache of other inputs"):
        begin(tmp_path, "y")
    assert begin(tmp_path).done == {"a"}


@pytest.mark.parametrize("fault", ["shorter", "gone", "journal"])
def test_a_damaged_beginning_is_refused(tmp_path: Path, fault: str) -> None:
    begin(tmp_path).append("a", slices_of("a"))
    shard, journal = tmp_path / shard_name("hu", 0), tmp_path / JOURNAL
    if fault == "shorter":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif fault == "gone":
        shard.unlink()
    else:
        journal.write_bytes(b"no JSON\n" + journal.read_bytes())
    with pytest.raises(DataError, match="remove that folder"):
        begin(tmp_path)


def test_what_is_no_cache(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training cache"):
        open_cache(tmp_path / "nothing")
    begin(tmp_path / "begun")
    with pytest.raises(DataError, match="was not finished: run the same prepare again"):
        open_cache(tmp_path / "begun")


def test_a_cache_of_another_version_is_refused(tmp_path: Path) -> None:
    folder = go_on(tmp_path / "cache").folder
    table = json.loads((folder / MANIFEST).read_text())
    for version in (FORMAT + 1, None):
        (folder / MANIFEST).write_text(json.dumps(table | {"format": version}))
        with pytest.raises(DataError, match=f"preprocessing version {version}, this is version {FORMAT}"):
            open_cache(folder)


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1}', '{"format": 1, "frame": {}, "notes": [], "odd": 1}'])
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: str) -> None:
    folder = go_on(tmp_path / "cache").folder
    (folder / MANIFEST).write_text(text)
    with pytest.raises(DataError, match=r"damaged|preprocessing version"):
        open_cache(folder)


@pytest.mark.parametrize("name", [INDEX, "hu-00001.bin"])
@pytest.mark.parametrize("fault", ["gone", "short"])
def test_a_missing_or_short_file_is_refused(tmp_path: Path, name: str, fault: str) -> None:
    path = go_on(tmp_path / "cache").folder / name
    if fault == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=name):
        open_cache(path.parent)


def test_an_altered_index_is_refused_and_an_altered_shard_found(tmp_path: Path) -> None:
    cache = go_on(tmp_path / "cache")
    shard = cache.folder / "hu-00002.bin"
    data = bytearray(shard.read_bytes())
    data[0] ^= 1
    shard.write_bytes(data)
    told: list[str] = []
    with pytest.raises(DataError, match=r"hu-00002\.bin: altered"):
        verify(open_cache(cache.folder), told.append)
    assert told[-1] == "hu-00002.bin"
    index = cache.folder / INDEX
    index.write_text(index.read_text().replace(",1,0,1,", ",0,0,1,", 1))
    with pytest.raises(DataError, match=INDEX):
        open_cache(cache.folder)


def test_a_cache_without_slices_is_refused_with_the_place_of_the_reasons(tmp_path: Path) -> None:
    writer = begin(tmp_path)
    writer.append("empty", [], [Aside("x", "broken")])
    with pytest.raises(DataError, match=r"no slice; see aside\.csv"):
        writer.finish(Manifest("rsna", FRAME, 0.0, "", "x"))


def test_a_slice_is_a_record(tmp_path: Path) -> None:
    """Big endian pixels are stored little endian."""
    one = slices_of("a")[0]
    writer = begin(tmp_path)
    writer.append("a", [replace(one, hu=one.hu.astype(">i2"))])
    cache = writer.finish(Manifest("rsna", FRAME, 0.0, "", "x"))
    np.testing.assert_array_equal(cache.hu(np.array([0]))[0], one.hu)
