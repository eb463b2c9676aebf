"""``import expunge`` and ``expunge --help`` load nothing heavy: what is not in memory costs no time."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "datasets", "accelerate", "peft", "pandas", "pyarrow", "scipy", "matplotlib", "numpy")

REPORT = "import json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})), file=sys.stderr)"

HELP = f"""
import sys
sys.argv = ["expunge", *sys.argv[1:]]
from expunge.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
{REPORT}
"""


def loaded(code: str, *arguments: str) -> set[str]:
    """Top-level names of the modules a fresh interpreter holds after ``code``."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_import_expunge_loads_nothing_heavy():
    assert loaded(f"import expunge\n{REPORT}").isdisjoint(HEAVY)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["unlearn", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    if not hasattr(__import__("expunge.cli").cli, "main"):
        pytest.skip("the command line is not there yet")
    assert loaded(HELP, *arguments).isdisjoint(HEAVY)


@pytest.mark.slow
def test_the_measure_can_fail():
    assert "scipy" in loaded(f"import scipy.stats\n{REPORT}")
