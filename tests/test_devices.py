"""Where things are computed: chosen, said, and kept apart; on a device that is only pretended, and on a real one."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map
from toys import toy_image_set, toy_images, toy_model

from core import machine
from core.attacks import EarlyAttack, LinfAttack, attack
from core.attacks.checks import check_attack
from core.attacks.spec import (
    CorruptionAttack,
    L2Attack,
    PublishedEarlyAttack,
    SlowdownAttack,
    UniversalAttack,
    WorstCaseAttack,
)
from core.attacks.sweep import sweep_fgsm
from core.attribution import attribute
from core.attribution_spec import AttributionSpec
from core.belief import measure_belief
from core.errors import ExitLensError
from core.evaluation import exit_logits
from core.exits import ExitPolicy, run_dynamic
from core.machine import compute_device, device_of, device_words
from core.models.prepared import prepared
from core.stage_times import time_stages

CUDA = torch.device("cuda")
POLICY = ExitPolicy(0.6)


@pytest.mark.parametrize(
    ("says", "num_devices", "expected"),
    [
        ("", 0, "cpu"),
        ("", 1, "cuda"),
        ("auto", 1, "cuda"),
        ("cpu", 1, "cpu"),
        ("CUDA", 1, "cuda"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_device_is_picked_by_itself_unless_somebody_chooses(says, num_devices, expected, monkeypatch):
    """Mutant: a processor although a device is there, or a wish that nobody hears."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_devices)
    monkeypatch.setenv("EXITLENS_DEVICE", says)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert str(compute_device()) == expected
    # Verdicts are float32: such devices round convolutions to 19 bits unless told not to.
    assert torch.backends.cudnn.allow_tf32 == (expected == "cpu")


@pytest.mark.parametrize(
    ("says", "num_devices", "named"),
    [("gpu", 1, "Unknown device 'gpu'"), ("cuda", 0, "no device cuda"), ("cuda:3", 2, "no device cuda:3")],
)
def test_a_device_that_is_not_here_is_refused(says, num_devices, named, monkeypatch):
    """Mutant: a fall back that nobody is told of."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_devices)
    monkeypatch.setenv("EXITLENS_DEVICE", says)
    with pytest.raises(ExitLensError, match=rf"{named}.*Choose cpu"):
        compute_device()


def test_the_screen_says_where_and_how_wide(monkeypatch):
    """Mutant: cpu said of everything."""
    monkeypatch.setenv("EXITLENS_PRECISION", "float32")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some Accelerator")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    for num_threads, words in ((1, "cpu, 1 thread ("), (2, "cpu, 2 threads (")):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=num_threads: count)
        assert device_words(torch.device("cpu")).startswith(words)
    assert device_words(torch.device("cpu")).endswith("searches in float32")
    monkeypatch.setenv("EXITLENS_PRECISION", "")
    assert device_words(CUDA) == "Some Accelerator (cuda), searches in bfloat16"


@pytest.mark.parametrize(
    ("units", "said"),
    [(("amx_bf16", "avx512_bf16"), "AVX512 AMX"), (("avx512_bf16",), "AVX512 BF16"), ((), "AVX512")],
)
def test_facts_name_what_multiplies_sixteen_bits(units, said, monkeypatch):
    """Mutant: the width of the registers alone, under which machines of threefold speed have one name."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(units, True) | {"avx2": True})
    assert machine.machine_facts()["instructions"] == said


