"""The model card, card.toml <-> Card: all facts about a model and every check of them; reads no weights.

    card.toml --tomllib--> tables --types checked--> Card --values checked--> Card

Unknown keys are errors, so that a misspelt threshold cannot be passed over in silence.
"""

import dataclasses
import math
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from triage.errors import PackError
from triage.nn.architectures import ARCHITECTURES, RESNETS, THESIS_CNN, THESIS_CNN_PX
from triage.nn.preprocess import Preprocessing
from triage.records import HU_MIN, LABELS, SUBTYPES

CARD_NAME = "card.toml"

FORMAT = 1
"""Version of the card's layout; a reader refuses any other."""

BINARY_FILE, SUBTYPE_FILE = "binary.safetensors", "subtype.safetensors"
"""The weight files of a pack whose two networks have a trunk each."""

SHARED_FILE = "network.safetensors"
"""The weight file of a pack whose six heads share one trunk."""

SIZE_PX = range(32, 1025)
"""Input sizes that a 32-fold downsampling ResNet can take and a node can hold in memory."""

FOV_MM, SLAB_MM = 1000, 20
"""Largest field of view and thickest slab that a card may ask for."""

Storage = Literal["int8", "fp16", "fp32"]
"""How weights lie in the files; they are fp32 once loaded. int8 is per output channel with a float scale."""

Aggregation = Literal["top3_mean", "max", "run2"]
"""Slice scores -> study score: mean of the three highest, the highest, or the highest of two neighbours' lower ones."""

SubtypeMeaning = Literal["given_any", "marginal"]
"""What a subtype head was trained to say: P(subtype | slice shows a bleed), or P(subtype) on any slice."""


Trunk = Literal["separate", "shared"]
"""Binary and subtype model with a trunk each, so positive studies take two passes; or all heads on one, one pass."""


@dataclass(frozen=True, slots=True)
class Networks:
    """What the weight files hold."""

    architecture: str
    """Of every network; one of `architectures.ARCHITECTURES`."""
    labels: tuple[str, ...] = LABELS
    """The binary model's label, then those of the subtype model's heads in order."""
    storage: Storage = "fp32"
    subtype_meaning: SubtypeMeaning = "given_any"
    trunk: Trunk = "separate"
    places: bool = False
    """The heads weigh places too, which a feature pyramid on the trunk finds; activation maps show those."""

    @property
    def heads(self) -> dict[str, tuple[str, ...]]:
        """By weight file, the labels of its network's heads in order."""
        if self.trunk == "shared":
            return {SHARED_FILE: self.labels}
        return {BINARY_FILE: self.labels[:1], SUBTYPE_FILE: self.labels[1:]}


@dataclass(frozen=True, slots=True)
class Platt:
    """Calibration of one probability: sigmoid(scale * logit + bias), a logistic fit (Platt 1999)."""

    scale: float = 1.0
    bias: float = 0.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration by label: of each head on slices, then of the aggregated score on studies."""

    slice: dict[str, Platt] = field(default_factory=lambda: dict.fromkeys(LABELS, Platt()))
    study: dict[str, Platt] = field(default_factory=lambda: dict.fromkeys(LABELS, Platt()))


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where probabilities become findings and priorities."""

    urgent: float
    """P(any) of a study from which its priority is urgent."""
    review: float
    """P(any) of a study from which it is positive and its priority at least review."""
    subtypes: dict[str, float]
    """By subtype, the study probability from which it is present."""


@dataclass(frozen=True, slots=True)
class Training:
    """Where the weights come from."""

    data: str = ""
    run: str = ""
    """Command, seeds, software, hardware and duration, so that the run can be repeated."""
    manifest: str = ""
    """SHA-256 of the training cache's manifest; empty where the weights do not come from a cache."""
    split_salt: str = ""
    """Of the split by patient; with the manifest it says which slices were never trained on."""


