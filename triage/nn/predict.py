"""Volume -> Judgement: slice probabilities, calibrated study findings, key slices, priority; knows no files.

    volume -> slabs -> prepare -> binary -> P(any) by slab -> study; where positive: subtype -> ... -> findings

Where the heads share a trunk, the first pass answers for the subtypes too; they are reported of positive studies alike.
Probabilities are float64 from the logits on, so that they do not depend on the precision networks run in.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from triage.errors import ConfigError, StudyError
from triage.nn.activation import Seen, activation_maps
from triage.nn.card import Aggregation, Card, Platt, Thresholds
from triage.nn.pack import Pack
from triage.nn.passes import batches, running
from triage.nn.preprocess import Preprocessing, average_thin, prepare, prepare_cached
from triage.records import ANY, SUBTYPES, Finding, Judgement, Outcome, Priority, SliceScore, Volume

THICK_MM = 4.0
"""Slices at least this thick are never averaged, even where they overlap."""

TOP_SLICES = 3
"""Slices whose scores "top3_mean" averages: one hot slice alone is usually an artefact."""

KEY_SLICES = 5
"""Most key slices a finding has."""

KEY_FRACTION = 0.5
"""A key slice's score is at least this fraction of the finding's highest one."""

PROBABILITY_EDGE = 1e-6
"""Probabilities are kept this far from 0 and 1 when they are turned into log odds."""

FloatArray = npt.NDArray[np.float64]


def pick_device(setting: str) -> torch.device:
    """Choose where networks run.

    Args:
        setting: "auto" (CUDA when present), "cpu" or "cuda".

    Returns:
        The device.

    Raises:
        ConfigError: "cuda" where there is none.
    """
    if setting == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda:0")
    if setting == "cuda":
        raise ConfigError('model.device: "cuda", but no CUDA device can be used here; set it to "auto" or "cpu"')
    return torch.device("cpu")


def judge(pack: Pack, volume: Volume, precision: str = "auto", with_maps: bool = True) -> Judgement:
    """Judge one volume.

    The binary model scores every slice; the subtype model runs where the study is positive, unless the same pass has
    answered already. The same volume on the same device gives the same judgement.

    Args:
        pack: The networks and their card.
        volume: One series.
        precision: "auto" (bf16 or fp16 on CUDA, fp32 on a CPU), "fp32", "bf16" or "fp16".
        with_maps: Whether to say where the networks looked, which takes another pass over the key slices.

    Returns:
        Priority, findings, the scores of every slice and the activation maps of key slices.

    Raises:
        StudyError: The volume is empty, or it or a network's output holds values that are not finite.
    """
    slabs, members = slabs_of(volume, pack.card.preprocessing.slab_mm)
    middles = [_middle(indices, volume.positions_mm) for indices in members]
    scores = slice_probabilities(pack, slabs, volume.spacing_mm, (ANY,), precision)
    findings = [_finding(pack.card, ANY, scores[ANY], middles)]
    positive = findings[0].present
    if positive:
        if SUBTYPES[0] not in scores:
            scores |= slice_probabilities(pack, slabs, volume.spacing_mm, SUBTYPES, precision)
        scores = joint(pack.card, scores)
        findings += [_finding(pack.card, label, scores[label], middles) for label in SUBTYPES]
    else:
        scores = {ANY: scores[ANY]}
    seen = Seen(slabs, middles, volume.spacing_mm)
    return Judgement(
        priority=_priority(pack.card.thresholds, findings[0].p),
        outcome=Outcome.POSITIVE if positive else Outcome.NEGATIVE,
        findings=tuple(findings), slice_scores=_slice_scores(scores, members, volume),
        device=device_name(pack.device), model=pack.identity,
        activations=activation_maps(pack, seen, findings, precision) if with_maps else (),
    )  # fmt: skip


def slabs_of(volume: Volume, slab_mm: float) -> tuple[torch.Tensor, list[tuple[int, ...]]]:
    """A volume's slices as the networks see them.

    Args:
        volume: One series.
        slab_mm: Thickness that thin slices are averaged to.

    Returns:
        (m, rows, columns) HU, and the indices of the slices that went into each of the m slabs.

    Raises:
        StudyError: The volume is empty or holds values that are not finite.
    """
    if volume.hu.ndim != 3 or not volume.hu.size:
        raise StudyError("the volume has no slices")
    hu = torch.from_numpy(np.array(volume.hu, dtype=np.float32))  # a copy: the volume may be read-only
    if not torch.isfinite(hu).all():
        raise StudyError("the volume holds values that are not finite")
    return average_thin(hu, volume.positions_mm, slab_of(volume.thickness_mm, slab_mm))


def slab_of(thickness_mm: float, slab_mm: float) -> float:
    """Thickness that slices of a series are averaged to: 0, so not at all, where they are thick already."""
    return 0.0 if thickness_mm >= THICK_MM else slab_mm


def slice_probabilities(
    pack: Pack, slabs: torch.Tensor, spacing_mm: tuple[float, float], labels: Sequence[str], precision: str = "auto"
) -> dict[str, FloatArray]:
    """Score slabs with one of a pack's networks.

    Args:
        pack: The networks and their card.
        slabs: (m, rows, columns) HU.
        spacing_mm: Between rows, between columns.
        labels: (ANY,) for the binary model or SUBTYPES for the subtype model.
        precision: As for `judge`.

    Returns:
        By label, m calibrated probabilities as the heads mean them, see `joint`; of every label that the network
        speaks of, so of all six where the trunk is shared.

    Raises:
        StudyError: A network's output is not finite.
    """
    heads = pack.labels_with(labels[0])
    where = (pack.device, precision)
    values = network_logits(pack.networks[heads], slabs, pack.card.preprocessing, where, spacing_mm)
    platts = pack.card.calibration.slice
    return {label: sigmoid(platts[label], values[:, column]) for column, label in enumerate(heads)}


def network_logits(
    network: nn.Module,
    slabs: torch.Tensor,
    preprocessing: Preprocessing,
    device: tuple[torch.device, str],
    spacing_mm: tuple[float, float] | None = None,
) -> FloatArray:
    """Run one network over slabs in batches of bounded size; serving and the measuring of models both end here.

    Args:
        network: Images to logits, in evaluation mode, on the device.
        slabs: (m, rows, columns) HU; or (m, side, side) as a training cache holds them.
        preprocessing: What the network wants.
        device: Where the network is, and the precision as for `judge`.
        spacing_mm: Between rows, between columns; None for slices from a cache.

    Returns:
        (m, heads) logits.

    Raises:
        StudyError: A logit is not finite.
    """
    where, precision = device
    logits = []
    with running(where, precision):
        for part in batches(slabs, where):
            if spacing_mm is None:
                images = prepare_cached(part, preprocessing)
            else:
                images = prepare(part, preprocessing, spacing_mm)
            logits.append(network(images.contiguous(memory_format=torch.channels_last)).float().cpu())
    values: FloatArray = torch.cat(logits).double().numpy()
    if not np.isfinite(values).all():
        first = int(np.argwhere(~np.isfinite(values))[0][0]) + 1
        raise StudyError(f"the network's output for image {first} of {len(values)} is not a finite number")
    return values


def joint(card: Card, scores: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """Make subtype scores mean P(subtype) on any slice, whatever the heads were trained to say.

    Args:
        card: Says what the heads mean.
        scores: By label, as from `slice_probabilities`, with ANY and all SUBTYPES.

    Returns:
        By label; P(any) P(subtype | any) where heads are conditional.
    """
    return scores if card.networks.subtype_meaning == "marginal" else composed(scores)


def composed(scores: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """P(any) P(subtype | any) in place of P(subtype | any), for the subtypes that are there; ANY must be."""
    return scores | {label: p * scores[ANY] for label, p in scores.items() if label != ANY}


def aggregate(aggregation: Aggregation, scores: FloatArray) -> float:
    """One score of a study from those of its slices in order; see `card.Aggregation`."""
    if aggregation == "max" or len(scores) == 1:
        return float(scores.max())
    if aggregation == "run2":
        return float(np.minimum(scores[1:], scores[:-1]).max())
    return float(np.sort(scores)[-TOP_SLICES:].mean())


def logit(p: FloatArray) -> FloatArray:
    """Log odds of probabilities, finite at 0 and 1."""
    inside = np.clip(p, PROBABILITY_EDGE, 1 - PROBABILITY_EDGE)
    return np.asarray(np.log(inside / (1 - inside)))


def sigmoid(platt: Platt, logits: FloatArray) -> FloatArray:
    """Calibrated probabilities of log odds; tanh, unlike exp, does not overflow."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * (platt.scale * logits + platt.bias)))


