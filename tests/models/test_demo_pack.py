"""The pack that comes with the project is what its card says, and does on phantoms what it is for."""

from pathlib import Path

import numpy as np
import pytest
import torch

from triage.config import BUNDLED_PACK
from triage.nn.pack import Pack, load_pack, verify_pack
from triage.nn.predict import judge
from triage.phantom import PhantomSpec, generate
from triage.records import ANY, LABELS, Judgement, Outcome, Slice, Volume

FOLDER = Path(__file__).parents[2] / BUNDLED_PACK

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pack() -> Pack:
    return load_pack(FOLDER)


def judged(pack: Pack, spec: PhantomSpec, seed: int) -> Judgement:
    study = generate(seed, spec)
    volume = Volume(
        hu=study.hu.astype(np.float32), slices=tuple(Slice(f"1.2.{i}") for i in range(len(study.hu))),
        positions_mm=study.positions_mm, spacing_mm=study.spacing_mm, thickness_mm=study.thickness_mm,
    )  # fmt: skip
    return judge(pack, volume)


def test_it_is_small_and_whole() -> None:
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) <= 30 * 2**20
    name, _, version = FOLDER.name.rpartition("-")
    assert verify_pack(FOLDER)[0] == f"{name} {version} (demonstration), resnet18, one trunk for all labels"


def test_its_card_tells_what_it_is(pack: Pack) -> None:
    card = pack.card
    assert card.intended_use == "demonstration"
    assert "Not for clinical use" in card.limits[0]
    assert "Synthetic heads only" in card.training.data
    assert card.performance.n_studies >= 200
    assert set(card.performance.auroc) == set(LABELS)
    assert all(0.5 < a.slice <= 1 and 0.5 < a.study <= 1 for a in card.performance.auroc.values())


def test_it_was_made_by_the_training_command_from_a_split_by_patient(pack: Pack) -> None:
    card = pack.card
    assert card.training.run.startswith("triage-train demo ")
    assert "no shared patient or study" in card.performance.data
    assert all(abs(loss) < 0.002 for loss in card.performance.storage_loss.values())


def test_calibration_removes_the_shift_that_the_sampler_causes(pack: Pack) -> None:
    """Half of the draws bleed, a sixth of the slices do; measured on phantoms kept out of both fits."""
    errors = pack.card.performance.calibration_error[ANY]
    assert errors.before > 0.03
    assert errors.after < 0.03
    assert pack.card.calibration.slice[ANY].bias < -1.0


def test_it_sees_most_large_bleeds_and_names_most_of_them(pack: Pack) -> None:
    """Its card says a sensitivity of about 0.8 over bleeds of all sizes; large ones must not be worse than half."""
    found, named = 0, 0
    for label in LABELS[1:]:
        spec = PhantomSpec(size_px=256, subtypes=(label,), volume_ml=(20.0, 30.0))
        for seed in range(7_000_000, 7_000_003):
            judgement = judged(pack, spec, seed)
            if judgement.outcome is Outcome.POSITIVE:
                found += 1
                named += max(judgement.findings[1:], key=lambda f: f.p).label == label
    assert found >= 9
    assert named >= 0.6 * found


def test_it_lets_most_heads_without_a_bleed_pass(pack: Pack) -> None:
    spec = PhantomSpec(size_px=256, subtypes=())
    outcomes = [judged(pack, spec, 7_100_000 + seed).outcome for seed in range(6)]
    assert outcomes.count(Outcome.NEGATIVE) >= 4
