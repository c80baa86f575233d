import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from triage.errors import DataError
from triage.nn.card import Platt
from triage.nn.predict import sigmoid
from triage.records import ANY, LABELS, SUBTYPES
from triage.train.cache import Index
from triage.train.calibrate import (
    CALIBRATION,
    calibrated,
    calibration_rows,
    platt,
    read_calibration,
    write_calibration,
)
from triage.train.metrics import calibration_error
from triage.train.operating import Options
from triage.train.recipes import RECIPES
from triage.train.scores import Scores, slice_probabilities, study_probabilities, study_rows, study_truth

SLICE_PREVALENCE = 0.144
SAMPLER_SHIFT = 1.78
"""Log odds between half of the draws bleeding and 14.4 % of the slices."""

SLICES = 20


def index_of(labels: np.ndarray) -> Index:
    """An index of studies of SLICES slices with these labels, a patient each."""
    n = len(labels)
    study = np.array([f"s{i // SLICES}" for i in range(n)])
    text = np.full(n, "", np.str_)
    return Index(
        image=np.array([f"i{i}" for i in range(n)]), study=study, series=study, patient=np.char.add("p", study),
        position_mm=(np.arange(n) % SLICES * 5.0).astype(np.float64), spacing_mm=np.full((n, 2), 0.5),
        thickness_mm=np.full(n, 5.0), manufacturer=text, kernel=text, repairs=text, labels=labels,
    )  # fmt: skip


def simulated(n_studies: int = 400, seed: int = 1) -> tuple[Scores, Index]:
    """Slices whose true log odds are known, and the logits of a network that saw half of them bleed."""
    rng = np.random.default_rng(seed)
    bleeds = np.repeat(rng.uniform(size=n_studies) < 0.33, SLICES)
    odds = rng.normal(np.where(bleeds, -1.0, -6.0), 2.5)
    labels = np.zeros((len(odds), len(LABELS)), np.bool_)
    labels[:, 0] = rng.uniform(size=len(odds)) < 1 / (1 + np.exp(-odds))
    logits = np.zeros((len(odds), len(LABELS)))
    logits[:, 0] = odds + SAMPLER_SHIFT
    for column in range(1, len(LABELS)):
        given = rng.normal(-1.2, 2.0, len(odds))
        labels[:, column] = labels[:, 0] & (rng.uniform(size=len(odds)) < 1 / (1 + np.exp(-given)))
        logits[:, column] = 1.5 * given + 0.8
    return Scores(np.arange(len(odds)), LABELS, logits), index_of(labels)


def test_platt_finds_scale_and_bias() -> None:
    rng = np.random.default_rng(3)
    odds = rng.normal(-1.8, 2.0, 40_000)
    truth = rng.uniform(size=len(odds)) < 1 / (1 + np.exp(-odds))
    found = platt(2.0 * odds + SAMPLER_SHIFT, truth)
    assert found.scale == pytest.approx(0.5, abs=0.02)
    assert found.bias == pytest.approx(-SAMPLER_SHIFT / 2, abs=0.05)


@pytest.mark.parametrize("truth", [np.zeros(50, np.bool_), np.ones(50, np.bool_)])
def test_one_class_alone_teaches_nothing(truth: np.ndarray) -> None:
    assert platt(np.linspace(-3, 3, 50), truth) == Platt()


def test_separated_classes_keep_a_finite_scale() -> None:
    logits = np.linspace(-30, 30, 60)
    found = platt(logits, logits > 0)
    assert 0.05 < found.scale < 5
    assert abs(found.bias) < 1


def test_what_the_sampler_shifted_is_calibrated_away() -> None:
    scores, index = simulated()
    assert index.labels[:, 0].mean() == pytest.approx(SLICE_PREVALENCE, abs=0.02)
    result = calibrated(scores, index, Options())
    assert result.error_before[ANY] > 0.03
    assert result.error_after[ANY] < 0.01
    assert result.slice[ANY].bias == pytest.approx(-SAMPLER_SHIFT, abs=0.1)
    later, truth = simulated(seed=2)  # other slices
    before, after = slice_probabilities(later)[ANY], slice_probabilities(later, result.slice)[ANY]
    assert calibration_error(before, truth.labels[:, 0]) > 0.03
    assert calibration_error(after, truth.labels[:, 0]) < 0.03
    only_scaled = sigmoid(Platt(0.6), later.column(ANY))  # a temperature does not do it
    assert calibration_error(only_scaled, truth.labels[:, 0]) > 0.03


def test_subtype_heads_are_fitted_on_slices_that_bleed() -> None:
    scores, index = simulated()
    result = calibrated(scores, index, Options())
    for label in SUBTYPES:
        assert result.slice[label].scale == pytest.approx(1 / 1.5, abs=0.15)
        assert result.slice[label].bias == pytest.approx(-0.8 / 1.5, abs=0.25)
        assert result.error_after[label] < min(0.03, result.error_before[label])
    assert (result.n_slices, result.n_studies) == (8000, 400)


