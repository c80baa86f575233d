"""What a person sees in the terminal: worklist, study details, results; prints, decides nothing."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from triage.config import Config
from triage.records import ANY, Priority, Result, SliceScore
from triage.store.queries import DeliveryRow, WorklistRow

STYLES = {Priority.URGENT: "bold red", Priority.REVIEW: "yellow", Priority.ROUTINE: ""}

NOTICE = "Informs, never diagnoses: every study is still to be read."
DEMONSTRATION = "DEMONSTRATION MODEL, trained on synthetic heads: not for patients."


def duration(seconds: float) -> str:
    """A waiting time as a person reads it: "45 s", "12 min", "3 h 05 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def percent(p: float | None) -> str:
    """A probability as a person reads it."""
    return "" if p is None else f"{100 * p:.0f} %"


def print_worklist(console: Console, rows: Sequence[WorklistRow]) -> None:
    """Print the studies to read, first one first."""
    table = Table(title="To be read next", title_justify="left")
    for name, justify in (
        ("", "right"),
        ("priority", "left"),
        ("ICH", "right"),
        ("subtypes", "left"),
        ("waiting", "right"),
        ("state", "left"),
        ("accession", "left"),
        ("study", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]  # a tuple loses the literal type
    for i, row in enumerate(rows, start=1):
        state = row.state + (f": {row.reason}" if row.reason else "")
        table.add_row(
            str(i),
            row.priority,
            percent(row.p_any),
            ", ".join(row.subtypes),
            duration(row.waiting_s),
            escape(state),
            escape(row.accession_number),
            str(row.study_id),
            style=STYLES.get(row.priority, ""),
        )
    console.print(table if rows else "No studies to read.")
    console.print(NOTICE, style="dim")
    if any(row.demonstration for row in rows):
        console.print(DEMONSTRATION, style="bold yellow")


def print_result(console: Console, result: Result) -> None:
    """Print one result with the verdict on each series."""
    reason = f"  {escape(result.reason)}" if result.reason else ""
    console.print(f"[bold]{result.outcome}[/bold]  priority {result.priority}{reason}")
    if result.findings:
        table = Table("finding", "probability", "threshold", "present", "key slices")
        for f in result.findings:
            name = "ICH (any)" if f.label == ANY else f.label
            table.add_row(
                name,
                percent(f.p),
                percent(f.threshold),
                "yes" if f.present else "no",
                ", ".join(str(k + 1) for k in f.key_slices),
            )
        console.print(table)
        console.print(
            f"{result.n_slices} slices, tilt {result.tilt_deg:.1f} degrees, {len(result.set_aside)} set aside, "
            f"{result.missing} missing; {result.duration_s:.1f} s on {result.device}",
            highlight=False,
        )
    for v in result.verdicts:
        mark = "chosen" if v.chosen else "not chosen"
        console.print(
            f"series {'?' if v.series_number is None else v.series_number} {v.description!r} "
            f"({v.n_instances} instances): {mark}: {'; '.join(v.reasons)}",
            highlight=False,
            markup=False,
        )
    for s in result.set_aside:
        console.print(f"set aside: {s.reason}", highlight=False, markup=False)
    console.print(
        f"model {result.model.name} {result.model.version} sha256 {result.model.sha256[:12]}",
        style="dim",
        highlight=False,
    )
    if result.model.is_demonstration:
        console.print(DEMONSTRATION, style="bold yellow")


def print_unreadable(console: Console, unreadable: Sequence[dict[str, str]]) -> None:
    """Print the files that are no DICOM instances."""
    for u in unreadable:
        console.print(f"not read: {u['file']}: {u['reason']}", highlight=False, markup=False)


def print_arrivals(console: Console, arrivals: Sequence[tuple[str, str]]) -> None:
    """Print what has arrived at the stand-in PACS."""
    table = Table("arrived at the stand-in PACS", "series description", title_justify="left")
    for row in arrivals:
        table.add_row(*row)
    console.print(table)


def print_invitation(console: Console, config: Config, port: int, pacs_folder: Path) -> None:
    """Say how to send one's own study to the running demonstration, and where its results will lie."""
    node = config.node
    console.print("\nThe node stays up. Send a head CT of your own (DCMTK):", highlight=False)
    console.print(f"  storescu -aec {node.ae_title} +sd +r {node.host} {port} FOLDER", style="bold", highlight=False)
    console.print("and look at the worklist in another terminal:", highlight=False)
    console.print(f"  triage worklist --config {node.data_dir.parent / 'demo.toml'}", style="bold", highlight=False)
    console.print(f"Results arrive in {pacs_folder}. Ctrl-C ends the demonstration.", highlight=False)


def score_document(path: Path, score: SliceScore | None, reason: str) -> dict[str, Any]:
    """One slice scored by itself, ready for JSON."""
    if score is None:
        return {"file": str(path), "p": None, "reason": reason}
    return {"file": str(path), "sop_instance_uid": score.sop_instance_uid, "frame": score.frame, "p": score.p}


def print_details(console: Console, details: dict[str, Any]) -> None:
    """Print everything the database holds on one study as an indented list, what was sent at its end."""
    _print_value(console, {key: value for key, value in details.items() if key != "objects"}, 0)
    _print_objects(console, details["objects"])


def _print_objects(console: Console, objects: Sequence[dict[str, Any]]) -> None:
    """Objects and where they stand, newest analysis first; what stands alike is told together."""
    console.print("objects and where they stand:" if objects else "No objects yet.", highlight=False)
    groups: dict[tuple[int, str, str, int, str], list[tuple[str, dict[str, Any]]]] = {}
    for o in sorted(objects, key=lambda o: -o["run"]):
        for d in o["deliveries"] or [{"destination": "nowhere", "state": "stays in node.data_dir"}]:
            key = (o["run"], d["destination"], d["state"], d.get("attempts", 0), d.get("detail", ""))
            groups.setdefault(key, []).append((o["kind"], d))
    for (run, destination, state, attempts, detail), members in groups.items():
        title = f"  analysis {run} -> {destination}: {_counted(kind for kind, _ in members)}"
        console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
        times = {
            word: max((d[f"{word}_at"] for _, d in members if d.get(f"{word}_at")), default=None)
            for word in ("committed", "accepted")
        }
        parts = [] if times.get(state) else [state]
        parts += [f"{word} {moment(at)}" for word, at in times.items() if at]
        parts += [f"{attempts} failed attempts"] if attempts else []
        parts += [detail] if detail else []
        console.print("    " + "; ".join(parts), markup=False, highlight=False, soft_wrap=True)


def _counted(kinds: Iterable[str]) -> str:
    return ", ".join(kind if n == 1 else f"{n} x {kind}" for kind, n in Counter(kinds).items())


def print_deliveries(console: Console, advised: Sequence[tuple[DeliveryRow, str]]) -> None:
    """Print deliveries, each with what to do about it; those of one study and destination together if all agree."""
    groups: dict[tuple[int, str, str, int, str, str], list[DeliveryRow]] = {}
    for row, advice in advised:
        key = (row.study_id, row.destination, row.state, row.attempts, row.detail, advice)
        groups.setdefault(key, []).append(row)
    for (study_id, destination, state, attempts, detail, advice), rows in groups.items():
        kinds = _counted(r.kind for r in rows)
        next_at = min((r.next_attempt_at for r in rows if r.next_attempt_at is not None), default=None)
        parts = [f"{state} since {moment(min(r.since for r in rows))}", f"{attempts} failed attempts"]
        parts += [f"next attempt {moment(next_at)}"] if next_at is not None else []
        console.print(f"study {study_id} -> {destination}: {kinds}", style="bold", markup=False, highlight=False)
        for text in ("; ".join(parts), detail, advice):
            if text:
                console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)
    if not advised:
        console.print("Nothing is given up, failing or waiting for commitment.")


def moment(at: float | None) -> str:
    """A time as a person reads it, in local time; empty for none."""
    return "" if at is None else datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="seconds")


def _print_value(console: Console, value: Any, depth: int) -> None:
    pad = "  " * depth
    for key, item in value.items() if isinstance(value, dict) else enumerate(value, start=1):
        if isinstance(item, dict | list | tuple) and item:
            console.print(f"{pad}{key}:", markup=False, highlight=False)
            _print_value(console, item, depth + 1)
        else:
            shown = "" if item is None or item in ([], {}, ()) else item
            if isinstance(item, float) and str(key).endswith("_at"):
                shown = moment(item)
            console.print(f"{pad}{key}: {shown}", markup=False, highlight=False)
