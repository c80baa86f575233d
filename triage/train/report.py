"""The document of an evaluation -> report.json and report.html, one file that opens offline; measures nothing.

No script, no link to anything: curves are SVG and pictures PNG inside the page. Every text is escaped.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from triage.records import ANY
from triage.train.cache import write_atomically
from triage.train.page_parts import DASH, count, figure, interval, percent, table, text, value_text
from triage.train.pictures import KINDS, Picture, data_uri, of_kind
from triage.train.plots import rank_curves, reliability, training_curves
from triage.train.report_style import STYLE

JSON_NAME, HTML_NAME = "report.json", "report.html"

Document = Mapping[str, Any]


def write_report(folder: Path, document: Document, pictures: Sequence[Picture] = ()) -> tuple[Path, Path]:
    """Write both files, whole or not at all.

    Args:
        folder: Made where it is missing.
        document: As from `document.build_document`.
        pictures: As from `pictures.picture_sheet`.

    Returns:
        The paths of report.json and report.html.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / JSON_NAME, folder / HTML_NAME
    write_atomically(paths[0], json.dumps(document, indent=1, allow_nan=False).encode())
    write_atomically(paths[1], page(document, pictures).encode())
    return paths


def page(document: Document, pictures: Sequence[Picture]) -> str:
    """The whole HTML page."""
    parts: list[tuple[str, str]] = [
        ("By slice", _measures(document, "slice")),
        ("By study", _measures(document, "study")),
        ("Beside the source", _source(document["source"])),
        ("Training", _training(document["models"])),
        ("ROC", _figure(rank_curves(document, "roc"))),
        ("Precision and recall", _figure(rank_curves(document, "precision_recall"))),
        ("Reliability", _reliability(document)),
        ("What was answered, by what slices show", _confusion(document["confusion_by_subtype"])),
        ("By scanner", _strata(document["strata"])),
        ("What a flag means", _predictive(document)),
        ("Right and wrong answers", _pictures(pictures)),
        ("How it was made", _made(document)),
    ]
    sections = "".join(f"<section><h2>{text(title)}</h2>{body}</section>" for title, body in parts if body)
    stamp = '<p class="stamp">DEMONSTRATION: synthetic heads only</p>' if document["synthetic"] else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Evaluation of {text(document['title'])}</title><style>{STYLE}</style></head>"
        f"<body><main>{stamp}{_headline(document)}{sections}"
        f"<footer>{text(document['notice'])}</footer></main></body></html>\n"
    )


def _headline(document: Document) -> str:
    data = document["data"]
    shown = [f"{label} {count(n)}" for label, n in data["positives"].items() if label != ANY]
    only = " Only slices that bleed: the heads say P(subtype | any bleed)." if data["bleeding_slices_only"] else ""
    return (
        f"<header><h1>Evaluation of {text(document['title'])}</h1>"
        f'<p class="notice">{text(document["notice"])}</p>'
        f"<p>Part <b>{text(data['part'])}</b>: {count(data['slices'])} slices of {count(data['studies'])} studies of "
        f"{count(data['patients'])} patients. "
        f"{count(data['positives'][ANY])} slices show a bleed: {text(', '.join(shown))}.{only}</p>"
        f'<p class="quiet">{text(data["source"])}</p>'
        + (f'<p class="leakage">{text(document["leakage"])}</p>' if document["leakage"] else "")
        + f'<div class="tiles">{_tiles(document)}</div></header>'
    )


def _tiles(document: Document) -> str:
    tiles = []
    for unit in ("study", "slice"):
        figures, mean = document[f"by_{unit}"]["labels"], document[f"by_{unit}"]["mean_of_subtypes"]
        if ANY in figures:
            one = figures[ANY]
            tiles.append((f"AUROC of any bleed, by {unit}", figure(one["auroc"]), interval(one["auroc_interval"])))
        if mean is not None and (ANY not in figures or unit == "slice"):
            tiles.append((f"mean AUROC of the subtypes, by {unit}", figure(mean["auroc"]), ""))
    for point in document["predictive_values"][:1]:
        for name in ("sensitivity", "specificity"):
            rate = point[name]
            told = f"{name} by study, threshold {figure(point['threshold'])}"
            tiles.append((told, figure(rate["value"]), interval((rate["low"], rate["high"]))))
    return "".join(
        f'<div><span class="name">{text(name)}</span><b>{value}</b><span class="interval">{between}</span></div>'
        for name, value, between in tiles
    )


