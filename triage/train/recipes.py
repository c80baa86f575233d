"""The recipes there are: the source's five, three of ours, the demonstration's; what a recipe is stands in `recipe`.

What "the source" says is stated; what follows from it is inferred; where it is silent a value is assumed, with why.
"""

from dataclasses import replace

from triage.errors import DataError
from triage.nn.preprocess import Preprocessing
from triage.train.recipe import (
    FIXED,
    Augmentation,
    Choice,
    Kind,
    Optimiser,
    Origin,
    Origins,
    Precision,
    Recipe,
    Sampler,
    Schedule,
    Select,
    Split,
    Trainable,
    as_text,
    checked,
    field_names,
    from_document,
    origin_of,
    overridden,
    recipe_table,
    to_document,
    value_of,
)

__all__ = [
    "FIXED",
    "RECIPES",
    "Augmentation",
    "Choice",
    "Kind",
    "Optimiser",
    "Origin",
    "Origins",
    "Precision",
    "Recipe",
    "Sampler",
    "Schedule",
    "Select",
    "Split",
    "Trainable",
    "as_text",
    "checked",
    "field_names",
    "from_document",
    "origin_of",
    "overridden",
    "recipe_named",
    "recipe_table",
    "to_document",
    "value_of",
]

EVERY: Origins = {
    "split_salt": ("assumed", "any; another one draws another split"),
    "draws": ("assumed", "as many as the part has slices"),
    "fresh": ("assumed", "the slices of the cache"),
    "loss_weights": ("assumed", "every head counts alike"),
    "places": ("assumed", "the heads see the last stage's average, as in the source"),
    "place_weight": ("assumed", "needs every pixel's truth, which only phantoms have"),
    "weight_decay": ("assumed", "none"),
    "clip_norm": ("assumed", "no limit"),
    "trainable": ("assumed", "all layers"),
    "coarse_share": ("assumed", "full size from the first step"),
    "max_steps": ("assumed", "no limit; set it to try things out"),
    "channels_last": ("assumed", "the usual order; the other is a matter of speed"),
    "compiled": ("assumed", "a matter of speed, on a GPU"),
    "deterministic": ("assumed", "slower on a GPU; a CPU repeats itself anyway"),
    "seed": ("assumed", "any"),
    "preprocessing.fov_mm": ("assumed", "the whole image"),
}
"""Of fields that no recipe has a reason of its own for."""

SOURCE: Origins = EVERY | {
    "split": (
        "inferred", "'random 80/20' is stated; 78,116 and 19,529 can only be images, for neither is a multiple of five",
    ),
    "window_jitter": ("assumed", "none is mentioned"),
    "weight_decay": ("assumed", "none is mentioned"),
    "clip_norm": ("assumed", "none is mentioned"),
    "trainable": ("assumed", "all layers; not said"),
    "batch": ("stated", "32"),
    "precision": ("assumed", "not said; single precision was the default of the time"),
    "channels_last": ("assumed", "not said; the usual order was the default of the time"),
    "aggregation": ("assumed", "the source reports slices only; a study is taken for its most suspicious one"),
    "preprocessing.slab_mm": ("inferred", "slices are used as they are"),
}  # fmt: skip

SOURCE_FIRST: Origins = SOURCE | {
    "kind": ("stated", "bleed or none, binary cross entropy on one logit"),
    "architecture": (
        "stated", "two 8x8 convolutions 1-16-32, ReLU, 2x2 pooling, three fully connected layers with batch norm "
        "between and dropout; a pool after each convolution, widths 80,000-128-64-1 and dropout 0.5 are assumed",
    ),
    "pretrained": ("inferred", "a network of its own: there are no weights to start from"),
    "choice": ("stated", "all 674,257 labelled slices"),
    "split": ("stated", "80/20 of all slices, at random"),
    "preprocessing": ("inferred", "no background, mean 0 and variance 1 a slice; size and window are assumed"),
    "preprocessing.windows": ("assumed", "not said; the network takes the first channel only, the brain window"),
    "preprocessing.order": ("assumed", "not said; the quick one"),
    "preprocessing.resize_px": ("assumed", "not said; at 512 px the first full layer would have 254 million weights"),
    "preprocessing.crop_px": ("assumed", "not said; the middle of 256, where the head lies: the usual cache serves"),
    "preprocessing.mean": ("stated", "0 and 1 a slice: the network itself standardises, so nothing is done here"),
    "preprocessing.std": ("stated", "as the mean"),
    "augmentation": ("assumed", "none is mentioned"),
    "sampler": ("assumed", "none is mentioned; yet its figures agree only on a test set of which 66.5 % bleed"),
    "optimiser": ("stated", "Adam"),
    "learning_rate": ("stated", "1e-3"),
    "schedule": ("assumed", "none is mentioned"),
    "epochs": ("stated", "50"),
    "select": ("assumed", "not said which epoch counts"),
}  # fmt: skip

