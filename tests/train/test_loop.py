"""The loop on real phantoms with a real small network: resuming, schedules, parts, faults."""

import json
import logging
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from train.small import small

from triage.errors import DataError, TrainingError
from triage.nn.architectures import build
from triage.nn.card import Card, Networks, Thresholds
from triage.nn.pack import write_pack
from triage.records import SUBTYPES
from triage.train.cache import Cache
from triage.train.journal import Journal
from triage.train.learner import Start, build_learner
from triage.train.loop import Event, FitOptions, fit, watched_part
from triage.train.places import place_loss
from triage.train.recipes import Recipe
from triage.train.runs import BEST, CHECKPOINT, epochs_of, load_network, open_run, read_weights
from triage.train.step import quickened

torch.set_num_threads(1)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(folder / CHECKPOINT, weights_only=True)["learner"]["model"])


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[key], other[key]) for key in one)


def test_four_epochs_straight_and_two_and_two_give_identical_weights(phantom_cache: Cache, tmp_path: Path) -> None:
    recipe = small("demo", epochs="4", batch="8", draws="16", precision="bf16")
    straight = fit(recipe, phantom_cache, tmp_path / "straight", FitOptions())
    fit(recipe, phantom_cache, tmp_path / "parts", FitOptions(stop_after=2))
    assert open_run(tmp_path / "parts").facts["finished"] is False
    parts = fit(recipe, phantom_cache, tmp_path / "parts", FitOptions(resume=True))
    assert parts.facts["finished"] is True
    assert parts.facts["steps"] == straight.facts["steps"] == 8
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "parts"))
    for one, other in zip(epochs_of(straight), epochs_of(parts), strict=True):
        assert (one["train_loss"], one["watched_loss"]) == (other["train_loss"], other["watched_loss"])


def test_ctrl_c_within_an_epoch_saves_and_the_run_goes_on_as_if_nothing_had_been(
    phantom_cache: Cache, tmp_path: Path
) -> None:
    recipe = small("thesis-cnn", **{"preprocessing.crop_px": "64", "architecture": "resnet18", "epochs": "1",
                                    "split": "patient", "batch": "4", "draws": "120"})  # fmt: skip

    def interrupt(event: Event) -> None:
        if event.step == 20:
            raise KeyboardInterrupt

    straight = fit(recipe, phantom_cache, tmp_path / "straight", FitOptions())
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, phantom_cache, tmp_path / "cut", FitOptions(on_event=interrupt))
    assert torch.load(tmp_path / "cut" / CHECKPOINT, weights_only=True)["learner"]["step_in_epoch"] == 20
    cut = fit(recipe, phantom_cache, tmp_path / "cut", FitOptions(resume=True))
    assert same(weights(straight.folder), weights(cut.folder))
    assert epochs_of(cut)[0]["train_loss"] == pytest.approx(epochs_of(straight)[0]["train_loss"], rel=1e-12)


def test_training_learns_what_is_plain_to_see(phantom_cache: Cache, tmp_path: Path) -> None:
    """Asked about the training part itself, the network must come to know it."""
    recipe = small("triage-binary", pretrained="false", epochs="8", draws="128", learning_rate="0.002",
                   augmentation="none", precision="fp32", **{"preprocessing.crop_px": "40"})  # fmt: skip
    run = fit(recipe, phantom_cache, tmp_path / "run", FitOptions())
    losses = [line["train_loss"] for line in epochs_of(run)]
    assert losses[-1] < 0.75 * losses[0]
    assert math.isfinite(epochs_of(run)[-1]["watched_loss"])


def test_a_run_writes_down_what_it_did(
    phantom_cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("triage.train.loop.LOG_S", math.inf)  # a slow machine tells of more steps
    events: list[Event] = []
    run = fit(small("demo"), phantom_cache, tmp_path / "run",
              FitOptions(command="triage-train fit ...", on_event=events.append))  # fmt: skip
    facts = run.facts
    assert (facts["command"], facts["epochs"], facts["steps"], facts["best_epoch"]) == ("triage-train fit ...", 2, 4, 2)
    assert facts["manifest_sha256"] == phantom_cache.identity
    share = facts["split"]["train"]["positives"]["any"] / facts["split"]["train"]["slices"]
    assert facts["prior_shift"] == pytest.approx(math.log(share / (1 - share)), abs=1e-3)  # half of the draws bleed
    assert set(facts["split"]) == {"train", "validation", "calibration", "test"}
    assert [e.epoch_line["epoch"] for e in events if e.epoch_line] == [1, 2]
    assert events[-1].step == events[-1].total_steps == 4
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["epoch", "step", "epoch"]
    assert any((run.folder / "tensorboard").glob("events.*"))
    assert str(tmp_path) not in (run.folder / "recipe.json").read_text()


def test_a_tensorboard_that_does_not_fit_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_folder: str) -> None:
        raise AttributeError("np.bool8 is gone")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", broken)
    with caplog.at_level(logging.WARNING), Journal(tmp_path) as journal:
        journal.write({"event": "step", "step": 1})
    assert '"step": 1' in (tmp_path / "metrics.jsonl").read_text()
    assert "no metrics for TensorBoard: np.bool8 is gone" in caplog.text


