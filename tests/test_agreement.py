"""How maps are compared, against scipy and by hand, and what can be believed of them."""

import math
import threading
from collections.abc import Callable

import pytest
import torch
from captum.metrics import infidelity, sensitivity_max
from scipy.stats import spearmanr
from torch import Tensor, nn
from toys import linear_layers, linear_model, toy_images, toy_model

from core.agreement import TOP_SHARE, agreement
from core.attacks.run import attack
from core.attacks.spec import pgd
from core.attribution import Attribution, attribute, explain, private_copy
from core.attribution_population import PopulationSpec, measure_population
from core.attribution_spec import METHODS, AttributionSpec
from core.belief import (
    NUM_NEIGHBOURS,
    NUM_REDRAWS,
    NUM_SQUARES,
    RADIUS,
    _redrawn,
    _weights_of_classifiers,
    measure_belief,
)
from core.errors import Cancelled
from core.exits import ExitPolicy
from core.experiment import ExperimentSpec
from core.models.imported import ImportedNetwork
from core.progress import Progress


def random_maps(num_images: int = 2, num_maps: int = 3, side: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_images, num_maps, side, side, generator=generator, dtype=torch.float64)


# Agreement


@pytest.mark.parametrize("levels", [None, 5])
def test_rank_correlation_is_scipys_also_where_pixels_are_equal(levels: int | None) -> None:
    # Mutant: ranks by order of appearance, plain correlation, or sizes instead of signed values.
    first, second = random_maps(seed=1), random_maps(num_maps=2, seed=2)
    second[:, 1] += first[:, 0]
    if levels:
        first, second = ((maps * levels / 4).round() for maps in (first, second))
    ours = agreement(first, second).rank_correlation
    for image in range(2):
        for one in range(3):
            for other in range(2):
                expected = spearmanr(first[image, one].flatten(), second[image, other].flatten()).statistic
                assert ours[image, one, other].item() == pytest.approx(expected, abs=1e-12)


def test_overlap_counts_the_strongest_pixels_that_both_have() -> None:
    # Mutant: the largest signed values for the largest sizes, or a share of both sets together.
    first, second = torch.zeros(2, 1, 1, 5, 4)  # 20 pixels: the strongest tenth are two
    first[0, 0, 0, 0], first[0, 0, 1, 1], first[0, 0, 2, 2] = -3, 2, 1
    second[0, 0, 0, 0], second[0, 0, 2, 2], second[0, 0, 1, 1] = 3, -2, 1
    assert agreement(first, second).overlap.item() == 0.5
    assert agreement(first, first).overlap.item() == agreement(first, -first).overlap.item() == 1
    second[0, 0, 0, 0] = 0
    second[0, 0, 4, 3] = 5
    assert agreement(first, second).overlap.item() == 0


def test_maps_of_few_pixels_share_no_zeros() -> None:
    # Mutant: the strongest tenth filled up with pixels of zero, which disjoint maps then have in common.
    maps = torch.zeros(1, 2, 32, 32, dtype=torch.float64)
    maps[0, 0, 0, :20], maps[0, 1, 5, :20] = 1, -1
    overlap = agreement(maps, maps).overlap[0]
    assert overlap[0, 1] == overlap[1, 0] == 0
    assert overlap[0, 0].item() == pytest.approx(20 / 103)


def test_number_of_strongest_pixels_is_rounded_up() -> None:
    # Mutant: none of nine pixels, so that nothing is ever shared.
    maps = random_maps(side=3)
    assert agreement(maps, maps).overlap.diagonal(dim1=1, dim2=2).eq(1).all()


def test_agreement_with_itself_its_negative_and_the_other_way_round() -> None:
    # Mutant: rows and columns of the matrix swapped.
    first, second = random_maps(seed=3), random_maps(seed=4)
    same = agreement(first, first).rank_correlation
    torch.testing.assert_close(same.diagonal(dim1=1, dim2=2), torch.ones(2, 3, dtype=torch.float64))
    torch.testing.assert_close(agreement(first, -first).rank_correlation, -same)
    one, other = agreement(first, second), agreement(second, first)
    torch.testing.assert_close(one.rank_correlation, other.rank_correlation.mT)
    torch.testing.assert_close(one.overlap, other.overlap.mT)
    stretched = agreement(first, 7 * second.pow(3))
    torch.testing.assert_close(stretched.rank_correlation, one.rank_correlation)


