"""The studies in results/: of the very models that ship, complete, small, and named in their own words."""

from pathlib import Path

import pytest

from core.checkpoints import list_models, load_card
from core.study.cell_table import read_cells
from core.study.spec import parse_study
from core.study.store import SHIPPED, SPEC_FILE, read_study
from core.study.verify import changed_models, verify_study

RESULTS = sorted(path.parent for path in SHIPPED.glob("*/study.json"))
each = pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
needs_checkpoints = pytest.mark.skipif(not list_models(), reason="checkpoints/ holds no model")


@needs_checkpoints
@each
def test_results_are_of_the_models_that_ship(folder: Path) -> None:
    # Mutant: a model trained again, and the study of the old one still shown.
    cards = {name: load_card(name) for name in list_models()}
    assert changed_models(read_study(folder), cards) == []


@each
def test_results_are_complete_and_their_cells_bear_their_keys(folder: Path) -> None:
    # Mutants: a study that was stopped; a table edited by hand; a spec other than the one beside it, in any field.
    study = read_study(folder)
    assert study.is_complete and folder.name == study.spec.name
    assert len(read_cells(folder, study)) == len(study.cells)
    asked = parse_study((folder / SPEC_FILE).read_text(encoding="utf-8"), SPEC_FILE)
    assert asked == study.spec


def test_results_hold_numbers_only_and_at_most_fifteen_megabytes() -> None:
    # Mutant: parts with perturbations, or pictures, committed along.
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".parquet", ".json", ".toml", ".md"}
    assert not any("parts" in path.parts for path in files)
    assert sum(path.stat().st_size for path in files) <= 15_000_000


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.data("cifar10:test")
@needs_checkpoints
@each
def test_a_cell_done_again_says_the_same(folder: Path) -> None:
    # Mutant: results of other code than this.
    if read_study(folder).spec.surrogates:
        pytest.skip("the weights of its surrogates do not ship")
    verified = verify_study(folder, {name: load_card(name) for name in list_models()}, num_cells=1)
    assert verified.agrees, verified