@dataclass(frozen=True, slots=True)
class Auroc:
    """Area under the ROC curve of one label, and from how many."""

    slice: float
    study: float
    positive_slices: int
    positive_studies: int


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What one threshold on P(any) does to studies."""

    sensitivity: float
    specificity: float


@dataclass(frozen=True, slots=True)
class CalibrationError:
    """Expected calibration error of slice probabilities, 15 bins of equal mass."""

    before: float
    """Of the logits as trained: a sampler shifts them."""
    after: float


@dataclass(frozen=True, slots=True)
class Performance:
    """What was measured, on what; never on data that were trained on."""

    data: str = ""
    n_slices: int = 0
    n_studies: int = 0
    auroc: dict[str, Auroc] = field(default_factory=dict)
    """By label."""
    operation: dict[str, OperatingPoint] = field(default_factory=dict)
    """By name of the threshold."""
    notes: tuple[str, ...] = ()
    storage_loss: dict[str, float] = field(default_factory=dict)
    """By label, what the storage of the weights costs: AUROC by slice of the fp32 network minus that of the stored."""
    calibration_error: dict[str, CalibrationError] = field(default_factory=dict)
    """By label."""


@dataclass(frozen=True, slots=True)
class Card:
    """Everything a pack says about itself."""

    name: str
    version: str
    intended_use: Literal["demonstration", "site-validated"]
    networks: Networks
    thresholds: Thresholds
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    calibration: Calibration = field(default_factory=Calibration)
    aggregation: Aggregation = "top3_mean"
    training: Training = field(default_factory=Training)
    performance: Performance = field(default_factory=Performance)
    limits: tuple[str, ...] = ()
    """What the model must not be used for, in sentences for a person."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 (hexadecimal) by file name."""
    format: int = FORMAT

    def all_thresholds(self) -> dict[str, float]:
        """Every threshold by name: "urgent", "review" and the subtype labels."""
        return {"urgent": self.thresholds.urgent, "review": self.thresholds.review, **self.thresholds.subtypes}


def read_card(folder: Path) -> Card:
    """Read and check the card of a pack.

    Args:
        folder: The pack, `models/<name>-<version>/`.

    Returns:
        The card; the files it names are not looked at.

    Raises:
        PackError: The folder or card is missing, or a key or value is wrong; one line that names it and the mend.
    """
    return parse_card(read_text(folder), folder / CARD_NAME)


def read_text(folder: Path) -> str:
    """The text of a pack's card. Raises PackError when there is none."""
    path = folder / CARD_NAME
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as e:
        raise PackError(f"{path}: cannot be read ({e.strerror}); set model.pack to the folder of a model pack") from e
    except UnicodeDecodeError as e:
        raise PackError(f"{path}: not UTF-8 text; get the pack again") from e


