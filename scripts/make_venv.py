"""Make ``.venv`` with expunge and the versions in constraints.txt; the Makefile calls this before every target.

Nothing happens when ``.venv`` is already right, so a second call is instant. A torch that the calling
interpreter can import is shared with ``.venv`` instead of being installed again, unless ``--torch`` is given.
Standard library only, and old syntax, so that an old interpreter reaches the message that says it is too old.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STATE = VENV / "expunge.json"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
INPUTS = ("pyproject.toml", "constraints.txt")
TOOLS = ("ruff", "mypy", "pytest")
OLDEST_PYTHON = (3, 11)
OLDEST_TORCH = (2, 6)
# torch pins sympy exactly in some versions, so its line has to go wherever torch's own goes.
TORCH_LINES = re.compile(r"^(torch|sympy|mpmath)==.*\n", re.MULTILINE)

TORCH_VERSION = "import torch; print(torch.__version__)"
SITE_FOLDERS = "import sys; print(*[p for p in sys.path if p.endswith(('site-packages', 'dist-packages'))], sep='\\n')"


def main():
    """Bring ``.venv`` up to date and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", default="", help="pip arguments that install torch, e.g. 'torch==2.11.0'")
    parser.add_argument("--python-given", action="store_true", help="the interpreter was named, not just the default")
    options = parser.parse_args()
    old = read_state()
    inputs = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in INPUTS)).hexdigest()
    fresh = not old or (options.torch and options.torch != old["torch"])
    fresh = fresh or (options.python_given and not in_venv() and sys.executable != old["python"])
    if not fresh and old["inputs"] == inputs:
        return 0
    try:
        state = make(options.torch) if fresh else old
        install(state)
    except subprocess.CalledProcessError as error:
        print(f"could not make .venv: {shlex.join(error.cmd)} stopped; its message is above", file=sys.stderr)
        return 1
    state["inputs"] = inputs
    STATE.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    return 0


def read_state():
    """Return what ``.venv`` was made with, or None when it was not finished."""
    try:
        state = json.loads(STATE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return state if PYTHON.exists() else None


def in_venv():
    """True when the calling interpreter is the one of ``.venv`` itself."""
    return Path(sys.prefix).resolve() == VENV


def make(torch):
    """Make an empty ``.venv``, give it its torch where that is not the pinned one, and return its state."""
    if sys.version_info < OLDEST_PYTHON:
        sys.exit(f"expunge needs Python 3.11 or newer, this is {sys.version.split()[0]}; name one: PYTHON=python3.12")
    if in_venv():
        sys.exit(".venv has to be made anew and is active: run deactivate, then make again")
    print("Making .venv and installing expunge into it (once, some minutes) ...", flush=True)
    venv.create(VENV, clear=True, with_pip=True)
    if torch:
        pip("install", *shlex.split(torch))
    reused = "" if torch else reuse_torch()
    return {"python": sys.executable, "torch": torch, "reused": reused}


def reuse_torch():
    """Let ``.venv`` see the calling interpreter's torch and return its version, or an empty string without one."""
    version = output([sys.executable, "-c", TORCH_VERSION])
    number = re.match(r"(\d+)\.(\d+)", version)
    if not number or tuple(map(int, number.groups())) < OLDEST_TORCH:
        return ""
    site = Path(output([str(PYTHON), "-c", "import site; print(site.getsitepackages()[0])"]))
    # A .pth line comes after .venv's own packages, so whatever is pinned still wins.
    link = site / "reused_torch.pth"
    link.write_text(output([sys.executable, "-c", SITE_FOLDERS]) + "\n", encoding="utf-8")
    if output([str(PYTHON), "-c", TORCH_VERSION]) != version:
        link.unlink()
        return ""
    print(f"Reusing torch {version} of {sys.executable}", flush=True)
    return version


def install(state):
    """Install expunge in place with its demo and development tools, at the pinned versions."""
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    if state["torch"] or state["reused"]:
        pins = TORCH_LINES.sub("", pins)
    constraints = VENV / "constraints.txt"
    constraints.write_text(pins, encoding="utf-8")
    if state["reused"]:
        # A package found in the other interpreter's folders leaves no command in .venv/bin; make calls these three.
        pip("install", "--constraint", str(constraints), "--ignore-installed", "--no-deps", *TOOLS)
    pip("install", "--constraint", str(constraints), "--editable", str(ROOT) + "[demo,dev]")


def pip(*arguments):
    """Run ``.venv``'s pip quietly; what goes wrong is printed by pip itself."""
    subprocess.run([str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments], check=True)


def output(command):
    """Return what a command prints, or an empty string when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return done.stdout.decode().strip() if done.returncode == 0 else ""


if __name__ == "__main__":
    sys.exit(main())