def _measures(document: Document, unit: str) -> str:
    level = document[f"by_{unit}"]
    head = ("label", "positive", "threshold", "AUROC", "average precision", "accuracy", "balanced accuracy", "F1",
            "sensitivity", "specificity", "Brier", "calibration error")  # fmt: skip
    rows = [[text(label), *_cells(one)] for label, one in level["labels"].items()]
    told = (
        f"{count(level['n'])} {'slices' if unit == 'slice' else 'studies'}. Below AUROC and average precision: 95 % "
        f"bootstrap interval by patient ({count(document['measured']['resamplings'])} resamplings); below sensitivity "
        "and specificity: Clopper-Pearson. Calibration error: 15 bins of equal mass."
    )
    if mean := level["mean_of_subtypes"]:
        rows.append(["mean of the subtypes", "", "", *(figure(mean[k]) for k in (
            "auroc", "average_precision", "accuracy", "balanced_accuracy", "f1")), "", "",
            figure(mean["brier"]), figure(mean["calibration_error"])])  # fmt: skip
        told += f" The more frequent side each time: mean accuracy {figure(mean['majority_accuracy'])}."
    return f'<p class="quiet">{told}</p>' + table(head, rows, "figures")


def _cells(one: Document) -> list[str]:
    sensitivity, specificity = one["sensitivity"], one["specificity"]
    return [
        f"{count(one['positives'])} <small>{percent(one['positives'] / one['n']) if one['n'] else DASH}</small>",
        figure(one["threshold"]),
        _with(one["auroc"], one["auroc_interval"]),
        _with(one["average_precision"], one["average_precision_interval"]),
        figure(one["accuracy"]), figure(one["balanced_accuracy"]), figure(one["f1"]),
        _with(sensitivity["value"], (sensitivity["low"], sensitivity["high"])),
        _with(specificity["value"], (specificity["low"], specificity["high"])),
        figure(one["brier"]), figure(one["calibration_error"]),
    ]  # fmt: skip


def _with(value: float | None, between: Sequence[float | None]) -> str:
    shown = interval(between)
    return figure(value) + (f" <small>{shown}</small>" if shown else "")


def _source(source: Document) -> str:
    if not source["rows"]:
        return ""
    rows = [
        [text(row["figure"]), _short(row["ours"]), _short(row["source"]), text(row["note"])] for row in source["rows"]
    ]
    notes = "".join(f'<p class="quiet">{text(note)}</p>' for note in source["notes"])
    return notes + table(("figure, by slice at 0.5", "ours", "source", "about the source's"), rows, "words")


def _short(value: Any) -> str:
    return figure(value) if isinstance(value, float) else value_text(value)


def _training(models: Iterable[Document]) -> str:
    return "".join(
        f"<h3>{text(model['name'])}</h3>" + _figure(training_curves(model["epochs"], model["name"]))
        for model in models
        if model["epochs"]
    )


def _reliability(document: Document) -> str:
    told = (
        "Bins of equal mass; on the dotted line, probabilities are what they say. Axes end where the data end. "
        f"Probabilities: {document['operation']['origin']}."
    )
    units = "".join(f"<h3>By {unit}</h3>" + _figure(reliability(document, unit)) for unit in ("slice", "study"))
    return f'<p class="quiet">{text(told)}</p>{units}'


def _confusion(confusion: Document) -> str:
    head = ("slices that show", "n", *(f"answered {name}" for name in confusion["columns"]))
    rows = []
    for name, n, counts in zip(confusion["rows"], confusion["n"], confusion["counts"], strict=True):
        if n:
            rows.append([text(name), count(n), *(_shaded(k, n) for k in counts)])
    told = "Share of the slices of each row at or above 0.5 for each column; a slice can get several answers."
    return f'<p class="quiet">{told}</p>' + table(head, rows, "figures shaded")


def _shaded(k: int, n: int) -> str:
    return f'<span class="shade" style="--share:{k / n:.3f}">{percent(k / n)} <small>{count(k)}</small></span>'