def test_compiling_is_for_a_gpu_and_for_recipes_that_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    made = torch.nn.Linear(1, 1)
    monkeypatch.setattr("torch.compile", lambda _model, **_how: made)
    model, asks, not_asked = torch.nn.Linear(1, 1), small("demo", compiled="true"), small("demo", compiled="false")
    assert quickened(model, asks, torch.device("cuda")) is made
    assert quickened(model, asks, torch.device("cpu")) is model
    assert quickened(model, not_asked, torch.device("cuda")) is model


def test_the_weights_kept_are_those_of_the_best_epoch(phantom_cache: Cache, tmp_path: Path) -> None:
    run = fit(small("demo", select="best_loss", epochs="3"), phantom_cache, tmp_path / "run", FitOptions())
    losses = [line["watched_loss"] for line in epochs_of(run)]
    assert run.facts["best_epoch"] == 1 + int(np.argmin(losses))
    network = load_network(run)
    assert not network.training
    assert set(read_weights(run.folder / BEST)) == set(network.state_dict())


def test_the_rate_falls_on_a_plateau_of_the_test_loss(phantom_cache: Cache, tmp_path: Path) -> None:
    """Frozen but for heads that learn at a rate of nothing, the test loss cannot improve."""
    recipe = small("thesis-subtype-run1", pretrained="false", epochs="5", draws="16", learning_rate="1e-12",
                   trainable="heads", augmentation="none",
                   **{"preprocessing.order": "resize_then_window", "choice": "all"})  # fmt: skip
    assert watched_part(recipe) == "test"
    run = fit(recipe, phantom_cache, tmp_path / "run", FitOptions())
    assert [line["learning_rate"] for line in epochs_of(run)] == pytest.approx([1e-12] * 4 + [1e-13])
    assert {line["watched_part"] for line in epochs_of(run)} == {"test"}


@pytest.mark.parametrize(("trainable", "changed"), [("heads", {"heads"}), ("last_block", {"heads", "layer4"})])
def test_only_the_stated_part_is_trained(
    phantom_cache: Cache, tmp_path: Path, trainable: str, changed: set[str]
) -> None:
    recipe = small("triage-binary", pretrained="false", trainable=trainable, epochs="1", draws="32", precision="fp32")
    torch.manual_seed(recipe.seed)
    from triage.nn.architectures import build

    before = build("resnet18", 1).state_dict()
    after = load_network(fit(recipe, phantom_cache, tmp_path / "run", FitOptions())).state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert {"heads" if key.startswith("heads") else key.split(".")[1] for key in moved} == changed


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_and_channels_last_train(phantom_cache: Cache, tmp_path: Path, precision: str) -> None:
    recipe = small("triage-binary", pretrained="false", precision=precision, channels_last="true", clip_norm="1.0",
                   batch="2", draws="4", epochs="1", **{"preprocessing.crop_px": "32"})  # fmt: skip
    run = fit(recipe, phantom_cache, tmp_path / "run", FitOptions())
    assert math.isfinite(epochs_of(run)[0]["train_loss"])


