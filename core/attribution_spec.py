"""Which attribution maps are made: the nine methods, and the numbers that each of them reads."""

from dataclasses import dataclass, fields
from numbers import Integral
from typing import Literal, get_args

from core.errors import ExitLensError

Method = Literal[
    "saliency",
    "integrated_gradients",
    "grad_cam",
    "occlusion",
    "input_x_gradient",
    "smooth_grad",
    "deep_lift",
    "gradient_shap",
    "guided_grad_cam",
]
Explained = Literal["predicted", "true", "chosen"]
NamedExits = Literal["all", "taken", "final"]


@dataclass(frozen=True)
class MethodFacts:
    """What is true of a method, whatever its numbers.

    Attributes:
        label: Name on screen.
        reads: The numbers of the spec that change its maps.
        meaning: What a value of a map says.
        is_share: Whether values are parts of a change in the logit, rather than its slope at each pixel.
        is_complete: Whether they sum to the difference between the logit and that of the baseline.
        source: Where it was published.
    """

    label: str
    reads: tuple[str, ...]
    meaning: str
    is_share: bool = False
    is_complete: bool = False
    source: str = ""


METHODS: dict[Method, MethodFacts] = {
    "saliency": MethodFacts(
        "Saliency", (), "how fast the logit rises with the pixel", source="Simonyan et al., ICLR workshop 2014"
    ),
    "integrated_gradients": MethodFacts(
        "Integrated gradients",
        ("num_steps", "baseline"),
        "what the pixel adds to the logit, counted from a flat grey image",
        is_share=True,
        is_complete=True,
        source="Sundararajan et al., ICML 2017",
    ),
    "grad_cam": MethodFacts(
        "Grad-CAM",
        (),
        "how much the features there speak for the class, at the layer that feeds the exit",
        is_share=True,
        source="Selvaraju et al., ICCV 2017, without its final ReLU, so that maps are signed",
    ),
    "occlusion": MethodFacts(
        "Occlusion",
        ("window", "stride", "baseline"),
        "how far the logit falls when a square around the pixel is covered with grey",
        is_share=True,
        source="Zeiler and Fergus, ECCV 2014",
    ),
    "input_x_gradient": MethodFacts(
        "Input × gradient",
        (),
        "brightness of the pixel times the slope of the logit there",
        is_share=True,
        source="Shrikumar et al., 2016",
    ),
    "smooth_grad": MethodFacts(
        "SmoothGrad",
        ("num_samples", "noise", "seed"),
        "how fast the logit rises with the pixel, averaged over noisy copies of the image",
        source="Smilkov et al., 2017",
    ),
    "deep_lift": MethodFacts(
        "DeepLift",
        ("baseline",),
        "what the pixel adds to the logit, counted from a flat grey image, by rules for each layer",
        is_share=True,
        is_complete=True,
        source="Shrikumar et al., ICML 2017, rescale rule",
    ),
    "gradient_shap": MethodFacts(
        "GradientSHAP",
        ("num_samples", "noise", "seed"),
        "what the pixel adds to the logit, counted from flat grey images of random brightness",
        is_share=True,
        source="Lundberg and Lee, NIPS 2017, as captum has it",
    ),
    "guided_grad_cam": MethodFacts(
        "Guided Grad-CAM",
        (),
        "where features speak for the class, sharpened by what only raises them",
        source="Selvaraju et al., ICCV 2017",
    ),
}
RANGES: dict[str, tuple[float, float]] = {
    "num_steps": (1, 256),
    "num_samples": (1, 256),
    "noise": (0, 1),
    "window": (1, 64),
    "stride": (1, 64),
    "baseline": (0, 1),
    "seed": (0, 2**31 - 1),
}


