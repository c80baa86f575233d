import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binomtest
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    roc_auc_score,
)

from triage.train.metrics import (
    auroc,
    auroc_of_counts,
    average_precision_of_counts,
    bootstrap_by_patient,
    calibration_curve,
    calibration_error,
    measured,
    patient_draws,
    predictive_values,
    rate,
)

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def sample(n: int = 600, prevalence: float = 0.2, digits: int = 2) -> tuple[Floats, Bools]:
    """Scores with many ties, somewhat right."""
    rng = np.random.default_rng(4)
    truth = rng.random(n) < prevalence
    p: Floats = np.clip(rng.normal(0.35 + 0.25 * truth, 0.2), 0, 1).astype(np.float64)
    return np.asarray(np.round(p, digits)), truth


def test_figures_agree_with_scikit_learn() -> None:
    p, truth = sample()
    m = measured(p, truth, 0.4)
    said = p >= 0.4
    assert m.auroc == pytest.approx(roc_auc_score(truth, p))
    assert m.average_precision == pytest.approx(average_precision_score(truth, p))
    assert m.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, said))
    assert m.f1 == pytest.approx(f1_score(truth, said))
    assert m.brier == pytest.approx(brier_score_loss(truth, p))
    assert m.accuracy == pytest.approx((said == truth).mean())
    assert (m.n, m.positives, m.threshold) == (600, truth.sum(), 0.4)
    c = m.confusion
    assert c.true_positive + c.false_negative == m.positives
    assert c.true_negative + c.false_positive == m.n - m.positives


@pytest.mark.parametrize(("k", "n"), [(0, 34), (34, 34), (32, 34), (147, 154), (1, 1)])
def test_intervals_are_scipys_clopper_pearson(k: int, n: int) -> None:
    wanted = binomtest(k, n).proportion_ci(0.95, "exact")
    got = rate(k, n)
    assert (got.value, got.low, got.high) == pytest.approx((k / n, wanted.low, wanted.high))


@pytest.mark.parametrize("truth", [[True, True], [False, False], []])
def test_a_missing_class_gives_no_figure_and_no_error(truth: list[bool]) -> None:
    p = np.linspace(0.2, 0.8, len(truth))
    given = np.array(truth, bool)
    m = measured(p, given)
    assert np.isnan(m.auroc)
    assert np.isnan(m.balanced_accuracy)
    assert np.isnan(m.sensitivity.low) == (not given.any())
    assert np.isnan(m.f1) == (not given.any())
    assert np.isnan(m.brier) == (len(truth) == 0)
    low, high = bootstrap_by_patient(p, given, np.array(["a", "b"][: len(truth)], np.str_), draws=(50, 1))
    assert np.isnan(low)
    assert np.isnan(high)


def test_calibration_error_knows_right_and_shifted_probabilities() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(20000)
    truth = rng.random(20000) < p
    assert calibration_error(p, truth) < 0.02
    assert calibration_error(np.clip(p + 0.2, 0, 1), truth) == pytest.approx(0.18, abs=0.02)
    points = calibration_curve(p, truth)
    assert len(points) == 15
    assert sum(one.n for one in points) == 20000
    assert max(one.n for one in points) - min(one.n for one in points) <= 1


def test_equal_probabilities_count_alike_whatever_their_order() -> None:
    truth = np.arange(100) < 30
    assert calibration_error(np.full(100, 0.3), truth) == pytest.approx(0)


def test_predictive_values_of_the_literature() -> None:
    values = predictive_values(0.95, 0.90, (0.06, 0.10, 0.147))
    assert [round(100 * v.ppv) for v in values] == [38, 51, 62]
    assert all(v.npv > 0.99 for v in values)
    assert np.isnan(predictive_values(0.0, 1.0, (0.1,))[0].ppv)


def test_a_resampling_counts_patients_as_often_as_they_are_drawn() -> None:
    p, truth = sample(80)
    patient = np.repeat(np.arange(20), 4)
    names = np.array([f"p{k:02d}" for k in patient])
    wanted = []
    for weights in patient_draws(20, (200, 3)):
        rows = np.concatenate([np.repeat(np.flatnonzero(patient == k), int(w)) for k, w in enumerate(weights)])
        if 0 < truth[rows].sum() < len(rows):
            wanted.append((roc_auc_score(truth[rows], p[rows]), average_precision_score(truth[rows], p[rows])))
    columns = np.array(wanted)
    for column, statistic in enumerate((auroc_of_counts, average_precision_of_counts)):
        got = bootstrap_by_patient(p, truth, names, statistic, (200, 3))
        assert got == pytest.approx(tuple(np.quantile(columns[:, column], [0.025, 0.975])))


def test_slices_alike_within_patients_widen_the_interval() -> None:
    p, truth = sample(100, digits=6)
    p, truth, patients = np.repeat(p, 10), np.repeat(truth, 10), np.repeat(np.arange(100).astype(str), 10)
    low, high = bootstrap_by_patient(p, truth, patients, draws=(300, 1))
    naive_low, naive_high = bootstrap_by_patient(p, truth, np.arange(1000).astype(str), draws=(300, 1))
    assert low < auroc(p, truth) < high
    assert high - low > 2 * (naive_high - naive_low)
    assert (low, high) == bootstrap_by_patient(p, truth, patients, draws=(300, 1))
