"""Somebody's weights: read without running what is pickled in them, and put where they belong."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from core.errors import ExitLensError
from core.foreign import foreign_code
from core.models.weights import put_weights


def read_state(path: Path, state_key: str = "") -> dict[str, Tensor]:
    """Reads a state dict from safetensors, or from a torch file without running what is pickled in it.

    Args:
        path: ``.safetensors``, or what ``torch.save`` wrote.
        state_key: Where in a torch file the state dict lies; empty for a file that is nothing else.

    Raises:
        ExitLensError: If it cannot be read so, or holds no state dict.
    """
    if not path.is_file():
        raise ExitLensError(f"There is no file of weights {path}.")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            # Torch's own advice would be to run the pickle after all.
            with foreign_code(f"Reading {path}"):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except ExitLensError as error:
        raise ExitLensError(
            f"{path} cannot be read without running what is pickled in it, or is damaged. Save the state dict alone: "
            "torch.save(network.state_dict(), FILE), or safetensors."
        ) from error
    except SafetensorError as error:
        raise ExitLensError(f"{path} is no readable safetensors file ({error}). Save it again.") from error
    if state_key:
        if not isinstance(content, Mapping) or state_key not in content:
            raise ExitLensError(f"{path} holds no {state_key!r}: {_first_keys(content)}. Correct state_key.")
        content = content[state_key]
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in content.items()
    ):
        raise ExitLensError(f"{path} is no state dict: {_first_keys(content)}. Name the part that is one in state_key.")
    return dict(content)


def fill(network: nn.Module, state: Mapping[str, Tensor], rename: tuple[tuple[str, str], ...]) -> None:
    """Puts a state dict into a network, every key renamed first.

    Raises:
        ExitLensError: If the weights do not fit, or a rule cannot be applied.
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        new = key
        try:
            for pattern, replacement in rename:
                new = re.sub(pattern, replacement, new)
        except re.error as error:
            raise ExitLensError(
                f"The rename rule [{pattern!r}, {replacement!r}] is no regular expression ({error})."
            ) from error
        if new in renamed:
            raise ExitLensError(f"The rename rules make two keys into {new!r}; one of them is {key!r}.")
        renamed[new] = tensor
    try:
        put_weights(network, renamed)
    except ExitLensError as error:
        raise ExitLensError(
            f"The weights do not fit the network ({error}). Keys are changed by rename in the card file."
        ) from error


def _first_keys(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"it holds a {type(content).__name__}"
    return f"it holds {', '.join(map(str, list(content)[:6]))}" + (" …" if len(content) > 6 else "")
