"""How long the maps of one image take at all exits, method by method.

Nothing else should run on the machine meanwhile.
"""

import time
from pathlib import Path

from benchmarks.waits import Wait
from core.attribution import attribute
from core.attribution_spec import METHODS, AttributionSpec
from core.checkpoints import load_model
from core.data import open_image_set

RESULT = Path(__file__).parent / "attribution.json"
MODEL = "cifar10-resnet56-early-exit"
NUM_REPEATS = 7
LIMITS = {"integrated_gradients": 1.5, "occlusion": 5.0}
LIMIT_SECONDS = 0.3


def measure_attribution(model_name: str = MODEL) -> list[Wait]:
    """Times every method with its default numbers on the first bundled sample, after one pass to warm up.

    Raises:
        ExitLensError: If the model cannot be loaded.
    """
    model, card = load_model(model_name)
    image = open_image_set("cifar10:samples").select([0]).pixels()
    waits = []
    for method, facts in METHODS.items():
        seconds = []
        for _ in range(NUM_REPEATS + 1):
            started = time.perf_counter()
            attribute(model, image, AttributionSpec(method=method))
            seconds.append(time.perf_counter() - started)
        name = f"{facts.label} of one image at {card.num_exits} exits of {card.label}"
        waits.append(Wait(name, LIMITS.get(method, LIMIT_SECONDS), tuple(seconds[1:])))
    return waits
