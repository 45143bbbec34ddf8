"""Attribution against numbers written down by hand, against captum called directly, and beside attacks in threads."""

import copy
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import (
    DeepLift,
    GradientShap,
    GuidedGradCam,
    InputXGradient,
    IntegratedGradients,
    LayerAttribution,
    LayerGradCam,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from torch import Tensor, nn
from toys import linear_layers, linear_model, record_inputs, toy_images, toy_model

from core.activations import SeparateActivations, stage_activations
from core.agreement import agreement
from core.attacks.run import attack
from core.attacks.spec import pgd
from core.attribution import attribute, explain, private_copy
from core.attribution_spec import METHODS, RANGES, AttributionSpec
from core.captum_methods import draws
from core.checkpoints import list_models, load_model
from core.data import open_image_set
from core.errors import Cancelled, ExitLensError
from core.exits import ExitPolicy, decide
from core.models import build_model
from core.models.classifiers import Backbone, ExitClassifier, ExitNetwork
from core.models.imported import ImportedNetwork
from core.progress import Progress

SHIPPED = "cifar10-resnet56-early-exit"
GREY = 0.5
FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}  # captum divides occlusion's sums in float32
ON_LINEAR = [method for method in METHODS if method != "guided_grad_cam"]


def few(method: str, **fields: object) -> AttributionSpec:
    """A spec of a method with small numbers, so that toys stay quick."""
    return AttributionSpec(method=method, num_steps=5, num_samples=3, window=3, **fields)  # type: ignore[arg-type]


# The spec


@pytest.mark.parametrize("field", RANGES)
def test_every_number_has_a_range_and_names_it(field: str) -> None:
    # Mutant: one field left out of the check.
    low, high = RANGES[field]
    for value in (low - 1, high + 1):
        with pytest.raises(ExitLensError, match=f"{field} is .*between {low} and {high}"):
            AttributionSpec(**{field: type(AttributionSpec.__dataclass_fields__[field].default)(value)})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": "lime"}, "Unknown attribution method 'lime'"),
        ({"exits": "some"}, "Unknown exits 'some'"),
        ({"exits": ()}, "one or more"),
        ({"exits": (2, 1)}, "rising"),
        ({"exits": (1, 1)}, "rising"),
        ({"exits": (-1,)}, "from 0 on"),
        ({"exits": (0.5,)}, "whole numbers"),
        ({"exits": [0, 1]}, "a tuple"),
        ({"exits": 1}, "a tuple"),
        ({"explained": "best"}, "Unknown class to explain"),
        ({"explained": "chosen"}, "needs a class_index"),
        ({"class_index": 1}, "needs a class_index"),
        ({"explained": "chosen", "class_index": -1}, "from 0 on"),
        ({"explained": "chosen", "class_index": 1.5}, "whole numbers"),
        ({"num_steps": 3.5}, "num_steps is 3.5; give a whole number"),
        ({"window": 2.5}, "window is 2.5; give a whole number"),
        ({"window": 3, "stride": 4}, "at most the window"),
        ({"noise": float("nan")}, "noise is nan"),
    ],
)
def test_specs_that_mean_nothing_are_refused(fields: dict, words: str) -> None:
    # Mutant: any one check dropped.
    with pytest.raises(ExitLensError, match=words):
        AttributionSpec(**fields)


