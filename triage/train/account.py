"""What a card says in sentences: data, run, leakage, calibration, limits; all from records, nothing measured here.

No path of the machine that trained gets into a card: of a command's paths only the last part is kept.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from triage.nn.card import Training
from triage.records import ANY, LABELS
from triage.train.cache import Rows
from triage.train.calibrate import Calibrated
from triage.train.phantoms import LAYOUT as PHANTOMS
from triage.train.recipes import Recipe
from triage.train.runs import Run
from triage.train.trained import Trained

RSNA = "rsna"
"""Layout of a cache made from the RSNA 2019 data."""

MANIFEST_CHARACTERS = 16
"""Of a cache's identity, in sentences."""

PHANTOM_LIMITS = (
    "Trained on no patient: it knows synthetic cartoons of heads only. Not for clinical use.",
    "It shows that the chain from scanner to result works, not that a bleed is found.",
)

RSNA_LIMITS = ("Trained on RSNA 2019 data, whose licence allows non-commercial use only.",)

LIMITS = ("It informs who reads first and never diagnoses; a study that it does not flag may show a bleed.",)

STARTS = ("pretrained", "init")
"""Facts of a run that name what its weights began from."""

REVIEWED = {ANY: "review"}
"""Operating point of a label where it is not named for the label."""

RULES = {
    "bound": "lower one-sided 95 % bound of sensitivity {bound:.3f}, asked for was {target:g}",
    "estimate": "AN ESTIMATE ONLY: sensitivity {sensitivity:.3f}, its lower 95 % bound {bound:.3f} is below {target:g}",
    "specificity": "estimated specificity {specificity:.3f}, asked for was {target:g}",
}
"""How the threshold of an operating point is told."""


def training(trained: Trained, command: str) -> Training:
    """Where the weights come from.

    Args:
        trained: The runs.
        command: Of the export, as typed; may be empty.

    Returns:
        For the card.
    """
    told = [run_text(run) for run in trained.runs]
    exported = [f"exported by {without_paths(command)}"] if command else []
    sizes = _part_text(trained.runs[0].facts, "train")
    fresh = trained.runs[0].facts.get("fresh_source")
    part = f"trained on {fresh}" if fresh else f"part train of the split by patient{sizes}"
    return Training(
        data=f"{trained.cache.manifest.source}; {part}; "
        f"cache manifest {trained.cache.identity[:MANIFEST_CHARACTERS]}.",
        run="; ".join(told + exported), manifest=trained.cache.identity, split_salt=trained.recipe.split_salt,
    )  # fmt: skip


def _part_text(facts: Mapping[str, Any], part: str) -> str:
    sizes = facts.get("split", {}).get(part)
    return f": {sizes['patients']} patients, {sizes['studies']} studies, {sizes['slices']} slices" if sizes else ""


def run_text(run: Run) -> str:
    """How a run was trained, in one line."""
    recipe, facts = run.recipe, run.facts
    changed = ", ".join(f"{key} {_value(recipe, key)} (was {was})" for key, was in recipe.overrides.items())
    versions = ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())
    command = without_paths(str(facts.get("command", "")))
    began = [f"{key} {Path(str(facts[key])).name}" for key in STARTS if isinstance(facts.get(key), str) and facts[key]]
    parts = [
        f"{command}: recipe {recipe.name}" if command else f"recipe {recipe.name}",
        f"changed: {changed}" if changed else "as it stands",
        f"seed {recipe.seed}, {facts.get('steps', 0)} steps of {recipe.batch} slices, {facts.get('epochs', 0)} epochs",
        f"weights of epoch {facts.get('best_epoch', '?')} ({recipe.select})",
        f"started from {' and '.join(began)}" if began else "",
        f"weights brought home as {facts['brought_home_as']}" if "brought_home_as" in facts else "",
        f"{facts.get('seconds', 0):.0f} s on {facts.get('device', 'an unknown device')} in {recipe.precision}",
        versions,
    ]
    return ", ".join(part for part in parts if part)