SOURCE_SECOND: Origins = SOURCE | {
    "kind": ("stated", "bleed or none; one logit with binary cross entropy is assumed, for two logits do as well"),
    "architecture": ("stated", "ResNet-152, last layer replaced"),
    "pretrained": ("stated", "pretrained; that torchvision's IMAGENET1K_V1 is meant is inferred: V2 came later"),
    "choice": (
        "stated", "five above the middle of each study by ImagePositionPatient z; that the middle of n is number "
        "n // 2 from 0, and that short studies give what they have, is assumed",
    ),
    "preprocessing": (
        "inferred", "three windows as RGB, then 512 to 256 to 224 is stated; widths, order of channels, mean and std "
        "are not",
    ),
    "preprocessing.windows": (
        "inferred", "brain, soft and subdural as RGB is stated; widths are those of the public notebooks, the order of "
        "channels is assumed",
    ),
    "preprocessing.order": ("inferred", "windows are described before resizing; beside bone the order matters"),
    "preprocessing.resize_px": ("stated", "512 to 256"),
    "preprocessing.crop_px": ("stated", "'random transformation' from 256 to 224"),
    "preprocessing.mean": ("assumed", "ImageNet's, as the weights want it"),
    "preprocessing.std": ("assumed", "as the mean"),
    "augmentation": ("inferred", "'random transformation' to 224: a random crop and mirroring; none in the test"),
    "sampler": (
        "inferred", "'hybrid over- and under-sampling' paraphrases ufoym/imbalanced-dataset-sampler: weights 1/count",
    ),
    "draws": ("inferred", "of that sampler: as many as images, with replacement"),
    "optimiser": ("stated", "SGD"),
    "learning_rate": ("stated", "1e-3"),
    "momentum": ("stated", "0.9"),
    "schedule": ("assumed", "none is mentioned; a plateau is, for the subtype model only"),
    "epochs": ("stated", "50"),
    "select": ("assumed", "best macro F1 on its test part: selecting on what is reported flatters"),
}  # fmt: skip

SOURCE_SUBTYPE: Origins = SOURCE_SECOND | {
    "kind": ("stated", "one trunk, five parallel binary heads, slices with a bleed only (22,501 and 5,756)"),
    "pretrained": ("assumed", "on ImageNet as the binary model; or from the binary model, which is not said"),
    "sampler": ("assumed", "as for the binary model; a slice's class is its rarest subtype"),
    "draws": ("assumed", "as many as images, as for the binary model"),
    "loss_weights": ("inferred", "the sum of five binary cross entropies; that every head sees all images is assumed"),
    "schedule": ("stated", "the rate decays when the test loss has not improved for 2 epochs"),
    "plateau_patience": ("stated", "2, read as ReduceLROnPlateau does: lowered at the third such epoch"),
    "plateau_factor": ("assumed", "not said; the default of ReduceLROnPlateau"),
    "select": ("assumed", "not said which epoch counts; the lowest loss on its test part flatters"),
}

WINDOWED_FIRST = Preprocessing(order="window_then_resize", slab_mm=0.0)

FIRST_INPUT = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), slab_mm=0.0)
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
    origins=SOURCE_SECOND,
)  # fmt: skip


def _subtype_run(number: int, epochs: int, rate: float) -> Recipe:
    return replace(
        BINARY, name=f"thesis-subtype-run{number}", title=f"The source's subtype model, run {number} of three",
        kind="subtype", epochs=epochs, learning_rate=rate, schedule="plateau", select="best_loss",
        origins=SOURCE_SUBTYPE | {"epochs": ("stated", str(epochs)), "learning_rate": ("stated", f"{rate:g}")},
    )  # fmt: skip


