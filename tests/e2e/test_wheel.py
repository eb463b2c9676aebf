"""The built wheel works on its own, away from the checkout, and carries everything the package reads."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import expunge

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without our environment's paths and return what it printed."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd, env=clean)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment holding only the wheel; its dependencies are lent by this one."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    install = ("install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", wheel)
    run(sys.executable, "-m", "pip", "--python", python, *install, cwd=folder)
    site = Path(run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).strip())
    # Plain folders in a .pth: the editable install's own .pth in them is not followed, so the checkout stays unseen.
    lent = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site / "lent.pth").write_text("\n".join(lent) + "\n")
    return folder / "bin"


def test_the_wheel_carries_what_the_package_reads(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    recipes = {f"expunge/recipes/{path.relative_to(ROOT / 'recipes')}" for path in (ROOT / "recipes").rglob("*.yaml")}
    assert recipes, "no recipe is shipped"
    expected = {"expunge/py.typed", "expunge/reporting/template.html.j2", *recipes}
    assert expected <= names, sorted(expected - names)


def test_the_wheel_carries_every_module_and_nothing_else(wheel):
    package = ROOT / "src"
    tracked = {
        str(path.relative_to(package))
        for path in (package / "expunge").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    extra = {name for name in inside - tracked if ".dist-info/" not in name and not name.startswith("expunge/recipes/")}
    assert (tracked - inside, extra) == (set(), set())


def test_the_metadata_names_the_licence_and_the_readme(wheel):
    with zipfile.ZipFile(wheel) as archive:
        info = f"expunge-{expunge.__version__}.dist-info"
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        assert "Apache License" in archive.read(f"{info}/licenses/LICENSE").decode()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()


def test_it_imports_from_its_own_place(installed, tmp_path):
    where = run(installed / "python", "-c", "import expunge; print(expunge.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(installed.parent)


def test_the_command_line_runs_outside_the_checkout(installed, tmp_path):
    assert expunge.__version__ in run(installed / "expunge", "--version", cwd=tmp_path)
    assert "npo" in run(installed / "expunge", "list", "methods", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
