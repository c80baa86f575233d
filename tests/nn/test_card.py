import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from triage.errors import PackError
from triage.nn.card import (
    Auroc,
    Calibration,
    CalibrationError,
    Card,
    Networks,
    OperatingPoint,
    Performance,
    Platt,
    Thresholds,
    Training,
    parse_card,
    read_card,
    write_card,
)
from triage.nn.preprocess import Preprocessing
from triage.records import LABELS, SUBTYPES

FULL = Card(
    name="tiny",
    version="1.2",
    intended_use="demonstration",
    networks=Networks("resnet18"),
    thresholds=Thresholds(0.8, 0.4, dict.fromkeys(SUBTYPES, 0.5)),
    preprocessing=Preprocessing(resize_px=64, crop_px=64),
    calibration=Calibration(
        {label: Platt(0.5 + i, -i / 3) for i, label in enumerate(LABELS)}, dict.fromkeys(LABELS, Platt())
    ),
    aggregation="run2",
    training=Training('phantoms "only"\nseeds 1 to 5', "train\\run μ", "ab" * 32, "1"),
    performance=Performance("other phantoms", 640, 20, {"any": Auroc(0.9, 0.95, 100, 12)},
                            {"review": OperatingPoint(1.0, 0.75)}, ("a note", "b" * 120), {"any": -0.0012},
                            {"any": CalibrationError(0.2, 0.01)}),
    limits=("not for patients",),
    files={"binary.safetensors": "00", "subtype.safetensors": "11"},
)  # fmt: skip


def test_a_card_reads_back_equal(tmp_path: Path) -> None:
    write_card(tmp_path, FULL)
    assert read_card(tmp_path) == FULL


def test_a_card_from_before_shared_trunks_still_reads(tmp_path: Path) -> None:
    write_card(tmp_path, FULL)
    text = (tmp_path / "card.toml").read_text(encoding="utf-8")
    for line in ('trunk = "separate"\n', 'split_salt = "1"\n', "storage_loss = { any = -0.0012 }\n"):
        assert line in text
        text = text.replace(line, "")
    card = parse_card(text, tmp_path / "card.toml")
    assert card.networks == FULL.networks
    assert list(card.networks.heads) == ["binary.safetensors", "subtype.safetensors"]


def test_thresholds_by_name() -> None:
    assert FULL.all_thresholds() == {"urgent": 0.8, "review": 0.4, **dict.fromkeys(LABELS[1:], 0.5)}


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("format = 1", "format = 2", "format is 2"),
        ('name = "tiny"', 'name = ""', "name and version"),
        ('name = "tiny"\n', "", "name: missing key"),
        ('intended_use = "demonstration"', 'intended_use = "clinical"', "intended_use: 'clinical'"),
        ("urgent = 0.8", "urgent = 0.3", "review <= urgent"),
        ("urgent = 0.8", "urgent = 1.0", "review <= urgent"),
        ("urgent = 0.8", "urgent = nan", "review <= urgent"),
        ("urgent = 0.8", 'urgent = "0.8"', "thresholds.urgent: must be float"),
        ("urgent = 0.8", "urgent = true", "thresholds.urgent: must be float"),
        ("review = 0.4", "review = 0.4\nrewiev = 0.4", "thresholds.rewiev: unknown key"),
        ("epidural = 0.5", "epidural = 0.0", "thresholds.subtypes.epidural"),
        ("epidural = 0.5", "extradural = 0.5", "thresholds.subtypes must name"),
        ("resnet18", "vgg16", "networks.architecture"),
        ("resnet18", "thesis-cnn", "crop_px must be 224 for thesis-cnn, not 64"),
        ('trunk = "separate"', 'trunk = "common"', "networks.trunk: 'common'"),
        ("places = false", "places = 1", "networks.places: must be bool"),
        ('"epidural", "intraparenchymal"', '"intraparenchymal", "epidural"', "networks.labels"),
        ("width_hu = 80.0", "width_hu = 0.0", "width_hu is 0.0"),
        ("center_hu = 40.0, width_hu = 80.0", "center_hu = -1000.0, width_hu = 80.0", "begins at -1040.0 HU"),
        ("crop_px = 64", "crop_px = 65", "crop_px not the larger"),
        ("crop_px = 64", "crop_px = 8", "must be 32..1024"),
        ("mean = [0.485, 0.456, 0.406]", "mean = [0.485]", "preprocessing.mean: must have 3 entries, has 1"),
        ("std = [0.229,", "std = [0.0,", "preprocessing.std"),
        ('order = "resize_then_window"', 'order = "crop"', "preprocessing.order"),
        ("slab_mm = 5.0", "slab_mm = -5.0", "preprocessing.slab_mm"),
        ('aggregation = "run2"', 'aggregation = "noisy_or"', "aggregation"),
        ("any = { scale = 0.5", "any = { scale = -0.5", "calibration.slice.any"),
        ("any = { scale = 0.5", "everything = { scale = 0.5", "calibration.slice must name"),
        ("[networks]", "[networks", "not valid TOML"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(tmp_path: Path, old: str, new: str, problem: str) -> None:
    write_card(tmp_path, FULL)
    text = (tmp_path / "card.toml").read_text(encoding="utf-8")
    assert old in text
    with pytest.raises(PackError) as caught:
        parse_card(text.replace(old, new, 1), tmp_path / "card.toml")
    assert problem in str(caught.value)
    assert "card.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_places_need_stages(tmp_path: Path) -> None:
    networks = Networks("thesis-cnn", places=True)
    write_card(tmp_path, replace(FULL, networks=networks, preprocessing=Preprocessing()))
    with pytest.raises(PackError, match=r"networks\.places needs an architecture of .*, not 'thesis-cnn'"):
        read_card(tmp_path)


def test_site_validated_needs_measurements(tmp_path: Path) -> None:
    write_card(tmp_path, replace(FULL, intended_use="site-validated"))
    assert read_card(tmp_path).intended_use == "site-validated"
    write_card(tmp_path, replace(FULL, intended_use="site-validated", performance=Performance()))
    with pytest.raises(PackError, match="needs measured performance"):
        read_card(tmp_path)


def test_a_missing_card_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"cannot be read .*set model\.pack"):
        read_card(tmp_path / "nothing")


def test_a_card_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "card.toml").write_bytes(b"\x80\x81")
    with pytest.raises(PackError, match="not UTF-8"):
        read_card(tmp_path)


def test_the_card_is_plain_toml_for_other_readers(tmp_path: Path) -> None:
    write_card(tmp_path, FULL)
    table = tomllib.loads((tmp_path / "card.toml").read_text(encoding="utf-8"))
    assert [w["name"] for w in table["preprocessing"]["windows"]] == ["brain", "subdural", "soft"]
    assert table["performance"]["auroc"]["any"]["study"] == 0.95
    assert table["training"]["data"] == 'phantoms "only"\nseeds 1 to 5'