def test_numbers_that_a_method_does_not_read_change_no_key() -> None:
    # Mutant: a saliency map made anew because the steps of another method have changed.
    assert AttributionSpec(num_steps=7, noise=0.3, seed=4) == AttributionSpec()
    assert AttributionSpec(method="occlusion", window=6, seed=4) == AttributionSpec(method="occlusion", window=6)
    assert AttributionSpec(method="smooth_grad", seed=4) != AttributionSpec(method="smooth_grad")
    assert "32 steps, from grey 0.5" in AttributionSpec(method="integrated_gradients").label
    assert AttributionSpec(exits=(0, 2), explained="chosen", class_index=3).label == "Saliency, of class 3"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (AttributionSpec(exits=(0, 3)), "Exit 4 is asked about; this model has 3"),
        (AttributionSpec(explained="chosen", class_index=4), "classes 0 to 3"),
        (AttributionSpec(method="occlusion", window=9), "window is 9 pixels; images here have a side of 8"),
        (AttributionSpec(explained="true"), "one label for each of the 2 images"),
        (AttributionSpec(exits="taken"), "depends on the policy"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(spec: AttributionSpec, words: str) -> None:
    # Mutant: an index beyond the last exit that wraps around, or labels taken for granted.
    with pytest.raises(ExitLensError, match=words):
        attribute(toy_model(), toy_images(2), spec)


def test_images_of_another_shape_and_batches_of_nothing_are_refused() -> None:
    # Mutant: a single image without its batch dimension, spread over classes.
    with pytest.raises(ExitLensError, match="one or more of \\(3, height, width\\)"):
        attribute(toy_model(), toy_images(1)[0], AttributionSpec())
    with pytest.raises(ExitLensError, match="batch size is 0"):
        attribute(toy_model(), toy_images(1), AttributionSpec(), batch_size=0)
    with pytest.raises(ExitLensError, match=r"torch.uint8; give numbers in \[0, 1\]"):
        attribute(toy_model(), (toy_images(1) * 255).byte(), AttributionSpec())
    with pytest.raises(ExitLensError, match=r"takes no images of shape \(3, 99, 99\)"):
        attribute(toy_model(), toy_images(1, image_size=99), AttributionSpec())


@pytest.mark.parametrize("labels", [[0, 4], [-1, 0], [0.0, 1.0], [0]])
def test_labels_that_are_no_classes_are_refused(labels: list) -> None:
    # Mutant: an index that ends in a stack trace, or one that wraps around.
    with pytest.raises(ExitLensError, match=r"classes 0 to 3|one label for each"):
        attribute(toy_model(), toy_images(2), AttributionSpec(explained="true"), labels=torch.tensor(labels))


# Which exits and classes


def test_exits_and_classes_are_those_that_the_spec_means() -> None:
    # Mutant: the computed exit for the one that answers, or the final exit's prediction at every exit.
    model, images = toy_model(num_exits=4), toy_images(6)
    logits = model(images)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    everywhere = attribute(model, images, AttributionSpec())
    assert torch.equal(everywhere.exits, torch.arange(4).expand(6, -1))
    assert torch.equal(everywhere.classes, logits.argmax(dim=-1))
    torch.testing.assert_close(everywhere.logits, logits.amax(dim=-1))
    policy = ExitPolicy(0.8, "most_confident")
    answered = decide(logits, policy).answered_exit
    assert len(set(answered.tolist())) > 1
    taken = attribute(model, images, AttributionSpec(exits="taken", explained="true"), labels=labels, policy=policy)
    assert torch.equal(taken.exits[:, 0], answered) and torch.equal(taken.classes[:, 0], labels)
    final = attribute(model, images, AttributionSpec(exits="final", explained="chosen", class_index=2))
    assert torch.equal(final.exits, torch.full((6, 1), 3)) and torch.equal(final.classes, torch.full((6, 1), 2))
    torch.testing.assert_close(final.logits[:, 0], logits[:, -1, 2])
    some = attribute(model, images, AttributionSpec(exits=(1, 3)))
    torch.testing.assert_close(some.values, everywhere.values[:, [1, 3]])


def test_map_of_the_taken_exit_is_the_map_of_that_exit() -> None:
    # Mutant: rows of images with different exits put back in another order.
    model, images, policy = toy_model(num_exits=4), toy_images(6), ExitPolicy(0.8)
    for method in METHODS:
        one = attribute(model, images, few(method, exits="taken"), policy=policy)
        every = attribute(model, images, few(method))
        rows = torch.arange(6)
        torch.testing.assert_close(one.values[:, 0], every.values[rows, one.exits[:, 0]])


# By hand: every exit linear in the pixels


def linear_case() -> tuple[ExitNetwork, Tensor, Tensor]:
    """A model, two images, and the weights that lead from each pixel to the predicted logit, (N, K, 3, H, W)."""
    model, images = linear_model(num_exits=2, num_classes=3, image_size=4), toy_images(2, image_size=4)
    classes = model(images).argmax(dim=-1)
    weights = torch.stack([layer.weight.view(3, 3, 4, 4) for layer in linear_layers(model)])  # (K, C, 3, H, W)
    return model, images, torch.stack([weights[torch.arange(2), own] for own in classes])


def test_slopes_of_a_linear_exit_are_its_weights() -> None:
    # Mutant: absolute values, the mean over colours, another exit's weights or class.
    model, images, weights = linear_case()
    for method in ("saliency", "smooth_grad"):
        made = attribute(model, images, few(method))
        torch.testing.assert_close(made.values, weights)
        torch.testing.assert_close(made.maps, weights.sum(dim=2))
        assert (made.maps < 0).any() and (made.maps > 0).any()


@pytest.mark.parametrize("grey", [0.0, 0.25, 1.0])
def test_shares_of_a_linear_exit_are_weights_times_the_way_from_the_baseline(grey: float) -> None:
    # Mutant: gradients left unmultiplied, another baseline, or an input × gradient that starts from it.
    model, images, weights = linear_case()
    for method in ("integrated_gradients", "deep_lift"):
        made = attribute(model, images, few(method, baseline=grey))
        torch.testing.assert_close(made.values, weights * (images - grey)[:, None])
        # Complete: they sum to the difference of the logits.
        at_baseline = model(torch.full_like(images, grey)).gather(2, made.classes[..., None])[..., 0]
        torch.testing.assert_close(made.maps.sum(dim=(2, 3)), made.logits - at_baseline)
    made = attribute(model, images, few("input_x_gradient", baseline=grey))
    torch.testing.assert_close(made.values, weights * images[:, None])


def test_gradient_shap_of_a_linear_exit_is_weights_times_the_mean_way_from_the_drawn_greys() -> None:
    # Mutant: noise left out, greys shared between samples, or the place on the way used twice.
    model, images, weights = linear_case()
    spec = AttributionSpec(method="gradient_shap", num_samples=4, noise=0.2, seed=3)
    noise, greys, _ = draws(images, spec)
    assert greys.shape == (4, 1, 1, 1) and len(set(greys.flatten().tolist())) == 4
    ways = (images[:, None] + noise - greys).mean(dim=1)
    torch.testing.assert_close(attribute(model, images, spec).values, weights * ways[:, None])


def test_occlusion_of_a_linear_exit_is_what_the_covered_squares_added() -> None:
    # Mutant: a window over one colour only, sums over windows instead of means, or the sign turned.
    model, images, weights = linear_case()
    lost = (weights * (images - GREY)[:, None]).sum(dim=2)  # (N, K, H, W): what each pixel adds over grey
    single = attribute(model, images, AttributionSpec(method="occlusion", window=1, stride=1))
    torch.testing.assert_close(single.maps, lost, **FLOAT32)
    squares = attribute(model, images, AttributionSpec(method="occlusion", window=2, stride=2))
    sums = F.avg_pool2d(lost, 2) * 4
    torch.testing.assert_close(squares.maps, sums.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3), **FLOAT32)
    overlapping = attribute(model, images, AttributionSpec(method="occlusion", window=3, stride=1))
    # The corner lies under one of the four squares, its neighbour on the edge under two.
    first, second = lost[..., :3, :3].sum(dim=(2, 3)), lost[..., :3, 1:].sum(dim=(2, 3))
    torch.testing.assert_close(overlapping.maps[..., 0, 0], first, **FLOAT32)
    torch.testing.assert_close(overlapping.maps[..., 0, 1], (first + second) / 2, **FLOAT32)