class Pretended(TorchFunctionMode):
    """Makes believe that some tensors are on a CUDA device: whatever mixes them with others is an error.

    A tensor gets there by ``to``; results are where their arguments are; single numbers may come from anywhere.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:  # a new object at every look
            return CUDA if is_away(args[0]) else torch.device("cpu")
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        places = {is_away(tensor) for tensor in tensors if tensor.ndim}
        wanted = next((leaf for leaf in tree_flatten((args[1:], kwargs))[0] if isinstance(leaf, torch.device)), None)
        if func in (Tensor.to, Tensor.cpu):
            away = is_away(args[0]) if wanted is None else wanted.type == "cuda"
            away = away and func is not Tensor.cpu
            if func is Tensor.cpu or wanted is not None:
                args, kwargs = without_devices(args), without_devices(kwargs)
                kwargs.pop("device", None)
                copied = args[0].detach() if not args[0].requires_grad else args[0].view_as(args[0])
                made = func(copied, *args[1:], **kwargs) if args[1:] or kwargs else copied.clone()
                return mark(made, away)
        elif func is Tensor.__deepcopy__:  # its memo holds anything
            return mark(func(*args, **kwargs), is_away(args[0]))
        elif func is Tensor.numpy and is_away(args[0]):
            raise AssertionError("numpy() of a tensor on the device")
        elif len(places) > 1 and func not in (Tensor.__getitem__, Tensor.copy_):
            raise AssertionError(f"{func} mixes tensors on the device with others")
        away = any(places) if places else bool(tensors and any(map(is_away, tensors)))
        if wanted is not None:
            away = wanted.type == "cuda"
            args, kwargs = without_devices(args), without_devices(kwargs)
        made = func(*args, **kwargs)
        return tree_map(lambda leaf: mark(leaf, away) if isinstance(leaf, Tensor) else leaf, made)


def is_away(tensor: Tensor) -> bool:
    return getattr(tensor, "is_away", False)


def mark(tensor: Tensor, away: bool) -> Tensor:
    tensor.is_away = away
    return tensor


def without_devices(values: Any) -> Any:
    return tree_map(lambda leaf: torch.device("cpu") if isinstance(leaf, torch.device) else leaf, values)


def moved(model: nn.Module) -> nn.Module:
    for tensor in (*model.parameters(), *model.buffers()):
        mark(tensor, True)
    return model


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    make = nn.Parameter.__new__

    def make_there(cls: type, data: Tensor, requires_grad: bool = True) -> nn.Parameter:
        return mark(make(cls, data, requires_grad), is_away(data))

    monkeypatch.setattr(nn.Parameter, "__new__", make_there)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    with Pretended():
        yield


EVERY_KIND = pytest.mark.parametrize(
    "spec",
    [
        LinfAttack(num_steps=2, random_start=True),
        LinfAttack(num_steps=2, objective="exit", exit_index=0, stop_when_fooled=True),
        LinfAttack(num_steps=2, objective="final", goal_class=1),
        EarlyAttack(num_steps=2),
        L2Attack(num_steps=2, random_start=True),
        LinfAttack(num_steps=2, objective="max-average"),
        PublishedEarlyAttack(num_steps=2),
        SlowdownAttack(num_steps=2),
        WorstCaseAttack(num_steps=2),
        CorruptionAttack(name="gaussian-noise"),
        CorruptionAttack(name="elastic"),
        CorruptionAttack(name="gaussian-blur"),
        UniversalAttack(num_steps=2, objective="slowdown"),
        UniversalAttack(num_steps=2),
    ],
    ids=lambda spec: spec.label,
)


@pytest.mark.usefixtures("pretended")
@EVERY_KIND
def test_an_attack_goes_to_the_model_and_its_result_comes_back(spec, monkeypatch):
    """Mutant: a batch left behind, images that something is fitted on, or logits that stay on the device."""
    monkeypatch.setattr("core.attacks.universal.open_image_set", lambda name: toy_image_set(6))
    model, images = moved(toy_model(num_exits=3)), toy_images(6)
    labels = torch.arange(6) % 4
    for watch in ("every exit", "computed exits", "nothing"):
        result = attack(model, images, labels, spec, POLICY, watch=watch, batch_size=4)
        stored = [result.images, result.perturbations, result.clean_logits, result.adversarial_logits]
        stored += [getattr(step, name) for step in result.steps for name in vars(step)]
        assert not any(map(is_away, stored))
        assert device_of(model) == CUDA
    check_attack(model, result)


@pytest.mark.usefixtures("pretended")
def test_everything_else_that_shows_images_to_a_model_goes_there_and_back():
    """Mutant: as above."""
    model, images = moved(toy_model(num_exits=3, dtype=torch.float32)), toy_images(6, dtype=torch.float32)
    sweep = sweep_fgsm(
        model, images, torch.arange(6) % 4, LinfAttack(name="fgsm", num_steps=1, step_size=8 / 255), POLICY, [0.1]
    )
    maps = attribute(model, images, AttributionSpec())
    logits = exit_logits(model, toy_image_set(5))
    assert not any(map(is_away, [sweep.succeeded, sweep.prediction, maps.values, maps.logits, logits]))
    for method in ("saliency", "integrated_gradients"):
        made = attribute(model, images[:2], AttributionSpec(method=method, num_steps=2))
        assert not any(map(is_away, vars(measure_belief(model, images[:2], made)).values()))
    time_stages(model, images, POLICY, num_repeats=1)


@pytest.mark.gpu
def test_a_device_gives_the_verdicts_of_the_processor(monkeypatch):
    """Mutant: verdicts in 16 or 19 bits."""
    monkeypatch.setenv("EXITLENS_DEVICE", "auto")
    device = compute_device()
    model, images = toy_model(num_exits=3, dtype=torch.float32), toy_images(64, dtype=torch.float32)
    there, labels = copy.deepcopy(model).to(device), torch.arange(64) % 4
    torch.testing.assert_close(there(images.to(device)).cpu(), model(images), rtol=0, atol=1e-4)
    spec = LinfAttack(num_steps=3, objective="final")
    one, other = (attack(of, images, labels, spec, POLICY) for of in (model, there))
    assert other.perturbations.device.type == "cpu"
    assert (one.perturbations == other.perturbations).double().mean() > 0.99
    same = one.adversarial_logits.argmax(-1) == other.adversarial_logits.argmax(-1)
    assert same.double().mean() > 0.98
    decisions = run_dynamic(there, images.to(device), POLICY)
    assert (decisions.computed_exit.cpu() == run_dynamic(model, images, POLICY).computed_exit).double().mean() > 0.98


@pytest.mark.gpu
def test_a_device_searches_in_mixed_precision(monkeypatch):
    """Mutant: everything 32 bits wide there, or everything 16."""
    monkeypatch.delenv("EXITLENS_PRECISION", raising=False)
    there = toy_model(num_exits=3, dtype=torch.float32).to(compute_device())
    ready = prepared(there)
    assert ready.precision == machine.search_precision(device_of(there))
    if ready.precision == "bfloat16":
        assert {parameter.dtype for parameter in ready.parameters()} == {torch.float32, torch.bfloat16}
    images = toy_images(16, dtype=torch.float32)
    result = attack(there, images, torch.arange(16) % 4, LinfAttack(num_steps=2), POLICY, search=ready)
    assert result.precision == ready.precision
    assert result.perturbations.abs().max() > 0


@pytest.mark.gpu
@EVERY_KIND
def test_every_attack_runs_on_a_device_and_its_verdicts_are_those_of_the_stored_images(spec, monkeypatch):
    """Mutant: a batch left behind, or verdicts of the copy that searched."""
    monkeypatch.setattr("core.attacks.universal.open_image_set", lambda name: toy_image_set(6))
    there = toy_model(num_exits=3, dtype=torch.float32).to(compute_device())
    images, labels = toy_images(24, dtype=torch.float32), torch.arange(24) % 4
    result = attack(there, images, labels, spec, POLICY, search=prepared(there), batch_size=10)
    assert {result.perturbations.device.type, result.adversarial_logits.device.type} == {"cpu"}
    with torch.no_grad():
        shown = there(result.adversarial.to(device_of(there))).cpu()
    torch.testing.assert_close(result.adversarial_logits, shown, rtol=0, atol=1e-4)
    check_attack(there, result, search=prepared(there))
