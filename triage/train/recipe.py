"""What a recipe is: every decision of a training run, as a typed document; its checks and its text. Reads no data.

    fields --overridden: text from a command line--> fields --checked--> Recipe <--> JSON document, table for a person

A field is *stated* by the source, *inferred* from what the source says, or *assumed* where it is silent (for our own
recipes: chosen). "The source" is a bachelor thesis (STU Bratislava, 2021) on the RSNA 2019 data.
"""

import dataclasses
import json
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from triage.errors import DataError
from triage.nn.architectures import ARCHITECTURES, RESNETS
from triage.nn.card import FOV_MM, SIZE_PX, SLAB_MM, Aggregation
from triage.nn.preprocess import Preprocessing, Window
from triage.records import ANY, HU_MIN, LABELS, SUBTYPES

Kind = Literal["binary", "subtype", "joint"]
"""One head for any bleed; five for the subtypes of slices that bleed; or all six on one trunk."""

Origin = Literal["stated", "inferred", "assumed"]
Origins = dict[str, tuple[Origin, str]]

Choice = Literal["above_middle_5", "all"]
"""Which slices of a study: the five above its middle (the source), or all."""

Split = Literal["image-random", "patient"]
Sampler = Literal["plain", "class_weighted", "balanced"]
"""plain: every slice once an epoch. class_weighted: weights 1/count, with replacement (the source). balanced: half of
the draws without a bleed, the other half spread over the subtypes alike."""

Augmentation = Literal["none", "crop_flip", "heads"]
"""crop_flip: a random crop and mirroring. heads: pose, sharpness, contrast, shading and noise in Hounsfield units."""

Optimiser = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "plateau", "cosine"]
Trainable = Literal["all", "last_block", "heads"]
Precision = Literal["fp32", "bf16", "fp16"]
Select = Literal["best_f1", "best_loss", "last"]
"""Which epoch's weights count: the highest macro F1 or the lowest loss on the watched part, or the last."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what a training run does, given a cache."""

    name: str
    title: str
    kind: Kind
    architecture: str = "resnet152"
    pretrained: bool = True
    """Starts from weights in a local file; False: from random ones."""
    choice: Choice = "all"
    split: Split = "patient"
    split_salt: str = "1"
    """Decides the split together with the patients' hashes, or for image-random with the slices' names."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    augmentation: Augmentation = "heads"
    window_jitter: bool = True
    """Shift centre and width of each window a little, for each image."""
    sampler: Sampler = "balanced"
    draws: int = 0
    """Slices an epoch; 0: as many as the part trained on has."""
    fresh: int = 0
    """Phantoms made anew for every epoch and trained on in place of the cache's training part; 0: none."""
    loss_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    """Of each label's binary cross entropy, as LABELS; only those of the recipe's heads count."""
    places: bool = False
    """The heads weigh places too, which a feature pyramid on a ResNet finds; activation maps show those."""
    place_weight: float = 0.0
    """Weight of a loss that asks where each bleed lies; needs places, and a cache that knows (phantoms). 0: not
    asked."""
    optimiser: Optimiser = "adamw"
    learning_rate: float = 1e-4
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule = "cosine"
    warm_up: float = 0.05
    """Part of all steps over which a cosine schedule rises."""
    plateau_patience: int = 2
    """Epochs without a lower loss on the watched part before a plateau schedule lowers the rate."""
    plateau_factor: float = 0.1
    clip_norm: float = 0.0
    """Largest norm of the gradient; 0: not limited."""
    trainable: Trainable = "all"
    batch: int = 32
    coarse_share: float = 0.0
    """Part of all steps, the first ones, in which the network sees smaller images, which is quicker."""
    coarse_px: int = 96
    """Side of those images."""
    epochs: int = 10
    max_steps: int = 0
    """Stop after so many steps whatever the epochs; 0: no limit."""
    precision: Precision = "fp32"
    channels_last: bool = False
    compiled: bool = False
    """Run the network through torch.compile; for a GPU."""
    deterministic: bool = False
    """Only algorithms that give the same bits every time (on a GPU; a CPU always does)."""
    select: Select = "best_loss"
    aggregation: Aggregation = "top3_mean"
    """Slice scores to a study's score, when studies are measured and served."""
    seed: int = 1
    origins: Origins = field(default_factory=dict)
    """By field, or by "preprocessing." and one of its fields: where the value comes from and why; "preprocessing"
    speaks for all of its fields together."""
    overrides: dict[str, str] = field(default_factory=dict)
    """What a command line changed: field to the value before, as text."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the heads, in order."""
        return {"binary": (ANY,), "subtype": SUBTYPES, "joint": LABELS}[self.kind]

    @property
    def columns(self) -> tuple[int, ...]:
        """Of those labels in LABELS."""
        return tuple(LABELS.index(label) for label in self.labels)