def test_grad_cam_of_a_linear_exit_weighs_features_by_their_mean_slope() -> None:
    # Mutant: a final ReLU, slopes summed over the map instead of averaged, or another exit's layer. The features that
    # feed an exit are the image itself here.
    model, images, weights = linear_case()
    made = attribute(model, images, AttributionSpec(method="grad_cam"))
    expected = (weights.mean(dim=(3, 4), keepdim=True) * images[:, None]).sum(dim=2)
    torch.testing.assert_close(made.maps, expected)
    assert (made.maps < 0).any()


def test_guided_grad_cam_by_hand() -> None:
    # Mutant: Grad-CAM without its ReLU, guided gradients without theirs, or either of them alone.
    backbone = Backbone()
    backbone.stem = nn.Identity()
    mixing = nn.Conv2d(3, 2, 1, bias=False).double()
    backbone.blocks = nn.ModuleList([nn.Sequential(mixing, nn.ReLU())])
    linear = nn.Linear(2 * 4, 3).double()
    backbone.tail = nn.Sequential(nn.Flatten(), linear)
    model = ExitNetwork(backbone, (), 3, 2, (0.0,) * 3, (1.0,) * 3).double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(31)
    for weight in (mixing.weight, linear.weight):
        weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    (image,) = toy_images(1, image_size=2)
    before = torch.einsum("oc,chw->ohw", mixing.weight[:, :, 0, 0], image)
    features = before.clamp(min=0)
    slope = linear.weight[model(image[None])[0, 0].argmax()].view(2, 2, 2)
    cam = (slope.mean(dim=(1, 2), keepdim=True) * features).sum(dim=0).clamp(min=0)
    guided = torch.einsum("oc,ohw->chw", mixing.weight[:, :, 0, 0], slope.clamp(min=0) * (before > 0))
    assert cam.any() and guided.any() and (slope < 0).any() and (before < 0).any()
    made = attribute(model, image[None], AttributionSpec(method="guided_grad_cam"))
    torch.testing.assert_close(made.values[0, 0], cam * guided)


def test_guided_grad_cam_says_that_it_needs_relus() -> None:
    # Mutant: a plain gradient passed off as a guided one.
    with pytest.raises(ExitLensError, match="this network runs none"):
        attribute(linear_model(), toy_images(1, image_size=2), AttributionSpec(method="guided_grad_cam"))


# Against captum called directly


