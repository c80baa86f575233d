"""Curves of a report as SVG text; draws what the document holds, measures nothing, keeps no global figure.

Colours are those of Okabe and Ito, which differ for colour-blind readers too; each label also has its own dashes.
"""

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from triage.records import ANY

Document = Mapping[str, Any]

STYLES: dict[str, tuple[str, Any]] = {
    "any": ("#1a1a1a", "-"),
    "epidural": ("#d55e00", "--"),
    "intraparenchymal": ("#0072b2", "-"),
    "intraventricular": ("#009e73", (0, (5, 1))),
    "subarachnoid": ("#cc79a7", "-."),
    "subdural": ("#e69f00", (0, (3, 1, 1, 1))),
}
"""By label: colour and dashes."""

QUIET = "#8a8a8a"

SETTINGS: Any = {
    "svg.fonttype": "path", "svg.hashsalt": "triage", "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": "#555555", "axes.linewidth": 0.8, "lines.linewidth": 1.6,
    "legend.frameon": False, "figure.dpi": 100, "font.family": ["DejaVu Sans"],
}  # fmt: skip
"""Text as paths: a page looks alike whatever fonts its reader has."""

WIDTH_IN = 10.4

COLUMNS = 3
"""Panels side by side."""


def training_curves(epochs: Sequence[Document], name: str) -> str:
    """Loss trained on, loss watched and figures watched, by epoch; as the source shows them.

    Args:
        epochs: One entry an epoch; see `runs.epochs_of`.
        name: Of the run, for who cannot see the picture.

    Returns:
        SVG; empty without epochs.
    """
    if not epochs:
        return ""
    with mpl.rc_context(SETTINGS):
        figure = Figure((WIDTH_IN, 3.1), layout="constrained")
        left, right = figure.subplots(1, 2)
        x = [one["epoch"] for one in epochs]
        _line(left, x, [one.get("train_loss") for one in epochs], "part trained on", ("#1a1a1a", "-"))
        _line(left, x, [one.get("watched_loss") for one in epochs], "part watched", ("#d55e00", "--"))
        left.set(title="Loss", xlabel="epoch", ylabel="binary cross entropy")
        left.set_ylim(bottom=0)
        watched: dict[str, tuple[list[float | None], tuple[str, Any]]] = {
            "accuracy": ([one.get("accuracy") for one in epochs], ("#0072b2", "-")),
            "F1": ([one.get("f1") for one in epochs], ("#d55e00", "--")),
            "AUROC": ([_mean_auroc(one) for one in epochs], ("#009e73", (0, (3, 1, 1, 1)))),
        }
        for told, (y, style) in watched.items():
            _line(right, x, y, told, style)
        right.set(title="Figures on the part watched", xlabel="epoch", ylim=(0, 1.02))
        for axes in (left, right):
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(color="#e4e4e4", linewidth=0.6)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="best")
        return svg(figure, f"Loss and watched figures of {name} by epoch")


def rank_curves(document: Document, kind: str) -> str:
    """ROC or precision-recall curves, by slice on the left and by study on the right.

    Args:
        document: Of the report.
        kind: "roc" or "precision_recall".

    Returns:
        SVG.
    """
    roc = kind == "roc"
    with mpl.rc_context(SETTINGS):
        figure = Figure((WIDTH_IN, 5.0), layout="constrained")
        for axes, unit in zip(figure.subplots(1, 2), ("slice", "study"), strict=True):
            for label, figures in document[f"by_{unit}"]["labels"].items():
                _rank_curve(axes, label, figures, roc)
            if roc:
                axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
            names = ("1 - specificity", "sensitivity") if roc else ("recall (sensitivity)", "precision (PPV)")
            axes.set(title=f"By {unit}", xlabel=names[0], ylabel=names[1], xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
            axes.set_box_aspect(1)
            axes.grid(color="#e4e4e4", linewidth=0.6)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
        return svg(figure, "ROC curves" if roc else "Precision-recall curves")


def reliability(document: Document, unit: str) -> str:
    """Reliability diagrams, a panel a label: share of positives over mean probability in bins of equal mass.

    Args:
        document: Of the report.
        unit: "slice" or "study".

    Returns:
        SVG.
    """
    labels = document[f"by_{unit}"]["labels"]
    lines = -(-len(labels) // COLUMNS)
    with mpl.rc_context(SETTINGS):
        roomy = ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.06)
        figure = Figure((WIDTH_IN, 3.3 * lines), layout=roomy)
        panels = np.ravel(np.asarray(figure.subplots(lines, COLUMNS)))
        for axes, (label, figures) in zip(panels, labels.items(), strict=False):
            _reliability_panel(axes, label, figures)
        for axes in panels[len(labels) :]:
            axes.set_axis_off()
        return svg(figure, f"Reliability diagrams by {unit}")


def _reliability_panel(axes: Axes, label: str, figures: Document) -> None:
    p = [point["p"] for point in figures["reliability"]]
    observed = [point["observed"] for point in figures["reliability"]]
    edge = min(1.02, 1.08 * max([0.05, *p, *observed]))
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
    axes.plot(p, observed, color=STYLES[label][0], marker="o", markersize=4, linewidth=1.2)
    error = figures["calibration_error"]
    axes.set(title=f"{label}" + ("" if error is None else f"  (error {error:.3f})"), xlim=(-0.02 * edge, edge),
             ylim=(-0.02 * edge, edge), xlabel="mean probability", ylabel="share of positives")  # fmt: skip
    axes.set_box_aspect(1)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.locator_params(nbins=5)


def _rank_curve(axes: Axes, label: str, figures: Document, roc: bool) -> None:
    points = figures["roc" if roc else "precision_recall"]
    if not points:
        return
    area = figures["auroc" if roc else "average_precision"]
    color, dashes = STYLES[label]
    x, y = zip(*points, strict=True)
    told = f"{label} {area:.3f}"
    if roc:
        axes.plot(x, y, color=color, linestyle=dashes, label=told)
    else:
        axes.step(x, y, where="pre", color=color, linestyle=dashes, label=told)
    if label == ANY:
        axes.lines[-1].set_linewidth(2.2)


def _line(axes: Axes, x: Sequence[int], y: Sequence[float | None], told: str, style: tuple[str, Any]) -> None:
    """One curve over epochs; a marker on each where there are few, so that a single epoch shows."""
    values = np.array([np.nan if v is None else v for v in y], np.float64)
    if np.isfinite(values).any():
        axes.plot(x, values, color=style[0], linestyle=style[1], label=told, marker="o" if len(x) < 4 else None)


def _mean_auroc(epoch: Document) -> float | None:
    values = [v for v in (epoch.get("auroc") or {}).values() if v is not None and np.isfinite(v)]
    return float(np.mean(values)) if values else None


def svg(figure: Figure, told: str) -> str:
    """A figure as SVG for the inside of a page: no prolog, no metadata, no address of any kind."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'(<svg[^>]*?)\s+width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?)\s+height="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(told)}"', 1)