def study_probability(card: Card, label: str, scores: FloatArray) -> float:
    """Calibrated study probability of a label from its slice scores."""
    score = np.array([aggregate(card.aggregation, scores)])
    return float(sigmoid(card.calibration.study[label], logit(score))[0])


def _finding(card: Card, label: str, scores: FloatArray, middles: Sequence[int]) -> Finding:
    threshold = card.thresholds.review if label == ANY else card.thresholds.subtypes[label]
    p = study_probability(card, label, scores)
    present = p >= threshold
    best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:KEY_SLICES]
    keys = tuple(middles[i] for i in best if scores[i] >= KEY_FRACTION * scores[best[0]])
    return Finding(label=label, p=p, threshold=threshold, present=present, key_slices=keys if present else ())


def _priority(thresholds: Thresholds, p_any: float) -> Priority:
    if p_any >= thresholds.urgent:
        return Priority.URGENT
    return Priority.REVIEW if p_any >= thresholds.review else Priority.ROUTINE


def _middle(indices: Sequence[int], positions_mm: Sequence[float]) -> int:
    """The slice of a slab that lies nearest its centre."""
    center = sum(positions_mm[i] for i in indices) / len(indices)
    return min(indices, key=lambda i: (abs(positions_mm[i] - center), i))


def _slice_scores(
    scores: dict[str, FloatArray], members: Sequence[tuple[int, ...]], volume: Volume
) -> tuple[SliceScore, ...]:
    slab_of = {i: slab for slab, indices in enumerate(members) for i in indices}
    return tuple(
        SliceScore(s.sop_instance_uid, s.frame, {label: float(p[slab_of[i]]) for label, p in scores.items()})
        for i, s in enumerate(volume.slices)
    )


def device_name(device: torch.device) -> str:
    """A device as it is stored with a result: "cpu", or "cuda:0 (NAME)"."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "cpu"
