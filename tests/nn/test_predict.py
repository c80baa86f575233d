from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from triage.errors import ConfigError, StudyError
from triage.nn.architectures import build
from triage.nn.card import Calibration, Networks, Platt, Thresholds
from triage.nn.pack import Pack, load_pack, read_card, write_pack
from triage.nn.predict import aggregate, judge, pick_device, slabs_of, slice_probabilities
from triage.nn.preprocess import average_thin, prepare
from triage.records import ANY, LABELS, SUBTYPES, Judgement, Outcome, Priority, Slice, Volume

Write = Callable[..., Path]
MakeVolume = Callable[..., Volume]


def with_thresholds(pack: Pack, review: float, urgent: float, subtype: float = 0.5) -> Pack:
    thresholds = Thresholds(urgent, review, dict.fromkeys(SUBTYPES, subtype))
    return replace(pack, card=replace(pack.card, thresholds=thresholds))


@pytest.fixture
def pack(write: Write) -> Pack:
    """A random network whose answers depend on the image: its head is scaled so that slices differ."""
    pack = load_pack(write())
    return with_thresholds(pack, 0.0001, 0.9999, 0.0001)


def p_any(pack: Pack, volume: Volume) -> float:
    return judge(pack, volume).findings[0].p


def test_serving_and_training_give_identical_tensors(pack: Pack, volume: Volume) -> None:
    """Serving's probabilities are exactly those of networks fed with what training feeds: `prepare` of HU."""
    slabs, _ = average_thin(torch.from_numpy(volume.hu), volume.positions_mm, pack.card.preprocessing.slab_mm)
    images = prepare(slabs, pack.card.preprocessing, volume.spacing_mm)
    with torch.inference_mode():
        logits = pack.binary(images.contiguous(memory_format=torch.channels_last)).double()
    served = [s.p[ANY] for s in judge(pack, volume).slice_scores]
    assert served == pytest.approx(torch.sigmoid(logits)[:, 0].tolist(), abs=1e-12)


def test_a_positive_study_has_every_finding(pack: Pack, volume: Volume) -> None:
    judgement = judge(pack, volume)
    assert judgement.outcome is Outcome.POSITIVE
    assert [f.label for f in judgement.findings] == list(LABELS)
    assert [set(s.p) for s in judgement.slice_scores] == [set(LABELS)] * 6
    assert [s.sop_instance_uid for s in judgement.slice_scores] == [s.sop_instance_uid for s in volume.slices]
    assert judgement.device == "cpu"
    assert judgement.model == pack.identity


def test_a_negative_study_has_one_finding_and_no_subtypes(pack: Pack, volume: Volume) -> None:
    judgement = judge(with_thresholds(pack, 0.999, 0.999), volume)
    assert judgement.outcome is Outcome.NEGATIVE
    assert judgement.priority is Priority.ROUTINE
    assert [(f.label, f.present, f.key_slices) for f in judgement.findings] == [(ANY, False, ())]
    assert [set(s.p) for s in judgement.slice_scores] == [{ANY}] * 6


def test_priority_comes_from_two_thresholds(pack: Pack, volume: Volume) -> None:
    p = p_any(pack, volume)
    assert judge(with_thresholds(pack, p / 2, p), volume).priority is Priority.URGENT
    assert judge(with_thresholds(pack, p, (1 + p) / 2), volume).priority is Priority.REVIEW
    above = judge(with_thresholds(pack, (1 + p) / 2, (1 + p) / 2), volume)
    assert above.priority is Priority.ROUTINE


def test_the_same_volume_gives_the_same_judgement(pack: Pack, volume: Volume) -> None:
    first, second = (judge(pack, volume, with_maps=False) for _ in "ab")
    assert first == second
    assert replace(judge(pack, volume), activations=()) == first


def test_conditional_subtypes_are_multiplied_by_p_any(pack: Pack, volume: Volume) -> None:
    given = judge(pack, volume).slice_scores
    networks = replace(pack.card.networks, subtype_meaning="marginal")
    marginal = judge(replace(pack, card=replace(pack.card, networks=networks)), volume).slice_scores
    for g, m in zip(given, marginal, strict=True):
        for label in SUBTYPES:
            assert g.p[label] == pytest.approx(m.p[label] * m.p[ANY])


