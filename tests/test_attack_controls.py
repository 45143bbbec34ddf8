"""The attack's controls: what is offered makes sense for the model, and an earlier run puts every control back."""

import pytest
from streamlit.testing.v1 import AppTest

import ui.attack_controls as controls
from core.attacks.spec import (
    AttackSpec,
    CorruptionAttack,
    PublishedEarlyAttack,
    SlowdownAttack,
    UniversalAttack,
    WorstCaseAttack,
    early,
    fgsm,
    l2_attack,
    mi_fgsm,
    pgd,
)
from core.checkpoints import list_models
from core.exits import ExitPolicy
from core.experiment import ExperimentSpec
from ui.state import LINK

EARLY, STATIC = "cifar10-resnet56-early-exit", "cifar10-resnet56-static"
pytestmark = pytest.mark.skipif(not {EARLY, STATIC} <= set(list_models()), reason="a shipped model is missing")
FITTED_ON = "cifar10:validation:0-127"
POLICY = ExitPolicy()


@pytest.fixture(autouse=True)
def with_validation_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that holds the images that one perturbation for all is fitted on."""
    monkeypatch.setattr(
        controls,
        "_for_all",
        lambda column, card: (
            column.selectbox("Perturbation", [controls.FOR_EACH, controls.FOR_ALL], key="for_all") == controls.FOR_ALL
        ),
    )
    monkeypatch.setattr(controls, "_fitted_on", lambda card: FITTED_ON)


def script() -> None:
    import streamlit as st

    import ui.attack_controls as controls
    from core.checkpoints import load_card
    from ui.restoring import set_controls

    classes = ("plane", "car", "bird")
    if "restore" in st.session_state:
        set_controls(st.session_state.pop("restore"), classes)
    st.session_state["made"] = controls.attack_controls(load_card(st.session_state["card"]), classes)


def made(card: str = EARLY, restore: AttackSpec | None = None, made_at: ExitPolicy = POLICY, **keys: object) -> AppTest:
    test = AppTest.from_function(script, default_timeout=120)
    test.session_state["card"] = card
    for key, value in keys.items():
        test.session_state[key] = value
    if restore:
        test.session_state["restore"] = ExperimentSpec("cifar10:samples:0-7", (card,), (card,), restore, made_at)
    test.run()
    assert not test.exception, test.exception
    return test


@pytest.mark.parametrize(
    "spec",
    [
        pgd(),
        fgsm(1 / 255, objective="final"),
        mi_fgsm(4 / 255, decay=0.5, num_steps=7, objective="exit", exit_index=2),
        pgd(2 / 255, step_size=0.5 / 255, objective="max-average", goal_class=1, random_start=True),
        l2_attack("pgd", 0.25, num_steps=20, objective="mean"),
        l2_attack("fgsm", 1.0),
        early(2 / 255),
        early(1 / 255, exit_index=3, num_steps=10, goal_class=2),
        early(8 / 255, num_tries=5),
        PublishedEarlyAttack(alpha=40.0, num_steps=300),
        PublishedEarlyAttack(alpha=0.001, start="image", loss="logits", epsilon=8 / 255),
        SlowdownAttack(epsilon=4 / 255, num_steps=12),
        SlowdownAttack(epsilon=8 / 255, loss="confidence"),
        UniversalAttack(epsilon=8 / 255, objective="slowdown", fitted_on=FITTED_ON),
        UniversalAttack(epsilon=4 / 255, objective="exit", exit_index=0, goal_class=1, fitted_on=FITTED_ON),
        WorstCaseAttack(epsilon=1 / 255, step_size=0.25 / 255, num_steps=5, num_restarts=3),
        CorruptionAttack(name="jpeg", severity=5),
        CorruptionAttack(name="elastic", severity=1, seed=3),
    ],
    ids=lambda spec: spec.label,
)
def test_an_earlier_run_puts_every_control_back(spec: AttackSpec) -> None:
    # Mutants: a control forgotten in restoring, or one that the spec does not listen to; the fallback among them, or
    # what is chosen for judging changed by an attack that reckons with none.
    wanted = ExitPolicy(0.8, "most_confident")
    test = made(restore=spec, made_at=wanted)
    attack, policy = test.session_state["made"]
    assert type(attack) is type(spec)
    for field, value in vars(spec).items():
        assert getattr(attack, field) == (pytest.approx(value) if isinstance(value, float) else value), field
    assert policy == (wanted if spec.depends_on_policy else POLICY)
    assert ("fallback" in test.session_state) == spec.depends_on_policy


def test_a_static_model_is_offered_no_attack_through_early_exits() -> None:
    # Mutant: Early offered anyway, or a page that ends because the attack chosen before is not on offer.
    test = made(STATIC, attack="early")
    attack, _ = test.session_state["made"]
    assert attack.name == "pgd" and any("a static model has none" in caption.value for caption in test.caption)


def test_options_of_other_attacks_are_not_shown() -> None:
    # Mutant: every option always there.
    def labels(test: AppTest) -> set[str]:
        return {widget.label for kind in ("number_input", "selectbox", "checkbox") for widget in test.get(kind)}

    assert "Decay" in labels(made(attack="mi-fgsm")) and "Decay" not in labels(made(attack="pgd"))
    assert "Steps" not in labels(made(attack="fgsm"))
    assert not {"Goal class", "Random start", "Aims at"} & labels(made(attack="slowdown"))
    assert not {"Goal class", "Threshold while attacking", "Steps"} & labels(made(attack="corruption"))
    assert "Step size (n/255)" not in labels(made(norm="L2"))


def test_every_control_of_an_attack_belongs_in_the_link() -> None:
    # Mutant: a new control whose setting a colleague's link would lose.
    import inspect
    import re

    import ui.attack_controls as controls

    keys = set(re.findall(r'key="(\w+)"', inspect.getsource(controls))) - {"aim_static"}
    assert keys <= set(LINK) and len(keys) > 20
