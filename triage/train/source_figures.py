"""What the source says it reached, beside what was measured here; figures and cautions only, measures nothing itself.

"The source" is the thesis that the recipes named thesis-* reproduce (STU Bratislava, 2021; RSNA 2019 data).
"""

from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]

FIRST = {"accuracy": 0.636, "recall": 0.67, "f1": 0.71, "auroc": 0.761}
"""Its first experiment: a small network, all slices, any bleed."""

SECOND_F1 = 0.84
"""Its ResNet-152 for any bleed."""

SUBTYPE_ACCURACY = 0.845
"""Its ResNet-152 with five heads: mean accuracy of the subtypes on slices that bleed."""

MAJORITY = 0.725
"""That mean for who answers each subtype with its more frequent side, on all bleeding slices of RSNA stage 1."""

FIRST_NOTE = (
    "its accuracy, recall and F1 together force 66.5 % positives in its test set, where the data have 14.4 %: "
    "reported, never a target"
)
LEAK_NOTE = "split by image: 99.8 % of its test images have a sibling of the same study in training"
MAJORITY_NOTE = "the more frequent side each time, on all bleeding slices of stage 1; ours: of those measured here"
ORDER_NOTE = "the source names them without figures"

OTHER_DATA = "These are not the source's data (RSNA 2019, stage 1): its figures stand for orientation only."
OTHER_SPLIT = "Measured by patient, which is harder than the source's split by image."


def beside_source(recipe: str, ours: Mapping[str, Any]) -> list[Row]:
    """The source's figures where they exist, ours beside them.

    Args:
        recipe: Name of the recipe; "thesis-cnn" is held against the first experiment, all others against the second.
        ours: What was measured by slice at 0.5: "accuracy", "recall", "f1", "auroc" of any bleed where it was scored;
            "mean_accuracy", "majority", "best", "worst" of the subtypes on slices that bleed where they were.

    Returns:
        Rows of "figure", "source", "ours" and "note".
    """
    rows: list[Row] = []
    if recipe == "thesis-cnn":
        for name, value in FIRST.items():
            told = name.upper() if name in ("f1", "auroc") else name
            rows.append(_row(f"any bleed: {told}", value, ours.get(name), "" if rows else FIRST_NOTE))
    elif "f1" in ours:
        rows.append(_row("any bleed: F1", SECOND_F1, ours["f1"], LEAK_NOTE))
    if "mean_accuracy" in ours:
        rows += [
            _row("subtypes: mean accuracy", SUBTYPE_ACCURACY, ours["mean_accuracy"], LEAK_NOTE),
            _row("subtypes: mean accuracy of the majority's answer", MAJORITY, ours["majority"], MAJORITY_NOTE),
            _row("subtypes: best, worst", "subdural, epidural", f"{ours['best']}, {ours['worst']}", ORDER_NOTE),
        ]
    return rows


def cautions(layout: str, split: str) -> list[str]:
    """What keeps the two columns from being compared outright."""
    return [OTHER_DATA] * (layout != "rsna") + [OTHER_SPLIT] * (split == "patient")


def _row(figure: str, source: float | str, ours: object, note: str) -> Row:
    return {"figure": figure, "source": source, "ours": ours, "note": note}