def test_unrelated_maps_agree_as_chance_has_it() -> None:
    # Mutant: an overlap that is said to be 10 % by chance and is not.
    alike = agreement(random_maps(50, 1, 32, seed=5), random_maps(50, 1, 32, seed=6))
    assert alike.rank_correlation.mean().abs() < 0.02
    assert alike.overlap.mean().item() == pytest.approx(TOP_SHARE, abs=0.02)


def test_a_map_without_any_difference_agrees_with_nothing() -> None:
    # Mutants: 0 / 0 passed off as no agreement; the first pixels taken for the strongest of a map of one value.
    maps = random_maps(1, 3)
    maps[0, 0], maps[0, 1] = 0, 2
    alike = agreement(maps, maps)
    for values in (alike.rank_correlation, alike.overlap):
        assert values[0, :2].isnan().all() and values[0, :, :2].isnan().all() and values[0, 2, 2] == 1


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_map_that_is_not_finite_agrees_with_nothing(number: float) -> None:
    # Mutants: NaN ranked above all others, infinity among the strongest pixels, or other maps drawn into it.
    maps = random_maps(1, 3)
    maps[0, 1, 2, 3] = number
    alike, without = agreement(maps, maps), agreement(maps[:, ::2], maps[:, ::2])
    for values, rest in zip(vars(alike).values(), vars(without).values(), strict=True):
        assert values[0, 1].isnan().all() and values[0, :, 1].isnan().all()
        torch.testing.assert_close(values[:, ::2, ::2], rest)


# Belief


