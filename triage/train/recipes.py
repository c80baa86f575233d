"""Recipes as typed documents: every field with its value, where it comes from, and why; reads no data.

A field is *stated* by the source, *inferred* from what the source says, or *assumed* where it is silent (for our own
recipes: chosen). "The source" is a bachelor thesis (STU Bratislava, 2021) on the RSNA 2019 data.
"""

import dataclasses
import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from triage.errors import DataError
from triage.nn.architectures import ARCHITECTURES
from triage.nn.card import Aggregation
from triage.nn.preprocess import Preprocessing
from triage.records import ANY, LABELS, SUBTYPES

Kind = Literal["binary", "subtype", "joint"]
"""One head for any bleed; five for the subtypes of slices that bleed; or all six on one trunk."""

Origin = Literal["stated", "inferred", "assumed"]

Choice = Literal["above_middle_5", "all"]
"""Which slices of a study: the five above its middle (the source), or all."""

Split = Literal["image-random", "patient"]
Sampler = Literal["plain", "class_weighted", "balanced"]
"""plain: every slice once an epoch. class_weighted: weights 1/count, with replacement (the source). balanced: half of the
draws without a bleed, the other half spread over the subtypes alike."""

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
    loss_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    """Of each label's binary cross entropy, as LABELS; only those of the recipe's heads count."""
    place_weight: float = 0.0
    """Weight of a loss that asks the trunk where each bleed lies; needs a cache that knows (phantoms). 0: not asked."""
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
    origins: dict[str, tuple[Origin, str]] = field(default_factory=dict)
    """By field: where its value comes from and why; fields of ours that are not named are assumed."""
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


SOURCE_FIRST: dict[str, tuple[Origin, str]] = {
    "architecture": ("stated", "two 8x8 convolutions 1-16-32, ReLU, three fully connected layers; widths are assumed"),
    "pretrained": ("stated", "trained from nothing"),
    "choice": ("stated", "all 674,257 labelled slices"),
    "split": ("stated", "random 80/20 of images"),
    "preprocessing": ("inferred", "background removed, zero mean and unit variance a slice; size and window are assumed"),
    "augmentation": ("inferred", "none is mentioned"),
    "window_jitter": ("inferred", "none is mentioned"),
    "sampler": ("inferred", "no balancing is mentioned; its own figures would need a rebalanced test set"),
    "optimiser": ("stated", "Adam"),
    "learning_rate": ("stated", "1e-3"),
    "schedule": ("inferred", "none is mentioned"),
    "batch": ("stated", "32"),
    "epochs": ("stated", "50"),
    "select": ("assumed", "not said which epoch counts"),
    "precision": ("inferred", "single precision was the default of the time"),
}

SOURCE_SECOND: dict[str, tuple[Origin, str]] = {
    "architecture": ("stated", "ResNet-152, last layer replaced"),
    "pretrained": ("stated", "on ImageNet; the weights of torchvision that existed then are IMAGENET1K_V1"),
    "choice": ("stated", "five slices above the middle one of each study, sorted by ImagePositionPatient"),
    "split": ("inferred", "the sizes 78,116 and 19,529 can only come from images drawn at random"),
    "preprocessing": (
        "inferred", "three windows as RGB, then 512 to 256 to 224 is stated; widths, order of channels, ImageNet mean "
        "and std are not",
    ),
    "augmentation": ("inferred", "'random transformation' to 224: taken as a random crop and mirroring"),
    "window_jitter": ("inferred", "none is mentioned"),
    "sampler": ("inferred", "hybrid over- and under-sampling: weights 1/count, as many draws as images"),
    "optimiser": ("stated", "SGD"),
    "momentum": ("stated", "0.9"),
    "weight_decay": ("assumed", "none is mentioned"),
    "clip_norm": ("assumed", "none is mentioned"),
    "trainable": ("assumed", "all layers; not said"),
    "batch": ("stated", "32"),
    "precision": ("inferred", "single precision was the default of the time"),
}  # fmt: skip

SOURCE_SUBTYPE: dict[str, tuple[Origin, str]] = SOURCE_SECOND | {
    "kind": ("stated", "one trunk, five parallel binary heads, slices with a bleed only"),
    "pretrained": ("inferred", "on ImageNet; or from the binary model, which is not said"),
    "schedule": ("stated", "the rate decays when the test loss has not improved for 2 epochs"),
    "plateau_patience": ("stated", "2"),
    "plateau_factor": ("assumed", "0.1, the default of ReduceLROnPlateau"),
    "sampler": ("assumed", "the same sampler; a slice's class is its rarest subtype"),
    "select": ("assumed", "not said which epoch counts"),
}

WINDOWED_FIRST = Preprocessing(order="window_then_resize", slab_mm=0.0)

FIRST_INPUT = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), resize_px=224, crop_px=224, slab_mm=0.0)
"""The network itself takes the brain window and standardises each slice."""