def test_calibration_is_applied_to_slices_and_to_the_study(pack: Pack, volume: Volume) -> None:
    plain = np.array([s.p[ANY] for s in judge(pack, volume).slice_scores])
    none = dict.fromkeys(LABELS, Platt())
    changed = Calibration(slice=none | {ANY: Platt(2.0, -1.0)}, study=none | {ANY: Platt(0.5, 0.25)})
    judgement = judge(replace(pack, card=replace(pack.card, calibration=changed, aggregation="max")), volume)
    expected = 1 / (1 + np.exp(-(2.0 * np.log(plain / (1 - plain)) - 1.0)))
    assert [s.p[ANY] for s in judgement.slice_scores] == pytest.approx(expected.tolist())
    top = float(expected.max())
    assert judgement.findings[0].p == pytest.approx(1 / (1 + np.exp(-(0.5 * np.log(top / (1 - top)) + 0.25))))


@pytest.mark.parametrize(
    ("aggregation", "scores", "expected"),
    [
        ("top3_mean", [0.1, 0.9, 0.2, 0.8, 0.7], 0.8),
        ("top3_mean", [0.2, 0.4], 0.3),
        ("max", [0.1, 0.9, 0.2], 0.9),
        ("run2", [0.1, 0.9, 0.2, 0.6, 0.5], 0.5),
        ("run2", [0.3], 0.3),
    ],
)
def test_aggregations(aggregation: str, scores: list[float], expected: float) -> None:
    assert aggregate(aggregation, np.array(scores)) == pytest.approx(expected)  # type: ignore[arg-type]  # literals


def test_key_slices_are_the_highest_first_and_at_most_five(pack: Pack, make_volume: MakeVolume) -> None:
    judgement = judge(pack, make_volume(n=12))
    for finding in judgement.findings:
        scores = [s.p[finding.label] for s in judgement.slice_scores]
        keys = finding.key_slices
        assert 1 <= len(keys) <= 5
        assert [scores[k] for k in keys] == sorted(scores, reverse=True)[: len(keys)]
        assert min(scores[k] for k in keys) >= 0.5 * max(scores)


def test_absent_subtypes_have_no_key_slices(pack: Pack, volume: Volume) -> None:
    judgement = judge(with_thresholds(pack, 0.0001, 0.9, 0.9999), volume)
    assert judgement.findings[0].key_slices
    assert {(f.present, f.key_slices) for f in judgement.findings[1:]} == {(False, ())}


def test_thin_slices_share_the_score_of_their_slab(pack: Pack, make_volume: MakeVolume) -> None:
    judgement = judge(pack, make_volume(n=16, spacing_mm=1.25))
    scores = [s.p[ANY] for s in judgement.slice_scores]
    assert [len(set(scores[i : i + 4])) for i in (0, 4, 8, 12)] == [1, 1, 1, 1]
    assert len(set(scores)) == 4
    assert set(judgement.findings[0].key_slices) <= {1, 5, 9, 13}  # nearest the slab's centre; the first of two


def test_overlapping_thick_slices_are_not_averaged(make_volume: MakeVolume) -> None:
    overlapping = replace(make_volume(n=8, spacing_mm=1.25), thickness_mm=5.0)
    assert len(slabs_of(overlapping, 5.0)[0]) == 8


def test_long_series_go_in_bounded_batches(pack: Pack, make_volume: MakeVolume) -> None:
    sizes = []
    hook = pack.binary.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    judge(pack, make_volume(n=35))
    hook.remove()
    assert sizes == [16, 16, 3]


def test_one_slice_of_unknown_geometry_can_be_judged(pack: Pack) -> None:
    volume = Volume(np.full((1, 80, 60), 30.0, np.float32), (Slice("1.2.3"),), (0.0,), (1.0, 1.0), 0.0)
    assert len(judge(pack, volume).slice_scores) == 1


def test_a_read_only_volume_is_taken_and_left_as_it_is(pack: Pack, volume: Volume) -> None:
    before = volume.hu.copy()
    volume.hu.setflags(write=False)
    judge(pack, volume)
    assert np.array_equal(volume.hu, before)


def test_what_is_not_finite_is_no_result(pack: Pack, volume: Volume) -> None:
    broken = volume.hu.copy()
    broken[2, 5, 5] = np.nan
    with pytest.raises(StudyError, match="volume holds values"):
        judge(pack, replace(volume, hu=broken))
    with pytest.raises(StudyError, match="no slices"):
        judge(pack, replace(volume, hu=volume.hu[:0], slices=(), positions_mm=()))
    pack.binary.heads[0].bias.fill_(torch.inf)  # type: ignore[index, union-attr]  # a Linear
    with pytest.raises(StudyError, match="image 1 of 6 is not a finite number"):
        judge(pack, volume)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_changes_little(pack: Pack, volume: Volume, precision: str) -> None:
    assert p_any(pack, volume) == pytest.approx(judge(pack, volume, precision).findings[0].p, abs=0.03)