@dataclass(frozen=True, kw_only=True)
class AttributionSpec:
    """Which maps are made and how; also the key under which they are kept.

    Numbers that the method does not read are put back to their defaults, so that equal maps have equal specs.

    Attributes:
        method: A key of ``METHODS``.
        exits: ``all``, the one ``taken`` by each image, the ``final`` one, or some exits, 0-based and rising.
        explained: Whose logit: of the class each exit has ``predicted``, of the ``true`` one, or of a ``chosen`` one.
        class_index: The chosen class; only with ``chosen``.
        num_steps: Points between baseline and image (integrated gradients).
        num_samples: Noisy copies of the image (SmoothGrad, GradientSHAP).
        noise: Standard deviation of their noise, in pixels of [0, 1].
        window: Side of the covered square, in pixels (occlusion).
        stride: Pixels from one square to the next, at most ``window``.
        baseline: Grey level, in [0, 1], of the image that stands for nothing.
        seed: Draws noise, and the brightness and places of GradientSHAP; the same draws for every image and exit.
    """

    method: Method = "saliency"
    exits: NamedExits | tuple[int, ...] = "all"
    explained: Explained = "predicted"
    class_index: int | None = None
    num_steps: int = 32
    num_samples: int = 8
    noise: float = 0.1
    window: int = 4
    stride: int = 2
    baseline: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks every field that does not depend on a model, and brings the spec into its plain form."""
        if self.method not in METHODS:
            raise ExitLensError(f"Unknown attribution method {self.method!r}. Choose one of {', '.join(METHODS)}.")
        for field, (low, high) in RANGES.items():
            if not low <= getattr(self, field) <= high:
                raise ExitLensError(
                    f"The attribution's {field} is {getattr(self, field)}; it must lie between {low} and {high}."
                )
            if field not in ("noise", "baseline") and not isinstance(getattr(self, field), Integral):
                raise ExitLensError(f"The attribution's {field} is {getattr(self, field)}; give a whole number.")
        if self.stride > self.window:
            raise ExitLensError(
                f"The stride is {self.stride} pixels and the window {self.window}; a stride beyond the window would "
                "leave pixels uncovered. Give a stride of at most the window."
            )
        self._check_exits()
        if self.explained not in get_args(Explained):
            raise ExitLensError(
                f"Unknown class to explain {self.explained!r}. Choose one of {', '.join(get_args(Explained))}."
            )
        if (self.explained == "chosen") != (self.class_index is not None):
            raise ExitLensError(
                "A chosen class needs a class_index, and neither the predicted nor the true one takes it."
            )
        if self.class_index is not None and (not isinstance(self.class_index, Integral) or self.class_index < 0):
            raise ExitLensError(f"class_index is {self.class_index}; classes are whole numbers from 0 on.")
        defaults = {field.name: field.default for field in fields(self)}
        for field in RANGES:
            if field not in METHODS[self.method].reads:
                object.__setattr__(self, field, defaults[field])

    def _check_exits(self) -> None:
        if isinstance(self.exits, str):
            if self.exits not in get_args(NamedExits):
                raise ExitLensError(
                    f"Unknown exits {self.exits!r}. Choose one of {', '.join(get_args(NamedExits))}, or give indices."
                )
        elif (
            not isinstance(self.exits, tuple)
            or not self.exits
            or not all(isinstance(index, Integral) for index in self.exits)
            or list(self.exits) != sorted(set(self.exits))
            or self.exits[0] < 0
        ):
            raise ExitLensError(
                f"The exits {self.exits!r} must be a tuple of one or more whole numbers, rising, from 0 on."
            )

    @property
    def facts(self) -> MethodFacts:
        """What is true of the method."""
        return METHODS[self.method]

    @property
    def numbers(self) -> str:
        """The numbers that the method reads, in words; empty where it reads none."""
        words = {
            "num_steps": f"{self.num_steps} steps",
            "num_samples": f"{self.num_samples} samples",
            "noise": f"noise {self.noise:g}",
            "window": f"squares of {self.window} pixels",
            "stride": f"{self.stride} pixels apart",
            "baseline": f"from grey {self.baseline:g}",
            "seed": f"seed {self.seed}",
        }
        return ", ".join(words[field] for field in self.facts.reads)

    @property
    def label(self) -> str:
        """The spec in words, such as ``Occlusion, squares of 4 pixels, 2 pixels apart, of each exit's own class``."""
        whose = {
            "predicted": "each exit's predicted class",
            "true": "the true class",
            "chosen": f"class {self.class_index}",
        }[self.explained]
        return ", ".join(part for part in (self.facts.label, self.numbers, f"of {whose}") if part)

    def num_passes(self, image_size: int) -> int:
        """Images sent through the network for one image and one exit; occlusion covers all exits with them."""
        squares = -(-(image_size - self.window) // self.stride) + 1
        return {
            "integrated_gradients": self.num_steps,
            "smooth_grad": self.num_samples,
            "gradient_shap": self.num_samples,
            "occlusion": squares**2 + 1,
            "deep_lift": 2,
            "guided_grad_cam": 2,
        }.get(self.method, 1)

    def check_model(self, num_exits: int, num_classes: int, image_size: int) -> None:
        """Checks the fields that depend on the model.

        Raises:
            ExitLensError: If the model has no such exit or class, or its images are smaller than the window.
        """
        if not isinstance(self.exits, str) and self.exits[-1] >= num_exits:
            raise ExitLensError(f"Exit {self.exits[-1] + 1} is asked about; this model has {num_exits}.")
        if self.class_index is not None and self.class_index >= num_classes:
            raise ExitLensError(
                f"Class {self.class_index} is to be explained; this model has classes 0 to {num_classes - 1}."
            )
        if self.method == "occlusion" and self.window > image_size:
            raise ExitLensError(f"The window is {self.window} pixels; images here have a side of {image_size}.")