def test_max_steps_ends_a_run(phantom_cache: Cache, tmp_path: Path) -> None:
    run = fit(small("demo", max_steps="3"), phantom_cache, tmp_path / "run", FitOptions())
    assert (run.facts["steps"], run.facts["finished"], len(epochs_of(run))) == (3, True, 2)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(
    phantom_cache: Cache, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    recipe = small("triage-binary", pretrained="false", optimiser="sgd", schedule="constant", precision="fp32",
                   epochs="1")  # fmt: skip
    fit(recipe, phantom_cache, folder, FitOptions())
    good = weights(folder)
    state = torch.load(folder / CHECKPOINT, weights_only=True)
    state["learner"]["optimiser"]["param_groups"][0]["lr"] = 1e30
    torch.save(state, folder / CHECKPOINT)
    with pytest.raises(TrainingError, match=r"not a number at step \d+ .* last good checkpoint is of epoch 1"):
        fit(replace(recipe, epochs=3), phantom_cache, folder, FitOptions(resume=True))
    assert same(weights(folder), good)


def test_memory_that_does_not_suffice_is_told_with_the_batch(phantom_cache: Cache, tmp_path: Path) -> None:
    limited = (
        "import resource, sys, torch\n"
        "torch.set_num_threads(1)\n"
        "sys.path[:0] = [{tests!r}]\n"
        "from pathlib import Path\n"
        "from train.small import small\n"
        "from triage.errors import TrainingError\n"
        "from triage.train.cache import open_cache\n"
        "from triage.train.loop import FitOptions, fit\n"
        "cache = open_cache(Path({cache!r}))\n"
        "recipe = small('triage-binary', pretrained='false', batch='512', draws='512', augmentation='none')\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (700 << 20), resource.RLIM_INFINITY))\n"
        "try:\n"
        "    fit(recipe, cache, Path({out!r}), FitOptions())\n"
        "except TrainingError as e:\n"
        "    print(e)\n"
    ).format(tests=str(Path(__file__).parents[1]), cache=str(phantom_cache.folder), out=str(tmp_path / "run"))
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, timeout=120, check=False)
    assert "out of memory with a batch of 512; start again with --set batch=256" in done.stdout, done.stderr[-2000:]


