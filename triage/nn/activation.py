"""Class activation maps of key slices, on the slices' own pixels; knows no files.

A map speaks of the raw logit of a label's head, before calibration. Where a subtype's head means P(subtype | any), its
map says what spoke for that subtype rather than another, not what spoke for a bleed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from triage.nn.architectures import CELL_PX, Network
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
            planes = spread(torch.cat(found)[:, heads], pack.card.preprocessing.crop_px)
            planes = unframe(planes, slabs, pack.card.preprocessing, seen.spacing_mm)
        for slab, of_slab in zip(keys, planes, strict=True):
            maps |= {(labels[h], seen.middles[slab]): plane for h, plane in zip(heads, of_slab, strict=True)}
    return tuple(
        ActivationMap(f.label, i, maps[f.label, i].numpy().copy())
        for f in present for i in f.key_slices if (f.label, i) in maps
    )  # fmt: skip


def spread(maps: torch.Tensor, size_px: int) -> torch.Tensor:
    """Spread activation maps over a network's input, each cell at the centre of its receptive field.

    Stretching a map over the input instead, cell against pixel, would move it by up to half a cell: 15 of 224 pixels.
    Cubic, so that a maximum may lie between cells: with straight lines between them it never does.

    Args:
        maps: (n, heads, h, w), as `Network.activation_maps` gives them.
        size_px: Side of the input.

    Returns:
        (n, heads, size_px, size_px); at the cells their own values.
    """
    places = [(torch.arange(size_px) / CELL_PX * 2 + 1) / cells - 1 for cells in maps.shape[-2:]]
    y, x = torch.meshgrid(places[0], places[1], indexing="ij")
    grid = torch.stack([x, y], dim=-1).expand(len(maps), -1, -1, -1)
    return functional.grid_sample(maps, grid, "bicubic", "border", align_corners=False)
