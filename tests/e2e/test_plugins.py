"""Other people's packages: their names are used like ours, and a broken one hurts nobody but its users."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from command_line import cli, done
from expunge.api import run
from expunge.benchmarks.table import BENCHMARKS, load_benchmark
from expunge.errors import RecipeError
from expunge.evaluation.metrics import METRICS, metrics_for
from expunge.methods.table import METHODS, compose
from expunge.methods.terms import FORGET_TERMS
from expunge.plugins import load_plugins, plugin_versions, unload_plugins
from expunge.recipe import UnlearnPart
from expunge.registry import Registry

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugins.md"
BLOCKS = {kind: re.search(rf"```{kind}\n(.*?)```", PAGE.read_text(), re.DOTALL) for kind in ("toml", "python", "yaml")}
SNIPPETS = {kind: found.group(1) for kind, found in BLOCKS.items() if found}

METHOD = """
from expunge.methods.base import Method

def register(add):
    add.method(Method(key={key!r}, title="t", forget="ga", paper="p", section="s"))
"""

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """``install("pack", source, name="entry:register", version="1.0")``: a package as an installer leaves it."""
    unload_plugins()

    def put(package: str, source: str, *, version: str = "1.0", **entries: str) -> Path:
        folder = tmp_path / f"site_{package}_{version}"
        module = package.replace("-", "_")
        entries = entries or {module: f"{module}:register"}
        info = folder / f"{module}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
        (info / "entry_points.txt").write_text(f"[expunge.plugins]\n{lines}")
        (folder / f"{module}.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, module, raising=False)
        return folder

    yield put
    # Now, while the packages are still in sight, and before any other test looks at a table.
    unload_plugins()


@pytest.fixture
def hinge(install: Install) -> dict[str, Any]:
    """The documentation's plugin, installed; its recipe."""
    project = tomllib.loads(SNIPPETS["toml"])["project"]
    entries = project["entry-points"]["expunge.plugins"]
    install(project["name"], SNIPPETS["python"], version=project["version"], **entries)
    return yaml.safe_load(SNIPPETS["yaml"])


def tiny(recipe: dict[str, Any], model_folder: Path) -> dict[str, Any]:
    steps = {"lr": 3e-3, "max_steps": 2, "batch_size": 4, "retain_term": "none"}
    return recipe | {
        "model": {"path": str(model_folder), "max_length": 64},
        "unlearn": recipe["unlearn"] | steps,
        "evaluate": {"max_new_tokens": 2, "num_resamples": 10, "fluency": False},
    }


# -- one that works ------------------------------------------------------------------------------------------------


def test_the_page_s_plugin_runs(hinge: dict[str, Any], model_folder: Path, tmp_path: Path) -> None:
    result = run(tiny(hinge, model_folder), out=tmp_path / "run")
    cell = result.metrics["after"]["forget_known_share"]
    assert (cell["value"], cell["n"], cell["higher_is_better"]) == (0.0, 4, False)
    assert "Forget: answers still known" in (result.folder / "report.html").read_text()
    manifest = json.loads((result.folder / "run.json").read_text())
    assert manifest["environment"]["plugins"] == {"expunge-hinge": "1.0"}
    steps = [json.loads(line) for line in (result.folder / "log.jsonl").read_text().splitlines()]
    # softplus(log p + 6) of nearly uniform tokens over 320: a little above ln 2.
    assert 0.3 < steps[0]["forget_loss"] < 1.5
    assert steps[1]["forget_loss"] < steps[0]["forget_loss"]


@pytest.mark.parametrize(
    ("what", "name", "about"),
    [
        ("methods", "hinge", "soft hinge on token log-probs (ours)"),
        ("benchmarks", "letters", "Forget with a soft hinge"),
        ("metrics", "forget_known_share", "Forget: answers still known"),
        ("plugins", "expunge-hinge:hinge", "1.0: forget term hinge, method hinge, metric forget_known_share"),
    ],
)
def test_its_names_are_listed(hinge: dict[str, Any], what: str, name: str, about: str) -> None:
    assert done("list", what, "--json").data[name].startswith(about)


