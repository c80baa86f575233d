"""The import rule, the homes of heavy libraries and the sizes of design: checked on the source text."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "triage"
MODULES = sorted(ROOT.rglob("*.py"))

ROWS = {
    "errors": 0, "records": 0,
    "config": 1, "logs": 1,
    "dicom": 2, "net": 2, "store": 2, "nn": 2, "phantom": 2,
    "pipeline": 3, "train": 3, "reception": 3, "notify": 3,
    "worker": 4, "outbox": 4,
    "service": 5,
    "activation": 6, "demo": 6, "doctor": 6, "screen": 6, "options": 6, "conformance": 6,
    "delivery_cli": 7,
    "cli": 8,
}  # fmt: skip

HOMES = {
    "pydicom": {"dicom", "net", "phantom", "conformance"},
    "highdicom": {"dicom"},
    "pynetdicom": {"net"},
    "sqlalchemy": {"store"},
    "alembic": {"store"},
    "torch": {"nn", "train"},
    "torchvision": {"nn", "train"},
    "apscheduler": {"service", "worker"},
    "sklearn": {"train"},
    "matplotlib": {"train"},
    "tensorboard": {"train"},
    "typer": {"cli", "delivery_cli", "options", "train"},
    "rich": {"cli", "delivery_cli", "screen", "options", "train"},
    "hl7": {"notify"},
    "fhir": {"notify"},
    "httpx": {"notify"},
    "contourpy": {"dicom"},
}

MODULE_LINES = 400
FUNCTION_LINES = 50
PARAMETERS = 5

COMMANDS = ("cli", "data_cli", "delivery_cli", "evaluate_cli")
"""A command's options are its parameters."""


def room(path: Path) -> str:
    """First part below triage/: a package or a module's stem."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            module = node.module or ""
            yield from (f"{module}.{a.name}" for a in node.names)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    total = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        total -= (first.end_lineno or first.lineno) - first.lineno + 1
    return total


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_from_rows_above(path: Path) -> None:
    here = room(path)
    if here in ("__init__", "__main__"):
        return
    for name in imports(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] == "triage" and len(parts) > 1 and parts[1] != here and parts[1] in ROWS:
            assert ROWS[parts[1]] < ROWS[here], f"{here} (row {ROWS[here]}) imports {name}"
        if parts[0] in HOMES:
            assert here in HOMES[parts[0]], f"{here} imports {parts[0]}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_sizes(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MODULE_LINES
    for node in functions(ast.parse(text)):
        assert body_lines(node) <= FUNCTION_LINES, f"{node.name} has {body_lines(node)} lines"
        arguments = [
            a for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")
        ]
        if path.stem not in COMMANDS:
            assert len(arguments) <= PARAMETERS, f"{node.name} has {len(arguments)} parameters"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_opens_with_a_sentence(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path.name} has no docstring"


def test_no_module_is_named_for_nothing() -> None:
    assert not {p.stem for p in MODULES} & {"utils", "util", "helpers", "common", "misc"}


def test_broad_except_stands_at_the_borders_only() -> None:
    borders = {"net/scp.py", "worker.py", "cli.py", "train/cli.py", "dicom/decode_child.py"}  # last: its own process
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                broad = node.type is None or (
                    isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
                )
                name = str(path.relative_to(ROOT))
                assert not broad or name in borders, f"{name}:{node.lineno} catches everything"
