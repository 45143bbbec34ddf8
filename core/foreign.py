"""Code that is the user's own: naming it, running it, and remembering that it may be run.

Importing a factory runs its code. A card only names a factory, and cards travel; so a factory is loaded only
if a person named it on this machine's command line before, which is remembered outside the folder of models.
"""

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from torch import nn

from core.errors import ExitLensError

TRUST_VARIABLE = "EXITLENS_FACTORIES"
TRUST_FILE = Path("~/.config/exitlens/factories.txt")


@contextmanager
def foreign_code(what: str, advice: str = "") -> Iterator[None]:
    """Turns whatever the user's own code raises into one sentence.

    Args:
        what: What is being done, as the start of the sentence.
        advice: What to do next, a sentence of its own.

    Raises:
        ExitLensError: For any exception but those of this project.
    """
    try:
        yield
    except ExitLensError:
        raise
    # Code of others may raise anything, and may even try to end the program.
    except (Exception, SystemExit) as error:
        lines = str(error).strip().splitlines()
        detail = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        raise ExitLensError(f"{what} failed ({detail}). {advice}".rstrip()) from error


def resolve_factory(text: str) -> str:
    """A factory as a card keeps it: ``package.module:function``, or the absolute path of a file and a function.

    Raises:
        ExitLensError: If the text is neither, or there is no such file.
    """
    place, _, function = text.rpartition(":")
    if not place or not function.isidentifier():
        raise ExitLensError(
            f"Cannot read the factory {text!r}. Write package.module:function or path/to/file.py:function."
        )
    if not place.endswith(".py"):
        if not all(part.isidentifier() for part in place.split(".")):
            raise ExitLensError(f"{place!r} is neither a module nor a .py file. Write package.module:function.")
        return text
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise ExitLensError(f"There is no file {path}. Give the file that holds the factory.")
    return f"{path}:{function}"


def build_network(factory: str) -> nn.Module:
    """Calls a factory, as ``resolve_factory`` returned it. This runs its code.

    Returns:
        Its network in eval mode, float32.

    Raises:
        ExitLensError: If it cannot be imported, is no function, raises, or returns no module.
    """
    place, _, name = factory.rpartition(":")
    with foreign_code(f"Importing {place}", "The code must be there, and import, wherever the model is used."):
        module = _module_of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    make = getattr(module, name, None)
    if not callable(make):
        kind = (
            "does not define"
            if make is None
            else f"has an object of type {type(make).__name__} and no function under the name"
        )
        raise ExitLensError(f"{place} {kind} {name!r}. Name a function that returns the network.")
    with foreign_code(f"Calling {factory}"):
        network = make()
    if not isinstance(network, nn.Module):
        raise ExitLensError(
            f"{factory} returned an object of type {type(network).__name__}; a torch.nn.Module is needed."
        )
    with foreign_code(f"Setting the network of {factory} to float32 and eval mode"):
        network.float()
        network.eval()  # not chained: a network's own ``train`` may return nothing
    return network


def trust(factory: str) -> None:
    """Remembers that a person named this factory on the command line.

    Raises:
        ExitLensError: If the file that remembers cannot be written.
    """
    path = _trust_file()
    known = _trusted(path)
    if factory in known:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([*known, factory]) + "\n", encoding="utf-8")
    except OSError as error:
        raise ExitLensError(
            f"{path} cannot be written ({error.strerror}), so the factory would not be known again. Set "
            f"{TRUST_VARIABLE} to a file that can."
        ) from error


def check_trusted(factory: str, model: str) -> None:
    """Makes sure that a card's factory was named on this machine's command line.

    Raises:
        ExitLensError: If it was not.
    """
    if factory not in _trusted(_trust_file()):
        raise ExitLensError(
            f"The card of {model} names the code {factory}, which was never imported here and so is not run. "
            "If you trust it, import the model on this machine: python -m core import-model."
        )


def _trust_file() -> Path:
    return Path(os.environ.get(TRUST_VARIABLE) or TRUST_FILE).expanduser()


def _trusted(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):  # what cannot be read trusts nobody
        return []


def _module_of_file(path: Path) -> ModuleType:
    # Not by its own name, which could hide a module of the project or of another model.
    name = f"exitlens_factory_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader  # a name that ends in .py always has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