def always(answer: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda pixels: answer


def believed(method: str, *, linear: bool = True, **fields: object):
    model = linear_model(num_exits=2, num_classes=3, image_size=4) if linear else toy_model()
    images = toy_images(2, image_size=4 if linear else 8)
    spec = AttributionSpec(method=method, num_steps=4, num_samples=2, **fields)  # type: ignore[arg-type]
    made = attribute(model, images, spec)
    return model, images, made, measure_belief(model, images, made)


@pytest.mark.parametrize("method", ["saliency", "smooth_grad", "integrated_gradients", "deep_lift", "input_x_gradient"])
def test_maps_of_a_linear_exit_tell_all_that_covering_does(method: str) -> None:
    # Mutant: slopes taken for shares or shares for slopes, another grey, or squares that are not those of the maps.
    _, _, _, belief = believed(method, **({"baseline": 0.25} if method == "deep_lift" else {}))
    assert belief.infidelity.max() < 1e-9


def test_infidelity_is_captums_over_the_mean_squared_change() -> None:
    # Mutant: the plain, unscaled error; or a mean over exits.
    model, images, made, belief = believed("saliency", linear=False)
    generator = torch.Generator().manual_seed(0)
    top, left = (torch.randint(7, (NUM_SQUARES,), generator=generator) for _ in range(2))
    squares = torch.zeros(NUM_SQUARES, 1, 8, 8, dtype=torch.bool)
    for square, (down, right) in enumerate(zip(top.tolist(), left.tolist(), strict=True)):
        squares[square, :, down : down + 2, right : right + 2] = True
    for row in range(2):
        covered = torch.where(squares, 0.5, images[row])
        moved = images[row] - covered
        for column in range(3):
            target = int(made.classes[row, column])
            unexplained = infidelity(
                lambda pixels, column=column: model.run_until(pixels, column),
                lambda pixels, moved=moved, covered=covered: (moved, covered),
                images[row : row + 1],
                made.values[row, column][None],
                target=target,
                n_perturb_samples=NUM_SQUARES,
                normalize=True,
            )
            change = (model(images[row : row + 1]) - model(covered))[:, column, target]
            expected = unexplained.item() / change.square().mean().item()
            assert belief.infidelity[row, column].item() == pytest.approx(expected, rel=1e-6)
            # By hand: what is left of the changes once the best multiple of the map's own sums is taken off.
            told = (moved * made.values[row, column]).sum(dim=(1, 2, 3))
            left_over = 1 - (told * change).sum() ** 2 / (told.square().sum() * change.square().sum())
            assert expected == pytest.approx(left_over.item(), rel=1e-6)


def test_map_that_has_nothing_to_do_with_the_exit_tells_nothing() -> None:
    # Mutant: infidelity that ignores the map.
    model, images = linear_model(num_exits=1, num_classes=3, image_size=4), toy_images(8, image_size=4)
    made = attribute(model, images, AttributionSpec())
    noise = torch.randn(made.values.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    wrong = Attribution(made.spec, made.exits, made.classes, made.logits, noise, made.problems)
    assert measure_belief(model, images, wrong).infidelity.mean() > 0.7
    scaled = Attribution(made.spec, made.exits, made.classes, made.logits, -3 * made.values, made.problems)
    assert measure_belief(model, images, scaled).infidelity.max() < 1e-9, "any scale, also a negative one"


def test_sensitivity_is_captums_and_nought_where_slopes_do_not_move() -> None:
    # Mutant: the mean over neighbours, absolute lengths, or neighbours of another image.
    assert believed("saliency")[3].sensitivity.max() < 1e-12
    model, images, made, belief = believed("saliency", linear=False)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        torch.randint(7, (NUM_SQUARES,), generator=generator)
    steps = (torch.rand(NUM_NEIGHBOURS, 3, 8, 8, generator=generator, dtype=torch.float64) * 2 - 1) * RADIUS
    for row in range(2):
        neighbours = (images[row] + steps).clamp(0, 1)
        for column in range(3):

            def maps(pixels, column: int = column, row: int = row) -> tuple[Tensor]:
                pixels = pixels[0] if isinstance(pixels, tuple) else pixels
                exits, classes = (values[row, column].expand(len(pixels), 1) for values in (made.exits, made.classes))
                return (explain(model, pixels, exits, classes, made.spec)[:, 0],)

            expected = sensitivity_max(
                maps, images[row : row + 1], always(neighbours), n_perturb_samples=NUM_NEIGHBOURS
            )
            assert belief.sensitivity[row, column].item() == pytest.approx(expected.item(), rel=1e-6)


def test_redrawn_weights_are_the_classifiers_or_all() -> None:
    # Mutant: the classifier's weights left alone, those before it drawn too, or the map compared with itself.
    model, images, _, belief = believed("grad_cam", linear=False)
    assert belief.classifier_redrawn.abs().max() < 0.98 and belief.all_redrawn.abs().max() < 0.98
    assert not torch.allclose(belief.classifier_redrawn, belief.all_redrawn)
    every, of_exits = _weights_of_classifiers(private_copy(model), images[:1])
    assert all(of_exits) and set().union(*of_exits) < every
    for places in (set().union(*of_exits), every):
        redrawn = _redrawn(model, places, 0)
        ends = {id(layer.weight) for layer in linear_layers(redrawn)}
        for new, old in zip(redrawn.parameters(), model.parameters(), strict=True):
            changes = old.ndim > 1 and (id(new) in ends or places == every)
            assert torch.equal(new, old) != changes
            torch.testing.assert_close(new.flatten().sort().values, old.flatten().sort().values)


def test_the_classifier_is_not_told_from_the_network_where_it_is_all_of_it() -> None:
    # Mutant: the same number twice, as if two things had been measured.
    belief = believed("saliency")[3]
    assert belief.classifier_redrawn.isnan().all() and belief.all_redrawn.isfinite().all()


class Averaging(nn.Module):
    """Exits that are a mean of features, without any weights, then a linear one."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.mixing, self.last = nn.Conv2d(3, 3, 3, padding=1).double(), nn.Linear(3 * 16, 3).double()
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.advance(images, 0)
        return [self.classify(features, 0), self.classify(features, 1)]

    def begin(self, images: Tensor) -> Tensor:
        return images

    def advance(self, features: Tensor, exit_index: int) -> Tensor:
        return features if exit_index else self.mixing(features).tanh()

    def classify(self, features: Tensor, exit_index: int) -> Tensor:
        return self.last(features.flatten(1)) if exit_index else features.mean(dim=(2, 3))


def test_an_exit_whose_classifier_has_no_weights_has_none_to_redraw() -> None:
    # Mutants: a gradient asked of logits that have none; likeness of 1 with a classifier in which nothing was redrawn.
    facts = {"num_exits": 2, "num_classes": 3, "image_size": 4, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    model = ImportedNetwork(Averaging(), **facts).double().eval().requires_grad_(False)
    images = toy_images(2, image_size=4)
    belief = measure_belief(model, images, attribute(model, images, AttributionSpec()))
    assert belief.classifier_redrawn[:, 0].isnan().all() and belief.classifier_redrawn[:, 1].isfinite().all()
    assert belief.all_redrawn.isfinite().all()
    turned = AttributionSpec(exits=(1,))
    (last,) = measure_belief(model, images[:1], attribute(model, images[:1], turned)).classifier_redrawn
    torch.testing.assert_close(last, belief.classifier_redrawn[0, 1:])


def test_no_map_is_made_of_classifiers_that_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutants: three maps made and thrown away; a share of the work that then never comes to its end.
    model, images, made, seen = linear_model(num_classes=3, image_size=4), toy_images(1, image_size=4), [], []

    def counted(*args: object, **kwargs: object) -> Tensor:
        made.append(args)
        return explain(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("core.belief.explain", counted)
    measure_belief(model, images, attribute(model, images, AttributionSpec()), on_progress=seen.append)
    assert len(made) == 1 + NUM_REDRAWS, "of the neighbours, and with all weights redrawn"
    assert seen[-1].share == 1 and seen[-2].share < 1


@pytest.mark.parametrize("method", METHODS)
def test_sums_are_shown_only_where_the_method_promises_them(method: str) -> None:
    # Mutant: a promise of completeness that nobody made, or a change counted from another grey.
    model, images, made, belief = believed(method, linear=False, baseline=0.25)
    if not METHODS[method].is_complete:
        assert belief.total.isnan().all() and belief.change.isnan().all()
        return
    at_grey = model(torch.full_like(images, 0.25)).gather(2, made.classes[..., None])[..., 0]
    torch.testing.assert_close(belief.change, made.logits - at_grey)
    torch.testing.assert_close(belief.total, made.maps.sum(dim=(2, 3)))


@pytest.mark.parametrize("method", METHODS)
def test_belief_is_measured_on_copies_and_the_same_for_any_company(method: str) -> None:
    # Mutant: squares or neighbours drawn anew for each image, or the model itself redrawn.
    model = toy_model()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    images, spec = toy_images(3), AttributionSpec(method=method, num_steps=2, num_samples=2)
    belief = measure_belief(model, images, attribute(model, images, spec))
    alone = measure_belief(model, images[1:2], attribute(model, images[1:2], spec), batch_size=3)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key
    for field in ("infidelity", "sensitivity", "classifier_redrawn", "all_redrawn", "total", "change"):
        torch.testing.assert_close(getattr(belief, field)[1:2], getattr(alone, field), equal_nan=True)


def test_belief_reports_progress_to_the_end_and_can_be_cancelled() -> None:
    # Mutant: a bar that stops halfway, or a token that nobody looks at.
    model, images = toy_model(), toy_images(2)
    made = attribute(model, images, AttributionSpec())
    seen: list[Progress] = []
    measure_belief(model, images, made, on_progress=seen.append)
    shares = [progress.share for progress in seen]
    assert shares == sorted(shares) and shares[-1] == 1
    token = threading.Event()
    token.set()
    with pytest.raises(Cancelled):
        measure_belief(model, images, made, cancel=token)


def test_no_map_no_belief() -> None:
    # Mutant: numbers beside an exit that has no map.
    model = linear_model(num_exits=2, num_classes=3, image_size=4)
    linear_layers(model)[0].weight.zero_()
    images = toy_images(1, image_size=4)
    belief = measure_belief(model, images, attribute(model, images, AttributionSpec()))
    assert all(math.isnan(getattr(belief, field)[0, 0]) for field in ("infidelity", "sensitivity", "all_redrawn"))
    assert belief.infidelity[0, 1] < 1e-9


# Populations


def test_population_compares_every_pair_of_exits_image_by_image() -> None:
    # Mutant: clean and adversarial swapped, images of the last batch dropped, or labels of the wrong half.
    model, images = toy_model(), toy_images(11)
    labels = torch.arange(11) % 4
    result = attack(model, images, labels, pgd(num_steps=2), ExitPolicy(0.8))
    experiment = ExperimentSpec("toy:test", ("toy",), ("toy",), pgd(num_steps=2), ExitPolicy(0.8))
    asked = PopulationSpec(experiment, "0", AttributionSpec(explained="true", exits=(1,)))
    assert asked.attribution.exits == "all"
    seen: list[Progress] = []
    outcome = measure_population(asked, result, model, on_progress=seen.append)
    clean, adversarial = (
        attribute(model, pixels, asked.attribution, labels=labels).maps for pixels in (images, result.adversarial)
    )
    expected = agreement(clean, adversarial)
    torch.testing.assert_close(outcome.agreement.rank_correlation, expected.rank_correlation)
    torch.testing.assert_close(outcome.agreement.overlap, expected.overlap)
    shares = [progress.share for progress in seen]
    assert shares == sorted(shares) and shares[-1] == 1 and "of 11 images" in seen[-1].words
    token = threading.Event()

    def cancel_soon(progress: Progress) -> None:
        assert progress.share < 0.9, "the work went on"
        if progress.share > 0.5:
            token.set()

    with pytest.raises(Cancelled):
        measure_population(asked, result, model, on_progress=cancel_soon, cancel=token)
