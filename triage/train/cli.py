"""The command `triage-train`: each subcommand a thin function over this package; turns errors into exit codes.

Exit codes: 0 done, 1 failed (a run stopped, a pack is worse), 2 wrong usage, data or recipe, 130 interrupted.
"""

import dataclasses
import json
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from triage import __version__
from triage.errors import ConfigError, DataError, TriageError
from triage.train import data_cli
from triage.train.evaluate_cli import evaluate, require_extra
from triage.train.memory import is_shortage
from triage.train.progress import Bar
from triage.train.screen import comparison_lines, counted, recipe_lines, tell_calibrated, watch

if TYPE_CHECKING:
    import torch

    from triage.train.operating import Options
    from triage.train.recipes import Recipe

log = logging.getLogger(__name__)

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False,
    help="Train, measure and export models for the node. Research figures, not for diagnosis.",
)  # fmt: skip
recipe_app = typer.Typer(no_args_is_help=True, help="What can be trained, and where each choice comes from.")
app.add_typer(recipe_app, name="recipe")
for command in (data_cli.prepare, data_cli.phantoms, data_cli.verify, data_cli.leakage, data_cli.assemble, evaluate):
    app.command()(command)

MovedOption = Annotated[Path | None, typer.Option("--cache", help="Where the run's cache is now, if it was moved.")]
DeviceOption = Annotated[str, typer.Option(help="auto (CUDA where there is one), cpu or cuda.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of the recipe; repeatable.")
]
RunsArgument = Annotated[list[Path], typer.Argument(help="A joint run, or a binary and a subtype run.")]
SensitivityOption = Annotated[
    float, typer.Option(min=0.01, max=0.999, help="What the lower 95 % bound of sensitivity by study must reach.")
]
SpecificityOption = Annotated[
    float, typer.Option(min=0.01, max=0.9999, help="Studies without a bleed that must stay below the urgent threshold.")
]
SiteOption = Annotated[
    float, typer.Option(min=0.0, max=0.99, help="Share of studies with a bleed where it is to work; 0: as measured.")
]
UnsupportedOption = Annotated[
    bool, typer.Option("--allow-unsupported", help="For demonstrations: take the estimate where data bear no bound.")
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code.

    Args:
        arguments: Instead of the process's own.
    """
    code = FAILED
    try:
        app(args=None if arguments is None else list(arguments), prog_name="triage-train")
    except ConfigError as e:
        print(f"triage-train: {e}", file=sys.stderr)
        code = WRONG
    except TriageError as e:
        print(f"triage-train: {e}", file=sys.stderr)
    except (KeyboardInterrupt, SystemExit) as e:
        if isinstance(e, SystemExit) and e.code != INTERRUPTED:  # typer makes that code of Ctrl-C
            raise
        print("triage-train: interrupted; prepare, phantoms, demo and fit --resume go on from what was done",
              file=sys.stderr)  # fmt: skip
        code = INTERRUPTED
    except BrokenPipeError:
        code = DONE
    except Exception as e:  # border: the last one
        log.debug("failed", exc_info=True)
        if is_shortage(e):
            print("triage-train: out of memory; end other programs, or use --device cpu", file=sys.stderr)
            sys.exit(FAILED)
        print(f"triage-train: unexpected fault: {type(e).__name__}: {e}", file=sys.stderr)
    sys.exit(code)


@recipe_app.command("list")
def list_recipes() -> None:
    """Name every recipe."""
    from triage.train.recipes import RECIPES

    width = max(map(len, RECIPES))
    for recipe in RECIPES.values():
        print(f"{recipe.name:{width}}  {recipe.title}")


@recipe_app.command("show")
def show_recipe(
    name: Annotated[str, typer.Argument(help="As `triage-train recipe list` names it.")],
    changes: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one document.")] = False,
) -> None:
    """Print every field of a recipe: its value, whether the source states it or it is inferred or assumed, and why."""
    from triage.train.recipes import overridden, recipe_named, recipe_table

    recipe = overridden(recipe_named(name), _changes(changes))
    rows = recipe_table(recipe)
    if as_json:
        keys = ("field", "value", "origin", "why")
        table = [dict(zip(keys, row, strict=True)) for row in rows]
        print(json.dumps({"name": recipe.name, "fields": table}, indent=2))
        return
    recipe_lines(recipe, rows)


@app.command()
def fit(
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    recipe: Annotated[str, typer.Option(help="As `triage-train recipe list` names it; not needed with --resume.")] = "",
    cache: Annotated[Path | None, typer.Option(help="What to train on; not needed with --resume.")] = None,
    changes: SetOption = None,
    arch: Annotated[str, typer.Option(help="Short for --set architecture=...")] = "",
    epochs: Annotated[int, typer.Option(min=0, help="Short for --set epochs=...")] = 0,
    max_steps: Annotated[int, typer.Option(min=0, help="Short for --set max_steps=...")] = 0,
    pretrained: Annotated[
        str, typer.Option(help="File with a torchvision state dict, or none. Nothing is ever downloaded.")
    ] = "",
    pretrained_sha256: Annotated[str, typer.Option(help="Hash that file must have, or its first 8 characters.")] = "",
    init: Annotated[Path | None, typer.Option(help="Another run, or a model pack, to start from.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    stop_after: Annotated[int, typer.Option(min=0, help="End after so many epochs, to be resumed.")] = 0,
    device: DeviceOption = "auto",
) -> None:
    """Train one run. Several GPUs: torchrun --nproc-per-node N -m triage.train.cli fit ..."""
    from triage.nn.predict import pick_device
    from triage.train.cache import open_cache
    from triage.train.fresh import fresh_for
    from triage.train.learner import Start
    from triage.train.loop import FitOptions
    from triage.train.loop import fit as train
    from triage.train.recipes import overridden, recipe_named
    from triage.train.runs import open_run, open_run_cache

    named = {"architecture": arch, "epochs": str(epochs or ""), "max_steps": str(max_steps or "")}
    wanted = _changes(changes) | {key: text for key, text in named.items() if text}
    if pretrained == "none":
        wanted["pretrained"] = "false"
    if resume:
        run = open_run(out)
        chosen, data = overridden(run.recipe, wanted), open_run_cache(run, cache)
    elif not recipe or cache is None:
        raise DataError("fit: name --recipe and --cache, or go on with --resume")
    else:
        data, chosen = open_cache(cache), _suited(overridden(recipe_named(recipe), wanted), pick_device(device))
    file = Path(pretrained) if pretrained not in ("", "none") else None
    with Bar("steps") as bar, fresh_for(chosen, out) as fresh:
        options = FitOptions(
            device=pick_device(device), resume=resume, start=Start(file, pretrained_sha256, init),
            stop_after=stop_after, fresh=fresh, command=_command(), on_event=watch(bar),
        )  # fmt: skip
        facts = train(chosen, data, out, options).facts
    if not _is_first():
        return
    print(
        f"{out}: {facts['epochs']} epochs, {facts['steps']} steps, {facts['seconds']:.0f} s; weights of epoch "
        f"{facts.get('best_epoch', '?')}"
    )


def _is_first() -> bool:
    """Whether this is the one of several processes that speaks."""
    return os.environ.get("RANK", "0") == "0"


def _suited(recipe: "Recipe", device: "torch.device") -> "Recipe":
    """The recipe in the precision that the processor knows; says so where that is another."""
    from triage.train.speed import suited

    fitting = suited(recipe, device)
    if fitting is not recipe and _is_first():
        print("this processor only imitates bf16: training in fp32 (--set precision=bf16 insists)", file=sys.stderr)
    return fitting


@app.command()
def calibrate(
    runs: RunsArgument,
    target_sensitivity: SensitivityOption = 0.90,
    target_specificity: SpecificityOption = 0.98,
    site_prevalence: SiteOption = 0.0,
    allow_unsupported: UnsupportedOption = False,
    cache: MovedOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Fit scale and bias of each head and choose thresholds, on patients kept out for that."""
    from triage.nn.predict import pick_device
    from triage.train.operating import Options
    from triage.train.trained import calibrate as fit_calibration
    from triage.train.trained import open_trained

    require_extra()
    options = Options(review_sensitivity=target_sensitivity, urgent_specificity=target_specificity,
                      site_prevalence=site_prevalence, allow_unsupported=allow_unsupported)  # fmt: skip
    trained = open_trained(runs, cache, pick_device(device))
    with Bar("slices") as bar:
        result = fit_calibration(trained, options, counted(bar, "scoring"))
    tell_calibrated(result)


@app.command()
def export(
    runs: RunsArgument,
    name: Annotated[str, typer.Option(help="Of the pack.")],
    version: Annotated[str, typer.Option(help="Of the pack.")],
    models: Annotated[Path, typer.Option(help="Folder of packs.")] = Path("models"),
    storage: Annotated[Literal["int8", "fp16", "fp32"], typer.Option(help="Of the weights in the files.")] = "int8",
    target_sensitivity: Annotated[
        float | None, typer.Option(min=0.01, max=0.999, help="As of calibrate; default: as the runs were calibrated.")
    ] = None,
    target_specificity: Annotated[float | None, typer.Option(min=0.01, max=0.9999, help="Likewise.")] = None,
    site_prevalence: Annotated[float | None, typer.Option(min=0.0, max=0.99, help="Likewise.")] = None,
    allow_unsupported: UnsupportedOption = False,
    intended_use: Annotated[Literal["demonstration", "site-validated"], typer.Option()] = "demonstration",
    replace: Annotated[bool, typer.Option("--replace", help="Write over a pack of that name and version.")] = False,
    cache: MovedOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Make a model pack that the node loads; its card is filled from the runs."""
    from triage.nn.pack import verify_pack
    from triage.nn.predict import pick_device
    from triage.train.export import ExportRequest
    from triage.train.export import export as make

    require_extra()
    typed = {"review_sensitivity": target_sensitivity, "urgent_specificity": target_specificity,
             "site_prevalence": site_prevalence, "allow_unsupported": allow_unsupported or None}  # fmt: skip
    options = _as_calibrated(runs[0], {key: value for key, value in typed.items() if value is not None})
    request = ExportRequest(
        tuple(runs), name, version, models, storage, options, intended_use, cache=cache, device=pick_device(device),
        command=_command(), replace=replace,
    )  # fmt: skip
    with Bar("slices") as bar:
        make(request, counted(bar, "scoring"))
    print("\n".join([str(request.folder), *verify_pack(request.folder)]))


@app.command()
def compare(
    pack_a: Annotated[Path, typer.Argument(help="The pack in use.")],
    pack_b: Annotated[Path, typer.Argument(help="The one that may replace it.")],
    data: Annotated[Path, typer.Option(help="A cache that neither was trained on, or whose test part was kept out.")],
    data_b: Annotated[
        Path | None, typer.Option(help="The same slices in the size that the second pack wants, if it wants another.")
    ] = None,
    margin: Annotated[float, typer.Option(min=0, max=0.5, help="What may be lost at most.")] = 0.02,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one document.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Say whether a pack is not worse than another; exit code 1 when it is, or is not shown not to be."""
    from triage.nn.predict import pick_device
    from triage.train.cache import open_cache
    from triage.train.compare import Gate
    from triage.train.compare import compare as hold

    require_extra()
    with Bar("slices") as bar:
        other = open_cache(data_b) if data_b else None
        gate = Gate(margin, device=pick_device(device), cache_b=other)
        found = hold(pack_a, pack_b, open_cache(data), gate, counted(bar, "scoring"))
    if as_json:
        print(json.dumps(found.document(), indent=2))
    else:
        print("\n".join(comparison_lines(found)))
    raise typer.Exit(DONE if found.is_not_worse else FAILED)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the pack, models/<name>-<version>.")],
    work: Annotated[Path, typer.Option(help="Keeps phantoms and runs; an interrupted demo goes on from there.")],
    recipe: Annotated[str, typer.Option(help="As `triage-train recipe list` names it.")] = "demo",
    studies: Annotated[int, typer.Option(min=40, help="Phantoms for training, calibration and test together.")] = 2000,
    shifted: Annotated[int, typer.Option(min=1, help="Phantoms of another profile, to measure on.")] = 50,
    changes: SetOption = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="Runs one after the other: later ones go on at half the rate, half as long.")
    ] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make phantoms; 0: one a core.")] = 0,
    first_seed: Annotated[int, typer.Option(min=1, help="Of the phantoms.")] = 1,
    init: Annotated[Path | None, typer.Option(help="Pack to go on with, of other seeds.")] = None,
) -> None:
    """Make a demonstration pack, from nothing or another: phantoms, training, calibration, export, measured figures."""
    from triage.train.demo import DemoRequest, make_demo

    require_extra()
    request = DemoRequest(out, work, recipe, studies, shifted, _changes(changes), rounds, workers, _command(),
                          first_seed, init)  # fmt: skip
    with Bar("items") as bar:
        lines = make_demo(request, bar)
    print("\n".join(lines))


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def _changes(pairs: list[str] | None) -> dict[str, str]:
    """FIELD=VALUE texts as a mapping."""
    changes = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise DataError(f"--set {pair}: write it as FIELD=VALUE")
        changes[key.strip()] = text.strip()
    return changes


def _as_calibrated(run: Path, typed: dict[str, Any]) -> "Options":
    """What a run was calibrated for, else the defaults, with what was typed in its place."""
    from triage.train.calibrate import read_calibration
    from triage.train.operating import Options

    earlier = read_calibration(run)
    return dataclasses.replace(earlier.options if earlier else Options(), **typed)


def _command() -> str:
    """As typed, for the record of a run."""
    return shlex.join(["triage-train", *sys.argv[1:]])


if __name__ == "__main__":
    main()
