"""Networks with exits: where the exits stand, what they cost, and that stopping early computes nothing more."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from toys import linear_layers, linear_model, record_inputs, toy_images, toy_model

from core.datasets import DATASETS
from core.errors import ExitLensError
from core.models import ARCHITECTURES, build_model
from core.models.classifiers import ExitClassifier
from core.models.costs import backbone_fractions, exit_costs, multiply_adds, static_fraction, subset_costs
from core.models.mobilenet import StridedDepthwise

ALL_ARCHITECTURES = pytest.mark.parametrize("architecture", ARCHITECTURES)


# Positions and costs

# Kaya et al. 2019, recomputed in multiply-adds of the backbone at 32x32 with 10 classes.
PUBLISHED = {
    "vgg16": ((1, 3, 5, 6, 8, 9), (0.126, 0.307, 0.487, 0.608, 0.788, 0.908), 313.9e6),
    "resnet56": ((3, 7, 11, 15, 19, 23), (0.154, 0.305, 0.446, 0.596, 0.738, 0.888), 125.8e6),
    "mobilenet": ((2, 4, 6, 8, 11), (0.215, 0.356, 0.495, 0.680, 0.909), None),
}


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_standard_exits_stand_where_the_source_puts_them(architecture: str) -> None:
    # Mutant: an exit one block early, a stage's stride in the wrong block, or exit classifiers counted in.
    positions, fractions, total = PUBLISHED[architecture]
    assert ARCHITECTURES[architecture].exit_positions == positions
    model = build_model(architecture, "cifar10", positions)
    assert backbone_fractions(model, 32) == pytest.approx(fractions, abs=0.003)
    layers, classifiers = multiply_adds(model, 32)
    assert total is None or sum(layers) + classifiers[-1] == pytest.approx(total, rel=0.001)
    assert model.exit_layers == tuple(
        f"backbone.blocks.{position}" for position in (*positions, len(model.backbone.blocks) - 1)
    )


class Attending(torch.nn.Module):
    """Sixteen pixels attend to each other, in as fused a way as torch has."""

    num_exits, num_classes = 1, 4

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = torch.nn.Linear(8, 4)

    def begin(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(2).mean(1)[..., None].repeat(1, 1, 8)

    def advance(self, features: torch.Tensor, exit_index: int) -> torch.Tensor:
        return self.layer(features)

    def classify(self, features: torch.Tensor, exit_index: int) -> torch.Tensor:
        return self.head(features.mean(1))


def test_attention_is_counted_however_it_is_computed() -> None:
    # Mutant: torch's fused operators, of which its counter knows no products.
    before = torch.backends.mha.get_fastpath_enabled()
    layers, classifiers = multiply_adds(Attending().eval(), 4)  # type: ignore[arg-type]
    queries_keys_values, products, out, feedforward = 16 * 8 * 24, 2 * 16 * 16 * 8, 16 * 8 * 8, 2 * 16 * 8 * 16
    assert layers == [queries_keys_values + products + out + feedforward] and classifiers == [8 * 4]
    assert torch.backends.mha.get_fastpath_enabled() == before


@ALL_ARCHITECTURES
@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "tiny-imagenet"])
def test_every_registered_model_fits_every_data_set(architecture: str, dataset: str) -> None:
    # Mutant: the number of classes or the side of the images fixed to those of CIFAR-10; costs not cumulative.
    facts, positions = DATASETS[dataset], ARCHITECTURES[architecture].exit_positions
    model = build_model(architecture, dataset, positions)
    images = toy_images(2, image_size=facts.image_size, dtype=torch.float32)
    with torch.no_grad():
        logits = model(images)
    assert logits.shape == (2, len(positions) + 1, facts.num_classes) and torch.isfinite(logits).all()
    assert (model.num_exits, model.num_classes) == logits.shape[1:]
    assert not model.training
    costs = model.exit_costs
    assert len(costs) == len(positions) + 1 and costs[-1] == 1 and costs[0] > 0
    assert all(earlier < later for earlier, later in pairwise(costs))
    for layer in model.exit_layers:
        model.get_submodule(layer)


@ALL_ARCHITECTURES
def test_static_twin_has_one_exit_that_costs_everything(architecture: str) -> None:
    # Mutant: the standard exits by default.
    model = build_model(architecture, "cifar10")
    assert (model.num_exits, model.exit_costs, len(model.exits)) == (1, (1.0,), 0)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 10)


@ALL_ARCHITECTURES
def test_early_exit_model_is_its_static_twin_plus_exits(architecture: str) -> None:
    # Mutant: a backbone that differs between the twins, which would compare two networks.
    static = build_model(architecture, "cifar10").state_dict()
    early = build_model(architecture, "cifar10", ARCHITECTURES[architecture].exit_positions).state_dict()
    assert {name: value.shape for name, value in early.items() if not name.startswith("exits.")} == {
        name: value.shape for name, value in static.items()
    }


def test_every_published_architecture_is_registered() -> None:
    # Mutant: one left out of the registry, and the tests above that go through it pass.
    assert set(ARCHITECTURES) >= set(PUBLISHED)


@pytest.mark.parametrize("architecture", ["resnet56", "mobilenet"])
def test_larger_images_are_halved_in_the_stem(architecture: str) -> None:
    # Mutant: stride 1 for 64x64 images: four times the multiply-adds.
    small, large = build_model(architecture, "cifar10"), build_model(architecture, "tiny-imagenet")
    costs = [sum(map(sum, multiply_adds(model, model.image_size))) for model in (small, large)]
    assert costs[1] == pytest.approx(costs[0], rel=0.01)


def test_costs_equal_a_hand_count() -> None:
    # Mutant: two operations per multiply-add, a classifier left out, or an exit's cost without earlier classifiers.
    # 8x8 images, 4 channels, 3x3 convolutions of stride 1, 2, 1, 2 after the stem, exits after blocks 0 and 1.
    model = toy_model(num_exits=3, num_classes=5)
    stem = 8 * 8 * (3 * 9) * 4
    blocks = [8 * 8 * (4 * 9) * 4, 4 * 4 * (4 * 9) * 4, 4 * 4 * (4 * 9) * 4, 2 * 2 * (4 * 9) * 4]
    exit_classifier = 4 * (4 * 4) * 5  # pooled to 4x4
    tail = 4 * 5
    layers = [stem + blocks[0], blocks[1], blocks[2] + blocks[3]]
    assert multiply_adds(model, 8) == (layers, [exit_classifier, exit_classifier, tail])
    total = sum(layers) + 2 * exit_classifier + tail
    first = layers[0] + exit_classifier
    assert exit_costs(model, 8) == pytest.approx((first / total, (first + layers[1] + exit_classifier) / total, 1))
    backbone = sum(layers) + tail
    assert backbone_fractions(model, 8) == pytest.approx((layers[0] / backbone, (layers[0] + layers[1]) / backbone))


def test_cost_of_a_placement_counts_its_own_classifiers_only() -> None:
    # Mutant: costs of the full network picked by column, in which every classifier left out is still paid for.
    layers, classifiers = (10, 20, 30, 40), (1, 2, 3, 4)
    assert subset_costs(layers, classifiers, (1, 3)) == pytest.approx((32 / 106, 1))
    assert subset_costs(layers, classifiers, (0, 2, 3)) == pytest.approx((11 / 108, 64 / 108, 1))
    assert subset_costs(layers, classifiers, range(4)) == pytest.approx((11 / 110, 33 / 110, 66 / 110, 1))
    assert subset_costs(layers, classifiers, (3,)) == (1.0,)


@pytest.mark.parametrize("num_exits", [1, 2, 4])
def test_static_fraction_is_the_twin_counted_by_itself(num_exits: int) -> None:
    # Mutant: early classifiers counted as the twin's, or the final one left out.
    early, static = toy_model(num_exits=num_exits), toy_model(num_exits=1)
    layers, classifiers = multiply_adds(early, 8)
    alone = sum(map(sum, multiply_adds(static, 8)))
    assert static_fraction(layers, classifiers) == pytest.approx(alone / (sum(layers) + sum(classifiers)))


def test_placement_is_a_choice_of_columns_with_shared_weights_and_counted_costs() -> None:
    # Mutant: exits after the wrong blocks, classifiers copied, or the full network changed on the way.
    model = toy_model(num_exits=4)
    images = toy_images(3)
    whole = model(images)
    chosen = model.subset((0, 2, 3))
    torch.testing.assert_close(chosen(images), whole[:, [0, 2, 3]], rtol=0, atol=1e-12)
    assert chosen.exit_layers == tuple(model.exit_layers[index] for index in (0, 2, 3))
    assert chosen.exits[1].linear.weight is model.exits[2].linear.weight
    assert chosen.exit_costs == pytest.approx(subset_costs(*multiply_adds(model, 8), (0, 2, 3)))
    assert (chosen.num_exits, model.num_exits, len(model.exits)) == (3, 4, 3)
    assert torch.equal(model(images), whole)


@pytest.mark.parametrize("exit_indices", [(), (0, 1), (2, 1, 3), (0, 0, 3), (-1, 3), (0, 4)])
def test_placement_that_does_not_rise_to_the_final_exit_is_refused(exit_indices: tuple[int, ...]) -> None:
    # Mutant: a network without its final exit.
    with pytest.raises(ExitLensError, match="end with the final exit, 3"):
        toy_model(num_exits=4).subset(exit_indices)


def test_counting_costs_leaves_the_model_alone() -> None:
    # Mutant: costs counted in train mode move the batch norms' statistics.
    model = toy_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    exit_costs(model, 8)
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# Stopping early


def test_run_until_equals_its_column_of_all_logits() -> None:
    # Mutant: run_until returns the final exit, or starts a stage one block late.
    model, images = toy_model(num_exits=4), toy_images()
    logits = model(images)
    for exit_index in range(4):
        assert torch.equal(model.run_until(images, exit_index), logits[:, exit_index])


@ALL_ARCHITECTURES
def test_run_until_equals_its_column_in_float64_for_every_architecture(architecture: str) -> None:
    # Mutant: as above, in a shipped network.
    model = build_model(architecture, "cifar10", ARCHITECTURES[architecture].exit_positions).double()
    images = toy_images(2, image_size=32)
    with torch.no_grad():
        logits = model(images)
        for exit_index in range(model.num_exits):
            torch.testing.assert_close(model.run_until(images, exit_index), logits[:, exit_index], rtol=0, atol=1e-12)


@pytest.mark.parametrize("exit_index", range(4))
def test_run_until_computes_no_later_block_and_no_other_classifier(exit_index: int) -> None:
    # Mutant: return self(images)[:, exit_index].
    model = toy_model(num_exits=4)
    inputs = record_inputs(model)
    model.run_until(toy_images(), exit_index)
    classifier = f"exit {exit_index}" if exit_index < 3 else "tail"
    expected = {"stem", classifier, *(f"block {index}" for index in range(exit_index + 1))}
    assert {name for name, calls in inputs.items() if calls} == expected
    assert all(len(calls) <= 1 for calls in inputs.values())


@pytest.mark.parametrize("exit_index", [-1, 3])
def test_exit_that_is_not_there_is_refused(exit_index: int) -> None:
    # Mutant: no check; index -1 would put the last early exit's classifier on the stem's features.
    with pytest.raises(ExitLensError, match="give one of 0 to 2"):
        toy_model(num_exits=3).run_until(toy_images(), exit_index)


def test_all_exits_come_from_one_pass_over_the_blocks() -> None:
    # Mutant: one run_until per exit, which computes the first block K times.
    model = toy_model(num_exits=4)
    inputs = record_inputs(model)
    model(toy_images())
    assert {name: len(calls) for name, calls in inputs.items()} == dict.fromkeys(inputs, 1)


def test_stages_chained_by_hand_give_the_logits() -> None:
    # Mutant: advance() that repeats or skips the block at a border.
    model, images = toy_model(num_exits=3), toy_images()
    features, by_hand = model.begin(images), []
    for exit_index in range(3):
        features = model.advance(features, exit_index)
        by_hand.append(model.classify(features, exit_index))
    assert torch.equal(torch.stack(by_hand, dim=1), model(images))


# Inside the network


@ALL_ARCHITECTURES
@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "tiny-imagenet"])
def test_normalisation_is_inside(architecture: str, dataset: str) -> None:
    # Mutant: no normalisation, the statistics of another data set, or mean and std exchanged.
    facts = DATASETS[dataset]
    model = build_model(architecture, dataset)
    stem = record_inputs(model)["stem"]
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (facts.mean, facts.std))
    size = facts.image_size
    model.begin(mean.expand(1, 3, size, size))
    model.begin((mean + std).expand(1, 3, size, size))
    assert not stem[0].any()
    torch.testing.assert_close(stem[1], torch.ones(1, 3, size, size))


@pytest.mark.parametrize("side", [8, 16, 32])
@pytest.mark.parametrize("mix", [0.0, 1.0, 0.3, -0.5])
def test_exit_classifier_mixes_maximum_and_average_pooling(side: int, mix: float) -> None:
    # Mutant: the mix the other way round, clamped to [0, 1], or windows cut across rows and columns.
    classifier = ExitClassifier(num_channels=3, side=side, num_classes=5).double()
    features = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        classifier.mix.fill_(mix)
        pooled = mix * F.max_pool2d(features, side // 4) + (1 - mix) * F.avg_pool2d(features, side // 4)
        torch.testing.assert_close(classifier(features), classifier.linear(pooled.flatten(1)), rtol=0, atol=1e-12)


def test_mix_starts_between_zero_and_one_and_is_learned() -> None:
    # Mutant: a constant. Twenty draws that all lie in (0, 1) and differ.
    starts = {ExitClassifier(1, 8, 2).mix.item() for _ in range(20)}
    assert len(starts) == 20 and all(0 <= start < 1 for start in starts)
    assert ExitClassifier(1, 8, 2).mix.requires_grad


@pytest.mark.parametrize("side", [1, 2, 4])
def test_small_maps_go_to_the_linear_layer_as_they_are(side: int) -> None:
    # Mutant: pooling to 1x1, or a mix that nothing trains.
    classifier = ExitClassifier(num_channels=3, side=side, num_classes=5)
    features = torch.randn(2, 3, side, side)
    assert classifier.mix is None
    assert torch.equal(classifier(features), classifier.linear(features.flatten(1)))


def test_batch_size_and_order_change_no_logit() -> None:
    # Mutant: batch norm left in train mode.
    model, images = toy_model(num_exits=3), toy_images(6)
    logits = model(images)
    one_by_one = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(one_by_one, logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(model(images.flip(0)).flip(0), logits, rtol=0, atol=1e-12)


# What is refused


@pytest.mark.parametrize("positions", [(5, 3), (3, 3), (-1,), (26,), (3, 27)])
def test_positions_that_are_not_rising_blocks_before_the_last_are_refused(positions: tuple[int, ...]) -> None:
    # Mutant: sort silently, or allow an exit after the last block (the final exit twice).
    with pytest.raises(ExitLensError, match="must rise and lie between 0 and 25"):
        build_model("resnet56", "cifar10", positions)


def test_exits_after_the_first_and_the_last_but_one_block_are_allowed() -> None:
    # Mutant: an off-by-one in the check above.
    assert build_model("resnet56", "cifar10", [0, 25]).num_exits == 3


def test_unknown_architecture_and_data_set_are_refused_with_the_known_ones() -> None:
    # Mutant: KeyError.
    with pytest.raises(ExitLensError, match=r"'alexnet'.*resnet56"):
        build_model("alexnet", "cifar10")
    with pytest.raises(ExitLensError, match=r"'mnist'.*cifar10"):
        build_model("resnet56", "mnist")


# The toys themselves, since other tests lean on them


def test_linear_toy_is_linear_in_the_pixels() -> None:
    # Mutant: a normalisation or a nonlinearity anywhere in the path.
    model, images = linear_model(num_exits=3, num_classes=4), toy_images(5, image_size=2)
    for exit_index, layer in enumerate(linear_layers(model)):
        by_hand = images.flatten(1) @ layer.weight.T + layer.bias
        torch.testing.assert_close(model(images)[:, exit_index], by_hand, rtol=0, atol=1e-12)
    assert model.exit_costs == pytest.approx((1 / 3, 2 / 3, 1))


def test_toy_model_is_drawn_from_its_seed_and_leaves_the_global_one_alone() -> None:
    # Mutant: no fork of the random state.
    images, state = toy_images(), torch.get_rng_state()
    first, again, other = toy_model(seed=1)(images), toy_model(seed=1)(images), toy_model(seed=2)(images)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(parameter.requires_grad for parameter in toy_model().parameters())


def test_mobilenet_in_training_computes_what_it_computes_in_evaluation() -> None:
    # Mutant: keep the pixels 1::2 instead of ::2, or forget the padding.
    torch.manual_seed(0)
    model = build_model("mobilenet", "cifar10").double()
    strided = [module for module in model.modules() if isinstance(module, StridedDepthwise)]
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    expected = model(images)
    for module in strided:  # batch norm stays in evaluation
        module.training = True
    assert len(strided) == 4
    torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-12)
