import dataclasses
import json

import pytest

from triage.errors import DataError
from triage.nn.architectures import RESNETS
from triage.nn.preprocess import Preprocessing
from triage.records import ANY, LABELS, SUBTYPES
from triage.train.recipes import (
    FIXED,
    RECIPES,
    Recipe,
    as_text,
    checked,
    field_names,
    from_document,
    origin_of,
    overridden,
    recipe_named,
    recipe_table,
    to_document,
    value_of,
)

SOURCE = ("thesis-cnn", "thesis-binary", "thesis-subtype-run1", "thesis-subtype-run2", "thesis-subtype-run3")
PHANTOM = ("phantom-binary", "phantom-subtype", "phantom-joint")
ALL = pytest.mark.parametrize("recipe", list(RECIPES.values()), ids=list(RECIPES))


def values(name: str, *fields: str) -> list[str]:
    return [as_text(value_of(recipe_named(name), field)) for field in fields]


def test_the_recipes_there_are() -> None:
    assert [*RECIPES] == [*SOURCE, "triage-binary", "triage-subtype", "triage-joint", "demo", *PHANTOM]
    assert all(name == recipe.name for name, recipe in RECIPES.items())
    with pytest.raises(DataError, match="recipe 'thesis': unknown; use one of thesis-cnn, thesis-binary"):
        recipe_named("thesis")


def test_what_the_source_states() -> None:
    rates = ("optimiser", "learning_rate", "batch", "epochs", "schedule", "precision")
    assert values("thesis-cnn", *rates) == ["adam", "0.001", "32", "50", "constant", "fp32"]
    assert values("thesis-binary", *rates, "momentum") == ["sgd", "0.001", "32", "50", "constant", "fp32", "0.9"]
    for number, epochs, rate in ((1, "150", "0.0001"), (2, "100", "0.001"), (3, "50", "0.01")):
        name = f"thesis-subtype-run{number}"
        assert values(name, *rates, "plateau_patience") == ["sgd", rate, "32", epochs, "plateau", "fp32", "2"]
        assert origin_of(recipe_named(name), "learning_rate")[0] == "stated"
        assert recipe_named(name).labels == SUBTYPES
    for name in SOURCE[1:]:
        assert values(name, "architecture", "choice", "split", "sampler") == [
            "resnet152", "above_middle_5", "image-random", "class_weighted"
        ]  # fmt: skip
        assert values(name, "preprocessing.resize_px", "preprocessing.crop_px") == ["256", "224"]


def test_ours_measure_by_patient_and_never_choose_by_the_test() -> None:
    for name, recipe in RECIPES.items():
        if name not in SOURCE:
            assert (recipe.split, recipe.choice) == ("patient", "all")
    assert recipe_named("triage-binary").labels == (ANY,)
    assert recipe_named("triage-joint").labels == LABELS
    assert recipe_named("triage-subtype").columns == (1, 2, 3, 4, 5)


@ALL
def test_every_field_is_in_the_table_once_with_its_origin_and_reason(recipe: Recipe) -> None:
    table = recipe_table(recipe)
    inner = [f"preprocessing.{f.name}" for f in dataclasses.fields(Preprocessing)]
    outer = [f.name for f in dataclasses.fields(Recipe) if f.name not in (*FIXED, "preprocessing")]
    assert sorted(row[0] for row in table) == sorted(inner + outer)
    for name, value, origin, why in table:
        assert origin in ("stated", "inferred", "assumed"), name
        assert value, name
        assert why, name
        assert "\n" not in value + why


@ALL
def test_origins_are_those_of_fields(recipe: Recipe) -> None:
    assert set(recipe.origins) <= {*field_names(), "preprocessing"}
    if recipe.name not in SOURCE:
        assert {origin for origin, _ in recipe.origins.values()} == {"assumed"}
    elif recipe.name == "thesis-binary":
        stated = {name for name, (origin, _) in recipe.origins.items() if origin == "stated"}
        assert stated == {
            "kind", "architecture", "pretrained", "choice", "preprocessing.resize_px", "preprocessing.crop_px",
            "optimiser", "learning_rate", "momentum", "batch", "epochs",
        }  # fmt: skip


