"""How often a pack's activation maps point at the bleed: phantoms with one bleed each, of unseen seeds.

The map of each present finding on its first key slice is held against the phantom's mask of all bleeds in that slice.
Chance is the share that the bleed has of the head: what a peak put anywhere in the head would reach.

    python benchmarks/activation.py --phantoms 30
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from triage.nn.pack import Pack, load_pack
from triage.nn.predict import judge
from triage.phantom import PhantomSpec, PhantomStudy, generate
from triage.records import ANY, SUBTYPES, ActivationMap, Slice, Volume

FIRST_SEED = 700_001
"""No phantom of the shipped pack's training has it or a later one."""

NEAR_MM = 15.0
"""A peak this near the bleed still shows a reader where to look."""

HEAD_HU = -200.0


@dataclass(frozen=True, slots=True)
class Hit:
    """One map against the truth of its slice."""

    label: str
    distance_mm: float
    """From the map's peak to the bleed; 0 inside, infinite in a slice without one."""
    overlaps: bool
    """Whether the part above half of the peak meets the bleed."""
    chance: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phantoms", type=int, default=30)
    parser.add_argument("--pack", type=Path, default=Path(__file__).resolve().parents[1] / "models" / "ich-demo-0.1")
    arguments = parser.parse_args()
    pack = load_pack(arguments.pack)
    hits, found = [], 0
    for k in range(arguments.phantoms):
        spec = PhantomSpec(size_px=256, subtypes=(SUBTYPES[k % len(SUBTYPES)],))
        of_study = list(hits_of(pack, generate(FIRST_SEED + k, spec)))
        found += bool(of_study)
        hits += of_study
    print(f"{arguments.pack.name}: {arguments.phantoms} phantoms with one bleed each, {found} found positive")
    for name, some in (("any", [h for h in hits if h.label == ANY]), ("types", [h for h in hits if h.label != ANY])):
        print(line_of(name, some))


def hits_of(pack: Pack, study: PhantomStudy) -> Iterator[Hit]:
    """Every present finding's map on its first key slice."""
    n = len(study.positions_mm)
    volume = Volume(
        study.hu.astype(np.float32), tuple(Slice(f"1.2.3.{i}") for i in range(n)), study.positions_mm,
        study.spacing_mm, study.thickness_mm,
    )  # fmt: skip
    judgement = judge(pack, volume)
    first = {(f.label, f.key_slices[0]) for f in judgement.findings if f.present}
    bleeds = np.any([study.masks[s] for s in SUBTYPES], axis=0)
    for activation in judgement.activations:
        if (activation.label, activation.index) in first:
            yield hit_of(activation, bleeds[activation.index], volume)


def hit_of(activation: ActivationMap, bleed: np.ndarray, volume: Volume) -> Hit:
    values = activation.values
    peak = np.unravel_index(values.argmax(), values.shape)
    away = ndimage.distance_transform_edt(~bleed, sampling=volume.spacing_mm) if bleed.any() else None
    return Hit(
        activation.label,
        float(away[peak]) if away is not None else float("inf"),
        bool((bleed & (values >= values.max() / 2) & (values > 0)).any()),
        float(bleed.sum() / (volume.hu[activation.index] > HEAD_HU).sum()),
    )


def line_of(name: str, hits: list[Hit]) -> str:
    if not hits:
        return f"{name}: no map"
    near = [h.distance_mm for h in hits]
    return (
        f"{name}: {len(hits)} maps, {np.isfinite(near).mean():.0%} on a slice with the bleed; peak in it "
        f"{np.mean([d == 0 for d in near]):.0%} (chance {np.mean([h.chance for h in hits]):.0%}), within {NEAR_MM:.0f} "
        f"mm {np.mean([d <= NEAR_MM for d in near]):.0%}, median {np.median(near):.0f} mm away; half-maximum region "
        f"meets it {np.mean([h.overlaps for h in hits]):.0%}"
    )


if __name__ == "__main__":
    main()
