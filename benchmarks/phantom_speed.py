"""How many slices of phantoms one core makes in a second: processor time, by size, as drawn and with all there is.

Run with one thread: OMP_NUM_THREADS=1 python benchmarks/phantom_speed.py --studies 12
"""

import argparse
import time
from dataclasses import fields, replace
from typing import Any

import numpy as np

from triage.phantom import USUAL, WIDE, PhantomSpec, Profile, generate

SLICES = 32
SIZES_PX = (128, 192, 256)


def everything(profile: Profile) -> Profile:
    """The same with each thing that may be there always there."""
    on: dict[str, Any] = {trait.name: 1.0 for trait in fields(profile) if trait.name.startswith("p_")}
    return replace(profile, name=f"{profile.name}, all on", **on)


def seconds(size_px: int, profile: Profile, studies: int) -> list[float]:
    """Processor time of each study."""
    spec = PhantomSpec(size_px=size_px, n_slices=SLICES, profile=profile)
    generate(studies, spec)  # what the first one costs more is none of theirs
    times = []
    for seed in range(studies):
        start = time.process_time()
        generate(seed, spec)
        times.append(time.process_time() - start)
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=12, help="phantoms of each size and profile")
    studies = parser.parse_args().studies
    for profile in (USUAL, WIDE, everything(WIDE)):
        for size in SIZES_PX:
            took = seconds(size, profile, studies)
            middle, mean = SLICES / float(np.median(took)), SLICES / float(np.mean(took))
            print(
                f"{profile.name:13} {size:4} px: {middle:6.1f} slices/s a core (mean {mean:.1f}, n={studies})",
                flush=True,
            )


if __name__ == "__main__":
    main()