class WithMaxPooling(nn.Module):
    """An exit of a toy model as captum can take it: pooling by a module, ReLUs are modules already."""

    def __init__(self, model: ExitNetwork, exit_index: int) -> None:
        super().__init__()
        self.model, self.exit_index = copy.deepcopy(model), exit_index
        for classifier in self.model.exits:
            classifier.pool = nn.MaxPool2d(classifier.window)
            classifier.forward = lambda features, own=classifier: self.pooled(own, features)

    @staticmethod
    def pooled(classifier: ExitClassifier, features: Tensor) -> Tensor:
        if classifier.mix is not None:
            average = F.avg_pool2d(features, classifier.window)
            features = classifier.mix * classifier.pool(features.view_as(features)) + (1 - classifier.mix) * average
        return classifier.linear(features.flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.model.run_until(images, self.exit_index)

    @property
    def layer(self) -> nn.Module:
        return self.model.get_submodule(self.model.exit_layers[self.exit_index])


def by_captum(method: str, network: WithMaxPooling, images: Tensor, classes: Tensor, spec: AttributionSpec) -> Tensor:
    noise, greys, places = draws(images, spec)
    images = images.clone().requires_grad_(True)
    layer_cam = LayerGradCam(network, network.layer)
    calls: dict[str, Callable[[], Tensor]] = {
        "saliency": lambda: Saliency(network).attribute(images, target=classes, abs=False),
        "input_x_gradient": lambda: InputXGradient(network).attribute(images, target=classes),
        "integrated_gradients": lambda: IntegratedGradients(network).attribute(
            images, baselines=spec.baseline, target=classes, n_steps=spec.num_steps
        ),
        "grad_cam": lambda: LayerAttribution.interpolate(
            layer_cam.attribute(images, target=classes), (8, 8), interpolate_mode="bilinear"
        ),
        "occlusion": lambda: Occlusion(network).attribute(
            images, (3, spec.window, spec.window), (3, spec.stride, spec.stride), spec.baseline, classes
        )[:, :1],
        "smooth_grad": lambda: NoiseTunnel(Saliency(network)).attribute(
            images, nt_samples=spec.num_samples, stdevs=spec.noise, target=classes, abs=False
        ),
        "deep_lift": lambda: DeepLift(network).attribute(images, baselines=spec.baseline, target=classes),
        "gradient_shap": lambda: GradientShap(network).attribute(
            images,
            baselines=greys.expand(-1, 3, 8, 8),
            n_samples=spec.num_samples,
            stdevs=spec.noise,
            target=classes,
        ),
        "guided_grad_cam": lambda: GuidedGradCam(network, network.layer).attribute(
            images, target=classes, interpolate_mode="bilinear"
        ),
    }
    count, samples = len(images), spec.num_samples

    def normal(mean: float, std: Tensor) -> Tensor:
        return noise.repeat(count, 1, 1, 1)

    with pytest.MonkeyPatch.context() as patch:
        # Captum draws from global states: it is handed what ours has drawn.
        patch.setattr(torch, "normal", normal)
        patch.setattr(np.random, "uniform", lambda low, high, size: places.flatten().repeat(count).numpy())
        patch.setattr(np.random, "choice", lambda *args, **kwargs: np.tile(np.arange(samples), count))
        return calls[method]().detach()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_what_captum_says_directly(method: str) -> None:
    # Mutant: any argument left at captum's default, a layer or exit too far, max pooling passed over in DeepLift.
    model, images = toy_model(num_exits=4, seed=1), toy_images(3)
    spec = few(method, seed=6)
    made = attribute(model, images, spec, batch_size=4)
    for exit_index in range(4):
        expected = by_captum(method, WithMaxPooling(model, exit_index), images, made.classes[:, exit_index], spec)
        torch.testing.assert_close(made.values[:, exit_index], expected.double())
    assert made.values.flatten(2).any(dim=2).double().mean() > 0.9


# Completeness on networks that are not linear


@pytest.mark.parametrize("method", ["integrated_gradients", "deep_lift"])
def test_shares_sum_to_the_change_in_the_logit(method: str) -> None:
    # Mutant: exits' max pooling or a ReLU taken by its plain gradient in DeepLift.
    model, images = toy_model(), toy_images(3)
    made = attribute(model, images, AttributionSpec(method=method, num_steps=256))
    at_baseline = model(torch.full_like(images, GREY)).gather(2, made.classes[..., None])[..., 0]
    tolerance = {"deep_lift": 1e-9, "integrated_gradients": 5e-2}[method]
    change = made.logits - at_baseline
    torch.testing.assert_close(made.maps.sum(dim=(2, 3)), change, rtol=tolerance, atol=tolerance)
    assert change.abs().median() > 1


def test_deep_lift_is_complete_on_a_network_that_calls_relu_as_a_function() -> None:
    # Mutant: hooks on modules alone: ResNet-56 calls F.relu twice in each block, and its sums miss by far.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("resnet56", "cifar10", (3, 15)).double().requires_grad_(False)
    images = toy_images(1, image_size=32)
    made = attribute(model, images, AttributionSpec(method="deep_lift"))
    at_baseline = model(torch.full_like(images, GREY)).gather(2, made.classes[..., None])[..., 0]
    change = made.logits - at_baseline
    torch.testing.assert_close(made.maps.sum(dim=(2, 3)), change, rtol=1e-6, atol=1e-8 * float(change.abs().max()))


def test_deep_lift_is_complete_where_an_activation_shares_its_input() -> None:
    # Mutant: the tensor itself handed to the hooked module: captum then drops the gradient of the way around it.
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.end = nn.Conv2d(3, 3, 1).double(), nn.Linear(12, 3).double()

        def forward(self, images: Tensor) -> Tensor:
            features = self.first(images)
            return self.end((F.relu(features) + 2 * features).flatten(1))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        facts = {"num_exits": 1, "num_classes": 3, "image_size": 2, "mean": (0.0,) * 3, "std": (1.0,) * 3}
        model = ImportedNetwork(Around(), **facts).double().eval().requires_grad_(False)
    images = toy_images(2, image_size=2)
    made = attribute(model, images, AttributionSpec(method="deep_lift"))
    at_baseline = model(torch.full_like(images, GREY)).gather(2, made.classes[..., None])[..., 0]
    torch.testing.assert_close(made.maps.sum(dim=(2, 3)), made.logits - at_baseline)


# Activations


class Written(nn.Module):
    """The same network in different hands: four ReLUs and a pooling."""

    def __init__(self, how: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.how, self.relu = how, nn.ReLU(inplace=how == "in place")
        self.pool = nn.MaxPool2d(2)
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1).double() for _ in range(4))
        self.end = nn.Linear(3 * 16, 4).double()
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        self.apart = nn.ModuleList(nn.ReLU() for _ in range(4))

    def act(self, features: Tensor, number: int) -> Tensor:
        if self.how == "apart":
            return self.apart[number](features)
        if self.how == "functions":
            return (F.relu, torch.relu, Tensor.relu, torch.relu_)[number](features)
        return self.relu(features)

    def forward(self, images: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            images = self.act(layer(images), number)
        images = F.max_pool2d(images, 2, 2) if self.how == "functions" else self.pool(images)
        return self.end(images.flatten(1))


@pytest.mark.parametrize("how", ["reused", "functions", "in place"])
@pytest.mark.parametrize("method", ["deep_lift", "guided_grad_cam", "saliency"])
def test_how_a_network_writes_its_activations_changes_no_map(how: str, method: str) -> None:
    # Mutant: hooks on the network's own modules: reused ones end in an error, functions are passed over.
    def imported(network: nn.Module) -> ImportedNetwork:
        facts = {"num_exits": 1, "num_classes": 4, "image_size": 8, "mean": (0.0,) * 3, "std": (1.0,) * 3}
        model = ImportedNetwork(network, exit_layers=("layers.3",), **facts)
        return model.double().eval().requires_grad_(False)

    images, spec = toy_images(2), AttributionSpec(method=method)
    apart, other = imported(Written("apart")), imported(Written(how))
    torch.testing.assert_close(other(images), apart(images))
    made = attribute(other, images, spec)
    torch.testing.assert_close(made.values, attribute(apart, images, spec).values)
    assert made.values.abs().max() > 0
    if method == "deep_lift":
        at_baseline = other(torch.full_like(images, GREY)).gather(2, made.classes[..., None])[..., 0]
        torch.testing.assert_close(made.maps.sum(dim=(2, 3)), made.logits - at_baseline)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (F.relu, nn.ReLU),
        (torch.relu, nn.ReLU),
        (Tensor.relu, nn.ReLU),
        (torch.relu_, nn.ReLU),
        (nn.ReLU(), nn.ReLU),
        (nn.ReLU(inplace=True), nn.ReLU),
        (lambda features: F.leaky_relu(features, 0.3), nn.LeakyReLU),
        (nn.LeakyReLU(0.3), nn.LeakyReLU),
        (lambda features: F.elu(features, 0.5), nn.ELU),
        (F.softplus, nn.Softplus),
        (nn.Softplus(beta=2), nn.Softplus),
        (F.sigmoid, nn.Sigmoid),
        (torch.sigmoid, nn.Sigmoid),
        (nn.Tanh(), nn.Tanh),
        (Tensor.tanh, nn.Tanh),
        (lambda features: F.max_pool2d(features, 2), nn.MaxPool2d),
        (lambda features: F.max_pool2d(features, 3, 2, padding=1), nn.MaxPool2d),
        (lambda features: torch.max_pool2d(features, (2, 4)), nn.MaxPool2d),
        (nn.MaxPool2d(3, stride=2, ceil_mode=True), nn.MaxPool2d),
        (lambda features: features.unflatten(3, (-1, 4)).unflatten(2, (-1, 4)).amax((3, 5)), nn.MaxPool2d),
    ],
)
def test_activations_are_caught_with_their_numbers(call: Callable[[Tensor], Tensor], kind: type) -> None:
    # Mutant: a function that torch dispatches under another name, or a number left at its default.
    def run(images: Tensor) -> Tensor:
        return call(images - 0.5).flatten(1)

    (stage,) = stage_activations(Staged(run), toy_images(1))
    assert [type(module) for module in stage.classifier] == [kind]
    images = toy_images(3, seed=4)
    torch.testing.assert_close(SeparateActivations(run, stage.classifier)(images), run(images))


