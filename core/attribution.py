"""What each exit looked at: captum behind one function, always on a private copy of the model."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.attribution_spec import AttributionSpec
from core.errors import ExitLensError
from core.evaluation import logits_of
from core.exits import ExitPolicy, decide
from core.machine import device_of
from core.models import ExitModel
from core.models.classifiers import ExitNetwork
from core.models.prepared import prepared
from core.progress import CancelToken, Progress, end_if

BATCH_SIZE = 32  # rows of one pass: what bounds memory, and quicker than larger ones on two cores


@dataclass(frozen=True, eq=False)
class Attribution:
    """The maps of some images at E exits each.

    Attributes:
        spec: What was asked.
        exits: (N, E) exit of each map, 0-based.
        classes: (N, E) class explained.
        logits: (N, E) that class's logit at that exit.
        values: (N, E, 3, H, W) by pixel and colour, or (N, E, 1, H, W) from methods that know no colours.
        problems: For each image and exit a sentence where there is no map, otherwise empty.
    """

    spec: AttributionSpec
    exits: Tensor
    classes: Tensor
    logits: Tensor
    values: Tensor
    problems: tuple[tuple[str, ...], ...]

    @property
    def maps(self) -> Tensor:
        """(N, E, H, W): drawn and compared, the sum over colours; signed, and of one value where there is no map."""
        return self.values.sum(dim=2)


def attribute(
    model: ExitModel,
    images: Tensor,
    spec: AttributionSpec,
    *,
    labels: Tensor | None = None,
    policy: ExitPolicy | None = None,
    batch_size: int = BATCH_SIZE,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: CancelToken | None = None,
) -> Attribution:
    """Asks exits what they looked at.

    Captum hooks modules, and a hooked module answers every thread that runs it, so maps are made on a copy that
    nobody else has: the model given may be attacked meanwhile. It is run itself, without hooks, for its logits.

    Args:
        model: Any exit model, frozen and in eval mode; only read.
        images: (N, 3, H, W) in [0, 1].
        spec: Which maps.
        labels: True classes, (N,); needed to explain the ``true`` class.
        policy: When an image leaves; needed for the exit ``taken``: the one that answers.
        batch_size: Rows sent through the network at a time, which bounds memory; moves maps by float rounding only.
        on_progress: Called after each pass.
        cancel: Checked before each pass.

    Returns:
        The maps.

    Raises:
        ExitLensError: If spec, images and model do not fit each other, or the method cannot work on this model.
        Cancelled: Once ``cancel`` is set.
    """
    exits, classes, logits = what_is_asked(model, images, spec, labels=labels, policy=policy, batch_size=batch_size)
    per_image = spec.num_passes(images.shape[-1]) * (1 if spec.method == "occlusion" else exits.shape[1])
    on_rows = row_counter(len(images) * per_image, spec.facts.label, on_progress, cancel)
    values = explain(quick_copy(model), images, exits, classes, spec, batch_size=batch_size, on_rows=on_rows)
    return Attribution(spec, exits, classes, logits, values, _problems(values, exits, spec, model.num_exits))


def private_copy(model: ExitModel) -> ExitModel:
    """A copy of a model that shares nothing with it, in eval mode and frozen."""
    private = copy.deepcopy(model)
    if isinstance(private, nn.Module):
        private.eval().requires_grad_(False)
    return private


def quick_copy(model: ExitModel) -> ExitModel:
    """A private copy that computes the same in less time, where the network is this project's own.

    An imported one is left as it is: folding its norms could change the very layer that feeds an exit.
    """
    return copy.deepcopy(prepared(model, "float32").network) if isinstance(model, ExitNetwork) else private_copy(model)


@torch.no_grad()
def what_is_asked(
    model: ExitModel,
    images: Tensor,
    spec: AttributionSpec,
    *,
    labels: Tensor | None,
    policy: ExitPolicy | None,
    batch_size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The exits, classes and logits that a spec means for some images, (N, E) each; arguments as in ``attribute``.

    Raises:
        ExitLensError: If spec, images and model do not fit each other.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise ExitLensError(f"Images have shape {tuple(images.shape)}; one or more of (3, height, width) are needed.")
    if not images.is_floating_point():
        raise ExitLensError(f"Images have the type {images.dtype}; give numbers in [0, 1], such as bytes / 255.")
    if batch_size < 1:
        raise ExitLensError(f"The batch size is {batch_size}; one row or more is needed.")
    spec.check_model(model.num_exits, model.num_classes, min(images.shape[2:]))
    if spec.explained == "true":
        if labels is None or labels.shape != images.shape[:1] or labels.is_floating_point():
            raise ExitLensError(f"To explain the true class, give one label for each of the {len(images)} images.")
        if not ((labels >= 0) & (labels < model.num_classes)).all():
            raise ExitLensError(
                f"Labels {labels.unique().tolist()} are to be explained; this model has classes 0 to "
                f"{model.num_classes - 1}."
            )
    if spec.exits == "taken" and policy is None:
        raise ExitLensError("Which exit is taken depends on the policy: give one.")
    try:
        logits = logits_of(model, images, batch_size)
    except RuntimeError as error:  # what torch raises where sizes or types do not fit
        shape = tuple(images.shape[1:])
        raise ExitLensError(
            f"The model takes no images of shape {shape} and type {images.dtype} ({str(error).splitlines()[0]})."
        ) from error
    if not torch.isfinite(logits).all():
        raise ExitLensError("The model returned numbers that are not finite. Check its weights and the images.")
    if spec.exits == "taken":
        assert policy is not None
        exits = decide(logits, policy).answered_exit[:, None]
    else:
        named = {"all": tuple(range(model.num_exits)), "final": (model.num_exits - 1,)}
        chosen = named[spec.exits] if isinstance(spec.exits, str) else spec.exits
        exits = torch.tensor(chosen, device=images.device).expand(len(images), -1)
    at_exits = logits.gather(1, exits[..., None].expand(-1, -1, logits.shape[2]))  # (N, E, C)
    if spec.explained == "predicted":
        classes = at_exits.argmax(dim=-1)
    elif spec.explained == "true":
        assert labels is not None
        classes = labels.to(exits)[:, None].expand_as(exits)
    else:
        classes = torch.full_like(exits, spec.class_index or 0)
    return exits, classes, at_exits.gather(2, classes[..., None])[..., 0]


def row_counter(
    num_rows: int, words: str, on_progress: Callable[[Progress], None] | None, cancel: CancelToken | None
) -> Callable[[int], None]:
    """What is told how many rows each pass takes: it reports the share done, and ends the work once it is cancelled."""
    done = 0

    def on_rows(count: int) -> None:
        nonlocal done
        end_if(cancel)
        done += count
        if on_progress:
            on_progress(Progress(min(done / num_rows, 1.0), words))

    return on_rows


def explain(
    private: ExitModel,
    images: Tensor,
    exits: Tensor,
    classes: Tensor,
    spec: AttributionSpec,
    *,
    batch_size: int = BATCH_SIZE,
    on_rows: Callable[[int], None] | None = None,
) -> Tensor:
    """The maps of given classes at given exits: what ``attribute`` does once it knows what is asked.

    Args:
        private: A model that no other thread has, as ``private_copy`` makes it.
        images: (N, 3, H, W) in [0, 1].
        exits: (N, E), 0-based.
        classes: (N, E).
        spec: The method and its numbers.
        batch_size: Rows sent through the network at a time.
        on_rows: Called with the number of rows before each pass; may raise to end the work.

    Returns:
        (N, E, 3, H, W), or (N, E, 1, H, W) from methods that know no colours.

    Raises:
        ExitLensError: If the method cannot work on this model.
    """
    # Imported here: captum brings matplotlib, which takes most of a second.
    from core.captum_methods import Explainer, occlusion

    came_from, device = images.device, device_of(private)
    images, exits, classes = images.detach().to(device), exits.to(device), classes.to(device)
    on_rows = on_rows or (lambda count: None)
    try:
        if spec.method == "occlusion":
            asked = zip(images.split(1), exits, classes, strict=True)
            return torch.stack([occlusion(private, *one, spec, batch_size, on_rows) for one in asked]).to(came_from)
        explainer = Explainer(private, spec, batch_size, on_rows)
        chunks = []
        for rows in torch.arange(len(images)).split(max(1, batch_size // spec.num_passes(images.shape[-1]))):
            chunks.append(explainer.maps_at(images[rows], exits[rows], classes[rows]))
        return torch.cat(chunks).contiguous().to(came_from)
    except (RuntimeError, AssertionError) as error:  # what torch and captum raise where a network is not as they need
        detail = str(error).strip().splitlines() or [type(error).__name__]
        raise ExitLensError(
            f"{spec.facts.label} does not work on this model ({detail[0]}). Choose another method."
        ) from error


def _problems(values: Tensor, exits: Tensor, spec: AttributionSpec, num_exits: int) -> tuple[tuple[str, ...], ...]:
    zero, finite = (values == 0).flatten(2).all(dim=2), torch.isfinite(values).flatten(2).all(dim=2)
    flat = (values == values[..., :1, :1]).flatten(2).all(dim=2)
    why = {
        "grad_cam": "no feature of the layer before it moves the logit",
        "guided_grad_cam": "no feature of the layer before it speaks for the class",
        "occlusion": "covering any part of the image leaves the logit as it is",
        "input_x_gradient": "every pixel is black, or does not move the logit",
        "integrated_gradients": "every pixel is that of the baseline, or does not move the logit",
        "deep_lift": "every pixel is that of the baseline, or does not move the logit",
    }.get(spec.method, "its gradient is zero at every pixel")
    # Methods that look at places of their own choice may have no two to tell apart.
    why_flat = {
        "grad_cam": "the layer before it has a single cell, or all cells alike",
        "occlusion": "every square that is covered counts the same",
    }.get(spec.method, "")

    def sentence(image: int, column: int) -> str:
        number = int(exits[image, column]) + 1
        name = "The final exit" if number == num_exits else f"Exit {number}"
        if not finite[image, column]:
            return f"{name} has no map: numbers that are not finite came out."
        if zero[image, column]:
            return f"{name} has no map: {why}."
        return f"{name} has no map: {why_flat}." if why_flat and flat[image, column] else ""

    return tuple(tuple(sentence(image, column) for column in range(exits.shape[1])) for image in range(len(exits)))
