"""Placements: which exits they come to, that they are the network with only those, and how studies use them."""

import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from toys import TOY_SIZE, answered_image_set, toy_card, toy_model, write_hub_parquet

from core.attacks.run import attack
from core.checkpoints import FOLDER_VARIABLE, load_card, load_model, pack_weights, save_model
from core.data import DATA_ROOT_VARIABLE, open_image_set
from core.errors import ExitLensError
from core.exits import ExitAnswers, decide
from core.models.classifiers import ExitNetwork
from core.models.costs import exit_costs, multiply_adds
from core.study import workers
from core.study.placements import Placement, load_placed, placed_card, with_placements
from core.study.runner import run_study
from core.study.spec import parse_study
from core.study.store import DECISIONS_FILE

STATIC, ALL = "toy-static", "toy-all-exits"
STUDY = """
name = "places"
title = "Places"
question = "Where?"
images = ["toy:test"]
sources = ["early-exit", "placements"]
targets = ["placements", "all-exits", "static"]
images_per_cell = 8
batch_size = 4

[[placements]]
name = "first"
costs = [0.2]

[[placements]]
name = "two"
costs = [0.2, 0.96]

[[attacks]]
preset = "pgd"
epsilon = "16/255"
num_steps = 2

[[policies]]
threshold = 0.5
"""


def write_project(folder: Path) -> dict[str, str]:
    """A static toy, an all-exits one on its backbone, an early-exit one and images; returns where they are found."""
    static, exits, early = (
        toy_model(num_exits=count, dtype=torch.float32, seed=seed) for count, seed in ((1, 1), (4, 1), (4, 5))
    )
    exits.backbone.load_state_dict(static.backbone.state_dict())
    images, checkpoints = answered_image_set(early), folder / "checkpoints"
    layers, classifiers = multiply_adds(exits, TOY_SIZE)
    counted = {"layer_multiply_adds": tuple(layers), "classifier_multiply_adds": tuple(classifiers)}
    owner = toy_card(static, STATIC, images)
    save_model(pack_weights(static, "float32"), owner, checkpoints)
    save_model(pack_weights(early, "float32"), toy_card(early, "toy-early-exit", images), checkpoints)
    payload = pack_weights(exits, "float32", with_backbone=False)
    shared = {"shares": STATIC, "shared_sha256": owner.weights_sha256, "weights_sha256": _sha256(payload)}
    save_model(payload, toy_card(exits, ALL, images, **shared, **counted), checkpoints)
    write_hub_parquet(folder / "data/toy/test.parquet", images.images, images.labels.tolist())
    return {FOLDER_VARIABLE: str(checkpoints), DATA_ROOT_VARIABLE: str(folder / "data")}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_registry: None) -> Path:
    """The same, found in this process."""
    for name, value in write_project(tmp_path).items():
        monkeypatch.setenv(name, value)
    return tmp_path


def _sha256(payload: bytes) -> str:
    import hashlib

    return hashlib.sha256(payload).hexdigest()


def test_nearest_blocks_have_the_exits(project: Path) -> None:
    # Mutants: classifiers counted as part of the backbone; a block named twice; the final exit left out.
    card = load_card(ALL)
    done = np.cumsum(card.layer_multiply_adds) / (sum(card.layer_multiply_adds) + card.classifier_multiply_adds[-1])
    for costs in ([0.05], [0.5], [0.9], [0.1, 0.11, 0.6]):
        exits = Placement("x", tuple(costs)).exits(card)
        nearest = {int(np.abs(done[:3] - cost).argmin()) for cost in costs}
        assert exits == (*sorted(nearest), 3)
    for costs in ((0.5, 0.5), (0.6, 0.5), (0.0,), (1.0,)):
        with pytest.raises(ExitLensError, match="rise between 0 and 1"):
            Placement("x", costs)


