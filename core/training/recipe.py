"""Recipes: everything that makes a model, in one TOML file."""

import json
import math
import re
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from core.datasets import DATASETS
from core.errors import ExitLensError
from core.models import ARCHITECTURES

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained.

    Attributes:
        name: Of the finished model; also its folder.
        dataset: Data set whose ``train`` split is used; ``validation`` is only looked at.
        architecture: Key of the registry.
        exits: ``none`` (static), ``standard`` (the architecture's positions), ``all`` (after every block) or a list
            of blocks.
        backbone_of: A finished static model whose backbone is taken over and left as it is, so that only the
            exits are trained, by Adam. Source: Kaya et al. 2019, section 4.2 (IC-only training).
        exit_weights: Final weight of each early exit's loss, by exit number (more than needed is fine).
        num_epochs: Passes over the training images.
        batch_size: Images per step.
        peak_learning_rate: Top of the one-cycle schedule.
        warmup_share: Share of all steps until the peak; afterwards a cosine falls to zero.
        momentum: Of Nesterov SGD.
        weight_decay: On weights of two and more dimensions; biases, norms and mixes have none.
        crop_padding: Pixels by which images are reflected outwards before a random crop.
        seed: Draws weights, order and augmentation.
        calibrate: Fit one temperature per exit on validation and fold it into that exit's linear layer.
        storage: Number format of the shipped weights; the card is measured after the round trip.
    """

    name: str
    dataset: str
    architecture: str
    exits: Literal["none", "standard", "all"] | tuple[int, ...]
    backbone_of: str | None = None
    exit_weights: tuple[float, ...] = (0.15, 0.30, 0.45, 0.60, 0.75, 0.90)
    num_epochs: int
    batch_size: int = 256
    peak_learning_rate: float
    warmup_share: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    crop_padding: int = 4
    seed: int
    calibrate: bool = False
    storage: Literal["float32", "float16"] = "float16"

    def __post_init__(self) -> None:
        """Checks the fields against the registries and their ranges."""
        if self.dataset not in DATASETS or self.architecture not in ARCHITECTURES:
            raise ExitLensError(
                f"Recipe {self.name!r} asks for {self.architecture!r} on {self.dataset!r}. Architectures: "
                f"{', '.join(ARCHITECTURES)}; data sets: {', '.join(DATASETS)}."
            )
        if self.backbone_of is None and len(self.exit_weights) < len(self.exit_positions):
            raise ExitLensError(
                f"Recipe {self.name!r} weighs {len(self.exit_weights)} exits but has {len(self.exit_positions)}."
            )
        if self.backbone_of is not None and self.calibrate:
            raise ExitLensError(
                f"Recipe {self.name!r} calibrates exits on the backbone of {self.backbone_of}, whose final exit is not "
                "its own to change. Leave out calibrate."
            )
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ExitLensError(f"The name {self.name!r} becomes a folder: use letters, digits, '-', '_' and '.' only.")
        allowed = {
            "num_epochs of 1 or more": self.num_epochs >= 1,
            "batch_size of 2 or more": self.batch_size >= 2,
            "a positive, finite peak_learning_rate": 0 < self.peak_learning_rate < math.inf,
            "warmup_share in [0, 1]": 0 <= self.warmup_share <= 1,
            "momentum in (0, 1)": 0 < self.momentum < 1,
            "weight_decay of 0 or more": 0 <= self.weight_decay < math.inf,
            "crop_padding from 0 to one less than the image side": 0
            <= self.crop_padding
            < DATASETS[self.dataset].image_size,
        }
        broken = [rule for rule, holds in allowed.items() if not holds]
        if broken:
            raise ExitLensError(f"Recipe {self.name!r} needs {'; '.join(broken)}.")

    @property
    def exit_positions(self) -> tuple[int, ...]:
        """Blocks with an early exit after them."""
        if self.exits == "none":
            return ()
        if self.exits == "standard":
            return ARCHITECTURES[self.architecture].exit_positions
        if self.exits == "all":
            return tuple(range(ARCHITECTURES[self.architecture].num_blocks - 1))
        return self.exits

    @property
    def training_key(self) -> str:
        """All that the trained weights depend on; calibration and storage come after training."""
        fields = {name: value for name, value in asdict(self).items() if name not in ("calibrate", "storage")}
        if self.backbone_of is None:
            del fields["backbone_of"]
        return json.dumps(fields, sort_keys=True)


def load_recipe(name_or_path: str) -> Recipe:
    """Reads a recipe by the name of a shipped one or by path.

    Raises:
        ExitLensError: If there is no such file, or a field is missing, unknown or out of range.
    """
    path = Path(name_or_path)
    if not path.is_file():
        path = RECIPES / f"{name_or_path}.toml"
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in RECIPES.glob("*.toml")))
        raise ExitLensError(f"There is no recipe {name_or_path!r}. Give a TOML file or one of {shipped}.")
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
        unknown = set(fields) - set(Recipe.__dataclass_fields__)
        if unknown:
            known = ", ".join(Recipe.__dataclass_fields__)
            raise ExitLensError(f"{path} has the unknown fields {', '.join(sorted(unknown))}. Known: {known}.")
        return TypeAdapter(Recipe).validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ExitLensError(f"{path}: {field or 'recipe'}: {first['msg']}. See core/training/recipe.py.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExitLensError(f"{path} is not valid TOML ({error}).") from error
