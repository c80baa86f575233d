"""Trains the demonstration pack on phantoms only, calibrates it, measures it on phantoms never seen, writes its card.

    python models/train_demo.py --out models/ich-demo-0.1

Phantoms and the networks after the first, long part of the training go to a cache outside the project, so an
interrupted run goes on from there. Slices reach the networks through `triage.nn.preprocess.prepare`, as they do when
the node serves.
"""

import argparse
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo_augmentation import augment, jittered_windows
from demo_measures import Bools, Study, calibrated, measured, told
from demo_pointing import Pointing
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from triage.nn.architectures import build
from triage.nn.card import Card, Networks, Thresholds, Training, write_card
from triage.nn.pack import load_pack, write_pack
from triage.nn.preprocess import Preprocessing, frame, prepare
from triage.phantom import SHIFTED, VERSION, PhantomSpec, generate
from triage.records import LABELS, SUBTYPES

State = dict[str, torch.Tensor]
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Images (n, 3, size, size), labels (n, 6), and where each label's bleed lies, (n, 6, size, size), 0..1."""

PREPROCESSING = Preprocessing(fov_mm=204.0, resize_px=136, crop_px=136, mean=(0.4, 0.3, 0.4), std=(0.35, 0.3, 0.3))
"""1.5 mm pixels around the head, so that a thin subdural bleed still is two pixels wide while two cores can train on
some 40 images a second. Mean and std are round figures near those of a head's slices."""

COARSE_PX = 96
"""Input size of the first part of the training, twice as quick; the rest runs at the size that serves."""

COARSE_SHARE = 0.55
"""Part of the training steps that are coarse."""

TRAINING_SPEC = PhantomSpec(size_px=160, fov_mm=224.0)
"""Phantoms to train on: pixels near the networks' own, of one size, so that slices of several studies make a batch."""

HELD_OUT_SPEC = PhantomSpec(size_px=256)
"""Phantoms to calibrate and measure on: the field of view varies."""

SHIFTED_SPEC = PhantomSpec(size_px=256, profile=SHIFTED)
"""Phantoms of other anatomy and more noise than were trained on."""

SEEDS = {"train": 0, "calibration": 1_000_000, "test": 2_000_000, "shifted": 3_000_000}
"""First seed of each set, counted from --seed."""

BATCH = 32
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.02
WARM_UP = 0.05
"""Part of the steps over which the learning rate rises; then it falls as a half cosine."""

SUBTYPE_WEIGHT = 0.3
"""Weight of each subtype head's loss beside the binary one's while both are trained together."""

PLACE_WEIGHT, PLACE_POSITIVE = 4.0, 4.0
"""Weight of the loss that asks where bleeds lie, and within it of places where there is one."""

LOSSES = ("binary", "subtype", "place")
"""What the training minimises the sum of."""

FINE_TUNE_SHARE = 0.1
"""Steps of the subtype model alone, on slices with a bleed, as a part of the steps before."""

LIMITS = (
    "Trained on no patient: it knows synthetic cartoons of heads only. Not for clinical use.",
    "Its probabilities are calibrated on phantoms, half of which bleed; they mean nothing for a patient.",
    "It shows that the chain from scanner to result works, not that a bleed is found.",
)


def make_phantom(job: tuple[int, PhantomSpec, Path]) -> Path:
    """Generate one study into the cache, unless it is there; whole or not at all."""
    seed, spec, folder = job
    path = folder / f"{seed}.npz"
    if not path.exists():
        begin = time.process_time()
        study = generate(seed, spec)
        made_s = time.process_time() - begin
        bleeds = sum(np.uint8(i) * study.masks[label] for i, label in enumerate(SUBTYPES, start=1))
        part = path.with_suffix(f".{os.getpid()}.part.npz")
        labels = study.slice_labels()
        kept: dict[str, Any] = {"hu": study.hu, "bleeds": bleeds, "labels": labels, "spacing_mm": study.spacing_mm}
        np.savez(part, made_s=made_s, **kept)
        part.replace(path)
    return path


def load_studies(seeds: Sequence[int], spec: PhantomSpec, cache: Path) -> list[Study]:
    """Generate or read the studies of some seeds."""
    folder = cache / f"v{VERSION}-{spec.profile.name}-{spec.size_px}px-{spec.n_slices}"
    folder.mkdir(parents=True, exist_ok=True)
    begin, studies = time.monotonic(), []
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for path in pool.map(make_phantom, [(seed, spec, folder) for seed in seeds], chunksize=4):
            with np.load(path) as file:
                down, across = file["spacing_mm"].tolist()
                studies.append(Study(file["hu"], file["bleeds"], file["labels"], (down, across), float(file["made_s"])))
            if len(studies) % 100 == 0:
                say(f"{len(studies)} of {len(seeds)} phantoms, {time.monotonic() - begin:.0f} s")
    return studies


