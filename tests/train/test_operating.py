import math

import numpy as np
import pytest
from scipy.stats import binom

from triage.errors import DataError
from triage.records import ANY
from triage.train.operating import (
    Options,
    found_needed,
    lower_bound,
    operating_points,
    positives_needed,
    sensitive_cut,
    specific_cut,
    thresholds_of,
)

TWO_SIDED = 0.975
"""One-sided confidence of the lower end of a two-sided 95 % interval, which published tables give."""


def studies(n_positive: int, n_negative: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.arange(n_positive + n_negative) < n_positive
    return 1 / (1 + np.exp(-rng.normal(np.where(truth, 2.0, -2.0), 1.5))), truth


def test_a_bound_leaves_five_percent_above_it() -> None:
    for found, n in ((29, 29), (45, 50), (1, 3)):
        bound = lower_bound(found, n)
        assert binom.sf(found - 1, n, bound) == pytest.approx(0.05)
    assert lower_bound(0, 10) == 0.0
    assert lower_bound(29, 29) == pytest.approx(0.05 ** (1 / 29))


@pytest.mark.parametrize(
    ("observed", "bound", "one_sided", "two_sided"),
    [(1.0, 0.90, 29, 36), (0.95, 0.80, 30, 34), (0.95, 0.85, 40, 56), (0.95, 0.90, 116, 154), (0.90, 0.80, 50, 69)],
)
def test_how_many_positives_a_claim_needs(observed: float, bound: float, one_sided: int, two_sided: int) -> None:
    assert positives_needed(observed, bound) == one_sided
    assert positives_needed(observed, bound, TWO_SIDED) == two_sided


def test_an_observed_share_never_shows_a_higher_one() -> None:
    with pytest.raises(ValueError, match="never shows"):
        positives_needed(0.9, 0.9)


def test_how_many_must_be_found() -> None:
    assert found_needed(28, 0.9) is None
    assert found_needed(29, 0.9) == 29
    for n in (30, 100, 400):
        k = found_needed(n, 0.9)
        assert k is not None
        assert lower_bound(k, n) >= 0.9 > lower_bound(k - 1, n)


def test_the_review_threshold_is_the_highest_that_its_bound_allows() -> None:
    p, truth = studies(120, 400)
    points = operating_points({ANY: p}, {ANY: truth}, Options())
    review = points["review"]
    assert (review.rule, review.target, review.n_positive, review.n_negative) == ("bound", 0.9, 120, 400)
    assert review.bound >= 0.9
    found = int((p[truth] >= review.threshold).sum())
    assert found == found_needed(120, 0.9)
    assert review.sensitivity == pytest.approx(found / 120, abs=1e-4)
    assert review.specificity == pytest.approx((p[~truth] < review.threshold).mean(), abs=1e-4)


def test_the_bound_holds_for_studies_to_come() -> None:
    """With 95 % confidence: chosen on 80 positives again and again, the true sensitivity is below in one of twenty."""
    below = 0
    rng = np.random.default_rng(4)
    for _ in range(2000):
        p = rng.uniform(size=80)  # the true sensitivity at a threshold t is 1 - t
        cut = sorted(p)[-(found_needed(80, 0.9) or 0)]
        below += 1 - cut < 0.9
    assert below / 2000 <= 0.06


def test_too_few_positives_are_refused_with_their_number() -> None:
    p, truth = studies(11, 100)
    with pytest.raises(DataError, match=r"^11 studies .* at least 29 are needed.*116 where .*; 18 are missing"):
        operating_points({ANY: p}, {ANY: truth}, Options())
    review = operating_points({ANY: p}, {ANY: truth}, Options(allow_unsupported=True))["review"]
    assert review.rule == "estimate"
    assert review.sensitivity == pytest.approx(10 / 11, abs=1e-4)
    assert review.bound < 0.9
    lower = operating_points({ANY: p}, {ANY: truth}, Options(review_sensitivity=0.7))["review"]
    assert lower.rule == "bound"
    with pytest.raises(DataError, match="must lie between"):
        operating_points({ANY: p}, {ANY: truth}, Options(review_sensitivity=1.0))


def test_urgent_is_never_below_review() -> None:
    p, truth = studies(60, 300)
    for share in (0.3, 0.98, 1.0):
        limits = thresholds_of(operating_points({ANY: p}, {ANY: truth}, Options(urgent_specificity=share)))
        assert 0 < limits.review <= limits.urgent < 1
    assert (p[~truth] < limits.urgent).all()


def test_cuts_lie_in_gaps_and_are_short() -> None:
    p, truth = np.array([0.1, 0.2, 0.6, 0.7234, 0.9]), np.array([False, False, True, True, True])
    assert sensitive_cut(p, truth, 3) == 0.4
    assert sensitive_cut(p, truth, 2) == 0.66
    assert specific_cut(p, truth, 1.0) == 0.4
    assert specific_cut(p, truth, 0.5) == 0.15
    assert specific_cut(p, ~(p < 0), 0.5) == 0.5


def test_scores_of_certainty_give_thresholds_below_one() -> None:
    p, truth = np.ones(40), np.arange(40) < 30
    points = operating_points({ANY: p}, {ANY: truth}, Options())
    assert 0 < points["review"].threshold <= points["urgent"].threshold < 1
    assert points["review"].sensitivity == 1.0
    near = np.where(truth, 1 - 1e-15, 1 - 2e-15)
    assert math.isfinite(operating_points({ANY: near}, {ANY: truth}, Options())["urgent"].threshold)
