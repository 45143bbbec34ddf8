"""The card file: what the owner of a model says about it."""

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from core.datasets import DATASETS
from core.errors import ExitLensError
from core.models import ARCHITECTURES


@dataclass(frozen=True, kw_only=True)
class CardFile:
    """What the owner of a model says about it, in TOML or JSON.

    Attributes:
        name: Of the model; also its folder.
        dataset: Whose images it classifies.
        mean: Per channel, subtracted from pixels in [0, 1]; zeros where the network normalises itself.
        std: Per channel, divided by; ones where the network normalises itself.
        label: Name of the architecture on screen; the name where there is none. Two models of one label are twins.
        class_names: The data set's classes in the order of the network's outputs; the official order without.
        exit_layers: Layers that feed the exits, K of them; with them the network can stop at each.
        exit_costs: Cost fraction of each exit, rising to 1; for networks that cannot be cut.
        rename: Pairs of a regular expression and its replacement, applied in order to every key of the weights.
        state_key: Where in the weights file the state dict lies, such as ``model``.
    """

    name: str
    dataset: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    label: str = ""
    class_names: tuple[str, ...] = ()
    exit_layers: tuple[str, ...] = ()
    exit_costs: tuple[float, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    state_key: str = ""

    @property
    def architecture(self) -> str:
        """What the model's card has in place of a key of the registry."""
        return self.label or self.name

    def __post_init__(self) -> None:
        """Checks what does not depend on the network."""
        if self.dataset not in DATASETS:
            raise ExitLensError(
                f"the data set {self.dataset!r} is unknown; ExitLens has images of {', '.join(DATASETS)}"
            )
        costs = self.exit_costs
        needs = {
            "name of letters, digits, '-', '_' and '.'": re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name),
            "mean in [0, 1], as pixels are": all(0 <= value <= 1 for value in self.mean),
            "std in (0, 1], as pixels are": all(0 < value <= 1 for value in self.std),
            "label that is none of this project's architectures": self.architecture.lower() not in _project_labels(),
            "exit_costs that rise, start above 0 and end at 1": not costs
            or (list(costs) == sorted(set(costs)) and costs[0] > 0 and costs[-1] == 1),
            "either exit_layers (costs are then counted) or exit_costs": not (costs and self.exit_layers),
        }
        broken = [need for need, holds in needs.items() if not holds]
        if broken:
            raise ExitLensError(f"it needs {'; '.join(broken)}")


def load_card_file(path: Path) -> CardFile:
    """Reads a card file: JSON if its name says so, else TOML.

    Raises:
        ExitLensError: If there is no such file, or a field is missing, unknown or out of range.
    """
    try:
        text = path.read_text(encoding="utf-8")
        fields = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        if not isinstance(fields, dict):
            raise ExitLensError("it holds no fields")
        unknown = set(fields) - set(CardFile.__dataclass_fields__)
        if unknown:
            known = ", ".join(CardFile.__dataclass_fields__)
            raise ExitLensError(f"it has the unknown fields {', '.join(sorted(unknown))}; known are {known}")
        return TypeAdapter(CardFile).validate_python(fields)
    except OSError as error:
        raise ExitLensError(f"The card file {path} cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ExitLensError(f"The card file {path} is neither valid TOML nor JSON ({error}).") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = "".join(f"{part}: " for part in first["loc"])
        raise ExitLensError(f"The card file {path}: {field}{first['msg']}. See docs/import-model.md.") from error
    except ExitLensError as error:
        raise ExitLensError(f"The card file {path}: {error}. See docs/import-model.md.") from error


def _project_labels() -> set[str]:
    return {text.lower() for key, known in ARCHITECTURES.items() for text in (key, known.label)}