def sampling_weights(labels: Bools) -> torch.Tensor:
    """Half of the draws without a bleed; the other half spread over the subtypes alike."""
    positive = labels[:, 0]
    counts = np.maximum(labels[:, 1:].sum(axis=0), 1)
    rarest = np.where(labels[:, 1:], 1.0 / counts, 0.0).max(axis=1)
    weights = np.where(positive, rarest / max(rarest[positive].sum(), 1e-9), 1.0 / max((~positive).sum(), 1))
    return torch.from_numpy(weights)


def batches(studies: Sequence[Study], weights: torch.Tensor, sizes: Sequence[int], seed: int) -> Iterator[Batch]:
    """One augmented batch for each size in pixels."""
    rng = torch.Generator().manual_seed(seed)
    hu, bleeds, labels = (
        torch.from_numpy(np.concatenate(arrays))
        for arrays in ([s.hu for s in studies], [s.bleeds for s in studies], [s.labels for s in studies])
    )
    spacing_mm = studies[0].spacing_mm  # the same of all, by TRAINING_SPEC
    for size_px in sizes:
        chosen = torch.multinomial(weights, BATCH, replacement=True, generator=rng)
        masks = functional.one_hot(bleeds[chosen].long(), len(LABELS)).permute(0, 3, 1, 2)[:, 1:].float()
        varied, masks = augment(hu[chosen].float(), masks, labels[chosen, 0], rng)
        preprocessing = replace(PREPROCESSING, resize_px=size_px, crop_px=size_px)
        images = prepare(varied, preprocessing, spacing_mm, jittered_windows(preprocessing.windows, BATCH, rng))
        masks = frame(masks, varied, preprocessing, spacing_mm)
        masks = torch.cat([masks.amax(dim=1, keepdim=True), masks], dim=1)
        shift = torch.randint(-size_px // 16, size_px // 16 + 1, (2,), generator=rng).tolist()
        images, masks = torch.roll(images, shift, dims=(2, 3)), torch.roll(masks, shift, dims=(2, 3))
        yield images.contiguous(memory_format=torch.channels_last), labels[chosen].float(), masks


def fit(network: Pointing, work: Iterator[Batch], steps: int, peak: float) -> None:
    """Train in place with AdamW, the learning rate up in a line and down in a half cosine."""
    network.train()
    nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=peak, weight_decay=WEIGHT_DECAY)
    begin, mean = time.monotonic(), torch.zeros(3)
    for step, (images, labels, masks) in enumerate(work):
        progress = step / steps
        rate = progress / WARM_UP if progress < WARM_UP else (
            0.5 + 0.5 * math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))  # fmt: skip
        for group in optimiser.param_groups:
            group["lr"] = peak * max(rate, 0.01)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, places = network(images)
        losses = losses_of((logits.float(), places.float()), labels, masks)
        optimiser.zero_grad()
        losses.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step()
        mean += (losses.detach() - mean) * max(0.03, 1 / (step + 1))
        if step % 50 == 49:
            per_s = (step + 1) * BATCH / (time.monotonic() - begin)
            parts = ", ".join(f"{name} {value:.3f}" for name, value in zip(LOSSES, mean.tolist(), strict=True))
            say(f"step {step + 1} of {steps}, losses {parts}, {per_s:.0f} images/s")


def losses_of(
    answers: tuple[torch.Tensor, torch.Tensor], labels: torch.Tensor, masks: torch.Tensor
) -> torch.Tensor:
    """Weighted losses, as LOSSES; subtype heads learn P(subtype | bleed), so only from slices with a bleed."""
    logits, places = answers
    entropy = functional.binary_cross_entropy_with_logits
    bleeding = labels[:, :1]
    binary = entropy(logits[:, :1], bleeding) if logits.shape[1] == len(LABELS) else torch.zeros(())
    subtype = entropy(logits[:, -5:], labels[:, 1:], reduction="none")
    there = functional.adaptive_max_pool2d(masks, places.shape[2:]).clamp(0.0, 1.0)
    place = entropy(places, there, pos_weight=torch.full((len(LABELS), 1, 1), PLACE_POSITIVE))
    subtype = (subtype * bleeding).sum() / bleeding.sum().clamp(min=1.0)
    return torch.stack([binary, SUBTYPE_WEIGHT * subtype, PLACE_WEIGHT * place])


