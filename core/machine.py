"""What this machine computes on, what pays there, and what a measured time depends on."""

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Literal, cast, get_args

import torch
from torch import nn

from core.errors import ExitLensError

Precision = Literal["float32", "bfloat16"]
DEVICE_VARIABLE = "EXITLENS_DEVICE"
PRECISION_VARIABLE = "EXITLENS_PRECISION"


def compute_device() -> torch.device:
    """Where models are loaded to: a CUDA device where torch finds one, unless ``EXITLENS_DEVICE`` says otherwise.

    Raises:
        ExitLensError: If the variable names something else than a device that is here.
    """
    wanted = os.environ.get(DEVICE_VARIABLE, "").strip().lower()
    has_cuda = torch.cuda.is_available()
    if wanted not in ("", "auto", "cpu") and not re.fullmatch(r"cuda(:\d+)?", wanted):
        raise ExitLensError(f"Unknown device {wanted!r}. Choose cpu, cuda (or cuda:1 …) or auto.")
    device = torch.device("cuda" if has_cuda else "cpu") if wanted in ("", "auto") else torch.device(wanted)
    if device.type == "cuda":
        if not has_cuda or (device.index or 0) >= torch.cuda.device_count():
            raise ExitLensError(f"There is no device {device} that torch can use here. Choose cpu, or auto.")
        # Verdicts are those of 32 bits; left alone, convolutions on such devices round to 19.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return device


def device_of(model: object) -> torch.device:
    """Where a model's weights, or else its buffers, are; the processor for a model without any."""
    tensor = next(chain(model.parameters(), model.buffers()), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if tensor is None else tensor.device


def wait_for(device: torch.device) -> None:
    """Returns once a device has done what it was given; processors are done at once."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def enough_memory(device: torch.device) -> Iterator[None]:
    """Turns a lack of memory into one sentence.

    Raises:
        ExitLensError: If torch or Python has none left.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On a processor torch raises a plain RuntimeError, told by its words alone.
        if isinstance(error, RuntimeError) and not re.search("allocate memory|out of memory", str(error)):
            raise
        elsewhere = " or --device cpu" if device.type != "cpu" else ""
        raise ExitLensError(
            f"There is not enough memory on {device} for this. Choose fewer images{elsewhere}."
        ) from error


def device_words(device: torch.device) -> str:
    """A device and how it works, for the screen."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (cuda), searches in {search_precision(device)}"
    waiting = os.environ.get("OMP_WAIT_POLICY", "").lower() or "default"
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' * (threads > 1)} ({waiting} waiting), searches in {search_precision(device)}"


def search_precision(device: torch.device) -> Precision:
    """The number format in which gradients are best searched: ``bfloat16`` where the hardware multiplies it.

    ``EXITLENS_PRECISION`` overrules what torch says of the hardware.

    Raises:
        ExitLensError: If the variable names another format.
    """
    wanted = os.environ.get(PRECISION_VARIABLE, "").strip().lower()
    if wanted in ("", "auto"):
        return "bfloat16" if _multiplies_sixteen_bits(device) else "float32"
    if wanted not in get_args(Precision):
        raise ExitLensError(f"{PRECISION_VARIABLE} is {wanted!r}. Set it to float32, bfloat16 or auto, or unset it.")
    return cast(Precision, wanted)


def _multiplies_sixteen_bits(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


def machine_facts() -> dict[str, str]:
    """What a measured number depends on: device, processor, cores, threads and how idle threads wait."""
    device = compute_device()
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "instructions": instructions(),
        "architecture": platform.machine(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
    }


def instructions() -> str:
    """What the processor multiplies with, such as ``AVX512 AMX``: 16-bit units are most of the speed of a search."""
    units = {"amx_bf16": "AMX", "avx512_bf16": "BF16"}
    capabilities = torch.cpu.get_capabilities()
    has = next((words for name, words in units.items() if capabilities.get(name, False)), "")
    return f"{torch.backends.cpu.get_cpu_capability()} {has}".strip()


def machine_words(facts: dict[str, str]) -> str:
    """The same facts for the screen, such as ``cpu, 2 threads on 2 cores, passive waiting, x86_64 AVX512``."""
    threads = "1 thread" if facts["threads"] == "1" else f"{facts['threads']} threads"
    cores = "1 core" if facts["cores"] == "1" else f"{facts['cores']} cores"
    waiting = facts["omp_wait_policy"].lower() or "default"
    device = facts.get("device", "cpu")
    return f"{device}, {threads} on {cores}, {waiting} waiting, {facts['architecture']} {facts['instructions']}"
