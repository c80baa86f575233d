import json
import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import auc, roc_auc_score
from train.evidence_data import evidence

from triage.nn.card import Calibration, Platt, Thresholds
from triage.records import LABELS, SUBTYPES
from triage.train.cache import Cache
from triage.train.document import Operation, build_document, by_slice, by_study, curves, plain
from triage.train.scores import study_rows

FEW = (60, 1)


def test_figures_are_those_of_calibrated_slices_and_aggregated_studies(phantom_cache: Cache) -> None:
    given = evidence(phantom_cache)
    document = build_document(given, FEW)
    json.dumps(document, allow_nan=False)
    truth = given.index.labels[:, 0]
    logits = given.scores.column("any")
    one = document["by_slice"]["labels"]["any"]
    assert one["auroc"] == pytest.approx(roc_auc_score(truth, logits))
    assert one["auroc_interval"][0] < one["auroc"] < one["auroc_interval"][1]
    assert document["by_slice"]["n"] == len(phantom_cache)
    assert document["by_study"]["n"] == document["data"]["studies"] == 60
    studies = study_rows(given.index, given.scores.rows)
    p = 1 / (1 + np.exp(-logits))
    top3 = [np.sort(p[one.places])[-3:].mean() for one in studies]
    shown = [truth[one.places].any() for one in studies]
    assert document["by_study"]["labels"]["any"]["auroc"] == pytest.approx(roc_auc_score(shown, top3))
    mean = document["by_slice"]["mean_of_subtypes"]
    aurocs = [document["by_slice"]["labels"][label]["auroc"] for label in SUBTYPES]
    assert mean["auroc"] == pytest.approx(np.mean(aurocs))


def test_subtypes_are_multiplied_with_any_unless_they_are_marginal(phantom_cache: Cache) -> None:
    given = evidence(phantom_cache)
    composed = by_slice(given)
    alone = by_slice(replace(given, operation=Operation(meaning="marginal")))
    np.testing.assert_allclose(composed.p["subdural"], alone.p["subdural"] * alone.p["any"])


def test_calibration_and_thresholds_of_the_operation_are_used(phantom_cache: Cache) -> None:
    given = evidence(phantom_cache)
    calibration = Calibration(slice=dict.fromkeys(LABELS, Platt(1.0, -2.0)), study={"any": Platt(2.0, 1.0)})
    thresholds = Thresholds(0.8, 0.3, dict.fromkeys(SUBTYPES, 0.2))
    changed = replace(given, operation=Operation(calibration, thresholds, "max"))
    assert by_slice(changed).p["any"].mean() < by_slice(given).p["any"].mean()
    assert by_study(changed).thresholds == {"any": 0.3, **dict.fromkeys(SUBTYPES, 0.2)}
    points = build_document(changed, FEW)["predictive_values"]
    assert [(one["name"], one["threshold"]) for one in points] == [("review", 0.3), ("urgent", 0.8)]
    assert [value["prevalence"] for value in points[0]["values"]] == [0.06, 0.10, 0.15]


def test_a_binary_run_has_no_subtypes_and_a_subtype_run_no_flags(phantom_cache: Cache) -> None:
    binary = build_document(evidence(phantom_cache, ("any",), "thesis-cnn"), FEW)
    assert list(binary["by_slice"]["labels"]) == ["any"]
    assert binary["by_slice"]["mean_of_subtypes"] is None
    assert [row["source"] for row in binary["source"]["rows"]] == [0.636, 0.67, 0.71, 0.761]
    subtype = build_document(evidence(phantom_cache, SUBTYPES, "thesis-subtype-run1"), FEW)
    assert subtype["predictive_values"] == []
    assert subtype["data"]["bleeding_slices_only"]
    assert subtype["data"]["slices"] == subtype["data"]["positives"]["any"]
    rows = {row["figure"]: row for row in subtype["source"]["rows"]}
    mean = subtype["by_slice"]["mean_of_subtypes"]
    assert rows["subtypes: mean accuracy"]["source"] == 0.845
    assert rows["subtypes: mean accuracy"]["ours"] == pytest.approx(mean["accuracy"])
    assert rows["subtypes: mean accuracy of the majority's answer"]["ours"] == pytest.approx(mean["majority_accuracy"])
    assert rows["subtypes: best, worst"]["source"] == "subdural, epidural"


def test_the_source_is_compared_with_subtypes_given_any_on_slices_that_bleed(phantom_cache: Cache) -> None:
    given = evidence(phantom_cache)
    row = next(r for r in build_document(given, FEW)["source"]["rows"] if r["figure"] == "subtypes: mean accuracy")
    bleeding = given.index.labels[:, 0]
    right = (given.scores.logits[:, 1:] >= 0) == given.index.labels[:, 1:]
    assert row["ours"] == pytest.approx(right[bleeding].mean())


def test_confusion_counts_every_slice_once_a_row(phantom_cache: Cache) -> None:
    confusion = build_document(evidence(phantom_cache), FEW)["confusion_by_subtype"]
    assert sum(confusion["n"]) == len(phantom_cache)
    assert confusion["columns"] == [*LABELS, "none of these"]
    none = confusion["columns"].index("none of these")
    for n, counts in zip(confusion["n"], confusion["counts"], strict=True):
        assert max(counts) <= n
        assert counts[none] + max(counts[:none]) <= n


def test_a_label_that_is_missing_gives_dashes_not_errors(phantom_cache: Cache) -> None:
    given = evidence(phantom_cache)
    labels = given.index.labels.copy()
    labels[:, LABELS.index("epidural")] = False
    document = build_document(replace(given, index=replace(given.index, labels=labels)), FEW)
    one = document["by_slice"]["labels"]["epidural"]
    assert one["auroc"] is None
    assert one["auroc_interval"] == [None, None]
    assert one["roc"] == []
    assert one["specificity"]["value"] is not None
    assert document["by_slice"]["mean_of_subtypes"]["auroc"] is not None


def test_thinned_curves_keep_their_area() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random(5000) < 0.2
    p = rng.random(5000) + 0.4 * truth
    points = np.array(curves(p, truth)["roc"])
    assert len(points) <= 202
    assert points[0].tolist() == [0, 0]
    assert points[-1].tolist() == [1, 1]
    assert auc(points[:, 0], points[:, 1]) == pytest.approx(roc_auc_score(truth, p), abs=0.003)


def test_plain_values_are_strict_json() -> None:
    assert plain({"a": (1, math.nan), 2: {"b": math.inf}, "c": "x"}) == {"a": [1, None], "2": {"b": None}, "c": "x"}
