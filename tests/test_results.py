"""The studies in results/: of the very models that ship, complete, small, and named in their own words."""

from pathlib import Path

import pytest
import torchattacks
from test_attack_parity import AtExit

from core.checkpoints import list_models, load_card, load_model
from core.data import open_image_set
from core.evaluation import logits_of
from core.exits import ExitPolicy, decide
from core.study.cell_table import read_cells
from core.study.spec import parse_study
from core.study.store import DECISIONS_FILE, SHIPPED, SPEC_FILE, read_study, read_table
from core.study.verify import changed_models, verify_study

EARLY, STATIC = "cifar10-resnet56-early-exit", "cifar10-resnet56-static"
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


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.data("cifar10:test")
@needs_checkpoints
@pytest.mark.parametrize("name", ["FGSM", "PGD"])
@pytest.mark.parametrize(("source", "target"), [(STATIC, EARLY), (EARLY, STATIC)], ids=["S2D", "D2S"])
def test_transfer_is_what_another_library_finds(source: str, target: str, name: str) -> None:
    # Mutants: source and target swapped; verdicts of clean images; success counted at the source.
    epsilon, policy = 2 / 255, ExitPolicy(0.9)
    stored = read_table(
        SHIPPED / "transfer" / DECISIONS_FILE,
        filters=[
            ("source", "=", source), ("target", "=", target), ("attack_name", "=", name.lower()),
            ("objective", "=", "final"), ("epsilon", "=", epsilon), ("policy", "=", "T=0.90"),
            ("stop_when_fooled", "=", False),
        ],
    ).to_pandas()[:100]  # fmt: skip
    indices = [int(image_id.rpartition("/")[2]) for image_id in stored.image_id]
    images = open_image_set("cifar10:test").select(indices)
    models = {model: load_model(model)[0] for model in (source, target)}
    attacked = AtExit(models[source], models[source].num_exits - 1).eval()
    if name == "FGSM":
        peer = torchattacks.FGSM(attacked, eps=epsilon)
    else:
        peer = torchattacks.PGD(attacked, eps=epsilon, alpha=epsilon / 4, steps=10, random_start=False)
    adversarial = peer(images.pixels(), images.labels)
    said = decide(logits_of(models[target], adversarial), policy).prediction
    assert images.labels.tolist() == stored.label.tolist() and len(stored) == 100
    assert 0.2 < stored.succeeded.mean() < 0.8  # else anything would agree
    agreed = (said != images.labels).numpy() == stored.succeeded.to_numpy()
    assert agreed.mean() >= 0.99