def test_maxima_that_are_no_pooling_are_left_alone() -> None:
    # Mutant: any maximum taken for max pooling, or pooling that also tells places replaced.
    def run(images: Tensor) -> Tensor:
        best, _ = F.max_pool2d(images, 2, return_indices=True)
        return best.amax((2, 3)) + images.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((2, 4)).flatten(2).amax(2)

    assert stage_activations(Staged(run), toy_images(1)) == [([], [])]


class Staged(nn.Module):
    """A network of one exit, from a function."""

    num_exits = 1

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run

    def begin(self, images: Tensor) -> Tensor:
        return images

    def advance(self, features: Tensor, exit_index: int) -> Tensor:
        return features

    def classify(self, features: Tensor, exit_index: int) -> Tensor:
        return self.run(features)

    def run_until(self, images: Tensor, exit_index: int) -> Tensor:
        return self.run(images)


def test_network_that_looks_again_at_an_overwritten_input_is_refused() -> None:
    # Mutant: replaced activations taken on trust: the maps would be those of another network.
    def run(images: Tensor) -> Tensor:
        images = images - 0.5
        torch.relu_(images)
        return images.flatten(1)

    with pytest.raises(ExitLensError, match="overwritten"):
        stage_activations(Staged(run), toy_images(1))


def test_network_that_runs_other_activations_from_pass_to_pass_is_refused() -> None:
    # Mutant: the n-th call sent through whatever module has that number.
    passes = iter((1, 2, 0))

    def run(images: Tensor) -> Tensor:
        for _ in range(next(passes)):
            images = images.relu()
        return images.flatten(1)

    (stage,) = stage_activations(Staged(run), toy_images(1))
    separate = SeparateActivations(run, stage.classifier)
    assert separate.num_relus == 1
    for _ in range(2):
        with pytest.raises(RuntimeError, match="other activations"):
            separate(toy_images(1))