@pytest.mark.parametrize("costs", ["[]", "[0.0]", "[1.5]", "[-0.2]", "[0.2, 0.2]", "[nan]", "[inf]", "[true]", "0.5"])
def test_costs_that_place_nothing_are_one_clear_sentence(project: Path, costs: str) -> None:
    # Mutant: a placement without exits, whose name is read back as that of the whole model.
    with pytest.raises(ExitLensError, match=r"^mine\.toml: placements\.0.*(rise between 0 and 1|but is)") as refused:
        parse_study(STUDY.replace("costs = [0.2]\n", f"costs = {costs}\n"), "mine.toml")
    assert "tuple" not in str(refused.value)


def test_a_placement_has_a_name() -> None:
    # Mutant: a label that is the whole model's.
    with pytest.raises(ExitLensError, match="give it a name"):
        Placement(" ", (0.5,))


def test_a_placement_is_the_network_with_only_these_exits(project: Path) -> None:
    # Mutants: costs of classifiers that are not there; layers of another stretch; logits of other exits.
    whole, card = load_model(ALL)
    assert isinstance(whole, ExitNetwork)
    placed = placed_card(card, (0, 2, 3))
    assert placed.name == f"{ALL}@0-2" and placed.num_exits == 3 and placed.shares == STATIC
    model, loaded = load_placed(placed.name)
    assert loaded == placed
    counted = [tuple(numbers) for numbers in multiply_adds(model, TOY_SIZE)]
    assert [placed.layer_multiply_adds, placed.classifier_multiply_adds] == counted
    assert placed.exit_costs == pytest.approx(exit_costs(model, TOY_SIZE)) == model.exit_costs
    images = open_image_set("toy:test").pixels()
    assert torch.equal(model(images), whole(images)[:, [0, 2, 3]])
    for field in ("test", "exit_positions", "exit_layers", "validation_accuracy"):
        assert len(getattr(placed, field)) == 3 - (field == "exit_positions")
    with pytest.raises(ExitLensError, match="no placement"):
        placed_card(card, (0, 1))


def test_a_study_attacks_placements_and_shows_others_to_them(project: Path) -> None:
    # Mutants: a placement shown what was made on its own backbone; its verdicts from the whole model's exits; its
    # policy's exit numbers from the whole model.
    study = run_study(parse_study(STUDY, "test"), STUDY, project / "out", workers.here, cancel=threading.Event())
    names = {model.name: model.label for model in study.models}
    assert set(names) == {"toy-early-exit", f"{ALL}@0", f"{ALL}@0-2", ALL, STATIC}
    assert names[f"{ALL}@0-2"] == f"{names[ALL]}: two"
    rows = pq.read_table(project / "out" / DECISIONS_FILE).to_pandas()
    shown = rows.groupby("source").target.agg(lambda targets: sorted(set(targets))).to_dict()
    assert shown == {
        "toy-early-exit": sorted(names),
        f"{ALL}@0": [f"{ALL}@0"],
        f"{ALL}@0-2": [f"{ALL}@0-2"],
    }
    images, spec = open_image_set("toy:test"), study.spec
    model, card = load_placed(f"{ALL}@0-2")
    policy = spec.policies[0].on(card)
    made = attack(model, images.pixels(), images.labels, spec.attacks[0].spec, policy, batch_size=4, watch="nothing")
    own = rows[(rows.source == card.name) & (rows.target == card.name)].set_index("image_id").loc[images.image_ids]
    assert own.adversarial_computed_exit.tolist() == decide(made.adversarial_logits, policy).computed_exit.tolist()
    assert own.adversarial_computed_exit.max() <= 2
    fixed = rows[(rows.source == "toy-early-exit") & (rows.target == card.name)].set_index("image_id")
    clean = ExitAnswers.of(load_model(ALL)[0](images.pixels())).at((0, 2, 3)).decide(policy)
    assert fixed.loc[images.image_ids].clean_computed_exit.tolist() == clean.computed_exit.tolist()
    costs = np.array(card.exit_costs)[clean.computed_exit]
    assert fixed.loc[images.image_ids].clean_cost.tolist() == pytest.approx(costs.tolist())


def test_cards_without_counts_have_no_placements(project: Path) -> None:
    # Mutant: an imported network whose multiply-adds are unknown ends every study.
    cards = {STATIC: load_card(STATIC), "toy-early-exit": load_card("toy-early-exit")}
    assert with_placements(cards, [Placement("x", (0.5,))]) == cards