MOST_FRESH = 1_000_000
"""Fresh phantoms an epoch, at most: so many seeds are set apart for each."""

FIXED = ("name", "title", "origins", "overrides")
"""Fields that no command line changes."""

PIXELS = "preprocessing"
"""The one field that is a record; its own fields are named "preprocessing.resize_px" and so on."""


def overridden(recipe: Recipe, changes: Mapping[str, str]) -> Recipe:
    """A recipe with some fields set from text, and a record of what they were.

    Args:
        recipe: Any.
        changes: Field to value as text, e.g. {"batch": "64", "preprocessing.resize_px": "128"}; lists are JSON, windows
            as [["brain", 40, 80], ...].

    Returns:
        The changed recipe, checked.

    Raises:
        DataError: A field is unknown or a value is not of its type; the message says what is.
    """
    before = dict(recipe.overrides)
    for key, text in changes.items():
        outer, _, inner = key.partition(".")
        before.setdefault(key, as_text(value_of(recipe, _known(key))))
        value: Any = _parsed(Preprocessing if inner else Recipe, inner or outer, text, key)
        changed: dict[str, Any] = {outer: replace(recipe.preprocessing, **{inner: value}) if inner else value}
        recipe = replace(recipe, **changed)
    return checked(replace(recipe, overrides=before))


def field_names() -> tuple[str, ...]:
    """Every field that can be set, in order, those of the preprocessing one by one."""
    inner = tuple(f"{PIXELS}.{f.name}" for f in fields(Preprocessing))
    names: list[str] = []
    for one in fields(Recipe):
        if one.name not in FIXED:
            names += inner if one.name == PIXELS else (one.name,)
    return tuple(names)


def value_of(recipe: Recipe, name: str) -> Any:
    """The value of a field by the name that `field_names` gives it."""
    outer, _, inner = name.partition(".")
    return getattr(recipe.preprocessing, inner) if inner else getattr(recipe, outer)


