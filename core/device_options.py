"""The options that say where and how wide to compute, of every command that does."""

import os
from collections.abc import Callable
from typing import Annotated

import typer


def _say(variable: str) -> Callable[[str | None], str | None]:
    """Hands an option on by the environment variable that means the same."""

    def set_variable(value: str | None) -> str | None:
        if value:
            os.environ[variable] = value
        return value

    return set_variable


# The variables of core.machine, which this module does not import: torch would cost every command a second.
Device = Annotated[
    str | None, typer.Option(help="Where to compute: cpu, cuda, cuda:1 … or auto.", callback=_say("EXITLENS_DEVICE"))
]
Precision = Annotated[
    str | None,
    typer.Option(help="Number format of gradients: float32, bfloat16 or auto.", callback=_say("EXITLENS_PRECISION")),
]