CNN = Recipe(
    "thesis-cnn", "The source's first experiment: a small network on all slices", "binary", "thesis-cnn",
    pretrained=False, split="image-random", preprocessing=FIRST_INPUT, augmentation="none", window_jitter=False,
    sampler="plain", optimiser="adam", learning_rate=1e-3, schedule="constant", epochs=50, select="last",
    aggregation="max", origins=SOURCE_FIRST,
)  # fmt: skip

BINARY = Recipe(
    "thesis-binary", "The source's binary model", "binary", choice="above_middle_5", split="image-random",
    preprocessing=WINDOWED_FIRST, augmentation="crop_flip", window_jitter=False, sampler="class_weighted",
    optimiser="sgd", learning_rate=1e-3, schedule="constant", epochs=50, select="best_f1", aggregation="max",
    origins=SOURCE_SECOND | {
        "learning_rate": ("stated", "1e-3"), "epochs": ("stated", "50"),
        "schedule": ("inferred", "a plateau is mentioned for the subtype model only"),
        "select": ("assumed", "best F1 on its test part: selecting on what is reported flatters"),
    },
)  # fmt: skip


def _subtype_run(number: int, epochs: int, rate: float) -> Recipe:
    return replace(
        BINARY, name=f"thesis-subtype-run{number}", title=f"The source's subtype model, run {number} of three",
        kind="subtype", epochs=epochs, learning_rate=rate, schedule="plateau", select="best_loss",
        origins=SOURCE_SUBTYPE | {"epochs": ("stated", str(epochs)), "learning_rate": ("stated", f"{rate:g}")},
    )  # fmt: skip


OURS: dict[str, tuple[Origin, str]] = {
    "split": ("assumed", "by patient: by image, 99.8 % of test slices have a neighbour in training"),
    "choice": ("assumed", "all slices: bleeds at vertex and skull base are met in service"),
    "augmentation": ("assumed", "scanners and heads differ more than five middle slices show"),
    "sampler": ("assumed", "half bleeding, subtypes alike; the shift of the logits is calibrated away afterwards"),
    "loss_weights": ("assumed", "the competition's metric counts any bleed twice"),
    "precision": ("assumed", "bf16 trains a third faster and needs no loss scale"),
    "select": ("assumed", "on the validation part, never on the test part"),
}

TRIAGE_BINARY = Recipe(
    "triage-binary", "Ours: any bleed, all slices, split by patient", "binary", sampler="balanced", learning_rate=1e-4,
    weight_decay=0.02, clip_norm=1.0, batch=64, epochs=10, precision="bf16", channels_last=True, origins=OURS,
)  # fmt: skip

TRIAGE_SUBTYPE = replace(
    TRIAGE_BINARY, name="triage-subtype", title="Ours: five subtypes on slices that bleed, split by patient",
    kind="subtype", epochs=20,
)  # fmt: skip

TRIAGE_JOINT = replace(
    TRIAGE_BINARY, name="triage-joint", title="Ours: any bleed and five subtypes on one trunk, one forward pass",
    kind="joint", loss_weights=(2.0, 1.0, 1.0, 1.0, 1.0, 1.0),
)  # fmt: skip

DEMO_INPUT = Preprocessing(fov_mm=204.0, resize_px=136, crop_px=136, mean=(0.4, 0.3, 0.4), std=(0.35, 0.3, 0.3))
"""1.5 mm pixels around the head, so that a thin subdural bleed still is two pixels wide while two cores can train on some
40 images a second. Mean and std are round figures near those of a head's slices."""

DEMO = Recipe(
    "demo", "The demonstration pack: six heads on one small trunk, on phantoms, in half an hour on two CPU cores", "joint", "resnet18",
    pretrained=False, preprocessing=DEMO_INPUT, sampler="balanced", draws=9600, learning_rate=2e-3, weight_decay=0.02,
    loss_weights=(1.0, 0.3, 0.3, 0.3, 0.3, 0.3), place_weight=4.0, coarse_share=0.55, epochs=10, precision="bf16",
    channels_last=True, select="last",
    origins=OURS | {
        "place_weight": ("assumed", "asked where bleeds lie, the trunk learns from far fewer slices than by labels alone"),
        "loss_weights": ("assumed", "subtypes are few; the binary head must not starve"),
    },
)  # fmt: skip

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        CNN, BINARY, _subtype_run(1, 150, 1e-4), _subtype_run(2, 100, 1e-3), _subtype_run(3, 50, 1e-2),
        TRIAGE_BINARY, TRIAGE_SUBTYPE, TRIAGE_JOINT, DEMO,
    )
}  # fmt: skip

FIXED = ("name", "title", "origins", "overrides")
"""Fields that no command line changes."""