def test_the_table_reads_well() -> None:
    rows = {row[0]: row[1:] for row in recipe_table(recipe_named("thesis-subtype-run2"))}
    assert rows["preprocessing.windows"][0] == "brain 40/80, subdural 80/200, soft 40/380"
    assert rows["preprocessing.mean"][0] == "0.485, 0.456, 0.406"
    assert rows["pretrained"][0] == "yes"
    assert rows["learning_rate"] == ("0.001", "stated", "0.001")
    assert rows["warm_up"] == ("0.05", "assumed", "not used: the schedule is plateau")
    assert origin_of(recipe_named("triage-binary"), "momentum") == ("assumed", "not used: the optimiser is adamw")
    assert origin_of(recipe_named("thesis-binary"), "preprocessing")[0] == "inferred"


@ALL
def test_a_recipe_survives_json(recipe: Recipe) -> None:
    changed = overridden(recipe, {"batch": "7", "preprocessing.slab_mm": "4"})
    for one in (recipe, changed):
        assert from_document(json.loads(json.dumps(to_document(one)))) == one


def test_fields_are_set_from_text_and_what_they_were_is_kept() -> None:
    recipe = overridden(recipe_named("thesis-binary"), {
        "batch": "64", "learning_rate": "1e-2", "weight_decay": "1", "pretrained": "False", "optimiser": "adamw",
        "split_salt": "2", "loss_weights": "[2, 1, 1, 1, 1, 1]", "preprocessing.resize_px": "128",
        "preprocessing.crop_px": "96", "preprocessing.mean": "[0, 0.5, 1]",
        "preprocessing.windows": '[["brain", 40, 80], ["bone", 600, 2800], ["soft", 40, 380]]',
    })  # fmt: skip
    assert (recipe.batch, recipe.learning_rate, recipe.weight_decay, recipe.pretrained) == (64, 0.01, 1.0, False)
    assert (recipe.split_salt, recipe.loss_weights) == ("2", (2, 1, 1, 1, 1, 1))
    assert recipe.preprocessing.mean == (0.0, 0.5, 1.0)
    assert as_text(recipe.preprocessing.windows) == "brain 40/80, bone 600/2800, soft 40/380"
    assert recipe.overrides["batch"] == "32"
    assert recipe.overrides["preprocessing.windows"] == "brain 40/80, subdural 80/200, soft 40/380"
    assert origin_of(recipe, "batch") == ("assumed", "set on the command line; batch was 32")
    assert origin_of(recipe, "preprocessing.crop_px")[1].endswith("preprocessing.crop_px was 224")
    assert "preprocessing.resize_px was 256" in origin_of(recipe, "preprocessing")[1]
    assert origin_of(recipe, "epochs") == ("stated", "50")
    again = overridden(recipe, {"batch": "16"})
    assert (again.batch, again.overrides["batch"]) == (16, "32")
    assert recipe_named("thesis-binary").overrides == {}


@ALL
def test_any_field_can_be_set(recipe: Recipe) -> None:
    """Every field takes its own value as text."""
    for name in field_names():
        value = value_of(recipe, name)
        if name == "preprocessing.windows":
            value = [[w.name, w.center_hu, w.width_hu] for w in value]
        text = value if isinstance(value, str) else json.dumps(value)
        assert value_of(overridden(recipe, {name: text}), name) == value_of(recipe, name)


