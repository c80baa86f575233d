from dataclasses import replace

import numpy as np
import pytest
import torch
from indexes import labels_of, make_index, write_cache

from triage.nn.architectures import build
from triage.nn.card import Calibration, Card, Networks, Platt, Thresholds
from triage.nn.pack import Pack, load_pack, write_pack
from triage.nn.predict import judge
from triage.nn.preprocess import Preprocessing, framed
from triage.phantom import PhantomSpec, PhantomStudy, generate
from triage.records import ANY, LABELS, SUBTYPES, Slice, Volume
from triage.train.cache import Cache
from triage.train.scores import (
    Scores,
    merged,
    score,
    slice_probabilities,
    study_probabilities,
    study_rows,
    study_truth,
)

torch.set_num_threads(1)

N = 8
SMALL = Preprocessing(resize_px=64, crop_px=56, fov_mm=204.0)
SLICE_CALIBRATION = {label: Platt(1.0 + 0.1 * k, 0.3 - 0.1 * k) for k, label in enumerate(LABELS)}
STUDY_CALIBRATION = {label: Platt(0.9 - 0.1 * k, 0.1 * k) for k, label in enumerate(LABELS)}


@pytest.fixture(scope="module")
def studies() -> list[PhantomStudy]:
    spec = PhantomSpec(size_px=96, n_slices=N, spacing_mm=16.0, subtypes=("intraparenchymal",))
    return [generate(seed, spec) for seed in range(2)]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """Small random networks that find everything positive."""
    card = Card(
        "tiny", "1", "demonstration", Networks("resnet18"), Thresholds(0.9, 1e-6, dict.fromkeys(SUBTYPES, 0.5)), SMALL,
        calibration=Calibration(SLICE_CALIBRATION, STUDY_CALIBRATION), aggregation="run2",
    )  # fmt: skip
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("pack")
    write_pack(folder, card, *(build("resnet18", heads).state_dict() for heads in (1, 5)))
    return load_pack(folder)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, studies: list[PhantomStudy]) -> Cache:
    hu = [framed(torch.from_numpy(s.hu), SMALL, s.spacing_mm).to(torch.int16).numpy() for s in studies]
    labels = np.concatenate([s.slice_labels() for s in studies])
    return write_cache(tmp_path_factory.mktemp("cache"), make_index([N, N], labels), np.concatenate(hu), SMALL.fov_mm)


@pytest.fixture(scope="module")
def scores(pack: Pack, cache: Cache) -> Scores:
    rows = np.arange(len(cache))
    return merged(
        score(pack.subtype, SUBTYPES, (cache, rows, SMALL)),
        score(pack.binary, (ANY,), (cache, rows, SMALL)),
    )


def volume_of(study: PhantomStudy) -> Volume:
    names = tuple(Slice(f"1.2.3.{k}") for k in range(len(study.hu)))
    return Volume(study.hu.astype(np.float32), names, study.positions_mm, study.spacing_mm, study.thickness_mm)


def test_slices_and_studies_are_judged_as_the_node_judges_them(
    pack: Pack, cache: Cache, studies: list[PhantomStudy], scores: Scores
) -> None:
    """A pack on the original volumes, and its networks on the cache: the same probabilities."""
    p = slice_probabilities(scores, SLICE_CALIBRATION)
    groups = study_rows(cache.index, scores.rows)
    study_p = study_probabilities(groups, p, pack.card.aggregation, STUDY_CALIBRATION)
    for k, study in enumerate(studies):
        judgement = judge(pack, volume_of(study))
        assert [f.label for f in judgement.findings] == list(LABELS)
        for finding in judgement.findings:
            served = [s.p[finding.label] for s in judgement.slice_scores]
            assert p[finding.label][groups[k].places] == pytest.approx(served, abs=1e-12)
            assert study_p[finding.label][k] == pytest.approx(finding.p, abs=1e-12)
        assert len({round(s.p[ANY], 9) for s in judgement.slice_scores}) == N  # else order would not matter


def test_rows_are_scored_in_their_order_and_counted(pack: Pack, cache: Cache, scores: Scores) -> None:
    rows = np.array([9, 2, 2, 15])
    told: list[int] = []
    some = score(pack.binary, (ANY,), (cache, rows, SMALL), on_batch=told.append)
    assert some.rows is rows
    assert some.column(ANY) == pytest.approx(scores.column(ANY)[rows], abs=1e-5)
    assert sum(told) == 4
    none = score(pack.binary, (ANY,), (cache, rows[:0], SMALL))
    assert none.logits.shape == (0, 1)


def test_merged_scores_have_the_order_of_labels(scores: Scores) -> None:
    assert scores.labels == LABELS
    assert scores.logits.shape == (2 * N, 6)
    with pytest.raises(ValueError, match="different slices"):
        merged(scores, replace(scores, rows=scores.rows[::-1]))


def test_subtypes_alone_are_conditional(scores: Scores) -> None:
    alone = Scores(scores.rows, SUBTYPES, scores.logits[:, 1:])
    given, whole = slice_probabilities(alone), slice_probabilities(scores)
    assert list(given) == list(SUBTYPES)
    for label in SUBTYPES:
        assert whole[label] == pytest.approx(given[label] * whole[ANY], rel=1e-12)


def test_studies_are_grouped_in_order_of_appearance_and_position() -> None:
    index = make_index([3, 4, 2])
    rows = np.array([8, 5, 1, 3, 0, 7, 6])
    groups = study_rows(index, rows)
    assert [(g.study, g.patient, rows[g.places].tolist()) for g in groups] == [
        ("s2", "p2", [7, 8]), ("s1", "p1", [3, 5, 6]), ("s0", "p0", [0, 1])
    ]  # fmt: skip
    unplaced = replace(index, position_mm=np.full(9, np.nan))
    assert study_rows(unplaced, rows)[1].places.tolist() == [1, 3, 6]


def test_a_study_shows_what_any_of_its_slices_shows() -> None:
    index = make_index([3, 2], labels_of(1, epidural=1, subdural=1, subarachnoid=2))
    truth = study_truth(study_rows(index, np.arange(5)), index.labels)
    shown = [{label for label, one in zip(LABELS, row, strict=True) if one} for row in truth]
    assert shown == [{ANY, "epidural", "subdural"}, {ANY, "subarachnoid"}]