def _strata(tables: Sequence[Document]) -> str:
    parts = []
    for one in tables:
        head = (one["by"], "studies", "slices", "positive slices", one["figure"])
        rows = [
            [text(row["name"]), count(row["studies"]), count(row["slices"]),
             DASH if row["positives"] is None else count(row["positives"]),
             _with(row["auroc"], (row["low"], row["high"]))]
            for row in one["rows"]
        ]  # fmt: skip
        parts.append(table(head, rows, "figures inline"))
    return "".join(parts)


def _predictive(document: Document) -> str:
    if not document["predictive_values"]:
        return ""
    rows = [
        [text(f"{point['name']} ({figure(point['threshold'])})"), figure(point["sensitivity"]["value"]),
         figure(point["specificity"]["value"]), percent(value["prevalence"], 0), percent(value["ppv"]),
         percent(value["npv"])]
        for point in document["predictive_values"] for value in point["values"]
    ]  # fmt: skip
    told = (
        "How many flagged studies bleed (PPV) and how many others do not (NPV), at the sensitivity and specificity "
        "measured here, for shares of bleeding studies as emergency lists have them."
    )
    head = ("threshold on any bleed", "sensitivity", "specificity", "prevalence", "PPV", "NPV")
    return f'<p class="quiet">{told}</p>' + table(head, rows, "figures")


def _pictures(pictures: Sequence[Picture]) -> str:
    parts = ['<p class="quiet">The most confident answers of each kind, one slice a study at most; brain window '
             "(40/80 HU). These are slices of the data: treat this file as the data themselves.</p>"]  # fmt: skip
    for label in dict.fromkeys(one.label for one in pictures):
        kinds = {kind: of_kind(pictures, label, kind) for kind in KINDS}
        if label == ANY:
            parts += [_sheet(f"{label}: {kind}", chosen) for kind, chosen in kinds.items() if chosen]
        else:
            parts.append(_sheet(label, [one for chosen in kinds.values() for one in chosen]))
    return "".join(parts) if pictures else ""


def _sheet(title: str, pictures: Sequence[Picture]) -> str:
    return f'<h3>{text(title)}</h3><div class="sheet">{"".join(map(_card, pictures))}</div>'


def _card(one: Picture) -> str:
    truth = ", ".join(one.truth) or "no bleed"
    others = sorted((k for k in one.p if k != one.label), key=lambda k: -one.p[k])[:2]
    scores = "; ".join(f"p({k}) {figure(one.p[k])}" for k in (one.label, *others))
    said = "right" if one.kind.startswith("true") else "wrong"
    return (
        f'<figure class="{said}"><img alt="slice {text(one.image)}" src="{data_uri(one.grey)}">'
        f"<figcaption><i>{text(one.kind)}</i><br><b>{text(truth)}</b><br>{text(scores)}<br><span>{text(one.image)}</span></figcaption></figure>"
    )


def _made(document: Document) -> str:
    parts = []
    for model in document["models"]:
        recipe = model["recipe"]
        parts.append(f"<h3>{text(model['name'])}</h3>")
        if recipe is not None:
            parts.append(f"<p>Recipe {text(recipe['name'])}: {text(recipe['title'])}</p>")
            if model["overrides"]:
                changed = "; ".join(f"{key} (was {was})" for key, was in model["overrides"].items())
                parts.append(f'<p class="leakage">Set on the command line: {text(changed)}</p>')
            parts.append(_fields(recipe["fields"]))
        parts.append(_facts(model["facts"]))
    measured = {**document["measured"], "probabilities": document["operation"]["origin"],
                "aggregation": document["operation"]["aggregation"],
                "cache sha256": document["data"]["cache_sha256"], "layout": document["data"]["layout"]}  # fmt: skip
    return "".join(parts) + "<h3>Measured with</h3>" + _facts(measured)


def _fields(fields: Iterable[Document]) -> str:
    rows = []
    for row in fields:
        origin = f'<span class="{text(row["origin"])}">{text(row["origin"])}</span>'
        rows.append([text(row["field"]), value_text(row["value"]), origin, text(row["why"])])
    return table(("field", "value", "origin", "why"), rows, "words")


def _facts(facts: Document) -> str:
    return table(("fact", "value"), [[text(key), value_text(value)] for key, value in facts.items()], "words")


def _figure(svg: str) -> str:
    return f'<div class="plot">{svg}</div>' if svg else ""
