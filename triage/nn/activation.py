"""Class activation maps of key slices, on the slices' own pixels; knows no files.

A map speaks of a label's head before calibration, see `Network.activation_maps`. Where a subtype's head means
P(subtype | any) and there is no pyramid, its map says what spoke for that subtype rather than another, not what spoke
for a bleed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from triage.nn.architectures import Network
from triage.nn.pack import Pack
from triage.nn.passes import batches, running
from triage.nn.preprocess import prepare, unframe
from triage.records import ActivationMap, Finding


@dataclass(frozen=True, slots=True)
class Seen:
    """A volume as the networks see it."""

    slabs: torch.Tensor
    """(m, rows, columns) HU."""
    middles: Sequence[int]
    """Of each slab, the slice that stands for it."""
    spacing_mm: tuple[float, float]


def activation_maps(
    pack: Pack, seen: Seen, findings: Sequence[Finding], precision: str = "auto"
) -> tuple[ActivationMap, ...]:
    """Say where the networks looked: for every present finding, on each of its key slices.

    Each network sees every slice once that is a key slice of one of its labels.

    Args:
        pack: The networks and their card.
        seen: What they judged.
        findings: What was found; their key slices are among `seen.middles`.
        precision: As for `triage.nn.predict.judge`.

    Returns:
        In the order of findings and key slices; empty where the networks' kind has no maps.
    """
    slab_of = {middle: slab for slab, middle in enumerate(seen.middles)}
    maps: dict[tuple[str, int], torch.Tensor] = {}
    present = [f for f in findings if f.present]
    for labels, network in pack.networks.items():
        heads = [column for column, label in enumerate(labels) if any(f.label == label for f in present)]
        keys = sorted({slab_of[i] for f in present if f.label in labels for i in f.key_slices})
        if not keys or not isinstance(network, Network) or not network.has_maps:
            continue
        found = []
        slabs = seen.slabs[keys]
        with running(pack.device, precision):
            for part in batches(slabs, pack.device):
                images = prepare(part, pack.card.preprocessing, seen.spacing_mm)
                found.append(network.activation_maps(images.contiguous(memory_format=torch.channels_last)).cpu())
            planes = network.spread(torch.cat(found)[:, heads], pack.card.preprocessing.crop_px)
            planes = unframe(planes, slabs, pack.card.preprocessing, seen.spacing_mm)
        for slab, of_slab in zip(keys, planes, strict=True):
            maps |= {(labels[h], seen.middles[slab]): plane for h, plane in zip(heads, of_slab, strict=True)}
    return tuple(
        ActivationMap(f.label, i, maps[f.label, i].numpy().copy())
        for f in present for i in f.key_slices if (f.label, i) in maps
    )  # fmt: skip