def test_what_does_not_go_together_is_refused(phantom_cache: Cache, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    recipe = small("demo")
    fit(recipe, phantom_cache, folder, FitOptions(stop_after=1))

    def refused(recipe: Recipe, message: str, options: FitOptions, where: Path = folder) -> None:
        with pytest.raises(DataError, match=message):
            fit(recipe, phantom_cache, where, options)

    refused(recipe, "holds a run already; go on with --resume", FitOptions())
    again = FitOptions(resume=True)
    refused(small("demo", learning_rate="0.1"), "another recipe .learning_rate was 0.002, is 0.1", again)
    refused(small("demo", epochs="9"), "another recipe .epochs was 2, is 9", again)
    refused(recipe, "no checkpoint", again, tmp_path / "none")
    (folder / CHECKPOINT).write_bytes(b"nothing")
    refused(recipe, "damaged", again)
    new, other = FitOptions(), tmp_path / "other"
    refused(small("triage-binary"), "starts from pretrained weights: .* --pretrained none", new, other)
    plain = {"places": "false", "place_weight": "0"}
    refused(small("demo", **plain, architecture="thesis-cnn"), "224 px", new, other)


def test_weights_of_torchvision_are_taken_when_their_hash_is_the_stated_one(
    phantom_cache: Cache, tmp_path: Path
) -> None:
    from torchvision.models import resnet18

    from triage.train.cache import file_hash

    torch.manual_seed(3)
    original = resnet18(weights=None)
    path = tmp_path / "resnet18-0000.pth"
    torch.save(original.state_dict(), path)
    recipe = small("triage-binary")
    digest = file_hash(path)
    learner = build_learner(recipe, torch.device("cpu"), 1, Start(path, digest[:12]))
    assert torch.equal(learner.network.state_dict()["trunk.layer3.0.conv1.weight"], original.layer3[0].conv1.weight)
    for start, message in (
        (Start(path), f"the file's is {digest}"), (Start(path, "0" * 64), "not 0000"),
        (Start(tmp_path / "no", digest), "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            build_learner(recipe, torch.device("cpu"), 1, start)
    with pytest.raises(DataError, match="not a state dict of torchvision's resnet34"):
        build_learner(replace(recipe, architecture="resnet34"), torch.device("cpu"), 1, Start(path, digest))
    path.write_bytes(b"garbage")
    with pytest.raises(DataError, match="not a state dict that can be read"):
        build_learner(recipe, torch.device("cpu"), 1, Start(path, file_hash(path)))


def test_a_deep_network_from_nothing_starts_with_small_gradients() -> None:
    recipe = small("phantom-joint", architecture="resnet101")
    model = build_learner(recipe, torch.device("cpu"), 1, Start()).model
    rng = torch.Generator().manual_seed(5)
    logits, places = model(torch.randn(4, 3, 64, 64, generator=rng))
    assert places is not None
    (logits.square().mean() + places.square().mean()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert float(torch.nn.utils.get_total_norm(gradients)) < 100.0  # 4,200 where blocks add what is random


def test_a_subtype_run_may_start_from_another_run(phantom_cache: Cache, tmp_path: Path) -> None:
    first = fit(small("demo", epochs="1"), phantom_cache, tmp_path / "first", FitOptions())
    learner = build_learner(small("triage-subtype"), torch.device("cpu"), 1, Start(init=first.folder))
    taken, given = learner.network.state_dict(), load_network(first).state_dict()
    assert torch.equal(taken["trunk.layer4.1.conv2.weight"], given["trunk.layer4.1.conv2.weight"])
    assert torch.equal(taken["heads.4.weight"], given["heads.5.weight"])  # subdural: last of five, last of six


def test_a_run_may_start_from_a_pack(phantom_cache: Cache, tmp_path: Path) -> None:
    """Trunk, heads and pyramid where the heads are the same; else what both have."""
    torch.manual_seed(5)
    original = build("resnet18", 6, places=True)
    thresholds = Thresholds(0.8, 0.4, dict.fromkeys(SUBTYPES, 0.5))
    pixels = small("demo").preprocessing
    networks = Networks("resnet18", trunk="shared", places=True)
    folder = tmp_path / "tiny-1"
    write_pack(folder, Card("tiny", "1", "demonstration", networks, thresholds, pixels), original.state_dict())
    run = fit(small("demo", epochs="1", learning_rate="1e-9"), phantom_cache, tmp_path / "run",
              FitOptions(start=Start(init=folder)))  # fmt: skip
    assert run.facts["init"] == "tiny-1"
    given, taken = original.state_dict(), load_network(run).state_dict()
    for key in ("trunk.layer3.0.conv1.weight", "heads.3.weight", "pyramid.mix.2.weight", "pyramid.weight"):
        torch.testing.assert_close(taken[key], given[key], rtol=0, atol=1e-5)
    subtype = build_learner(small("triage-subtype", places="true"), torch.device("cpu"), 1, Start(init=folder))
    taken = subtype.network.state_dict()
    assert torch.equal(taken["heads.4.weight"], given["heads.5.weight"])
    assert not torch.equal(taken["pyramid.mix.2.weight"], given["pyramid.mix.2.weight"])  # it points at six labels
    with pytest.raises(DataError, match="its trunk is resnet18, not resnet34"):
        build_learner(small("demo", architecture="resnet34"), torch.device("cpu"), 1, Start(init=folder))


def test_places_are_learnt_from_where_bleeds_lie(phantom_cache: Cache) -> None:
    """The loss asks each place for the labels of bleeds that lie in it, and only for the recipe's heads."""
    truth = torch.zeros(1, 6, 64, 64)
    truth[0, 0, 20:22, 41:43] = truth[0, 5, 20:22, 41:43] = 1.0  # in place 2, 5
    right = torch.full((1, 6, 8, 8), -9.0)
    right[0, (0, 5), 2, 5] = 9.0
    wrong = right.roll(1, dims=3)
    recipe = small("demo")
    assert float(place_loss(recipe, right, truth)) < 0.01 < 0.1 < float(place_loss(recipe, wrong, truth))
    binary = small("demo", kind="binary")
    assert float(place_loss(binary, right[:, :1], truth)) < 0.01


def test_two_processes_train_one_network(phantom_cache: Cache, tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(
        f"import sys\nsys.path[:0] = [{str(Path(__file__).parents[1])!r}]\n"
        "import torch\ntorch.set_num_threads(1)\n"
        "from pathlib import Path\nfrom train.small import small\n"
        "from triage.train.cache import open_cache\nfrom triage.train.loop import FitOptions, fit\n"
        f"cache = open_cache(Path({str(phantom_cache.folder)!r}))\n"
        "recipe = small('triage-binary', pretrained='false', augmentation='none', window_jitter='false', "
        "precision='fp32', epochs='2', draws='32')\n"
        f"fit(recipe, cache, Path({str(tmp_path / 'two')!r}), FitOptions())\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)],
        capture_output=True, text=True, timeout=200, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    two = open_run(tmp_path / "two")
    assert (two.facts["processes"], two.facts["steps"], two.facts["finished"]) == (2, 4, True)
    # the same draws by one process; batch statistics are per process, so the losses agree only roughly
    recipe = small("triage-binary", pretrained="false", augmentation="none", window_jitter="false", precision="fp32",
                   epochs="2", draws="32")  # fmt: skip
    one = fit(recipe, phantom_cache, tmp_path / "one", FitOptions())
    assert epochs_of(two)[0]["train_loss"] == pytest.approx(epochs_of(one)[0]["train_loss"], rel=0.25)
    assert len(epochs_of(two)) == 2
