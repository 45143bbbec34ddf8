"""How far attribution maps can be believed: captum's measures, redrawn weights, and whether shares add up."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.agreement import agreement
from core.attribution import BATCH_SIZE, Attribution, explain, private_copy, quick_copy, row_counter
from core.attribution_spec import AttributionSpec
from core.evaluation import logits_of
from core.machine import device_of
from core.models import ExitModel
from core.progress import CancelToken, Progress

NUM_SQUARES = 32
SQUARE_SHARE = 0.25  # of the side of the image
RADIUS = 0.02
NUM_NEIGHBOURS = 8
NUM_REDRAWS = 3
NUM_REMAKES = NUM_NEIGHBOURS + 2 * NUM_REDRAWS


@dataclass(frozen=True, eq=False)
class Belief:
    """What speaks for and against some maps; (N, E) of each, NaN where there is no map or nothing to measure.

    Attributes:
        infidelity: Share of what covering squares does to the logit that the map, scaled at best, does not tell, in
            [0, 1]: 0 tells all, 1 nothing.
        sensitivity: How far the map moves at most within ``RADIUS`` of the image, over its own length; 0 is steady.
        classifier_redrawn: Rank correlation, by size, with the map once the exit's own classifier has redrawn
            weights; a map that says something of the network falls towards 0. NaN where the classifier is unknown or
            has no weights.
        all_redrawn: The same once all weights are redrawn.
        total: Sum of the map; NaN unless the method promises that it is ``change``.
        change: Logit minus that of the baseline.
    """

    infidelity: Tensor
    sensitivity: Tensor
    classifier_redrawn: Tensor
    all_redrawn: Tensor
    total: Tensor
    change: Tensor


def measure_belief(
    model: ExitModel,
    images: Tensor,
    attribution: Attribution,
    *,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: CancelToken | None = None,
) -> Belief:
    """Measures what can be believed of maps, on private copies of the model.

    Args:
        model: The model that the maps are of; only read.
        images: The images they are of, (N, 3, H, W) in [0, 1].
        attribution: The maps.
        seed: Draws squares, neighbours and weights; the same ones for every image.
        batch_size: Rows sent through the network at a time.
        on_progress: Called after each pass.
        cancel: Checked before each pass.

    Raises:
        ExitLensError: If the method cannot work on this model.
        Cancelled: Once ``cancel`` is set.

    Source: infidelity and sensitivity from Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS
    2019: squares are covered with grey, and infidelity is divided by the mean squared change, so that methods on
    different scales compare. Redrawn weights from Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, where
    layers are drawn anew; here the entries of each weight tensor are shuffled, which keeps their distribution.
    """
    spec, num_images, num_columns = attribution.spec, *attribution.exits.shape
    private = quick_copy(model)
    every, of_exits = _weights_of_classifiers(private_copy(model), images[:1])
    of_classifiers = set[int]().union(*of_exits)
    # Where all weights are some classifier's, nothing says which ones those of the exits are.
    is_known = torch.tensor([bool(own) and of_classifiers < every for own in of_exits])
    per_map = spec.num_passes(images.shape[-1]) * (1 if spec.method == "occlusion" else num_columns)
    on_rows = row_counter(
        num_images * (NUM_SQUARES + 1 + (NUM_NEIGHBOURS + NUM_REDRAWS * (1 + int(is_known.any()))) * per_map),
        f"{spec.facts.label}: what to believe",
        on_progress,
        cancel,
    )

    def made(network: ExitModel, pixels: Tensor, exits: Tensor, classes: Tensor) -> Tensor:
        return explain(network, pixels, exits, classes, spec, batch_size=batch_size, on_rows=on_rows)

    generator = torch.Generator().manual_seed(seed)
    squares = _squares(images, generator)
    steps = (torch.rand(NUM_NEIGHBOURS, *images.shape[1:], generator=generator, dtype=torch.float64) * 2 - 1) * RADIUS
    infidelity, sensitivity = [], []
    for row, image in enumerate(images.split(1)):
        exits, classes = attribution.exits[row], attribution.classes[row]
        infidelity.append(_infidelity(private, image, attribution, row, squares, on_rows))
        neighbours = (image + steps.to(image)).clamp(0, 1)
        expanded = (rows.expand(NUM_NEIGHBOURS, -1) for rows in (exits, classes))
        sensitivity.append(
            _sensitivity(image, attribution.values[row], neighbours, made(private, neighbours, *expanded))
        )

    def likeness(places: set[int]) -> Tensor:
        """(N, E): with maps of the network once the weights at these places are redrawn, the mean over redraws."""
        found = []
        for number in range(NUM_REDRAWS):
            network = _redrawn(model, places, seed + number)
            other = made(network, images, attribution.exits, attribution.classes).sum(dim=2)
            alike = agreement(attribution.maps.abs(), other.abs()).rank_correlation
            found.append(alike.diagonal(dim1=1, dim2=2))
        return torch.stack(found).nanmean(dim=0)

    unknown = torch.full(attribution.exits.shape, torch.nan, dtype=torch.float64)
    all_redrawn = likeness(every) if every else unknown
    classifier_redrawn = likeness(of_classifiers) if is_known.any() else unknown
    total, change = _sums(private, images, attribution)
    has_map = torch.tensor([[not problem for problem in row] for row in attribution.problems])
    measured = (
        torch.stack(infidelity),
        torch.stack(sensitivity),
        torch.where(is_known[attribution.exits.cpu()], classifier_redrawn.cpu(), torch.nan),
        all_redrawn,
        total,
        change,
    )
    return Belief(*(torch.where(has_map, values.double().cpu(), torch.nan) for values in measured))


def _squares(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random squares as truths, (S, 1, H, W)."""
    height, width = images.shape[2:]
    side = max(1, round(SQUARE_SHARE * min(height, width)))
    top, left = (
        torch.randint(length - side + 1, (NUM_SQUARES, 1, 1), generator=generator) for length in (height, width)
    )
    rows, columns = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
    inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    return inside[:, None].to(images.device)