@pytest.mark.parametrize(
    ("key", "text", "problem"),
    [
        ("colour", "red", "--set colour: no such field; a recipe has kind, architecture"),
        ("name", "mine", "no such field"),
        ("preprocessing", "{}", "no such field"),
        ("preprocessing.colour", "1", "no such field"),
        ("split.salt", "1", "no such field"),
        ("optimiser", "lion", "--set optimiser=lion: use one of sgd, adam, adamw"),
        ("batch", "many", "--set batch=many: must be a whole number"),
        ("batch", "1.5", "must be a whole number"),
        ("batch", "true", "must be a whole number"),
        ("learning_rate", "fast", "must be a number"),
        ("learning_rate", "true", "must be a number"),
        ("pretrained", "1", "must be true or false"),
        ("loss_weights", "2", "must be a list of numbers"),
        ("loss_weights", '["a"]', "must be a list of numbers"),
        ("preprocessing.mean", "[0, 1]", "must be a list of 3 numbers"),
        ("preprocessing.windows", "[[40, 80]]", "must be three windows"),
        ("preprocessing.windows", "5", "must be three windows"),
        ("architecture", "vgg16", "architecture must be one of resnet18"),
        ("batch", "0", "batch is 0, must be at least 1"),
        ("epochs", "0", "epochs is 0, must be at least 1"),
        ("max_steps", "-1", "max_steps is -1, must be at least 0"),
        ("seed", "-1", "seed is -1, must be at least 0"),
        ("preprocessing.slab_mm", "25", "preprocessing.slab_mm is 25, must be 0 to 20"),
        ("preprocessing.windows", '[["a", 0, 4000], ["b", 40, 80], ["c", 40, 80]]', "must not begin below -1024 HU"),
        ("learning_rate", "0", "learning_rate is 0.0, must be positive"),
        ("learning_rate", "NaN", "learning_rate is nan, must be positive"),
        ("weight_decay", "Infinity", "weight_decay is inf"),
        ("clip_norm", "-1", "clip_norm is -1"),
        ("momentum", "1", "momentum and warm_up must be below 1"),
        ("coarse_share", "1.5", "coarse_share is 1.5, must be 0 to 1"),
        ("plateau_factor", "1", "plateau_factor is 1.0, must be between 0 and 1"),
        ("loss_weights", "[1, 1]", "loss_weights must be 6 numbers"),
        ("loss_weights", "[1, 1, 1, 1, 1, -1]", "loss_weights must not be negative"),
        ("preprocessing.crop_px", "512", "crop_px must not be larger than resize_px"),
        ("preprocessing.resize_px", "0", "resize_px is 0, must be 32 to 1024"),
        ("preprocessing.std", "[1, 1, 0]", "std must be positive"),
        ("place_weight", "1", "place_weight needs places, which --set places=true adds"),
    ],
)
def test_a_wrong_value_is_one_clear_line(key: str, text: str, problem: str) -> None:
    with pytest.raises(DataError) as caught:
        overridden(recipe_named("triage-joint"), {key: text})
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [
    {"batch": "64"}, {"colour": "red"}, {"kind": "both"}, {"preprocessing": 5}, {"loss_weights": 1.0},
    {"pretrained": 1}, {"epochs": 1.5}, {"overrides": []},
])  # fmt: skip
def test_a_damaged_document_is_named(damage: dict[str, object]) -> None:
    document = to_document(recipe_named("demo")) | damage
    with pytest.raises(DataError, match="the recipe of the run is damaged or of another version"):
        from_document(document)


def test_a_document_of_another_version_is_refused() -> None:
    document = to_document(recipe_named("demo"))
    del document["coarse_px"]
    with pytest.raises(DataError, match=r"another version \(coarse_px is missing\)"):
        from_document(document)


@ALL
def test_recipes_pass_their_own_checks(recipe: Recipe) -> None:
    assert checked(recipe) is recipe
    if recipe.name not in ("thesis-cnn", "demo"):
        assert recipe.architecture in RESNETS
        assert recipe.pretrained == (recipe.name not in PHANTOM)


def test_recipes_on_phantoms_start_from_nothing_and_see_no_phantom_twice() -> None:
    for name in PHANTOM:
        recipe = recipe_named(name)
        assert (recipe.architecture, recipe.preprocessing.crop_px, recipe.fresh) == ("resnet152", 224, 1000)
    assert recipe_named("phantom-joint").labels == LABELS
    with pytest.raises(DataError, match="fresh phantoms need draws"):
        overridden(recipe_named("phantom-joint"), {"draws": "0"})