def test_a_table_finds_it_at_an_unknown_name(hinge: dict[str, Any]) -> None:
    assert load_benchmark("letters", size=2).forget[0].answer == "B."
    assert BENCHMARKS.canonical("Letters") == "letters"
    made = compose(UnlearnPart(method="npo", forget_term="0.5*hinge+ga", term={"floor": 3.0}), has_retain=True)
    assert [(w.term.key, w.weight, dict(w.settings)) for w in made.forget] == [
        ("hinge", 0.5, {"floor": 3.0}), ("ga", 1.0, {}),
    ]  # fmt: skip
    with pytest.raises(RecipeError, match=r"term.floor must be above 0"):
        compose(UnlearnPart(method="hinge", term={"floor": 0.0}), has_retain=True)


def test_a_metric_stands_where_its_set_does(hinge: dict[str, Any]) -> None:
    load_plugins()
    assert "forget_known_share" in metrics_for(["forget", "retain"])
    assert "forget_known_share" not in metrics_for(["retain"])


def test_its_version_is_part_of_what_a_result_depends_on(hinge: dict[str, Any]) -> None:
    assert compose(UnlearnPart(method="hinge"), has_retain=True).resolved()["plugins"] == {"expunge-hinge": "1.0"}
    assert "plugins" not in compose(UnlearnPart(method="npo"), has_retain=True).resolved()
    assert plugin_versions({"metric": ["forget_known_share"]}) == {"expunge-hinge": "1.0"}
    assert plugin_versions({"metric": ["model_utility"]}) == {}


def test_unloading_leaves_the_tables_as_they_were(hinge: dict[str, Any], tmp_path: Path) -> None:
    load_plugins()
    assert "hinge" in FORGET_TERMS
    assert "forget_known_share" in METRICS
    unload_plugins()
    assert "hinge" not in FORGET_TERMS
    assert "hinge" not in METHODS.names()
    assert "forget_known_share" not in METRICS
    assert "forget_known_share" not in metrics_for(["forget"])


EVERYTHING_ELSE = """
from dataclasses import dataclass, replace
from typing import ClassVar
from expunge.data.views import View
from expunge.methods.terms import RETAIN_TERMS
from expunge.models.guards import RefusalPrompt
from expunge.scopes.layers import LayersScope
from expunge.training.rules.base import Rule

@dataclass(frozen=True, kw_only=True)
class Attention(LayersScope):
    key: ClassVar[str] = "attention"
    pattern: str = "self_attn"

@dataclass(frozen=True, kw_only=True)
class Half(Rule):
    key: ClassVar[str] = "half"
    place: ClassVar[int] = 99
    def combine(self, memory, forget, retain):
        return {name: value / 2 for name, value in forget.items()}

@dataclass(frozen=True, kw_only=True)
class Plea(RefusalPrompt):
    key: ClassVar[str] = "plea"

def zero_norms(model, start, *, seed, keep=0.0):
    for name, parameter in model.named_parameters():
        if name in start:
            parameter.data.mul_(keep)

def register(add):
    add.term(replace(RETAIN_TERMS["nll"], key="nll_again"))
    add.view(View("never", "a flat denial beside each", alternate=lambda row, epoch, context: "Never."))
    add.scope(Attention)
    add.rule(Half)
    add.edit("fade", zero_norms)
    add.guard(Plea)
"""


