"""What a cold start waits for."""

import re
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


def test_the_server_starts_once_all_is_imported_and_out_of_the_way_of_collections() -> None:
    # Mutants: imports in a thread beside the server: on a busy machine one page in four ended with an ImportError, as
    # the thread and the page each had a part of core.attacks and waited for the other's; modules that every full
    # collection walks.
    there = run_python(
        "import gc, sys; from streamlit.web import cli; from ui import __main__ as start; "
        "cli.main = lambda: print([name in sys.modules for name in start.SLOW_IMPORTS], gc.get_freeze_count()); "
        "start.main()"
    )
    imported, _, num_frozen = there.rpartition(" ")
    assert "True" in imported and "False" not in imported and int(num_frozen) > 100_000


def test_no_package_of_the_project_is_left_to_be_imported_by_two_pages_at_once() -> None:
    # Mutant: a package whose own file imports its modules, left out of what is imported before the server.
    packages = [
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in sorted((ROOT / "core").glob("**/__init__.py"))
        if re.search(r"^(from|import) ", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    left = run_python(
        "import sys, importlib; from ui.__main__ import SLOW_IMPORTS; "
        f"[importlib.import_module(name) for name in SLOW_IMPORTS]; print(sorted(set({packages!r}) - set(sys.modules)))"
    )
    assert "core.attacks" in packages and left == "[]"


def run_python(command: str) -> str:
    """What a fresh Python prints."""
    run = subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=True, capture_output=True, text=True)
    return run.stdout.strip()
