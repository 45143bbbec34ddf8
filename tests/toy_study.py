"""Toy models and images on disk, for studies that run in processes of their own.

As a program it is ``python -m core`` with the toy names known, in its spawned workers too.
"""

import json
import os
import resource
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import toys

import core.__main__
from core.checkpoints import CARD_FILE, FOLDER_VARIABLE, pack_weights, save_model
from core.data import DATA_ROOT_VARIABLE, open_image_set
from core.datasets import DATASETS
from core.models import ARCHITECTURES
from core.models.classifiers import ExitNetwork
from core.models.costs import multiply_adds
from core.study import workers
from core.study.runner import run_study
from core.study.spec import parse_study
from core.study.store import Study

EARLY, STATIC = "toy-early-exit", "toy-static"
STUDY = """
name = "toys"
title = "Toys"
question = "Does it come to the same?"
images = ["toy:test"]
sources = ["toy-*"]
targets = ["toy-*"]
images_per_cell = 5
batch_size = 2
record_steps = true

[[attacks]]
preset = "pgd"
epsilon = ["8/255", "32/255"]
objective = ["taken", "final"]
num_steps = 3
random_start = true

[[policies]]
threshold = [0.6, 0.9]
"""


SURROGATES = """
name = "black-box"
title = "Toy surrogates"
question = "Does it come to the same?"
images = ["toy:test"]
sources = ["surrogates"]
targets = ["toy-*"]
images_per_cell = 6
batch_size = 3
record_steps = true

[[surrogates]]
name = "learned"
kind = ["static", "early-exit"]
target = "toy-early-exit"
labels = ["truth", "target"]
corruption = ["none", "gaussian-noise"]
severity = 3
num_epochs = 20

[[attacks]]
preset = "pgd"
epsilon = "32/255"
num_steps = 3

[[policies]]
threshold = [0.6, 0.9]
"""


def write_project(folder: Path, num_images: int = 12) -> dict[str, str]:
    """Writes two toy models, toy training and test images, and returns the variables under which they are found."""
    # Seeds by which the two agree on some images and not on others.
    early, static = (
        toys.toy_model(num_exits=count, dtype=torch.float32, seed=seed) for count, seed in ((3, 3), (1, 17))
    )
    images = toys.answered_image_set(early, num_images)
    for model, name in ((early, EARLY), (static, STATIC)):
        save_model(
            pack_weights(model, "float32"),
            toys.toy_card(model, name, images, **_counted(model)),
            folder / "checkpoints",
        )
    toys.write_hub_parquet(
        folder / "data/toy/test.parquet", images.images, images.labels.tolist(), class_names=toys.TOY_CLASSES
    )
    write_training_images(folder)
    return {FOLDER_VARIABLE: str(folder / "checkpoints"), DATA_ROOT_VARIABLE: str(folder / "data")}


def write_training_images(folder: Path, changed: Sequence[int] = ()) -> None:
    """Writes the official training images of the toy data set, of which the last 8 are validation.

    Args:
        folder: Of the project.
        changed: Official indices of images that are black instead.
    """
    images = toys.toy_image_set(toys.TOY_DATASET.num_train, seed=7)
    images.images[list(changed)] = 0
    file = folder / "data/toy/train.parquet"
    toys.write_hub_parquet(file, images.images, images.labels.tolist(), class_names=toys.TOY_CLASSES)


def _counted(model: ExitNetwork) -> dict[str, tuple[int, ...]]:
    layers, classifiers = multiply_adds(model, toys.TOY_SIZE)
    return {"layer_multiply_adds": tuple(layers), "classifier_multiply_adds": tuple(classifiers)}


def write_small_cifar_models(folder: Path) -> dict[str, str]:
    """Two toy networks for CIFAR-10's images, of which a process can see many in a short time."""
    images = open_image_set("cifar10:samples")
    for count, name in ((3, "small-early-exit"), (1, "small-static")):
        model = toys.toy_model(num_exits=count, num_classes=10, image_size=32, dtype=torch.float32)
        facts = {"dataset": "cifar10", "class_names": images.class_names}
        card = toys.toy_card(model, name, images, **facts)
        save_model(pack_weights(model, "float32"), card, folder / "checkpoints")
    return {FOLDER_VARIABLE: str(folder / "checkpoints")}


def peak_memory(variables: dict[str, str], out: Path, text: str) -> int:
    """Runs a study in this process and returns the most memory that the process ever held, in kilobytes."""
    run_as_process(variables, out, text)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def know_toys(variables: dict[str, str]) -> None:
    """The toy names exist in this process from now on, and their files are found."""
    DATASETS["toy"], ARCHITECTURES["toy"] = toys.TOY_DATASET, toys.TOY_ARCHITECTURE
    os.environ.update(variables)


def run_toys(out: Path, text: str = STUDY) -> Study:
    """Runs a study in this process, where the toy names are known."""
    return run_study(parse_study(text, "test"), text, out, workers.here, cancel=threading.Event())


@contextmanager
def finished(
    folder: Path, text: str = STUDY, write: Callable[[Path], dict[str, str]] = write_project
) -> Iterator[Path]:
    """The folder of a finished study; toys, and what ``write`` puts in place, are known as long as this lasts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "toy", toys.TOY_DATASET)
        patch.setitem(ARCHITECTURES, "toy", toys.TOY_ARCHITECTURE)
        for name, value in write(folder).items():
            patch.setenv(name, value)
        run_toys(folder / "study", text)
        yield folder / "study"


def run_as_process(variables: dict[str, str], out: Path, text: str = STUDY) -> None:
    """The same where they are not yet."""
    know_toys(variables)
    run_toys(out, text)


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything that must come out the same: all but the timings and what only a run at work needs."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if "timings" not in name and name != ".lock"}


def comparable(folder: Path) -> dict[str, object]:
    """Everything that must come out the same: cards but for the seconds that training took."""
    found: dict[str, object] = dict(files_of(folder))
    for name in list(found):
        if name.endswith(CARD_FILE):
            card = json.loads((folder / name).read_text())
            found[name] = {**card, "training_seconds": 0}
    return found


if __name__ in ("__main__", "__mp_main__"):
    know_toys({})
if __name__ == "__main__":
    core.__main__.main()
