"""Evidence with known scores on real phantoms, for tests of the report."""

from dataclasses import replace
from typing import Any

import numpy as np

from triage.records import LABELS
from triage.train.cache import Cache
from triage.train.document import Evidence, Model, Operation
from triage.train.recipes import overridden, recipe_named
from triage.train.scores import Scores

EPOCHS: tuple[dict[str, Any], ...] = tuple(
    {"event": "epoch", "epoch": k + 1, "train_loss": 0.7 - 0.1 * k, "watched_loss": 0.71 - 0.08 * k,
     "f1": 0.4 + 0.1 * k, "accuracy": 0.6 + 0.05 * k, "auroc": {"any": 0.7 + 0.05 * k, "epidural": None},
     "watched_part": "validation"}
    for k in range(4)
)  # fmt: skip


def evidence(cache: Cache, labels: tuple[str, ...] = LABELS, recipe: str = "triage-joint") -> Evidence:
    """Scores somewhat right, on all slices or, without "any", on those that bleed."""
    rng = np.random.default_rng(3)
    index = replace(
        cache.index, manufacturer=np.where(cache.index.study < cache.index.study[len(cache) // 2], "ACME", ""),
        kernel=np.full(len(cache), "H31s"),
    )  # fmt: skip
    rows = np.arange(len(cache)) if "any" in labels else np.flatnonzero(index.labels[:, 0])
    truth = index.labels[rows][:, [LABELS.index(label) for label in labels]]
    scores = Scores(rows, labels, rng.normal(-1.5 + 3.0 * truth, 1.5))
    changed = overridden(recipe_named(recipe), {"batch": "48"})
    model = Model("run <7> & co", changed, {"command": "triage-train fit", "versions": {"torch": "2"}}, EPOCHS)
    return Evidence(
        "run <7> & co", "test", cache.manifest, cache.identity, index, scores, (model,), Operation(),
        "split patient: no shared patient or study; no near-duplicate slice", {"device": "cpu"},
    )  # fmt: skip
