"""The imports point one way: schemas ← policy ← workflows → activities ← workers, cli, lab."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "workflows", "activities", "workers", "cli", "lab", "bench", "archiver")

OURS = {*PACKAGES, "tests"}
MAY_IMPORT_OF_OURS = {
    "schemas": {"schemas"},
    "workflows/policy": {"schemas", "workflows.policy"},
    "workflows": {"schemas", "workflows", "activities"},
    "activities": {"schemas", "activities"},
    "workers": {"schemas", "workflows", "activities", "workers"},
    "cli": OURS - {"bench", "tests"},
    "lab": OURS - {"bench", "tests"},
    "bench": OURS - {"tests"},
    # On database hosts, once a WAL file: what it imports is short.
    "archiver": {"archiver", "schemas.wal"},
}
MAY_IMPORT_OF_OTHERS = {
    "schemas": {"pydantic"},
    "workflows/policy": set(),
    "workflows": {"temporalio", "pydantic"},
    "archiver": {"boto3", "botocore", "urllib3"},
}
"""Beside the standard library; who is not here may import any library."""

NEVER_IN_POLICY = {"asyncio", "os", "pathlib", "random", "secrets", "socket", "subprocess", "time", "uuid"}
CLOCKS = {"now", "utcnow", "today", "time", "monotonic"}


def layer_of(file: Path) -> str:
    parts = file.relative_to(ROOT).parts
    return "workflows/policy" if parts[:2] == ("workflows", "policy") else parts[0]


def imports(tree: ast.AST) -> Iterator[str]:
    """Every imported module, wherever in the file; `from a import b` gives `a.b`, since b may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield f"relative import of {node.module or '.'}"
            else:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_imports(layer: str, source: str) -> list[str]:
    """Imports in `source` that a module of `layer` may not make."""
    found = []
    for name in imports(ast.parse(source)):
        top = name.split(".")[0]
        if top in OURS:
            allowed = any(name == each or name.startswith(f"{each}.") for each in MAY_IMPORT_OF_OURS[layer])
        elif name.startswith("relative import"):
            allowed = False
        elif top in sys.stdlib_module_names:
            allowed = layer != "workflows/policy" or top not in NEVER_IN_POLICY
        else:
            allowed = layer not in MAY_IMPORT_OF_OTHERS or top in MAY_IMPORT_OF_OTHERS[layer]
        if not allowed:
            found.append(name)
    return found


def impurities(source: str) -> list[str]:
    """Calls in `source` that look at a clock or do I/O."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr in CLOCKS:
                found.append(ast.unparse(node.func))
            elif isinstance(node.func, ast.Name) and node.func.id in {"open", "print", "input"}:
                found.append(node.func.id)
    return found


FILES = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_one_way(file):
    assert wrong_imports(layer_of(file), file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "file",
    [file for file in FILES if layer_of(file) in ("schemas", "workflows/policy")],
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_nouns_and_decisions_have_no_clock_and_no_io(file):
    assert impurities(file.read_text(encoding="utf-8")) == []


def test_each_layer_is_there():
    assert {layer_of(file) for file in FILES} >= {"schemas", "workflows/policy", "workflows", "activities"}


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("schemas", "import yaml"),
        ("schemas", "from workflows.policy import clock"),
        ("workflows/policy", "import temporalio"),
        ("workflows/policy", "import pydantic"),
        ("workflows/policy", "from workflows import runbook"),
        ("workflows/policy", "def f():\n    import time"),
        ("workflows/policy", "from . import clock"),
        ("workflows", "import asyncpg"),
        ("workflows", "from workers import connect"),
        ("activities", "from workflows.policy.voters import next_set"),
        ("activities", "import lab.model"),
        ("workers", "import cli.main"),
        ("cli", "import bench.common"),
        ("lab", "import tests"),
        ("archiver", "import pydantic"),
        ("archiver", "from schemas.backup import Retention"),
    ],
)
def test_the_check_bites(layer, source):
    assert wrong_imports(layer, source)


@pytest.mark.parametrize("source", ["datetime.now(UTC)", "time.monotonic()", "open('x')", "date.today()"])
def test_the_check_of_purity_bites(source):
    assert impurities(source)