def _infidelity(
    private: ExitModel,
    image: Tensor,
    attribution: Attribution,
    row: int,
    squares: Tensor,
    on_rows: Callable[[int], None],
) -> Tensor:
    """(E,) for one image, (1, 3, H, W)."""
    from captum.metrics import infidelity

    spec = attribution.spec
    baseline = AttributionSpec().baseline if spec.method != "input_x_gradient" else 0.0
    baseline = spec.baseline if "baseline" in spec.facts.reads else baseline
    covered = torch.where(squares, baseline, image)
    # A share of the logit is taken away whole where a pixel is covered; a slope counts by how far the pixel moves.
    moved = squares.expand_as(covered).to(image) if spec.facts.is_share else image - covered
    on_rows(len(covered) + 1)
    logits = logits_of(private, torch.cat([image, covered]), len(covered) + 1)
    shares = []
    for column, (exit_index, class_index) in enumerate(
        zip(attribution.exits[row].tolist(), attribution.classes[row].tolist(), strict=True)
    ):
        known = logits[:, exit_index, class_index]

        def logit(pixels: Tensor, known: Tensor = known) -> Tensor:
            # One pass has answered for all exits: captum asks about the image, and about its covered copies.
            return known[:1] if len(pixels) == 1 else known[1:]

        values = attribution.values[row, column].expand_as(image[0])[None]
        unexplained = infidelity(
            logit, lambda pixels: (moved, covered), image, values, n_perturb_samples=len(covered), normalize=True
        )
        shares.append(unexplained / (known[0] - known[1:]).square().mean())
    return torch.cat(shares).clamp(0, 1)


def _sensitivity(image: Tensor, values: Tensor, neighbours: Tensor, of_neighbours: Tensor) -> Tensor:
    """(E,) for one image and its maps, (E, c, H, W), given the maps of its neighbours, (S, E, c, H, W)."""
    from captum.metrics import sensitivity_max

    largest = []
    for column in range(len(values)):
        # Captum asks for the map of the image first, then for those of all neighbours; they are made already.
        answers = iter(((values[column][None],), (of_neighbours[:, column].contiguous(),)))
        largest.append(
            sensitivity_max(
                lambda pixels, answers=answers: next(answers),
                image,
                perturb_func=lambda pixels: neighbours,
                n_perturb_samples=len(neighbours),
            )
        )
    return torch.cat(largest)


def _redrawn(model: ExitModel, places: set[int], seed: int) -> ExitModel:
    """A copy whose weights at these places, among all of its weights, are shuffled."""
    network = private_copy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for place, weight in enumerate(_weights(network)):
            if place in places:
                order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
                weight.copy_(weight.flatten()[order].view_as(weight))
    return network


def _weights(network: ExitModel) -> list[nn.Parameter]:
    assert isinstance(network, nn.Module)
    return [weight for weight in network.parameters() if weight.ndim > 1]


def _weights_of_classifiers(network: ExitModel, image: Tensor) -> tuple[set[int], list[set[int]]]:
    """Places of all weights of a network that nobody else has, and for each exit of those that its classifier reads.

    These lead from the features at an exit to its logits; their gradient finds them in any network.
    """
    weights, found = _weights(network), []
    for weight in weights:
        weight.requires_grad_(True)
    with torch.no_grad():
        features = network.begin(image.to(device_of(network)))
    for exit_index in range(network.num_exits):
        with torch.no_grad():
            features = network.advance(features, exit_index)
        with torch.enable_grad():
            logits = network.classify(features, exit_index)
        slopes: tuple[Tensor | None, ...] = ()
        if logits.requires_grad:  # a classifier without weights, such as a mean of features, has nothing to redraw
            slopes = torch.autograd.grad(logits.sum(), weights, allow_unused=True)
        found.append({place for place, slope in enumerate(slopes) if slope is not None})
    return set(range(len(weights))), found


def _sums(private: ExitModel, images: Tensor, attribution: Attribution) -> tuple[Tensor, Tensor]:
    """The sum of each map and the change in the logit that it should be, (N, E) each."""
    total, nothing = attribution.values.flatten(2).sum(dim=2), torch.full_like(attribution.logits, torch.nan)
    if not attribution.spec.facts.is_complete:
        return nothing, nothing
    flat = torch.full_like(images[:1], attribution.spec.baseline)
    return total, attribution.logits - logits_of(private, flat)[0][attribution.exits, attribution.classes]