def test_both_networks_are_asked(pack: Pack, volume: Volume) -> None:
    slabs, _ = slabs_of(volume, 5.0)
    assert set(slice_probabilities(pack, slabs, volume.spacing_mm, (ANY,))) == {ANY}
    assert set(slice_probabilities(pack, slabs, volume.spacing_mm, SUBTYPES)) == set(SUBTYPES)


def shared_pack(write: Write) -> Pack:
    return load_pack(write(networks=Networks("resnet18", trunk="shared")))


def passes(pack: Pack, volume: Volume) -> tuple[Judgement, int]:
    """A judgement, and how often a network ran for it."""
    ran = []
    hooks = [n.register_forward_hook(lambda *_: ran.append(1)) for n in {*pack.networks.values()}]
    judgement = judge(pack, volume)
    for hook in hooks:
        hook.remove()
    return judgement, len(ran)


def test_a_shared_trunk_answers_everything_in_one_pass(write: Write, pack: Pack, volume: Volume) -> None:
    shared = shared_pack(write)
    judgement, ran = passes(with_thresholds(shared, 0.0001, 0.9), volume)
    assert ran == 1
    assert passes(pack, volume)[1] == 2
    assert [f.label for f in judgement.findings] == list(LABELS)
    slabs, _ = slabs_of(volume, 5.0)
    raw = slice_probabilities(shared, slabs, volume.spacing_mm, (ANY,))
    assert list(raw) == list(LABELS)
    for label in SUBTYPES:
        expected = (raw[label] * raw[ANY]).tolist()
        assert [s.p[label] for s in judgement.slice_scores] == pytest.approx(expected, abs=1e-15)


def test_a_shared_trunk_says_nothing_of_subtypes_in_a_negative_study(write: Write, volume: Volume) -> None:
    judgement, ran = passes(with_thresholds(shared_pack(write), 0.999, 0.999), volume)
    assert ran == 1
    assert [f.label for f in judgement.findings] == [ANY]
    assert [set(s.p) for s in judgement.slice_scores] == [{ANY}] * 6


def test_shared_and_separate_heads_of_one_trunk_judge_alike(tmp_path: Path, write: Write, volume: Volume) -> None:
    """The same weights in both forms give the same judgement, so the form is a matter of speed only."""
    torch.manual_seed(9)
    whole = build("resnet18", 6)
    parts = build("resnet18", 1), build("resnet18", 5)
    for part, heads in zip(parts, (whole.heads[:1], whole.heads[1:]), strict=True):
        part.trunk.load_state_dict(whole.trunk.state_dict())
        part.heads.load_state_dict(heads.state_dict())
    card = read_card(write(thresholds=Thresholds(0.9, 0.0001, dict.fromkeys(SUBTYPES, 0.1))))
    write_pack(tmp_path / "two", card, *(part.state_dict() for part in parts))
    shared = replace(card, networks=replace(card.networks, trunk="shared"))
    write_pack(tmp_path / "one", shared, whole.state_dict())
    two, one = (judge(load_pack(tmp_path / name), volume) for name in ("two", "one"))
    assert (one.priority, one.outcome) == (two.priority, two.outcome)
    for a, b in zip(one.slice_scores, two.slice_scores, strict=True):
        assert a.p == pytest.approx(b.p, abs=1e-6)


def test_resnet152_judges(write: Write, make_volume: MakeVolume) -> None:
    pack = load_pack(write(networks=Networks("resnet152", storage="int8")))
    judgement = judge(with_thresholds(pack, 0.0001, 0.9), make_volume(n=2))
    assert [f.label for f in judgement.findings] == list(LABELS)
    assert judgement.model.architecture == "resnet152"


def test_devices() -> None:
    assert pick_device("cpu").type == "cpu"
    if torch.cuda.is_available():
        assert pick_device("auto").type == "cuda"
    else:
        assert pick_device("auto").type == "cpu"
        with pytest.raises(ConfigError, match=r"model\.device"):
            pick_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu(write: Write, volume: Volume) -> None:
    folder = write()
    cpu = judge(load_pack(folder), volume)
    pack = load_pack(folder, pick_device("cuda"))
    assert judge(pack, volume, with_maps=False) == judge(pack, volume, with_maps=False)
    assert judge(pack, volume).device.startswith("cuda:0 (")
    for precision, tolerance in (("fp32", 1e-3), ("auto", 0.03)):
        assert judge(pack, volume, precision).findings[0].p == pytest.approx(cpu.findings[0].p, abs=tolerance)
    maps = {(a.label, a.index): a.values for a in cpu.activations}
    for a in judge(pack, volume, "fp32").activations:
        assert a.values == pytest.approx(maps.get((a.label, a.index), a.values), abs=1e-2)
