"""Imports run one way: a room of the package imports only rooms to its left."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import expunge

PACKAGE = Path(expunge.__file__).parent

# Left to right.
ORDER = [
    "llm",
    "data",
    "benchmarks",
    "models",
    "scopes",
    "methods",
    "training",
    "evaluation",
    "attacks",
    "requests",
    "reporting",
    "pipeline",
    "api",
    "cli",
]
PURE = ["losses", "evaluation.metrics", "evaluation.stats"]
# Besides the standard library, all that PURE rooms may import.
PURE_THIRD_PARTY = {"torch", "numpy", "scipy", "rouge_score", "sacrebleu"}
# One exception inside: a metric aggregates with stats; stats and losses import neither of the others.
PURE_MAY_IMPORT = {"evaluation.metrics": {"evaluation.stats"}}
# These import no room at all; all but the recipe, which describes a run, may be imported everywhere.
# The plugins reach the tables by name, once every room is there.
APART = ["recipe", "registry", "errors", "progress", "parallel", "plugins"]
EVERYWHERE = {"registry", "errors", "progress", "parallel", "plugins"}

FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """Dotted name inside the package: ``losses.preference``, ``losses`` for its ``__init__``, '' for the root's."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room a dotted name inside the package belongs to; the longest named room wins."""
    for room in PURE:
        if module == room or module.startswith(room + "."):
            return room
    return module.split(".")[0]


def imports_of(source: str, module: str, *, is_package: bool) -> list[tuple[int, str]]:
    """Every import of a file, at any depth, as (line, absolute dotted name); relative ones are resolved."""
    found: list[tuple[int, str]] = []
    package = f"expunge.{module}".rstrip(".").split(".")
    if not is_package:
        package = package[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = package[: len(package) - node.level + 1]
                base = ".".join([*anchor, base] if base else anchor)
            # "from expunge import losses" and "from expunge.evaluation import stats" name modules on the right.
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def resolve(name: str) -> str | None:
    """The module of ours that a dotted name reaches, without the ``expunge`` prefix; None for other packages."""
    if name.split(".")[0] != "expunge":
        return None
    parts = name.split(".")[1:]
    while parts:
        path = PACKAGE.joinpath(*parts)
        if path.with_suffix(".py").exists() or path.is_dir():
            break
        parts.pop()
    return ".".join(parts)


def complaint(module: str, name: str) -> str | None:
    """Say why ``module`` may not import ``name``, or return None."""
    room = room_of(module)
    target = resolve(name)
    if target is None:
        return _foreign_complaint(room, name)
    if target == "":
        # The root holds the version and lazy doors; importing it pulls in no room.
        return None
    other = room_of(target)
    if other == room or other in EVERYWHERE or other in PURE_MAY_IMPORT.get(room, ()):
        return None
    if room in PURE or room in APART:
        return f"{room} imports nothing of ours, not {other}"
    if room not in ORDER or other in PURE:
        return None
    if other not in ORDER:
        return None if other == "recipe" else f"{other} has no place in the order"
    if ORDER.index(other) > ORDER.index(room):
        return f"{room} stands left of {other}"
    return None


def _foreign_complaint(room: str, name: str) -> str | None:
    top = name.split(".")[0]
    if room in PURE and top not in sys.stdlib_module_names and top not in PURE_THIRD_PARTY:
        return f"{room} imports only {', '.join(sorted(PURE_THIRD_PARTY))}, not {top}"
    return None


@pytest.mark.parametrize("path", FILES, ids=[module_of(path) or "expunge" for path in FILES])
def test_imports_run_one_way(path):
    module = module_of(path)
    found = imports_of(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py")
    wrong = [f"{path.name}:{line} {name}: {why}" for line, name in found if (why := complaint(module, name))]
    assert not wrong, "\n".join(wrong)


def test_every_file_has_a_place():
    rooms = {room_of(module_of(path)) for path in FILES} - {""}
    unknown = rooms - {*ORDER, *PURE, *APART, "__main__"}
    assert not unknown, f"add to the order in this test: {sorted(unknown)}"


IMPORT_EACH = """
import importlib, sys
wrong = []
for name in sys.argv[1:]:
    for loaded in [key for key in sys.modules if key.split(".")[0] == "expunge"]:
        del sys.modules[loaded]
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        wrong.append(f"{name}: {error}")
    else:
        if not module.__doc__:
            wrong.append(f"{name}: does not say what it is")
print("\\n".join(wrong))
"""


@pytest.mark.slow
def test_every_module_imports_on_its_own():
    # In one process without ours loaded before, so that a circular import cannot hide behind an earlier one.
    modules = [f"expunge.{module_of(path)}".rstrip(".") for path in FILES if path.name != "__main__.py"]
    done = subprocess.run([sys.executable, "-c", IMPORT_EACH, *modules], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "source", "why"),
    [
        ("data.rows", "from expunge.training import trainer", "data stands left of training"),
        ("data.rows", "def f():\n    import expunge.cli", "data stands left of cli"),
        ("data.rows", "from ..models import load", "data stands left of models"),
        ("data.rows", "from .. import models", "data stands left of models"),
        ("losses.preference", "from expunge.data.rows import Row", "losses imports nothing of ours, not data"),
        ("losses.preference", "import transformers", "losses imports only"),
        ("evaluation.stats", "from .metrics import text", "evaluation.stats imports nothing of ours"),
        ("evaluation.metrics.text", "from .. import logs", "evaluation.metrics imports nothing of ours"),
        ("recipe", "from expunge.methods import npo", "recipe imports nothing of ours, not methods"),
        ("plugins", "from expunge.methods import table", "plugins imports nothing of ours, not methods"),
        ("registry", "from expunge.plugins import load_plugins", None),
        ("data.rows", "from expunge.errors import UserError", None),
        ("methods.npo", "from expunge.losses.preference import npo_loss", None),
        ("evaluation.metrics.text", "from ..stats import ks", None),
        ("evaluation.scorer", "from .metrics import base", None),
        ("cli.main", "from ..pipeline import run", None),
        ("losses.preference", "import math, torch.nn.functional as F", None),
        ("pipeline", "from expunge import __version__", None),
    ],
)
def test_the_rule_itself(module, source, why):
    found = imports_of(source, module, is_package=False)
    complaints = [complaint(module, name) for _, name in found]
    assert any(why in (text or "") for text in complaints) if why else complaints == [None] * len(found)