OURS: Origins = EVERY | {
    "kind": ("assumed", "bleed or none"),
    "architecture": ("assumed", "the source's, so that the two can be compared"),
    "pretrained": ("assumed", "on ImageNet: quicker than from nothing"),
    "choice": ("assumed", "all slices: bleeds at vertex and skull base are met in service"),
    "split": ("assumed", "by patient: by image, 99.8 % of test slices have a neighbour in training"),
    "preprocessing": ("assumed", "the source's windows and size, resized as HU, thin series averaged"),
    "preprocessing.windows": ("assumed", "the three of the source, and of the second and fourth place of RSNA 2019"),
    "preprocessing.order": ("assumed", "HU are resized first: one small cache serves all windows"),
    "preprocessing.resize_px": ("assumed", "as the source; larger images gained the competition's second place 5 %"),
    "preprocessing.crop_px": ("assumed", "as the source"),
    "preprocessing.mean": ("assumed", "ImageNet's, as the weights want it"),
    "preprocessing.std": ("assumed", "as the mean"),
    "preprocessing.slab_mm": ("assumed", "thin series are averaged, so that more slices do not mean more false alarms"),
    "augmentation": ("assumed", "scanners and heads differ more than the slices of one data set show"),
    "window_jitter": ("assumed", "centre and width vary as in the competition's fourth place"),
    "sampler": ("assumed", "half bleeding, subtypes alike; the shift of the logits is calibrated away afterwards"),
    "optimiser": ("assumed", "AdamW: less to tune than SGD"),
    "learning_rate": ("assumed", "the competition's winners took 2e-5 to 5e-4 with Adam"),
    "weight_decay": ("assumed", "a little, against learning by heart"),
    "schedule": ("assumed", "up in a line, down in a half cosine"),
    "warm_up": ("assumed", "pretrained weights survive the first steps"),
    "clip_norm": ("assumed", "one odd batch must not undo an epoch"),
    "batch": ("assumed", "steadier gradients than 32"),
    "epochs": ("assumed", "the competition's second and third place took 3 to 5 passes"),
    "precision": ("assumed", "two to three times as fast as fp32 on a GPU, and needs no loss scale"),
    "channels_last": ("assumed", "trains ResNet-152 a third faster (timm, RTX 3090: 501 against 370 images/s)"),
    "select": ("assumed", "on the validation part, never on the test part"),
    "aggregation": ("assumed", "one hot slice alone is usually an artefact"),
}

TRIAGE_BINARY = Recipe(
    "triage-binary", "Ours: any bleed, all slices, split by patient", "binary", sampler="balanced", learning_rate=1e-4,
    weight_decay=0.02, clip_norm=1.0, batch=64, epochs=10, precision="bf16", channels_last=True, origins=OURS,
)  # fmt: skip

TRIAGE_SUBTYPE = replace(
    TRIAGE_BINARY, name="triage-subtype", title="Ours: five subtypes on slices that bleed, split by patient",
    kind="subtype", epochs=20,
    origins=OURS | {
        "kind": ("assumed", "five heads that learn P(subtype | bleed), as the source's"),
        "sampler": ("assumed", "subtypes alike; epidural bleeds are 3 % of all"),
        "epochs": ("assumed", "more passes: only one slice in seven bleeds"),
    },
)  # fmt: skip

