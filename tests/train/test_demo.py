"""A demonstration pack from phantoms alone, small enough for a test."""

from pathlib import Path

import pytest
import torch

from triage.errors import DataError
from triage.nn.pack import load_pack, read_card
from triage.phantom import VERSION
from triage.train.demo import DemoRequest, make_demo
from triage.train.progress import Bar
from triage.train.recipes import overridden, recipe_named
from triage.train.seeds import trained_seeds
from triage.train.speed import KNOWS_BF16, suited

torch.set_num_threads(1)

QUICK = {
    "preprocessing.resize_px": "64", "preprocessing.crop_px": "64", "preprocessing.fov_mm": "204", "draws": "16",
    "batch": "8", "epochs": "1", "coarse_px": "48",
}  # fmt: skip


def test_a_pack_is_made_from_nothing_and_another_goes_on_with_it(tmp_path: Path) -> None:
    first = DemoRequest(tmp_path / "tiny-1", tmp_path / "first", studies=40, shifted=2, changes=QUICK, workers=1)
    with Bar("items") as bar:
        lines = make_demo(first, bar)
    assert any("AUROC by slice / by study" in line for line in lines)
    card = read_card(first.out)
    assert (card.intended_use, card.networks.places) == ("demonstration", True)
    assert trained_seeds(card) == [(1, 40)]
    assert f"triage.phantom {VERSION}, profile wide" in card.training.data
    later = DemoRequest(tmp_path / "tiny-2", tmp_path / "second", studies=40, shifted=2, changes=QUICK, workers=1,
                        first_seed=30, init=first.out)  # fmt: skip
    with pytest.raises(DataError, match="trained on seeds 1 to 40; choose another --first-seed"), Bar("items") as bar:
        make_demo(later, bar)
    assert not later.work.exists()
    request = DemoRequest(tmp_path / "tiny-2", tmp_path / "second", studies=40, shifted=2, workers=1, first_seed=41,
                          changes=QUICK | {"learning_rate": "1e-9"}, init=first.out)  # fmt: skip
    with Bar("items") as bar:
        make_demo(request, bar)
    card = read_card(request.out)
    assert trained_seeds(card) == [(41, 80), (1, 40)]
    assert "started from init tiny-1" in card.training.run
    assert "; before it, pack tiny 1: Synthetic heads only" in card.training.run
    before, after = (next(iter(load_pack(folder).networks.values())) for folder in (first.out, request.out))
    for key, value in before.state_dict().items():
        if key.endswith("weight"):
            torch.testing.assert_close(after.state_dict()[key], value, rtol=0.02, atol=0.01)


def test_a_name_without_a_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="name it <name>-<version>"), Bar("items") as bar:
        make_demo(DemoRequest(tmp_path / "tiny", tmp_path / "work"), bar)


def test_bf16_is_for_processors_that_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, cpu = recipe_named("demo"), torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(KNOWS_BF16, False))
    plain = suited(recipe, cpu)
    assert (plain.precision, plain.overrides) == ("fp32", {"precision": "bf16"})
    asked = overridden(recipe, {"precision": "bf16"})
    assert suited(asked, cpu) is asked
    assert suited(recipe, torch.device("cuda")) is recipe
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert suited(recipe, cpu) is recipe
