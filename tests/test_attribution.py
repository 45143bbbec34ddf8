"""Saliency of every exit against gradients written down by hand, and the model that it must not touch."""

import pytest
import torch
from toys import linear_layers, linear_model, record_inputs, toy_images, toy_model

from core.attribution import saliency_maps
from core.errors import ExitLensError


def test_saliency_of_a_linear_exit_is_its_weights_summed_over_colours() -> None:
    # Mutant: absolute values, the mean over colours, another exit's weights, or the class of another exit.
    model = linear_model(num_exits=2, num_classes=3, image_size=2)
    classes = torch.tensor([[0, 1], [2, 0]])
    maps = saliency_maps(model, toy_images(2, image_size=2), classes)
    assert maps.shape == (2, 2, 2, 2)
    for image in range(2):
        for exit_index, layer in enumerate(linear_layers(model)):
            weights = layer.weight[classes[image, exit_index]].view(3, 2, 2)
            torch.testing.assert_close(maps[image, exit_index], weights.sum(dim=0))
    assert (maps < 0).any() and (maps > 0).any()


def test_saliency_runs_a_private_copy_and_leaves_model_and_images_alone() -> None:
    # Mutant: ``copy.deepcopy`` dropped: the shared model's own parts would be run, and hooked by other methods.
    model = toy_model()
    inputs = record_inputs(model)
    model.eval()  # the wrappers too
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    images = toy_images(2)
    maps = saliency_maps(model, images, torch.zeros(2, 3, dtype=torch.long))
    assert not any(inputs.values())
    assert not maps.requires_grad and not images.requires_grad and images.grad is None
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())
    for module in model.modules():
        assert not module.training
        assert not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


@pytest.mark.parametrize("shape", [(2,), (2, 2), (3, 3), (2, 3, 1)])
def test_classes_of_another_shape_than_images_by_exits_are_refused(shape: tuple[int, ...]) -> None:
    # Mutant: the check dropped: one class per image would be broadcast over exits.
    with pytest.raises(ExitLensError, match="one per image and exit"):
        saliency_maps(toy_model(), toy_images(2), torch.zeros(shape, dtype=torch.long))