TRIAGE_JOINT = replace(
    TRIAGE_BINARY, name="triage-joint", title="Ours: any bleed and five subtypes on one trunk, one forward pass",
    kind="joint", loss_weights=(2.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    origins=OURS | {
        "kind": ("assumed", "six heads on one trunk: half the work of two networks when serving"),
        "loss_weights": ("assumed", "any bleed counts twice, as in the competition's metric"),
    },
)  # fmt: skip

DEMO_INPUT = Preprocessing(fov_mm=204.0, resize_px=136, crop_px=136, mean=(0.4, 0.3, 0.4), std=(0.35, 0.3, 0.3))
"""1.5 mm pixels around the head, so that a thin subdural bleed still is two pixels wide while two cores can train on
some 40 images a second. Mean and std are round figures near those of a head's slices."""

DEMO = Recipe(
    "demo", "The demonstration pack: six heads on one small trunk, on phantoms, in half an hour on two CPU cores",
    "joint", "resnet18",
    pretrained=False, preprocessing=DEMO_INPUT, sampler="balanced", draws=9600, learning_rate=2e-3, weight_decay=0.02,
    loss_weights=(1.0, 0.3, 0.3, 0.3, 0.3, 0.3), places=True, place_weight=4.0, coarse_share=0.55, epochs=10,
    precision="bf16", channels_last=True, select="last",
    origins=OURS | {
        "kind": ("assumed", "six heads on one trunk, one forward pass"),
        "architecture": ("assumed", "two cores train on some 40 images a second with it"),
        "pretrained": ("assumed", "no weights of others in a pack that is given away"),
        "preprocessing.fov_mm": ("assumed", "the head alone, at one scale whatever the field of view"),
        "preprocessing.resize_px": ("assumed", "1.5 mm pixels: a thin subdural bleed still is two pixels wide"),
        "preprocessing.crop_px": ("assumed", "no crop: the head is centred already"),
        "preprocessing.mean": ("assumed", "round figures near those of a head's slices"),
        "draws": ("assumed", "300 batches an epoch"),
        "loss_weights": ("assumed", "subtypes are few; the binary head must not starve"),
        "places": ("assumed", "a small bleed is lost in an average over the slice; and maps point more finely"),
        "place_weight": ("assumed", "asked where bleeds lie, the trunk learns from far fewer slices"),
        "coarse_share": ("assumed", "twice as quick, and the rest of the steps suffices for detail"),
        "coarse_px": ("assumed", "half the pixels"),
        "learning_rate": ("assumed", "weights are random at first"),
        "clip_norm": ("assumed", "no limit"),
        "batch": ("assumed", "fits any machine"),
        "epochs": ("assumed", "half an hour on two cores"),
        "precision": ("assumed", "quicker on processors that know bf16"),
        "select": ("assumed", "the last: the rate has fallen to nothing by then"),
    },
)  # fmt: skip

PHANTOM_INPUT = replace(DEMO_INPUT, fov_mm=224.0, resize_px=224, crop_px=224)
"""1 mm pixels around the head."""

PHANTOM_JOINT = replace(
    DEMO, name="phantom-joint",
    title="Any bleed and five subtypes on one ResNet-152, on phantoms that are made while it trains; for a GPU",
    architecture="resnet152", preprocessing=PHANTOM_INPUT, draws=76_800, fresh=1000, learning_rate=1e-3,
    weight_decay=0.05, warm_up=0.1, clip_norm=1.0, batch=128, coarse_share=0.0,
    origins=DEMO.origins | {
        "architecture": ("assumed", "the source's, from random weights"),
        "preprocessing.resize_px": ("assumed", "1 mm pixels at the source's 224"),
        "fresh": ("assumed", "no phantom is seen in two epochs; 16 cores make some 800 slices a second"),
        "draws": ("assumed", "each fresh slice about twice, varied by augmentation: a GPU is faster than 16 cores"),
        "coarse_share": ("assumed", "full size from the first step: a GPU is quick enough"),
        "learning_rate": ("assumed", "usual for AdamW and random weights at this batch"),
        "weight_decay": ("assumed", "no phantom comes back, so little is learnt by heart"),
        "warm_up": ("assumed", "random weights of 152 layers need a slow start"),
        "clip_norm": ("assumed", "one odd batch must not undo an epoch"),
        "batch": ("assumed", "fills a GPU; fits 40 GB"),
        "epochs": ("assumed", "as many as fit ten minutes of an H100; `triage.train.lent` measures and sets it"),
        "precision": ("assumed", "two to three times as fast as fp32 on a GPU, and needs no loss scale"),
        "compiled": ("assumed", "ten minutes hardly win back the two that compiling takes at the start"),
    },
)  # fmt: skip

PHANTOM_BINARY = replace(
    PHANTOM_JOINT, name="phantom-binary", title="Any bleed, ResNet-152, on phantoms made while it trains; for a GPU",
    kind="binary", loss_weights=(1.0,) * 6,
    origins=PHANTOM_JOINT.origins | {
        "kind": ("assumed", "bleed or none, as the source's first network"),
        "loss_weights": ("assumed", "there is one head"),
    },
)  # fmt: skip

PHANTOM_SUBTYPE = replace(
    PHANTOM_JOINT, name="phantom-subtype",
    title="Five subtypes on slices that bleed, ResNet-152, on phantoms made while it trains; for a GPU",
    kind="subtype", loss_weights=(1.0,) * 6,
    origins=PHANTOM_JOINT.origins | {
        "kind": ("assumed", "five heads that learn P(subtype | bleed), as the source's"),
        "loss_weights": ("assumed", "every head counts alike"),
    },
)  # fmt: skip

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        CNN, BINARY, _subtype_run(1, 150, 1e-4), _subtype_run(2, 100, 1e-3), _subtype_run(3, 50, 1e-2),
        TRIAGE_BINARY, TRIAGE_SUBTYPE, TRIAGE_JOINT, DEMO, PHANTOM_BINARY, PHANTOM_SUBTYPE, PHANTOM_JOINT,
    )
}  # fmt: skip


def recipe_named(name: str) -> Recipe:
    """The recipe of a name. Raises DataError, listing the names, when there is none."""
    if name not in RECIPES:
        raise DataError(f"recipe {name!r}: unknown; use one of {', '.join(RECIPES)}")
    return RECIPES[name]