def test_activations_are_told_stage_by_stage() -> None:
    # Mutant: a classifier's own activations taken for those on the way to the next exit.
    found = stage_activations(private_copy(toy_model()), toy_images(1))
    kinds = [tuple([type(module).__name__ for module in modules] for modules in stage) for stage in found]
    # A stem and four blocks; the first exit pools 8x8 to 4x4.
    assert kinds == [(["ReLU"] * 2, ["MaxPool2d"]), (["ReLU"], []), (["ReLU"] * 2, [])]


@pytest.mark.parametrize("method", ["deep_lift", "guided_grad_cam"])
@pytest.mark.parametrize("exits", ["taken", (1,), (0, 2), "all"])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_maps_of_many_exits_made_in_one_pass_are_those_of_each_exit(
    method: str, exits: str | tuple[int, ...], batch_size: int
) -> None:
    # Mutants: the logit of another exit, the baseline's rows in another order, an image beside another's exit.
    model, images = toy_model().double(), toy_images(4).double()
    spec = AttributionSpec(method=method, exits=exits)  # type: ignore[arg-type]
    together = attribute(model, images, spec, policy=ExitPolicy(0.5), batch_size=batch_size)
    for row, asked in enumerate(together.exits.tolist()):
        for column, exit_index in enumerate(asked):
            alone = attribute(model, images[row : row + 1], AttributionSpec(method=method, exits=(exit_index,)))
            torch.testing.assert_close(together.values[row, column], alone.values[0, 0], rtol=1e-9, atol=1e-12)
    if exits == "taken":
        assert len(together.exits.unique()) > 1, "all images leave at one exit"


def test_no_layer_runs_behind_the_last_exit_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: all exits computed for the sake of one.
    private, images, reached = private_copy(toy_model()), toy_images(2), []
    advance = ExitNetwork.advance

    def watched(model: ExitNetwork, features: Tensor, exit_index: int) -> Tensor:
        reached.append(exit_index)
        return advance(model, features, exit_index)

    stages = stage_activations(private, images[:1])
    monkeypatch.setattr("core.captum_methods.stage_activations", lambda model, example: stages)
    monkeypatch.setattr(ExitNetwork, "advance", watched)
    exits = torch.tensor([[0, 1], [0, 1]])
    explain(private, images, exits, torch.zeros_like(exits), AttributionSpec(method="deep_lift"))
    assert set(reached) == {0, 1}


# A private copy, threads, memory, progress