def as_text(value: Any) -> str:
    """A value as a person reads it; windows as name and centre/width in HU."""
    if isinstance(value, Window):
        return f"{value.name} {value.center_hu:g}/{value.width_hu:g}"
    if isinstance(value, tuple):
        return ", ".join(as_text(one) for one in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def recipe_table(recipe: Recipe) -> list[tuple[str, str, str, str]]:
    """A recipe for a person to read.

    Args:
        recipe: Any.

    Returns:
        For every field: its name as a command line takes it, its value, where that comes from, and why.
    """
    return [(name, as_text(value_of(recipe, name)), *origin_of(recipe, name)) for name in field_names()]


def origin_of(recipe: Recipe, name: str) -> tuple[Origin, str]:
    """Where a field's value comes from, and why; of a changed or an idle field the reason says so."""
    outer = name.partition(".")[0]
    changed = [key for key in recipe.overrides if key == name or key.startswith(f"{name}.")]
    if changed:
        return "assumed", "set on the command line; " + ", ".join(f"{k} was {recipe.overrides[k]}" for k in changed)
    if idle := _idle(recipe).get(name):
        return "assumed", f"not used: {idle}"
    return recipe.origins.get(name) or recipe.origins.get(outer) or ("assumed", "")


def _idle(recipe: Recipe) -> dict[str, str]:
    """Fields that another field's value leaves without effect, and which."""
    idle = {}
    if recipe.optimiser != "sgd":
        idle["momentum"] = f"the optimiser is {recipe.optimiser}"
    if recipe.schedule != "cosine":
        idle["warm_up"] = f"the schedule is {recipe.schedule}"
    if recipe.schedule != "plateau":
        idle |= dict.fromkeys(("plateau_patience", "plateau_factor"), f"the schedule is {recipe.schedule}")
    if not recipe.coarse_share:
        idle["coarse_px"] = "coarse_share is 0"
    return idle


def _known(key: str) -> str:
    if key not in field_names():
        raise DataError(f"--set {key}: no such field; a recipe has {', '.join(field_names())}")
    return key


def _parsed(kind: type, name: str, text: str, key: str) -> Any:
    wanted = get_type_hints(kind)[name]
    if get_origin(wanted) is Literal:
        if text not in get_args(wanted):
            raise DataError(f"--set {key}={text}: use one of {', '.join(get_args(wanted))}")
        return text
    if wanted is str:
        return text
    try:
        value = json.loads(text.lower() if wanted is bool else text)
        if get_origin(wanted) is tuple and get_args(wanted)[0] is Window:
            value = [dict(zip(("name", "center_hu", "width_hu"), one, strict=True)) for one in value]
        return _built(wanted, value)
    except (ValueError, TypeError) as e:
        raise DataError(f"--set {key}={text}: must be {_told(wanted)}") from e


def _told(wanted: Any) -> str:
    """What a value of a type looks like."""
    if get_origin(wanted) is tuple:
        arguments = get_args(wanted)
        if arguments[0] is Window:
            return 'three windows, as [["brain", 40, 80], ["subdural", 80, 200], ["soft", 40, 380]]'
        return "a list of numbers, as [1, 2]" if arguments[-1] is ... else f"a list of {len(arguments)} numbers"
    return {bool: "true or false", int: "a whole number", float: "a number"}[wanted]


def checked(recipe: Recipe) -> Recipe:
    """The recipe itself. Raises DataError when a value is out of range or disagrees with another."""

    def require(holds: bool, problem: str) -> None:
        if not holds:
            raise DataError(f"recipe {recipe.name}: {problem}")

    def within(name: str, low: float, high: float = math.inf) -> None:
        value = value_of(recipe, name)
        limits = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
        require(math.isfinite(value) and low <= value <= high, f"{name} is {as_text(value)}, must be {limits}")

    require(recipe.architecture in ARCHITECTURES, f"architecture must be one of {', '.join(ARCHITECTURES)}")
    for name in ("batch", "epochs", "coarse_px"):
        within(name, 1)
    for name in ("max_steps", "draws", "fresh", "plateau_patience", "weight_decay", "clip_norm", "place_weight",
                 "seed"):  # fmt: skip
        within(name, 0)
    for name in ("momentum", "warm_up", "coarse_share"):
        within(name, 0, 1)
    require(recipe.momentum < 1 and recipe.warm_up < 1, "momentum and warm_up must be below 1")
    require(0 < recipe.learning_rate < math.inf, f"learning_rate is {recipe.learning_rate}, must be positive")
    require(0 < recipe.plateau_factor < 1, f"plateau_factor is {recipe.plateau_factor}, must be between 0 and 1")
    require(not recipe.places or recipe.architecture in RESNETS, f"places need one of {', '.join(RESNETS)}")
    require(not recipe.place_weight or recipe.places, "place_weight needs places, which --set places=true adds")
    require(not recipe.fresh or recipe.draws > 0, "fresh phantoms need draws, the slices an epoch")
    require(recipe.fresh <= MOST_FRESH, f"fresh is {recipe.fresh}, must be 0 to {MOST_FRESH}")
    require(len(recipe.loss_weights) == len(LABELS), f"loss_weights must be {len(LABELS)} numbers")
    require(all(0 <= w < math.inf for w in recipe.loss_weights), "loss_weights must not be negative")
    for name, most in (("fov_mm", FOV_MM), ("slab_mm", SLAB_MM)):
        within(f"{PIXELS}.{name}", 0, most)
    for name in ("resize_px", "crop_px"):
        within(f"{PIXELS}.{name}", SIZE_PX[0], SIZE_PX[-1])
    pixels = recipe.preprocessing
    require(pixels.crop_px <= pixels.resize_px, f"{PIXELS}.crop_px must not be larger than resize_px")
    require(all(0 < v < math.inf for v in pixels.std), f"{PIXELS}.std must be positive")
    require(all(math.isfinite(v) for v in pixels.mean), f"{PIXELS}.mean must be finite")
    require(all(0 < w.width_hu < math.inf for w in pixels.windows), f"{PIXELS}.windows must be wider than 0 HU")
    begins = [w.center_hu - w.width_hu / 2 for w in pixels.windows]
    require(all(low >= HU_MIN for low in begins), f"{PIXELS}.windows must not begin below {HU_MIN:g} HU")
    return recipe


def to_document(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON types."""
    return dataclasses.asdict(recipe)


def from_document(document: Mapping[str, Any]) -> Recipe:
    """A recipe from JSON types.

    Raises:
        DataError: A field is missing, unknown or mistyped.
    """
    try:
        recipe: Recipe = _built(Recipe, document)
    except (TypeError, KeyError, ValueError, AttributeError) as e:
        raise DataError(f"the recipe of the run is damaged or of another version ({e}); start a new run") from e
    return checked(recipe)


def _built(kind: Any, value: Any) -> Any:
    """A value of a declared type from JSON types. Raises ValueError or TypeError where it is of another."""
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        if odd := sorted(set(hints) ^ set(value)):
            raise ValueError(f"{odd[0]} is {'missing' if odd[0] in hints else 'unknown'}")
        return kind(**{name: _built(hints[name], one) for name, one in value.items()})
    if origin is dict:
        return {key: _built(arguments[1], one) for key, one in value.items()}
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError(f"{value!r} is no list")
        kinds: Sequence[Any] = [arguments[0]] * len(value) if arguments[-1] in (..., types.EllipsisType) else arguments
        return tuple(_built(k, one) for k, one in zip(kinds, value, strict=True))
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{value!r} is not one of {arguments}")
        return value
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not of type {kind.__name__}")
    return value
