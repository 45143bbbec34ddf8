"""An imported model beside a shipped one on every page: the shipped weights in a network that others wrote."""

import json
from pathlib import Path

import pytest
from every_page import finished, fresh_caches, has_metrics, metrics, opened  # noqa: F401
from streamlit.testing.v1 import AppTest

from core.checkpoints import FOLDER_VARIABLE, WEIGHTS_FILE, checkpoints_folder, list_models, load_card
from core.data import DATA_ROOT_VARIABLE
from core.foreign import TRUST_VARIABLE
from core.importing.model import import_model

SHIPPED = "cifar10-resnet56-early-exit"
pytestmark = pytest.mark.skipif(SHIPPED not in list_models(), reason=f"{SHIPPED} is not here")

FACTORY = """
import torch
from torch import nn

from core.models import build_model


class Theirs(nn.Module):
    def __init__(self):
        super().__init__()
        inner = build_model("resnet56", "cifar10", POSITIONS)
        self.backbone, self.exits = inner.backbone, inner.exits
        # The shipped weights hold them too; not used here.
        self.register_buffer("mean", inner.mean)
        self.register_buffer("std", inner.std)

    def forward(self, images):
        features, logits = self.backbone.stem(images), []
        for number, block in enumerate(self.backbone.blocks):
            features = block(features)
            if number in POSITIONS:
                logits.append(self.exits[POSITIONS.index(number)](features))
        return [*logits, self.backbone.tail(features)]
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of models that holds the shipped model, and their code and weights beside it."""
    shipped = checkpoints_folder().resolve() / SHIPPED
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "checkpoints"))
    monkeypatch.setenv(TRUST_VARIABLE, str(tmp_path / "factories.txt"))
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / SHIPPED).symlink_to(shipped)
    positions = load_card(SHIPPED).exit_positions
    (tmp_path / "theirs.py").write_text(FACTORY.replace("POSITIONS", repr(positions)))
    return tmp_path


def bring(project: Path, **fields: object) -> None:
    card = load_card(SHIPPED)
    told = {"name": "theirs", "label": "Theirs", "dataset": "cifar10", "mean": card.mean, "std": card.std}
    (project / "card.json").write_text(json.dumps(told | fields))
    weights = project / "checkpoints" / SHIPPED / WEIGHTS_FILE
    import_model(f"{project / 'theirs.py'}:Theirs", weights, project / "card.json")


def sidebar_captions(test: AppTest) -> str:
    return " ".join(caption.value for caption in test.sidebar.caption)


def test_lab_shows_the_imported_model_as_it_shows_the_shipped_one(project: Path) -> None:
    # Mutant: a page that asks the registry for its architecture, normalises once more, or leaves its saliency out.
    bring(project, exit_layers=[layer for layer in load_card(SHIPPED).exit_layers])
    shipped = finished(opened("attack_lab"), has_metrics)
    assert shipped.selectbox(key="model").options == ["● ResNet-56 early-exit", "● Theirs early-exit"]
    theirs = finished(opened("attack_lab", model="● Theirs early-exit"), has_metrics)
    assert not theirs.exception and not theirs.error
    assert any("Theirs early-exit" in markdown.value for markdown in theirs.markdown)
    # Only what is clean is compared: the last bit of a gradient can decide an attacked image.
    clean = [metrics(page)["Mean cost"].split(" → ")[0] for page in (shipped, theirs)]
    assert clean[0] == clean[1] and metrics(theirs).keys() == metrics(shipped).keys()
    assert len(theirs.get("plotly_chart")) == len(shipped.get("plotly_chart"))
    assert "computes all of them" not in sidebar_captions(theirs)


def test_pages_say_why_a_model_that_cannot_be_cut_does_not_stop(project: Path) -> None:
    # Mutant: costs that were only claimed shown as if they were counted; or Home without the import.
    bring(project, exit_costs=load_card(SHIPPED).exit_costs)
    test = finished(opened("", model="● Theirs early-exit"), has_metrics)
    assert not test.exception and not test.error
    assert "Nothing says which layers feed this model's exits" in sidebar_captions(test)
    assert any("costs as its owner gave them" in caption.value for caption in test.main.caption)
    ready = test.dataframe[0].value
    assert ready.model.tolist() == ["● ResNet-56 early-exit", "● Theirs early-exit"]
    assert ready["measured on"].tolist() == ["cifar10:test", "cifar10:samples"]
    assert ready["n"].tolist()[1] == 20


def test_models_page_reports_an_imported_model_whether_it_can_be_cut_or_not(project: Path) -> None:
    # Mutant: a layer of each exit taken for granted, a recipe that was never there, or a timing of stops that are none.
    bring(project, exit_layers=[layer for layer in load_card(SHIPPED).exit_layers])
    shipped = metrics(finished(opened("models"), has_metrics))
    theirs = finished(opened("models", model="● Theirs early-exit"), has_metrics)
    assert not theirs.exception and not theirs.error
    assert metrics(theirs) == shipped
    assert any("Imported from" in markdown.value for markdown in theirs.markdown)
    assert [button for button in theirs.button if button.key == "time"]


def test_models_page_times_nothing_that_cannot_stop(project: Path) -> None:
    # Mutant: costs that were only claimed shown as if they were counted.
    bring(project, exit_costs=load_card(SHIPPED).exit_costs)
    test = finished(opened("models", model="● Theirs early-exit"), has_metrics)
    assert not test.exception and not test.error
    assert not [button for button in test.button if button.key == "time"]
    assert any("costs as its owner gave them" in caption.value for caption in test.main.caption)


@pytest.mark.parametrize("loss", ["code", "trust"])
def test_import_that_cannot_be_loaded_is_named_and_the_rest_works(loss: str, project: Path) -> None:
    # Mutant: the import still offered, or its error ending the page of the shipped model.
    bring(project, exit_layers=[layer for layer in load_card(SHIPPED).exit_layers])
    (project / ("theirs.py" if loss == "code" else "factories.txt")).unlink()
    test = finished(opened(), has_metrics)
    assert not test.exception and not test.error
    assert test.selectbox(key="model").options == ["● ResNet-56 early-exit"]
    assert any(warning.value.startswith("theirs: ") for warning in test.warning)
