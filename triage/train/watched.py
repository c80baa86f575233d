"""What is measured of the watched part while a run trains: loss, accuracy, F1, AUROC; the schedule goes by it."""

import math
from typing import Any

import numpy as np

from triage.records import ANY
from triage.train.cache import Bools
from triage.train.metrics import auroc, f1
from triage.train.recipes import Recipe
from triage.train.scores import Scores


def watched(recipe: Recipe, truth: Bools, scores: Scores) -> dict[str, Any]:
    """Measures of a part as training goes on: loss, accuracy, macro F1 at 0.5 of what has positives, AUROC by label.

    Subtypes are measured on slices that bleed; where there are none, on nothing.

    Args:
        recipe: Its labels and their weights count.
        truth: (n, 6), columns as LABELS.
        scores: Of the same slices.

    Returns:
        "watched_loss", "f1", "accuracy" and "auroc", a mapping by label.
    """
    losses, scores_of_f1, accuracy = [], [], []
    areas: dict[str, float | None] = {}
    for label, column in zip(recipe.labels, recipe.columns, strict=True):
        counted = np.ones(len(truth), bool) if label == ANY else truth[:, 0]
        if not counted.any():
            areas[label] = None
            continue
        logits, y = scores.column(label)[counted], truth[counted, column]
        losses.append(recipe.loss_weights[column] * float(np.mean(np.logaddexp(0, logits) - y * logits)))
        accuracy.append(float(np.mean((logits >= 0) == y)))
        scores_of_f1 += [f1(logits, y, 0.0)] + ([f1(-logits, ~y, 0.0)] if len(recipe.labels) == 1 else [])
        area = auroc(logits, y)
        areas[label] = area if math.isfinite(area) else None
    return {
        "watched_loss": sum(losses), "f1": float(np.mean([v for v in scores_of_f1 if math.isfinite(v)] or [0.0])),
        "accuracy": float(np.mean(accuracy)), "auroc": areas,
    }  # fmt: skip
