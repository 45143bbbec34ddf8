"""Our worst case beside APGD-CE and APGD-T on the exit taken: does it leave as few images standing?

Needs requirements-bench.txt. The peers know one (N, C) tensor, so they are given the logits of the exit taken.
"""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.attacks.run import attack
from core.attacks.spec import WorstCaseAttack
from core.checkpoints import load_model
from core.data import open_image_set
from core.errors import ExitLensError
from core.evaluation import logits_of
from core.exits import ExitPolicy, decide
from core.machine import device_of, machine_facts
from core.models import ExitModel
from core.models.prepared import prepared

RESULT = Path(__file__).parent / "white_box.json"
POLICY = ExitPolicy(0.9)


class ExitTaken(nn.Module):
    """The logits (N, C) of the exit that answers, as a network of one output."""

    def __init__(self, model: ExitModel) -> None:
        """Wraps a model; nothing of it is changed."""
        super().__init__()
        self._model = [model]  # in a list: not a part, so that nobody changes its mode

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the exit that answers, looked up for these very images."""
        logits = self._model[0](images)
        return logits[torch.arange(len(logits), device=logits.device), decide(logits.detach(), POLICY).answered_exit]


def measure_white_box(
    model_name: str,
    images: str,
    epsilon: float,
    *,
    num_steps: int = 20,
    num_restarts: int = 2,
    num_iterations: int = 100,
) -> dict[str, Any]:
    """Accuracy that each leaves, judged alike by the shipped network.

    Args:
        model_name: Of an early-exit model.
        images: Image set with its selection.
        epsilon: Radius in pixels of [0, 1]; small enough that not every image falls.
        num_steps: Of each of our attacks.
        num_restarts: Of our step attacks.
        num_iterations: Of each run of APGD.

    Raises:
        ExitLensError: If pyautoattack is not installed.
    """
    try:
        from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
    except ImportError as error:
        raise ExitLensError("This comparison needs pyautoattack: see requirements-bench.txt.") from error
    model, card = load_model(model_name)
    image_set = open_image_set(images)
    pixels, labels = image_set.pixels(), image_set.labels
    search = prepared(model, "float32")

    def right(images: Tensor) -> Tensor:
        return decide(logits_of(model, images), POLICY).prediction == labels

    standing = {"clean": right(pixels)}
    started = time.perf_counter()
    spec = WorstCaseAttack(epsilon=epsilon, step_size=epsilon / 4, num_steps=num_steps, num_restarts=num_restarts)
    standing["worst case"] = (
        right(attack(model, pixels, labels, spec, POLICY, search=search).adversarial) & standing["clean"]
    )
    seconds = {"worst case": time.perf_counter() - started}
    taken = ExitTaken(search)
    numbers: dict[str, Any] = {
        "eps": epsilon,
        "n_iter": num_iterations,
        "norm": "Linf",
        "device": str(device_of(model)),
    }
    left, adversarial = standing["clean"].clone(), pixels.clone()
    for name, peer in (("APGD-CE", APGDAttack(taken, **numbers)), ("APGD-T", APGDAttack_targeted(taken, **numbers))):
        started = time.perf_counter()
        if name == "APGD-T":
            peer.n_target_classes = 9
        if left.any():
            there = (of[left].to(device_of(model)) for of in (pixels, labels))
            adversarial[left] = peer.perturb(*there).to(pixels.device)
        left = left & right(adversarial)
        standing[name], seconds[name] = left.clone(), time.perf_counter() - started
    num_images = len(labels)
    return {
        "model": model_name,
        "weights_sha256": card.weights_sha256,
        "images": images,
        "num_images": num_images,
        "epsilon": epsilon,
        "threshold": POLICY.threshold,
        "attack": spec.label,
        "num_iterations": num_iterations,
        "num_right": {name: int(each.sum()) for name, each in standing.items()},
        "accuracy": {name: int(each.sum()) / num_images for name, each in standing.items()},
        "seconds": seconds,
        "machine": machine_facts(),
    }
