"""What `triage-train` prints: lines for a terminal from the records of this package; computes nothing."""

from collections.abc import Callable, Sequence
from typing import Any

from triage.train.cache import Cache
from triage.train.calibrate import Calibrated
from triage.train.compare import Comparison
from triage.train.loop import Event
from triage.train.progress import Bar
from triage.train.recipes import Recipe


def summary(document: dict[str, Any]) -> list[str]:
    """The figures of a report in lines for a terminal."""
    lines = [document["leakage"]] if document.get("leakage") else []
    for key, heading in (("by_slice", "by slice"), ("by_study", "by study")):
        for label, one in document[key]["labels"].items():
            told = ", ".join(f"{name} {number(one[figure])}" for name, figure in
                             (("AUROC", "auroc"), ("AP", "average_precision"), ("F1", "f1")))  # fmt: skip
            lines.append(f"{heading} {label}: {told} ({one['positives']} of {one['n']} positive)")
    return lines


def number(value: float | None) -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else f"{value:.3f}"


def watch(bar: Bar) -> Callable[[Event], None]:
    """Shows a run's events."""

    def show(event: Event) -> None:
        line = event.epoch_line
        if line is None:
            more = f"epoch {event.epoch}, loss {event.loss:.4f}, {event.images_per_s:,.0f} images/s"
            bar.update("training", event.step, event.total_steps, more)
            return
        areas = ", ".join(f"{label} {number(value)}" for label, value in line["auroc"].items())
        bar.say(
            f"epoch {line['epoch']}: train loss {line['train_loss']:.4f}, {line['watched_part']} loss "
            f"{line['watched_loss']:.4f}, F1 {line['f1']:.3f}, AUROC {areas}; {line['seconds']:.0f} s"
        )

    return show


def counted(bar: Bar, text: str) -> Callable[[int], None]:
    """Counts batches of slices, whose number is not known beforehand."""
    seen = [0]

    def count(n: int) -> None:
        seen[0] += n
        bar.update(text, seen[0], 0)

    return count


def tell_cache(cache: Cache) -> None:
    """Say what a cache holds."""
    manifest = cache.manifest
    print(
        f"{cache.folder}: {manifest.n_slices:,} slices of {manifest.n_studies:,} studies, {manifest.n_patients:,} "
        f"patients; {manifest.n_aside} set aside"
    )
    print(f"  {manifest.source}")
    print("  " + ", ".join(f"{label} {n:,}" for label, n in manifest.counts.items()))
    for note in manifest.notes:
        print(f"  {note}")


def tell_calibrated(result: Calibrated) -> None:
    """Say what was fitted, and what the thresholds do."""
    print(f"part {result.part}: {result.n_studies} studies, {result.n_slices} slices")
    for label, before in result.error_before.items():
        platt = result.slice[label]
        print(
            f"{label}: calibration error {before:.3f} -> {result.error_after[label]:.3f} (scale {platt.scale:g}, bias "
            f"{platt.bias:g})"
        )
    for name, point in result.operating_points.items():
        print(
            f"{name}: threshold {point.threshold:.3f}, sensitivity {point.sensitivity:.3f} (lower bound "
            f"{point.bound:.3f}), specificity {point.specificity:.3f}, {point.n_positive} positive of "
            f"{point.n_positive + point.n_negative}"
        )


def comparison_lines(found: Comparison) -> list[str]:
    """A comparison for a terminal."""
    return [
        found.line(),
        *(f"  {one.figure}: {one.a:.3f} -> {one.b:.3f}, {one.difference:+.3f} ({one.low:+.3f} to {one.high:+.3f})"
          for one in found.differences),
        f"  on {found.data}: {found.n_studies} studies, {found.n_positive} with a bleed",
        *(f"  beware: {text}" for text in found.warnings),
    ]  # fmt: skip


def recipe_lines(recipe: Recipe, rows: Sequence[tuple[str, str, str, str]]) -> None:
    """Print a recipe as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{recipe.name}: {recipe.title}")
    for heading in ("field", "value", "origin", "why"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