def recipe_named(name: str) -> Recipe:
    """The recipe of a name. Raises DataError, listing the names, when there is none."""
    if name not in RECIPES:
        raise DataError(f"recipe {name!r}: unknown; use one of {', '.join(RECIPES)}")
    return RECIPES[name]


def overridden(recipe: Recipe, changes: Mapping[str, str]) -> Recipe:
    """A recipe with some fields set from text, and a record of what they were.

    Args:
        recipe: Any.
        changes: Field to value as text, e.g. {"batch": "64", "preprocessing.resize_px": "128"}; lists are JSON.

    Returns:
        The changed recipe, checked.

    Raises:
        DataError: A field is unknown or a value is not of its type; the message says what is.
    """
    before = dict(recipe.overrides)
    for key, text in changes.items():
        outer, _, inner = key.partition(".")
        value: Any
        if outer == "preprocessing" and inner:
            was = getattr(recipe.preprocessing, _known(Preprocessing, inner, key))
            value = replace(recipe.preprocessing, **{inner: _parsed(Preprocessing, inner, text, key)})
        else:
            was = getattr(recipe, _known(Recipe, key, key))
            value = _parsed(Recipe, key, text, key)
        recipe = replace(recipe, **{outer: value})
        before.setdefault(key, str(was))
    return checked(replace(recipe, overrides=before))


def _known(kind: type, name: str, key: str) -> str:
    names = [f.name for f in fields(kind) if f.name not in FIXED]
    if name not in names:
        raise DataError(f"--set {key}: no such field; a recipe has {', '.join(names)}")
    return name


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
        if wanted is bool and isinstance(value, bool):
            return value
        if wanted in (int, float) and type(value) in (int, wanted):
            return wanted(value)
        if get_origin(wanted) is tuple and isinstance(value, list) and get_args(wanted)[0] is float:
            return tuple(float(v) for v in value)
    except (ValueError, TypeError):
        pass
    told = "a list of numbers, as [1, 2]" if get_origin(wanted) is tuple else getattr(wanted, "__name__", str(wanted))
    raise DataError(f"--set {key}={text}: must be {told}")


def checked(recipe: Recipe) -> Recipe:
    """The recipe itself. Raises DataError when a value is out of range or disagrees with another."""

    def require(holds: bool, problem: str) -> None:
        if not holds:
            raise DataError(f"recipe {recipe.name}: {problem}")

    require(recipe.architecture in ARCHITECTURES, f"architecture must be one of {', '.join(ARCHITECTURES)}")
    require(recipe.batch > 0, f"batch is {recipe.batch}, must be positive")
    require(recipe.epochs > 0, f"epochs is {recipe.epochs}, must be positive")
    require(recipe.max_steps >= 0 and recipe.draws >= 0, "max_steps and draws must not be negative")
    require(recipe.learning_rate > 0, f"learning_rate is {recipe.learning_rate}, must be positive")
    require(0 <= recipe.warm_up < 1, f"warm_up is {recipe.warm_up}, must be 0 to below 1")
    require(0 <= recipe.coarse_share <= 1, f"coarse_share is {recipe.coarse_share}, must be 0 to 1")
    require(0 < recipe.plateau_factor < 1, f"plateau_factor is {recipe.plateau_factor}, must be between 0 and 1")
    require(len(recipe.loss_weights) == len(LABELS), f"loss_weights must be {len(LABELS)} numbers")
    require(min(recipe.loss_weights) >= 0 and recipe.place_weight >= 0, "weights of losses must not be negative")
    pixels = recipe.preprocessing
    require(0 < pixels.crop_px <= pixels.resize_px, "preprocessing: crop_px must not be larger than resize_px")
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
        return checked(recipe)
    except (TypeError, KeyError, ValueError) as e:
        raise DataError(f"the recipe of the run is damaged or of another version ({e}); start a new run") from e


def _built(kind: Any, value: Any) -> Any:
    """A value of a declared type from JSON types."""
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        return kind(**{name: _built(hints[name], one) for name, one in value.items()})
    if origin is dict:
        return {key: _built(arguments[1], one) for key, one in value.items()}
    if origin is tuple:
        kinds: Sequence[Any] = [arguments[0]] * len(value) if arguments[-1] in (..., types.EllipsisType) else arguments
        return tuple(_built(k, one) for k, one in zip(kinds, value, strict=True))
    if origin is Literal and value not in arguments:
        raise ValueError(f"{value!r} is not one of {arguments}")
    return value


def origin_of(recipe: Recipe, name: str) -> tuple[Origin, str]:
    """Where a field's value comes from, and why; a changed field's reason says so."""
    origin, why = recipe.origins.get(name, ("assumed", ""))
    changed = [key for key in recipe.overrides if key == name or key.startswith(f"{name}.")]
    if changed:
        was = ", ".join(f"{key} was {recipe.overrides[key]}" for key in changed)
        return "assumed", f"set on the command line; {was}"
    return origin, why