def _value(recipe: Recipe, key: str) -> object:
    """Of a field, or of one of a record's, as "preprocessing.resize_px"."""
    value: object = recipe
    for name in key.split("."):
        value = getattr(value, name)
    return value


def without_paths(command: str) -> str:
    """A command line with the last part of each absolute path only."""
    try:
        words = shlex.split(command)
    except ValueError:  # an odd quote: nothing of it is kept but the program
        words = command.split()[:1]
    kept = []
    for word in words:
        option, equals, value = word.rpartition("=")
        kept.append(f"{option}{equals}{Path(value).name}" if Path(value).is_absolute() else word)
    return shlex.join(kept)


def tested(trained: Trained, rows: Rows, leakage: str) -> str:
    """What performance was measured on.

    Args:
        trained: The runs.
        rows: Of the part.
        leakage: One line on the split.

    Returns:
        For the card.
    """
    index = trained.cache.index.take(rows)
    return (
        f"{trained.cache.manifest.source}; part test of the split by patient, not trained on, every slice: "
        f"{len(np.unique(index.patient))} patients, {len(np.unique(index.study))} studies, {len(index)} slices; cache "
        f"manifest {trained.cache.identity[:MANIFEST_CHARACTERS]}, salt {trained.recipe.split_salt!r}; {leakage}."
    )


def notes(trained: Trained, result: Calibrated) -> tuple[str, ...]:
    """What a reader of the figures must know.

    Args:
        trained: The runs.
        result: Calibration of the stored weights.

    Returns:
        Sentences for the card.
    """
    told = [
        f"Calibrated on part {result.part}: {result.n_studies} studies, {result.n_slices} slices, "
        f"{result.prevalence:.1%} of studies with a bleed; calibration error of P(any) by slice "
        f"{result.error_before[ANY]:.3f} before, {result.error_after[ANY]:.3f} after.",
    ]
    for name in ("review", "urgent"):
        point = result.operating_points[name]
        rule = RULES[point.rule].format(**{k: getattr(point, k) for k in point.__slots__})
        told.append(f"Threshold {name} {point.threshold:g}: {rule}; {point.n_positive} studies with a bleed.")
    bare = [label for label in LABELS if not result.operating_points[REVIEWED.get(label, label)].n_positive]
    if bare:
        told.append(f"Not calibrated, for no study of the part shows it: {', '.join(bare)}.")
    if result.site_prevalence:
        told.append(
            f"Study probabilities of any bleed are shifted by {result.site_shift:+.3f} log odds to a prevalence of "
            f"{result.site_prevalence:.1%}; AUROC does not change by that."
        )
    averaged_mm, served_mm = trained.cache.manifest.slab_mm, trained.recipe.preprocessing.slab_mm
    if averaged_mm != served_mm and trained.cache.manifest.layout != PHANTOMS:
        came = f"averaged to {averaged_mm:g} mm" if averaged_mm else "as they came"
        told.append(f"Trained on slices {came}; the node averages thin ones to {served_mm:g} mm.")
    if trained.cache.manifest.layout == PHANTOMS:
        told.insert(0, "Test and training phantoms come from one generator: this says nothing about patients.")
    return tuple(told)


def limits(trained: Trained, result: Calibrated) -> tuple[str, ...]:
    """What follows from data and calibration for the use of a model.

    Args:
        trained: The runs.
        result: Calibration of the stored weights.

    Returns:
        Sentences for the card.
    """
    told: tuple[str, ...] = LIMITS
    if trained.cache.manifest.layout == PHANTOMS:
        share = f"{result.prevalence:.0%} of which bleed; they mean nothing for a patient."
        told = (PHANTOM_LIMITS[0], f"Its probabilities are calibrated on phantoms, {share}", *PHANTOM_LIMITS[1:])
    elif trained.cache.manifest.layout == RSNA:
        told = (*LIMITS, *RSNA_LIMITS)
    if not result.is_supported:
        point = result.operating_points["review"]
        told = (*told, (
            f"Its review threshold is not supported by data: {point.n_positive} studies with a bleed cannot show a "
            f"sensitivity of {point.target:g}."
        ))  # fmt: skip
    return told
