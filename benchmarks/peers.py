"""PGD by other libraries, as they ship it, on one exit of a model: what the speed of our attacks is compared with."""

import importlib.util
import logging
from collections.abc import Callable
from importlib.metadata import version

import torch
from torch import Tensor, nn

from core.attacks.spec import LinfAttack
from core.machine import device_of
from core.models import ExitModel

PGD = Callable[[Tensor, Tensor, LinfAttack], Tensor]
MakePGD = Callable[[ExitModel, int, int], PGD]


class AtExit(nn.Module):
    """One exit of a model as peers want a model: logits (N, C)."""

    def __init__(self, model: ExitModel, exit_index: int) -> None:
        """Takes an exit by its index."""
        super().__init__()
        self.model, self.exit_index = model, exit_index

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C), nothing behind the exit computed."""
        return self.model.run_until(images, self.exit_index)


def peers_here() -> dict[str, MakePGD]:
    """The peers that are installed, by name: each makes its PGD for an exit of a model and images of some size."""
    return {name: peer[2] for name, peer in _KNOWN.items() if importlib.util.find_spec(peer[0])}


def versions_here() -> dict[str, str]:
    """The versions of the peers that are installed, by name."""
    return {name: version(_KNOWN[name][1]) for name in sorted(peers_here())}


def _torchattacks(model: ExitModel, exit_index: int, image_size: int) -> PGD:
    import torchattacks

    classifier = AtExit(model, exit_index).eval()

    def attack(images: Tensor, labels: Tensor, spec: LinfAttack) -> Tensor:
        peer = torchattacks.PGD(classifier, spec.epsilon, spec.step_size, spec.num_steps, random_start=False)
        adversarial: Tensor = peer(images, labels)
        return adversarial

    return attack


def _foolbox(model: ExitModel, exit_index: int, image_size: int) -> PGD:
    import foolbox

    network = AtExit(model, exit_index).eval()
    wrapped = foolbox.PyTorchModel(network, bounds=(0, 1), device=device_of(model))  # type: ignore[attr-defined]

    def attack(images: Tensor, labels: Tensor, spec: LinfAttack) -> Tensor:
        peer = foolbox.attacks.LinfPGD(abs_stepsize=spec.step_size, steps=spec.num_steps, random_start=False)
        criterion = foolbox.criteria.Misclassification(labels)
        adversarial: Tensor = peer.run(wrapped, images, criterion, epsilon=spec.epsilon)
        return adversarial

    return attack


def _art(model: ExitModel, exit_index: int, image_size: int) -> PGD:
    import numpy as np
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    logging.getLogger("art").setLevel(logging.WARNING)  # it reports every batch
    classifier = PyTorchClassifier(
        model=AtExit(model, exit_index).eval(),
        loss=nn.CrossEntropyLoss(),
        input_shape=(3, image_size, image_size),
        nb_classes=model.num_classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if device_of(model).type == "cuda" else "cpu",
    )

    def attack(images: Tensor, labels: Tensor, spec: LinfAttack) -> Tensor:
        peer = ProjectedGradientDescentPyTorch(
            classifier,
            norm=np.inf,
            eps=spec.epsilon,
            eps_step=spec.step_size,
            max_iter=spec.num_steps,
            num_random_init=0,
            batch_size=len(images),
            verbose=False,
        )
        return torch.from_numpy(peer.generate(images.cpu().numpy(), labels.cpu().numpy())).to(images)

    return attack


# By name: module, distribution, and what makes its PGD.
_KNOWN: dict[str, tuple[str, str, MakePGD]] = {
    "torchattacks": ("torchattacks", "torchattacks", _torchattacks),
    "Foolbox": ("foolbox", "foolbox", _foolbox),
    "ART": ("art", "adversarial-robustness-toolbox", _art),
}
