"""The nine methods as captum has them; the only module that asks it for maps."""

import warnings
from collections.abc import Callable
from functools import partial

import torch
from captum.attr import (
    DeepLift,
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    LayerAttribution,
    LayerGradCam,
    Occlusion,
    Saliency,
)
from torch import Tensor, nn

from core.activations import SeparateActivations, StageActivations, stage_activations
from core.attribution_spec import AttributionSpec
from core.errors import ExitLensError
from core.models import ExitModel
from core.models.imported import ImportedNetwork, NoStages

# Captum says each time that it hooks the model; here it is always a private copy.
warnings.filterwarnings("ignore", message=r"\s*Setting (forward, )?backward hooks")


Make = Callable[[Tensor, Tensor], Tensor]  # from images (n, 3, H, W) and classes (n,) to a map of each


class Explainer:
    """A private copy, and the maps of one method at its exits."""

    def __init__(
        self, private: ExitModel, spec: AttributionSpec, batch_size: int, on_rows: Callable[[int], None]
    ) -> None:
        """Takes arguments of ``core.attribution.explain``."""
        self.private, self.spec = private, spec
        self.batch_size, self.on_rows = batch_size, on_rows
        self._exit_index = 0
        self._pair_exits = torch.empty(0, dtype=torch.long)
        self._stages: list[StageActivations] = []
        self._features: list[Tensor] = []
        self._features_of: Tensor | None = None

    def maps_at(self, images: Tensor, exits: Tensor, classes: Tensor) -> Tensor:
        """(n, E, 3, H, W) or (n, E, 1, H, W) for images (n, 3, H, W), as many as fit a batch, at exits (n, E)."""
        if self.spec.method == "deep_lift":
            return self._in_pairs(self._deep_lift, images, exits, classes)
        if self.spec.method == "guided_grad_cam":
            only_positive = partial(self._grad_cam, only_positive=True)
            return self._in_columns(only_positive, images, exits, classes) * self._in_pairs(
                self._guided, images, exits, classes
            )
        return self._in_columns(getattr(self, f"_{self.spec.method}"), images, exits, classes)

    def _in_columns(self, make: Make, images: Tensor, exits: Tensor, classes: Tensor) -> Tensor:
        """Exit after exit, so that no pass computes a layer that its exit does not need."""
        columns = []
        for asked, explained in zip(exits.T, classes.T, strict=True):
            parts: dict[int, Tensor] = {}
            for exit_index in asked.unique().tolist():
                rows = (asked == exit_index).nonzero()[:, 0]
                some = images if len(rows) == len(images) else images[rows]
                made = self._at_one_exit(make, some, explained[rows], exit_index)
                parts |= dict(zip(rows.tolist(), made, strict=True))
            columns.append(torch.stack([parts[row] for row in range(len(images))]))
        return torch.stack(columns, dim=1)

    def _at_one_exit(self, make: Make, images: Tensor, classes: Tensor, exit_index: int) -> Tensor:
        self._exit_index = exit_index
        if images is not self._features_of:
            self._features, self._features_of = [], images
        return make(images.clone().requires_grad_(True), classes).detach()

    def _in_pairs(self, make: Make, images: Tensor, exits: Tensor, classes: Tensor) -> Tensor:
        """Each image once for each of its exits in the same passes: hooks take longer than needless layers."""
        parts = []
        each_pass = max(1, self.batch_size // self.spec.num_passes(images.shape[-1]))
        for pairs in torch.arange(exits.numel(), device=exits.device).split(each_pass):
            self._pair_exits = exits.flatten()[pairs]
            some = images[pairs // exits.shape[1]].requires_grad_(True)
            parts.append(make(some, classes.flatten()[pairs]).detach())
        return torch.cat(parts).reshape(*exits.shape, *parts[0].shape[1:])

    def _logits(self, pixels: Tensor) -> Tensor:
        self.on_rows(len(pixels))
        return self.private.run_until(pixels, self._exit_index)

    def _saliency(self, images: Tensor, classes: Tensor) -> Tensor:
        gradient: Tensor = Saliency(self._logits).attribute(images, target=classes, abs=False)
        return gradient

    def _input_x_gradient(self, images: Tensor, classes: Tensor) -> Tensor:
        product: Tensor = InputXGradient(self._logits).attribute(images, target=classes)
        return product

    def _integrated_gradients(self, images: Tensor, classes: Tensor) -> Tensor:
        integral: Tensor = IntegratedGradients(self._logits).attribute(
            images,
            baselines=self.spec.baseline,
            target=classes,
            n_steps=self.spec.num_steps,
            internal_batch_size=self.batch_size,
        )
        return integral

    def _smooth_grad(self, images: Tensor, classes: Tensor) -> Tensor:
        noise, _, _ = draws(images, self.spec)
        total = torch.zeros_like(images)
        # Captum's NoiseTunnel draws from torch's global state, which threads share.
        for some in noise.split(max(1, self.batch_size // len(images))):
            points = images.detach()[:, None] + some
            total = total + self._gradients(points, classes).sum(dim=1)
        return total / len(noise)

    def _gradient_shap(self, images: Tensor, classes: Tensor) -> Tensor:
        noise, greys, places = draws(images, self.spec)
        total = torch.zeros_like(images)
        size = max(1, self.batch_size // len(images))
        # Captum's GradientShap draws from the global states of torch and NumPy.
        for some, grey, place in zip(noise.split(size), greys.split(size), places.split(size), strict=True):
            change = images.detach()[:, None] + some - grey
            total = total + (change * self._gradients(grey + place * change, classes)).sum(dim=1)
        return total / len(noise)

    def _gradients(self, points: Tensor, classes: Tensor) -> Tensor:
        """(n, S, 3, H, W) from as many points and classes (n,)."""
        each = points.flatten(0, 1).clone().requires_grad_(True)
        return self._saliency(each, classes.repeat_interleave(points.shape[1])).reshape(points.shape)

    def _deep_lift(self, images: Tensor, classes: Tensor) -> Tensor:
        lifted: Tensor = DeepLift(self._separated(images)).attribute(
            images, baselines=self.spec.baseline, target=classes
        )
        return lifted

    def _guided(self, images: Tensor, classes: Tensor) -> Tensor:
        separate = self._separated(images)
        if not separate.num_relus:
            raise ExitLensError(
                "Guided Grad-CAM steers gradients at ReLUs, and this network runs none. Choose Grad-CAM."
            )
        gradient: Tensor = GuidedBackprop(separate).attribute(images, target=classes)
        return gradient

    def _separated(self, images: Tensor) -> SeparateActivations:
        """From pairs of an image and an exit to the logits of that exit."""
        self._stages = self._stages or stage_activations(self.private, images[:1].detach())
        exits, column_of = self._pair_exits.unique(return_inverse=True)
        present = exits.tolist()
        activations: list[nn.Module] = []
        for exit_index, stage in enumerate(self._stages[: present[-1] + 1]):
            activations += stage.layers + (stage.classifier if exit_index in present else [])

        def logits(pixels: Tensor) -> Tensor:
            self.on_rows(len(pixels))
            features, found = self.private.begin(pixels), []
            for exit_index in range(present[-1] + 1):
                features = self.private.advance(features, exit_index)
                if exit_index in present:
                    found.append(self.private.classify(features, exit_index))
            # DeepLift sends the baselines of all pairs behind the pairs.
            columns = column_of.repeat(len(pixels) // len(column_of))
            return torch.stack(found, dim=1)[torch.arange(len(pixels)), columns]

        return SeparateActivations(logits, activations)

    def _grad_cam(self, images: Tensor, classes: Tensor, only_positive: bool = False) -> Tensor:
        forward, layer, inputs = self._layer_that_feeds(images)
        cam: Tensor = LayerGradCam(forward, layer).attribute(inputs, target=classes, relu_attributions=only_positive)
        if cam.ndim != 4:
            raise ExitLensError(
                f"What feeds exit {self._exit_index + 1} has {cam.ndim - 2} dimensions per channel; Grad-CAM needs "
                "maps of height and width. Choose another method."
            )
        if cam.shape[2:] == (1, 1):  # interpolating one cell rounds it in other ways from pixel to pixel
            return cam.expand(-1, -1, *images.shape[2:])
        resized: Tensor = LayerAttribution.interpolate(cam, images.shape[2:], interpolate_mode="bilinear")
        return resized

    def _layer_that_feeds(self, images: Tensor) -> tuple[Callable[[Tensor], Tensor], nn.Module, Tensor]:
        """A function to logits, the layer in it that feeds the exit, and what to call the function with."""
        model, index = self.private, self._exit_index
        if _knows_stages(model):
            self.on_rows(len(images))
            features = self._features_at(images.detach(), index)
            # The logits depend on the image through these features alone, so no earlier layer has to run again.
            gate = nn.Identity()
            return lambda inputs: model.classify(gate(inputs), index), gate, features.requires_grad_(True)
        if model.exit_layers and isinstance(model, nn.Module):
            return self._logits, model.get_submodule(model.exit_layers[index]), images
        raise ExitLensError(
            "Nothing says which layers feed this model's exits, so Grad-CAM has no layer to look at. Choose another "
            "method, or import the model with exit_layers."
        )

    @torch.no_grad()
    def _features_at(self, images: Tensor, exit_index: int) -> Tensor:
        """What feeds an exit: exits asked one after the other share the layers before them."""
        while len(self._features) <= exit_index:
            reached = self._features[-1] if self._features else self.private.begin(images)
            self._features.append(self.private.advance(reached, len(self._features)))
        return self._features[exit_index].detach().clone()


def _knows_stages(model: ExitModel) -> bool:
    """Whether what ``advance`` returns are the features at an exit, and not the images still."""
    if isinstance(model, ImportedNetwork):  # of one exit it always stops early, whatever is known of it
        return not isinstance(model.stages, NoStages)
    return model.num_exits > 1 and model.stops_early


def occlusion(
    private: ExitModel,
    image: Tensor,
    exits: Tensor,
    classes: Tensor,
    spec: AttributionSpec,
    batch_size: int,
    on_rows: Callable[[int], None],
) -> Tensor:
    """Maps of one image at all of its exits in the same passes, (E, 1, H, W).

    Args:
        private: A model that no other thread has.
        image: (1, 3, H, W).
        exits: (E,).
        classes: (E,).
        spec: Window, stride and baseline.
        batch_size: Rows of a pass.
        on_rows: As in ``core.attribution.explain``.
    """

    def logits(pixels: Tensor) -> Tensor:
        on_rows(len(pixels))
        if len(exits) == 1:
            return private.run_until(pixels, int(exits[0]))[:, classes]
        return private(pixels)[:, exits, classes]

    window = (image.shape[1], spec.window, spec.window)
    values: Tensor = Occlusion(logits).attribute(
        image,
        sliding_window_shapes=window,
        strides=(image.shape[1], spec.stride, spec.stride),
        baselines=spec.baseline,
        perturbations_per_eval=batch_size,
    )
    return values[:, :1].to(image.dtype)  # a square covers all colours, so they have one value


def draws(images: Tensor, spec: AttributionSpec) -> tuple[Tensor, Tensor, Tensor]:
    """What a seed draws for S samples: noise (S, 3, H, W), and grey levels and places between, (S, 1, 1, 1) in [0, 1].

    The same for every image, so that neither order nor batch size changes a map, and clean and adversarial maps differ
    by the image alone.
    """
    generator = torch.Generator().manual_seed(spec.seed)
    numbers = (spec.num_samples, 1, 1, 1)
    noise = spec.noise * torch.randn(spec.num_samples, *images.shape[1:], generator=generator, dtype=torch.float64)
    greys, places = (torch.rand(numbers, generator=generator, dtype=torch.float64) for _ in range(2))
    return tuple(drawn.to(images) for drawn in (noise, greys, places))  # type: ignore[return-value]