def legacy_state() -> list[int]:
    """NumPy's global random state, which captum draws from."""
    return np.random.get_state()[1].tolist()  # noqa: NPY002


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_exits", [1, 3])
def test_the_model_given_is_never_hooked_or_changed(method: str, num_exits: int, monkeypatch) -> None:
    # Mutant: ``quick_copy`` returning the model itself: Grad-CAM hooks the layer that feeds a static model's exit.
    model = toy_model(num_exits=num_exits)
    hooked = []
    for name in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        plain = getattr(nn.Module, name)

        def remembered(module: nn.Module, *args: object, plain: object = plain, **kwargs: object) -> object:
            hooked.append(module)
            return plain(module, *args, **kwargs)

        monkeypatch.setattr(nn.Module, name, remembered)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    images = toy_images(2)
    kept, state, numpy_state = images.clone(), torch.get_rng_state(), legacy_state()
    made = attribute(model, images, few(method))
    mine = {id(module) for module in model.modules()}
    assert not [module for module in hooked if id(module) in mine]
    assert bool(hooked) == (method in ("deep_lift", "grad_cam", "guided_grad_cam")), "the test sees no hook at all"
    assert torch.equal(torch.get_rng_state(), state) and legacy_state() == numpy_state
    assert not made.values.requires_grad and not images.requires_grad and images.grad is None
    assert torch.equal(images, kept)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())
    for module in model.modules():
        assert not module.training
        assert not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def test_attribution_in_threads_leaves_every_attack_gradient_right() -> None:
    # Mutant: no copy, and hooks on the model's own modules: guided backpropagation and DeepLift then bend the gradients
    # of all threads that run it meanwhile.
    model, images = toy_model(num_exits=4, seed=2), toy_images(4)
    labels, spec, policy = torch.tensor([0, 1, 2, 3]), pgd(num_steps=3), ExitPolicy(0.8)

    def gradients() -> Tensor:
        pixels = images.clone().requires_grad_(True)
        return torch.autograd.grad(model(pixels).log_softmax(dim=-1)[..., 1].sum(), pixels)[0]

    expected, adversarial = gradients(), attack(model, images, labels, spec, policy).adversarial
    maps = {method: attribute(model, images, few(method)).values for method in METHODS}
    stop, errors, rounds = threading.Event(), [], [0, 0, 0]

    def attributing(number: int) -> None:
        methods = [*METHODS][number:] + [*METHODS][:number]
        while not stop.is_set():
            for method in methods:
                if not torch.allclose(attribute(model, images, few(method)).values, maps[method], atol=1e-9):
                    errors.append(method)
            rounds[number] += 1

    threads = [threading.Thread(target=attributing, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        num_passes = 0
        while num_passes < 40 or not all(rounds):
            assert all(thread.is_alive() for thread in threads)
            assert torch.equal(gradients(), expected)
            assert torch.equal(attack(model, images, labels, spec, policy).adversarial, adversarial)
            num_passes += 1
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []


@pytest.mark.slow
@pytest.mark.skipif(SHIPPED not in list_models(), reason=f"{SHIPPED} is not here")
def test_attribution_in_threads_leaves_attacks_on_the_shipped_model_right() -> None:
    # Mutant: as above, on float32 and on a network that calls its ReLUs as functions.
    model, _ = load_model(SHIPPED)
    images = open_image_set("cifar10:samples").select([0, 1, 2, 3])
    pixels, spec = images.pixels(), pgd(num_steps=2)

    def attacked() -> Tensor:
        return attack(model, pixels, images.labels, spec, ExitPolicy()).adversarial

    def gradient() -> Tensor:
        leaf = pixels.clone().requires_grad_(True)
        return torch.autograd.grad(model(leaf)[..., 3].sum(), leaf)[0]

    expected, adversarial, stop = gradient(), attacked(), threading.Event()
    num_maps = [0, 0]

    def attributing(number: int) -> None:
        while not stop.is_set():
            for method in METHODS:
                attribute(model, pixels[:1], AttributionSpec(method=method, num_steps=2, num_samples=2, stride=4))
                num_maps[number] += 1

    threads = [threading.Thread(target=attributing, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        num_gradients = 0
        while num_gradients < 30 or min(num_maps) < len(METHODS):
            assert all(thread.is_alive() for thread in threads)
            torch.testing.assert_close(gradient(), expected, rtol=0, atol=1e-6)
            num_gradients += 1
        torch.testing.assert_close(attacked(), adversarial, rtol=0, atol=1e-6)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("method", METHODS)
def test_neither_batch_size_nor_order_nor_company_changes_a_map(method: str) -> None:
    # Mutant: noise drawn image by image, squares shared out over a batch, samples dropped at its end.
    model, images, spec = toy_model(), toy_images(5), few(method)
    whole = attribute(model, images, spec).values
    for batch_size in (1, 2, 7):
        torch.testing.assert_close(attribute(model, images, spec, batch_size=batch_size).values, whole)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(attribute(model, images[order], spec).values, whole[order])
    torch.testing.assert_close(attribute(model, images[2:3], spec).values, whole[2:3])


@pytest.mark.parametrize("method", METHODS)
def test_no_pass_is_larger_than_the_batch_size(method: str) -> None:
    # Mutant: all steps, samples or squares of all images in one pass. DeepLift takes each image with its baseline.
    private = toy_model()
    inputs = record_inputs(private)
    private.eval()
    images = toy_images(6)
    exits = torch.arange(3).expand(6, -1)
    explain(private, images, exits, torch.zeros_like(exits), few(method), batch_size=4)
    assert 1 < max(len(rows) for rows in inputs["stem"]) <= 4


@pytest.mark.parametrize("method", METHODS)
def test_progress_rises_to_the_end_and_cancel_ends_the_work(method: str) -> None:
    # Mutant: a share that stays, passes one, or a token that nobody looks at.
    model, images, spec = toy_model(), toy_images(4), few(method)
    seen: list[Progress] = []
    attribute(model, images, spec, batch_size=2, on_progress=seen.append)
    shares = [progress.share for progress in seen]
    assert shares == sorted(shares) and len(set(shares)) > 3
    assert 0.6 < shares[-1] <= 1 and seen[0].words == METHODS[spec.method].label
    token = threading.Event()

    def cancel_soon(progress: Progress) -> None:
        if progress.share > 0.3:
            assert not token.is_set(), "the work went on"
            token.set()

    with pytest.raises(Cancelled):
        attribute(model, images, spec, batch_size=2, on_progress=cancel_soon, cancel=token)


@pytest.mark.parametrize("method", ["smooth_grad", "gradient_shap"])
def test_a_seed_is_its_draws(method: str) -> None:
    # Mutant: a seed that is not used, or one generator for all calls.
    model, images = toy_model(), toy_images(2)
    one, again, other = (attribute(model, images, few(method, seed=seed)).values for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.allclose(one, other)


def test_without_noise_smooth_grad_is_saliency() -> None:
    # Mutant: noise that ignores its size.
    model, images = toy_model(), toy_images(2)
    smooth = attribute(model, images, few("smooth_grad", noise=0.0)).values
    torch.testing.assert_close(smooth, attribute(model, images, few("saliency")).values)


# What fails says why


@pytest.mark.parametrize("method", ON_LINEAR)
def test_a_logit_that_no_pixel_moves_has_no_map_and_says_why(method: str) -> None:
    # Mutant: an empty map shown as if it were one, or the exit numbered from nought.
    model = linear_model(num_exits=3, num_classes=3, image_size=4)
    linear_layers(model)[1].weight.zero_()
    linear_layers(model)[2].weight.zero_()
    made = attribute(model, toy_images(2, image_size=4), few(method))
    for why in made.problems:
        assert why[0] == ""
        assert why[1].startswith("Exit 2 has no map: ") and why[2].startswith("The final exit has no map: ")
    assert not made.maps[:, 1:].any() and made.maps[:, 0].any()


@pytest.mark.parametrize(
    ("method", "grey"), [("input_x_gradient", 0.0), ("integrated_gradients", 0.25), ("deep_lift", 0.25)]
)
def test_an_image_that_is_the_baseline_has_no_map_and_no_gradient_is_blamed(method: str, grey: float) -> None:
    # Mutant: a gradient said to be zero that is not.
    model, images = linear_model(num_exits=2, image_size=4), torch.full((1, 3, 4, 4), grey, dtype=torch.float64)
    made = attribute(model, images, few(method, baseline=grey))
    assert attribute(model, images, few("saliency")).values.all()
    for problem in made.problems[0]:
        assert ("black" if grey == 0 else "that of the baseline") in problem and "gradient" not in problem


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_grad_cam_of_a_single_cell_is_no_map_and_nothing_agrees_with_it(dtype: torch.dtype) -> None:
    # Mutants: the cell interpolated, whose rounding then has ranks; one value everywhere shown as if it were a map.
    model, images = toy_model(num_exits=6, dtype=dtype), toy_images(8, dtype=dtype)
    made = attribute(model, images, AttributionSpec(method="grad_cam"))
    assert (made.values[:, 5] == made.values[:, 5, :, :1, :1]).all() and made.values[:, 5].any(dim=3).all()
    for why in made.problems:
        assert why[5] == "The final exit has no map: the layer before it has a single cell, or all cells alike."
        assert not any(why[:3])
    alike = agreement(made.maps[:4], made.maps[4:])
    for values in (alike.rank_correlation, alike.overlap):
        assert values[:, 5].isnan().all() and values[:, :3, :3].isfinite().all()
    guided = attribute(model, images, AttributionSpec(method="guided_grad_cam"))
    is_flat = (guided.maps == guided.maps[..., :1, :1]).flatten(2).all(dim=2)[:, 5]
    assert not is_flat.all() and not any("single cell" in why[5] for why in guided.problems)


def test_occlusion_by_one_square_is_no_map() -> None:
    # Mutant: the constant that comes of it drawn, and found unlike all others.
    made = attribute(toy_model(), toy_images(2), AttributionSpec(method="occlusion", window=8))
    assert all("every square that is covered counts the same" in problem for why in made.problems for problem in why)


def test_logits_that_are_not_finite_are_refused() -> None:
    # Mutant: NaN maps drawn as blanks.
    model = linear_model()
    linear_layers(model)[0].weight.fill_(torch.inf)
    with pytest.raises(ExitLensError, match="not finite"):
        attribute(model, toy_images(1, image_size=2), AttributionSpec())


def test_features_without_height_and_width_have_no_grad_cam() -> None:
    # Mutant: an error of torch's on screen.
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ends = nn.ModuleList(nn.Linear(12, 3).double() for _ in range(2))

        def forward(self, images: Tensor) -> list[Tensor]:
            return [self.classify(self.begin(images), index) for index in range(2)]

        def begin(self, images: Tensor) -> Tensor:
            return images.flatten(1)

        def advance(self, features: Tensor, exit_index: int) -> Tensor:
            return features

        def classify(self, features: Tensor, exit_index: int) -> Tensor:
            return self.ends[exit_index](features)

    facts = {"num_exits": 2, "num_classes": 3, "image_size": 2, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    model = ImportedNetwork(Flat(), **facts).double().eval().requires_grad_(False)
    images = toy_images(1, image_size=2)
    with pytest.raises(ExitLensError, match="needs maps of height and width"):
        attribute(model, images, AttributionSpec(method="grad_cam"))
    assert attribute(model, images, AttributionSpec()).maps.any()


def test_errors_of_captum_and_torch_become_one_sentence() -> None:
    # Mutant: a stack trace where a network is not as captum needs it.
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(12, 3).double()

        def forward(self, images: Tensor) -> Tensor:
            return self.inner(images.detach().flatten(1))

    facts = {"num_exits": 1, "num_classes": 3, "image_size": 2, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    model = ImportedNetwork(Detached(), **facts).double().eval().requires_grad_(False)
    with pytest.raises(ExitLensError, match=r"Saliency does not work on this model .*Choose another method"):
        attribute(model, toy_images(1, image_size=2), AttributionSpec())


def test_private_copy_shares_nothing_and_is_frozen() -> None:
    # Mutant: a shallow copy.
    model = toy_model()
    private = private_copy(model.train().requires_grad_(True))
    for mine, theirs in zip(private.parameters(), model.parameters(), strict=True):
        assert not mine.requires_grad and mine.data_ptr() != theirs.data_ptr()
    assert not private.training and model.training