def train(studies: Sequence[Study], steps: int, seed: int, checkpoint: Path) -> tuple[State, State, float]:
    """Train both networks: together on one trunk first, then the subtype model by itself from there.

    Args:
        studies: To train on.
        steps: Batches for both together.
        seed: Of weights, draws and augmentation.
        checkpoint: Written after the first part; where it is there already, that part is done.

    Returns:
        States of the binary and of the subtype network, and the seconds that both parts took.
    """
    torch.manual_seed(seed)
    begin, earlier_s = time.monotonic(), 0.0
    together = build("resnet18", len(LABELS))
    coarse = round(COARSE_SHARE * steps)
    sizes = [COARSE_PX] * coarse + [PREPROCESSING.resize_px] * (steps - coarse)
    labels = np.concatenate([s.labels for s in studies])
    weights = sampling_weights(labels)
    pointing = Pointing(together)
    if checkpoint.exists():
        with safe_open(checkpoint, "pt") as file:
            pointing.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 (no mapping)
            earlier_s = float(file.metadata()["seconds"])
    else:
        fit(pointing, batches(studies, weights, sizes, seed), steps, LEARNING_RATE)
        state = {key: value.contiguous() for key, value in pointing.state_dict().items()}
        save_file(state, checkpoint, {"seconds": f"{time.monotonic() - begin:.0f}"})
    binary, subtype = build("resnet18", 1), build("resnet18", len(SUBTYPES))
    for network, heads in ((binary, together.heads[:1]), (subtype, together.heads[1:])):
        network.trunk.load_state_dict(together.trunk.state_dict())
        network.heads.load_state_dict(heads.state_dict())
    fine = round(FINE_TUNE_SHARE * steps)
    weights = weights * torch.from_numpy(labels[:, 0])
    work = batches(studies, weights, [PREPROCESSING.resize_px] * fine, seed + 1)
    pointing.network = subtype
    fit(pointing, work, fine, LEARNING_RATE / 4)
    return binary.state_dict(), subtype.state_dict(), earlier_s + time.monotonic() - begin


def say(text: str) -> None:
    """Progress, for whoever watches."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the pack, models/<name>-<version>")
    parser.add_argument("--studies", type=int, default=1200, help="phantoms to train on")
    parser.add_argument("--held-out", type=int, default=200, help="phantoms to calibrate on, and as many to test on")
    parser.add_argument("--steps", type=int, default=3000, help=f"batches of {BATCH} slices")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "ich-phantoms")
    parser.add_argument("--smoke", action="store_true", help="a few phantoms and steps, to see that everything runs")
    values = parser.parse_args(argv)
    if values.smoke:
        values.studies, values.held_out, values.steps = 8, 6, 4
    return values


def main(argv: Sequence[str]) -> None:
    """Generate, train, write, calibrate, measure."""
    options = arguments(argv)
    begin = time.monotonic()
    plan = {
        "train": (options.studies, TRAINING_SPEC), "calibration": (options.held_out, HELD_OUT_SPEC),
        "test": (options.held_out, HELD_OUT_SPEC), "shifted": (options.held_out // 4, SHIFTED_SPEC),
    }  # fmt: skip
    seeds = {part: range(options.seed + SEEDS[part], options.seed + SEEDS[part] + n) for part, (n, _) in plan.items()}
    sets = {part: load_studies(seeds[part], spec, options.cache) for part, (_, spec) in plan.items()}
    ready_s = time.monotonic() - begin
    made_s = sum(study.made_s for studies in sets.values() for study in studies)
    say(f"phantoms ready after {ready_s:.0f} s, {made_s:.0f} core-seconds")
    steps = max(4, options.steps)
    checkpoint = options.cache / f"together-v{VERSION}-{options.studies}-{steps}-{options.seed}.safetensors"
    binary, subtype, trained_s = train(sets["train"], steps, options.seed, checkpoint)
    said = {part: f"{len(r)} phantoms, seeds {r.start} to {r.stop - 1}" for part, r in seeds.items()}
    run = (
        f"python models/train_demo.py {' '.join(argv)}: {steps} steps of {BATCH} slices for both networks together, "
        f"{round(FINE_TUNE_SHARE * steps)} more for the subtypes; {made_s:.0f} core-seconds for all phantoms, "
        f"{trained_s:.0f} s for training on {os.cpu_count()} CPU cores in bf16; Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )
    name, _, version = options.out.name.rpartition("-")
    card = Card(
        name, version, "demonstration", Networks("resnet18", storage="int8"),
        Thresholds(0.8, 0.4, dict.fromkeys(SUBTYPES, 0.5)), PREPROCESSING,
        training=Training(f"Synthetic heads only (triage.phantom {VERSION}): {said['train']}.", run), limits=LIMITS,
    )  # fmt: skip
    write_pack(options.out, card, binary, subtype)
    card = calibrated(load_pack(options.out), sets["calibration"])
    say(f"calibrated on {said['calibration']}: thresholds {card.all_thresholds()}")
    write_card(options.out, card)
    pack = load_pack(options.out)
    shifted = measured(pack, sets["shifted"], "")
    notes = (
        "The phantoms of the test come from the generator of those of the training: this says nothing about patients.",
        f"On {said['shifted']}, of other anatomy and more noise (profile {SHIFTED.name}): {told(shifted)}.",
    )
    data = f"Synthetic heads (triage.phantom {VERSION}): {said['test']}; calibrated on {said['calibration']}."
    performance = replace(measured(pack, sets["test"], data), notes=notes)
    write_card(options.out, replace(card, performance=performance))
    say(told(performance))
    say(f"{notes[-1]} Done in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