def parse_card(text: str, path: Path) -> Card:
    """Read and check the text of a card; `path` is for messages. Raises PackError as `read_card` does."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise PackError(f"{path}: not valid TOML: {e}; get the pack again") from e
    try:
        if table.get("format") != FORMAT:
            raise PackError(f"format is {table.get('format')!r}, this version reads {FORMAT}; get a matching pack")
        card: Card = _record(Card, table, "")
        check(card)
    except PackError as e:
        raise PackError(f"{path}: {e}") from None
    return card


def check(card: Card) -> None:
    """Check the values of a card against each other.

    Args:
        card: Any card whose fields have the right types.

    Raises:
        PackError: A value is out of range or disagrees with another one.
    """
    _require(bool(card.name and card.version), "name and version must not be empty")
    architecture, labels = card.networks.architecture, card.networks.labels
    _require(architecture in ARCHITECTURES, f"networks.architecture {architecture!r} is not one of {ARCHITECTURES}")
    _require(
        not card.networks.places or architecture in RESNETS,
        f"networks.places needs an architecture of {RESNETS}, not {architecture!r}",
    )
    _require(labels == LABELS, f"networks.labels must be {list(LABELS)}, not {list(labels)}")
    _check_preprocessing(card.preprocessing)
    _require(
        architecture != THESIS_CNN or card.preprocessing.crop_px == THESIS_CNN_PX,
        f"preprocessing.crop_px must be {THESIS_CNN_PX} for {THESIS_CNN}, not {card.preprocessing.crop_px}",
    )
    limits = card.thresholds
    _require(
        0 < limits.review <= limits.urgent < 1,
        f"thresholds: 0 < review <= urgent < 1 does not hold for {limits.review} and {limits.urgent}",
    )
    _require(set(limits.subtypes) == set(SUBTYPES), f"thresholds.subtypes must name each of {list(SUBTYPES)} once")
    for label, value in limits.subtypes.items():
        _require(0 < value < 1, f"thresholds.subtypes.{label} is {value}, not between 0 and 1")
    for level, platts in (("slice", card.calibration.slice), ("study", card.calibration.study)):
        _require(set(platts) == set(LABELS), f"calibration.{level} must name each of {list(LABELS)} once")
        for label, platt in platts.items():
            _require(
                platt.scale > 0 and math.isfinite(platt.scale) and math.isfinite(platt.bias),
                f"calibration.{level}.{label}: scale must be positive and both finite, not {platt.scale}, {platt.bias}",
            )
    validated = card.intended_use == "site-validated"
    _require(
        not validated or card.performance.n_studies > 0,
        'intended_use "site-validated" needs measured performance: performance.n_studies is 0',
    )


def _check_preprocessing(preprocessing: Preprocessing) -> None:
    for window in preprocessing.windows:
        where = f"preprocessing.windows {window.name!r}"
        _require(0 < window.width_hu < math.inf, f"{where}: width_hu is {window.width_hu}, must be positive")
        low = window.center_hu - window.width_hu / 2
        _require(low >= HU_MIN, f"{where}: begins at {low} HU, must not begin below {HU_MIN}")
    resize, crop = preprocessing.resize_px, preprocessing.crop_px
    _require(
        crop in SIZE_PX and resize in SIZE_PX and crop <= resize,
        f"preprocessing: resize_px {resize} and crop_px {crop} must be 32..1024 and crop_px not the larger",
    )
    _require(all(0 < s < math.inf for s in preprocessing.std), "preprocessing.std must be positive")
    _require(all(math.isfinite(m) for m in preprocessing.mean), "preprocessing.mean must be finite")
    fov_mm, slab_mm = preprocessing.fov_mm, preprocessing.slab_mm
    _require(0 <= fov_mm <= FOV_MM, f"preprocessing.fov_mm is {fov_mm}, not 0..{FOV_MM}")
    _require(0 <= slab_mm <= SLAB_MM, f"preprocessing.slab_mm is {slab_mm}, not 0..{SLAB_MM}")


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise PackError(f"{problem}; correct the card or get the pack again")


def _record(kind: type, table: Mapping[str, Any], where: str) -> Any:
    """Build a frozen record from a TOML table; unknown, missing and mistyped keys are named."""
    hints = get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind)}
    for key in table:
        _require(key in known, f"{where}{key}: unknown key")
    values = {}
    for name, spec in known.items():
        if name in table:
            values[name] = _value(hints[name], table[name], f"{where}{name}")
        else:
            optional = spec.default is not dataclasses.MISSING or spec.default_factory is not dataclasses.MISSING
            _require(optional, f"{where}{name}: missing key")
    return kind(**values)


def _value(kind: Any, value: Any, where: str) -> Any:
    """Check one TOML value against a field's type, which is made of the few forms that cards use."""
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        _require(isinstance(value, dict), f"{where}: must be a table")
        return _record(kind, value, f"{where}.")
    if origin is dict:
        _require(isinstance(value, dict), f"{where}: must be a table")
        return {key: _value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is tuple:
        _require(isinstance(value, list), f"{where}: must be a list")
        if arguments[-1] is types.EllipsisType or arguments[-1] is ...:
            arguments = (arguments[0],) * len(value)
        _require(len(value) == len(arguments), f"{where}: must have {len(arguments)} entries, has {len(value)}")
        return tuple(_value(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(arguments, value, strict=True)))
    if origin is Literal:
        _require(value in arguments, f"{where}: {value!r} is not one of {list(arguments)}")
        return value
    if kind is float and type(value) is int:
        return float(value)
    _require(type(value) is kind, f"{where}: must be {kind.__name__}, is {value!r}")
    return value


def write_card(folder: Path, card: Card) -> None:
    """Write card.toml, readable for a person and by `read_card`."""
    text = f"# Model card of {card.name} {card.version}. The pack's hash covers this file: do not edit it.\n\n"
    (folder / CARD_NAME).write_text(text + _toml(dataclasses.asdict(card)), encoding="utf-8")


def _toml(table: Mapping[str, Any], path: str = "") -> str:
    """TOML text of nested tables; tables whose values are all scalars lie in one line below their parent."""
    lines, below = [], []
    for key, value in table.items():
        if isinstance(value, dict) and (not path or any(isinstance(v, dict) for v in value.values())):
            name = f"{path}.{_quote_key(key)}" if path else _quote_key(key)
            below.append(f"\n[{name}]\n{_toml(value, name)}")
        else:
            lines.append(f"{_quote_key(key)} = {_scalar(value)}\n")
    return "".join(lines + below)


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        escaped = "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in value)
        return f'"{escaped}"'
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_quote_key(k)} = {_scalar(v)}" for k, v in value.items()) + " }"
    items = [_scalar(v) for v in value]
    if sum(map(len, items)) > 100:  # long lists one entry a line
        return "[\n" + "".join(f"    {item},\n" for item in items) + "]"
    return "[" + ", ".join(items) + "]"


def _quote_key(key: str) -> str:
    return key if key.replace("_", "a").replace("-", "a").isalnum() and key.isascii() else _scalar(key)