@pytest.mark.parametrize("aggregation", ["top3_mean", "max", "run2"])
def test_study_probabilities_are_calibrated_as_the_node_composes_them(aggregation: str) -> None:
    scores, index = simulated()
    result = calibrated(scores, index, Options(aggregation=aggregation))  # type: ignore[arg-type]  # three literals
    later, truth = simulated(seed=7)
    studies = study_rows(truth, later.rows)
    slice_p = slice_probabilities(later, result.slice)
    p = study_probabilities(studies, slice_p, result.aggregation, result.study)
    shown = study_truth(studies, truth.labels)
    for column, label in enumerate(LABELS):
        assert p[label].mean() == pytest.approx(shown[:, column].mean(), abs=0.06)
    assert result.aggregation == aggregation
    assert result.is_supported
    assert result.operating_points["review"].bound >= 0.9


def test_site_prevalence_moves_the_study_intercept_alone() -> None:
    scores, index = simulated()
    plain = calibrated(scores, index, Options())
    site = calibrated(scores, index, Options(site_prevalence=0.06))
    shift = np.log(0.06 / 0.94) - np.log(plain.prevalence / (1 - plain.prevalence))
    assert site.study[ANY].bias - plain.study[ANY].bias == pytest.approx(shift, abs=2e-4)
    assert site.study[ANY].scale == plain.study[ANY].scale
    assert {k: v for k, v in site.study.items() if k != ANY} == {k: v for k, v in plain.study.items() if k != ANY}
    assert site.slice == plain.slice
    assert (plain.site_prevalence, plain.site_shift) == (0.0, 0.0)
    assert site.site_prevalence == 0.06
    assert site.site_shift == pytest.approx(shift, abs=1e-4)
    # Thresholds are chosen on the shifted probabilities, so the same studies are found.
    for name in ("review", "urgent"):
        assert site.operating_points[name].sensitivity == plain.operating_points[name].sensitivity
        assert site.operating_points[name].threshold < plain.operating_points[name].threshold
    with pytest.raises(DataError, match=r"site prevalence 1\.5"):
        calibrated(scores, index, Options(site_prevalence=1.5))


def test_too_few_studies_are_refused() -> None:
    scores, index = simulated(n_studies=40)
    with pytest.raises(DataError, match="are missing"):
        calibrated(scores, index, Options())
    shown = calibrated(scores, index, Options(allow_unsupported=True))
    assert not shown.is_supported
    assert shown.operating_points["review"].rule == "estimate"


def test_a_label_without_a_positive_study_is_refused() -> None:
    scores, index = simulated()
    labels = index.labels.copy()
    labels[:, 1] = False
    index = replace(index, labels=labels)
    with pytest.raises(DataError, match="no positive study for 'epidural' among 400"):
        calibrated(scores, index, Options())
    result = calibrated(scores, index, Options(allow_unsupported=True))
    assert result.slice["epidural"] == Platt()
    assert result.thresholds.subtypes["epidural"] == 0.5


def test_a_binary_run_alone_has_no_subtypes_and_a_subtype_run_alone_no_thresholds() -> None:
    scores, index = simulated()
    binary = calibrated(Scores(scores.rows, (ANY,), scores.logits[:, :1]), index, Options())
    assert set(binary.slice) == set(binary.study) == {ANY}
    assert binary.thresholds.subtypes == {}
    with pytest.raises(DataError, match="name its binary run too"):
        calibrated(Scores(scores.rows, SUBTYPES, scores.logits[:, 1:]), index, Options())


def test_some_rows_of_a_cache_are_enough() -> None:
    scores, index = simulated()
    rows = np.arange(100 * SLICES, 300 * SLICES)
    part = calibrated(Scores(rows, LABELS, scores.logits[rows]), index, Options())
    assert part.n_studies == 200
    assert part.prevalence == study_truth(study_rows(index, rows), index.labels[rows])[:, 0].mean()


def test_calibration_goes_through_its_file(tmp_path: Path) -> None:
    assert read_calibration(tmp_path) is None
    result = calibrated(*simulated(), Options(site_prevalence=0.1))
    write_calibration(tmp_path, result)
    assert read_calibration(tmp_path) == result
    table = json.loads((tmp_path / CALIBRATION).read_text())
    assert set(table["slice"][ANY]) == {"scale", "bias"}
    assert set(table["thresholds"]) == {"urgent", "review", "subtypes"}
    assert table["part"] == "calibration"
    (tmp_path / CALIBRATION).write_text('{"slice": 1}')
    with pytest.raises(DataError, match="calibrate again"):
        read_calibration(tmp_path)


def test_rows_are_all_slices_of_patients_held_out() -> None:
    _, index = simulated()
    recipe = RECIPES["triage-binary"]
    rows = calibration_rows(recipe, index)
    assert 0.05 < len(rows) / len(index) < 0.15
    assert len(rows) == SLICES * len(set(index.patient[rows]))
    middle = calibration_rows(replace(recipe, choice="above_middle_5"), index)
    assert np.array_equal(rows, middle)
    with pytest.raises(DataError, match=r"split image-random .* --set split=patient"):
        calibration_rows(RECIPES["thesis-binary"], index)
