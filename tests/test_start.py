"""What a cold start waits for."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("package", ["scipy", "matplotlib", "captum", "ray", "duckdb", "torchvision"])
def test_home_and_lab_come_without_packages_that_take_a_second_to_import(package: str) -> None:
    # Mutant: ``from scipy.stats import …`` at the top of a module that every page imports.
    modules = "ui.shell, ui.home, ui.checks, ui.close_up, ui.ladder, ui.picking, ui.uploading"
    assert run_python(f"import sys, {modules}; print({package!r} in sys.modules)") == "False"


def test_nothing_is_imported_ahead_that_makes_a_cache_or_that_home_does_without() -> None:
    # Mutants: a module of ui/, whose caches would be made before there is a server; a package that Home does not use.
    ahead = run_python(
        "import sys, importlib; from ui.__main__ import SLOW_IMPORTS; before = set(sys.modules); "
        "[importlib.import_module(name) for name in SLOW_IMPORTS]; "
        "print([name for name in set(sys.modules) - before if name.startswith('ui')])"
    )
    home = run_python(
        "import sys, ui.shell, ui.home; from ui.__main__ import SLOW_IMPORTS; "
        "print([name for name in SLOW_IMPORTS if name not in sys.modules])"
    )
    assert (ahead, home) == ("[]", "[]")


def run_python(command: str) -> str:
    """What a fresh Python prints."""
    run = subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=True, capture_output=True, text=True)
    return run.stdout.strip()
