"""Puts stored weights into a network."""

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn

from core.errors import ExitLensError
from core.foreign import foreign_code


def put_weights(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fills a network from a state dict that names all that it stores, and nothing else.

    Args:
        network: Changed in place.
        state: Tensors under the network's own keys, on any device, in any width.

    Raises:
        ExitLensError: If keys are missing or unknown, a shape or kind of number differs, or the network's own code
            refuses.
    """
    own = network.state_dict()
    for key in own.keys() & state.keys():
        if isinstance(own[key], Tensor) and _kind(own[key]) != _kind(state[key]):
            raise ExitLensError(f"{key!r} is of {state[key].dtype}, where the network has {own[key].dtype}")
    told = OrderedDict(state)
    # Layers may look at the version of what they are to read, which files of weights do not hold.
    told._metadata = getattr(own, "_metadata", None)  # type: ignore[attr-defined]
    with foreign_code("Filling the network"):
        try:
            # Strict all the same: torch's own refusal would list every key, ours below counts them.
            missing, unexpected = network.load_state_dict(told, strict=False)
        except RuntimeError as error:
            raise ExitLensError(str(error).strip().splitlines()[-1].strip()) from error
    faults = [
        f"{words}: {len(keys)}, the first {keys[0]!r}"
        for keys, words in ((missing, "missing keys"), (unexpected, "unknown keys"))
        if keys
    ]
    if faults:
        raise ExitLensError("; ".join(faults))


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()