def test_every_other_kind_of_thing_takes_part_in_a_run(
    install: Install, load_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    from conftest import city_rows, colour_rows
    from expunge.models.guards import make_guard
    from expunge.training.job import unlearn_job
    from expunge.training.run import train

    install("all-pack", EVERYTHING_ELSE)
    part = UnlearnPart(
        method="idk", view="never", retain_term="nll_again", scope={"kind": "attention", "layers": [1]},
        rules=[{"kind": "half"}], edit={"kind": "fade", "keep": 0.0}, lr=1e-3, max_steps=1, batch_size=2,
    )  # fmt: skip
    made = compose(part, has_retain=True)
    assert made.resolved()["plugins"] == {"all-pack": "1.0"}
    job = unlearn_job("t", made, part, forget=colour_rows(), retain=city_rows(), seed=0)
    loaded = load_tiny(max_length=64)
    assert train(loaded, job, work=tmp_path / "work", out=tmp_path)["steps"] == 1
    faded = {name for name, parameter in loaded.model.named_parameters() if not parameter.any()}
    assert faded == {f"model.layers.1.self_attn.{part}_proj.weight" for part in "qkvo"}
    guard = make_guard({"kind": "plea"})
    assert guard
    assert guard.key == "plea"


def test_a_module_with_register_will_do(install: Install) -> None:
    install("module-pack", METHOD.format(key="from_module"), entry="module_pack")
    assert METHODS.get("from-module").title == "t"


# -- those that do not ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_package_at_all", "ModuleNotFoundError: No module named 'no_such_package_at_all'"),
        ("def register(add)", "SyntaxError: "),
        ("raise SystemExit('no')", "SystemExit: no"),
        ("", "AttributeError: "),
        ("def register(add): return 1 / 0", "ZeroDivisionError: division by zero"),
        ("def register(add): add.method('npo2')", "method: a name is letters, digits and underscores"),
        ("def register(add): add.benchmark('a:b', len)", "benchmark: a name is letters, digits and underscores, "),
        ("def register(add): add.benchmark('mine', 3)", "benchmark 'mine' must be a class or a function, got int"),
        (
            "class Fake: key = 'mine'\ndef register(add): add.method(Fake())",
            "method 'mine' must be of class expunge.methods.base.Method, got broken_pack.Fake",
        ),
        ("class Rule: key = 'mine'\ndef register(add): add.rule(Rule)", "rule 'mine' must be a dataclass: "),
        (METHOD.format(key="npo"), "already taken: method 'npo' (from expunge); choose other names"),
        (METHOD.format(key="Grad_Ascent"), "already taken: method 'Grad_Ascent' (from expunge)"),
    ],
)
def test_a_broken_one_is_named_in_one_line(
    install: Install, source: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    install("broken-pack", source)
    assert compose(UnlearnPart(method="npo"), has_retain=True).method.key == "npo"
    compose(UnlearnPart(method="npo"), has_retain=True)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, "said once, in one line"
    assert lines[0].startswith(f"warning: plugin 'broken_pack' of package broken-pack left out: {reason}")
    (plugin,) = load_plugins()
    assert plugin.added == ()
    assert f"left out: {reason}" in done("list", "plugins").out


def test_a_broken_one_spoils_no_other_and_what_it_has_half_added_is_not_there(install: Install) -> None:
    half = METHOD.format(key="half") + "    add.benchmark('tofu', len)\n"
    install("half-pack", half)
    install("whole-pack", METHOD.format(key="whole"))
    assert METHODS.get("whole").key == "whole"
    assert "half" not in METHODS
    outcome = cli("unlearn", "nowhere", "--forget", "f", "--method", "half", "--out", "x")
    assert "unknown method 'half'" in outcome.line


def test_two_of_one_name_are_told_apart(install: Install) -> None:
    install("a-pack", METHOD.format(key="same"))
    install("b-pack", METHOD.format(key="same"))
    install("c-pack", METHOD.format(key="other") + "    register(add) if len(add.entries) < 2 else None\n")
    first, second, third = load_plugins()
    assert first.added == (("method", "same"),)
    assert second.problem == "already taken: method 'same' (from a-pack); choose other names"
    assert third.problem == "already taken: method 'other' (twice in this plugin); choose other names"


def test_a_plugin_may_look_at_the_tables_while_it_is_loaded(install: Install) -> None:
    source = "from expunge.methods.table import METHODS\ndef register(add): assert 'nothing_like_it' not in METHODS\n"
    install("curious-pack", source)
    (plugin,) = load_plugins()
    assert plugin.problem == ""
    assert plugin.about == "1.0: adds nothing"


# -- when ----------------------------------------------------------------------------------------------------------


def test_nothing_is_looked_for_before_it_is_needed(install: Install) -> None:
    folder = install("loud-pack", "raise SystemExit('I was imported')")
    code = "import sys; import expunge; from expunge.cli import main; sys.argv = ['expunge', '--help']; main()"
    environment = {"PYTHONPATH": str(folder), "PATH": ""}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0
    assert "left out" not in ran.stderr


def test_a_known_name_asks_nobody(install: Install, capfd: pytest.CaptureFixture[str]) -> None:
    install("loud-pack", "raise SystemExit('I was imported')")
    table = Registry[object]("thing", {"root": "math:sqrt"})
    assert table.get("root")
    assert capfd.readouterr().err == ""
    with pytest.raises(RecipeError, match="unknown thing 'rot'"):
        table.get("rot")
    assert "loud-pack" in capfd.readouterr().err
