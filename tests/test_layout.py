"""Where code may live: imports run pages → ui → core, nothing is tied to one machine, README names real commands."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each layer must not import. Pages know neither each other nor the home page.
BEYOND_CORE = {"app", "pages", "tests", "benchmarks"}
HEAVY = {"torch", "torchvision", "captum", "plotly"}
FORBIDDEN = {
    "core": BEYOND_CORE | {"ui", "streamlit"},
    "ui": BEYOND_CORE,
    "pages": BEYOND_CORE | HEAVY,
    "app.py": BEYOND_CORE | HEAVY,
}

# Folders that exist on one machine only, at the start of a path.
MACHINE_PATH = re.compile(r"(?<![\w.~})-])/(?:work|root|tmp)\b")


def project_files() -> list[Path]:
    """Every file that is tracked, or present and not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(ROOT / name for name in set(listed.split("\0")) if (ROOT / name).is_file())


def imported_packages(path: Path) -> set[str]:
    """Top-level packages that a file imports, inside functions too; relative imports stay in their own package."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules.append(node.module or "")
    return {module.partition(".")[0] for module in modules}


def targets_named_in_readme() -> set[str]:
    """Make targets in the code blocks and code spans of README.md."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"```.*?```|`[^`\n]+`", readme, flags=re.DOTALL)
    return set(re.findall(r"\bmake ([a-z]+)", "\n".join(code)))


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_imports_run_from_pages_to_ui_to_core_only(layer: str) -> None:
    files = [path for path in project_files() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] == layer]
    assert files, f"{layer} holds no Python file"
    wrong = {str(path.relative_to(ROOT)): imported_packages(path) & FORBIDDEN[layer] for path in files}
    # The command line starts the benchmarks; nothing else knows them.
    for file in ("core/__main__.py", "core/bench.py"):
        wrong[file] = wrong.get(file, set()) - {"benchmarks"}
    assert {file: packages for file, packages in wrong.items() if packages} == {}


def test_no_file_names_a_folder_of_one_machine() -> None:
    found = []
    for path in project_files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:  # weights and pictures
            continue
        found += [f"{path.relative_to(ROOT)}:{n}" for n, line in enumerate(lines, 1) if MACHINE_PATH.search(line)]
    assert found == []


def test_readme_names_the_two_commands_and_only_real_targets() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert {"app", "test"} <= targets_named_in_readme() <= targets


def test_ci_runs_check_and_test_which_readme_names() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["make check", "make test"]
    assert {"check", "test"} <= targets_named_in_readme()
