"""Transfer by kind and architecture, and between exits: numbers by hand, and models that share a backbone."""

import dataclasses
import threading
from functools import cache

import pandas as pd
import pytest
import torch
from test_experiment import EARLY, SPEC, STATIC, image_set, pair
from toys import toy_card, toy_model

from core.attacks.run import AttackProgress
from core.attacks.spec import LinfAttack, pgd
from core.checkpoints import ModelCard
from core.counted import transfer_words
from core.errors import Cancelled, ExitLensError
from core.exits import ExitPolicy
from core.experiment import run_experiment, share_backbone
from core.figures import directions_figure, exit_transfer_figure, transfer_figure
from core.metrics import rate
from core.tables import TRANSFER, decisions_table, fooled_columns, transfer_images, transfer_table
from core.transfer import (
    ExitTransfer,
    ExitTransferSpec,
    directions_table,
    evenly_spread,
    exit_transfer_images,
    exit_transfer_table,
    run_exit_transfer,
)

EXITS_SPEC = ExitTransferSpec("toy:test:0-11", EARLY, "sha", (0, 1, 2), pgd(2 / 255, num_steps=3))


# ----------------------------------------------------------------------------------------------------------------
# Models that share a backbone


def cards_of(**shares: str | None) -> dict[str, ModelCard]:
    card = pair()[EARLY][1]
    return {name: dataclasses.replace(card, name=name, shares=owner) for name, owner in shares.items()}


def test_models_share_a_backbone_with_its_owner_and_with_each_other_but_not_with_themselves() -> None:
    # Mutant: one way only, two guests of one backbone taken for strangers, or a model barred from its own attack.
    cards = cards_of(owner=None, guest="owner", other="owner", stranger=None)
    related = {(a, b) for a in cards for b in cards if share_backbone(cards[a], cards[b])}
    family = ("owner", "guest", "other")
    assert related == {(a, b) for a in family for b in family if a != b}


def test_what_was_made_on_a_backbone_is_not_shown_to_exits_on_it() -> None:
    # Mutant: the pair computed all the same, or the guest's own white-box attack lost.
    guest = "toy-guest"
    models = pair() | {guest: (pair()[EARLY][0], dataclasses.replace(pair()[EARLY][1], name=guest, shares=STATIC))}
    spec = dataclasses.replace(SPEC, sources=(EARLY, STATIC, guest), targets=(EARLY, STATIC, guest))
    done = run_experiment(spec, image_set(), models)
    assert set(done.logits) == {(a, b) for a in models for b in models} - {(STATIC, guest), (guest, STATIC)}
    table = transfer_table(decisions_table(done, ExitPolicy(0.6)))
    figure = transfer_figure(table[table.denominator == "attackable"], {name: name for name in models})
    said = {(words.y, words.x): words.text for words in figure.layout.annotations}
    assert {pair for pair, text in said.items() if "backbone" in text} == {(STATIC, guest), (guest, STATIC)}
    assert "share" in figure.data[1].hovertext[5] or "one backbone" in figure.data[1].hovertext[5]


# ----------------------------------------------------------------------------------------------------------------
# Directions


def transfer_of(counts: dict[tuple[str, str], tuple[int, int]], denominator: str = "attackable") -> pd.DataFrame:
    rows = [
        {
            "source": source,
            "target": target,
            "success_rule": "misclassified_taken",
            "denominator": denominator,
            **fooled_columns(rate(*numbers)),
        }
        for (source, target), numbers in counts.items()
    ]
    return TRANSFER.check(pd.DataFrame(rows))


def four_cards() -> dict[str, ModelCard]:
    early, static = (card for _, card in pair().values())
    return {
        "dA": dataclasses.replace(early, name="dA", architecture="A"),
        "sA": dataclasses.replace(static, name="sA", architecture="A"),
        "dB": dataclasses.replace(early, name="dB", architecture="B"),
        "sB": dataclasses.replace(static, name="sB", architecture="B"),
    }


COUNTS = {
    ("dA", "dA"): (9, 10),
    ("dA", "sA"): (1, 10),
    ("sA", "dA"): (2, 10),
    ("dA", "dB"): (3, 10),
    ("sA", "sB"): (4, 10),
    ("dA", "sB"): (5, 10),
    ("sB", "dA"): (6, 10),
    ("sB", "dB"): (0, 0),
}


def test_every_pair_of_two_models_has_its_direction_and_its_own_row() -> None:
    # Mutant: source and target swapped, white-box attacks counted as transfer, or architectures pooled.
    table = directions_table(transfer_of(COUNTS), four_cards())
    found = {(row.source, row.target): (row.direction, row.same_architecture) for row in table.itertuples()}
    assert found == {
        ("dA", "sA"): ("D2S", True),
        ("sA", "dA"): ("S2D", True),
        ("dA", "dB"): ("D2D", False),
        ("sA", "sB"): ("S2S", False),
        ("dA", "sB"): ("D2S", False),
        ("sB", "dA"): ("S2D", False),
        ("sB", "dB"): ("S2D", True),
    }
    assert table.num_fooled.tolist() == [1, 2, 3, 4, 5, 6, 0]


def test_a_wide_matrix_shows_shares_and_breaks_its_names() -> None:
    # Mutants: counts that run into each other; names of seeds over those of their neighbours; hovers without counts.
    names = [f"m{number}" for number in range(7)]
    rows = transfer_of({(source, target): (1, 10) for source in names for target in names})
    labels = {name: f"● ResNet-56 early-exit, seed {name}" for name in names}
    for count, text, name in (
        (7, "10", "● ResNet-56 early-exit, seed m0"),
        (6, "1 of 10", "● ResNet-56<br>early-exit,<br>seed m0"),
    ):
        few = rows[rows.source.isin(names[:count]) & rows.target.isin(names[:count])]
        heat, marks = transfer_figure(few, labels).data
        assert {cell for row in heat.text for cell in row} == {text}
        assert (heat.x[0], heat.y[0]) == (name, "● ResNet-56<br>early-exit,<br>seed m0")
        said = transfer_words(few, "attackable", "misclassified_taken")
        assert said.startswith("Fooled, in percent, of the images that") == (count == 7)
        assert all("1 of 10" in words for words in marks.hovertext)


def test_directions_are_drawn_one_point_a_pair_with_the_architectures_apart() -> None:
    # Mutant: a mean instead of points, both charts of all rows, or no interval.
    labels = {name: f"model {name}" for name in four_cards()}
    figure = directions_figure(directions_table(transfer_of(COUNTS), four_cards()), labels, {True: "", False: ""})
    points = [trace for trace in figure.data if trace.mode == "markers"]
    drawn = {
        trace.xaxis or "x": sorted(
            round(y) for other in points if (other.xaxis or "x") == (trace.xaxis or "x") for y in other.y
        )
        for trace in points
    }
    assert drawn == {"x": [10, 20], "x2": [30, 40, 50, 60]}
    one = next(trace for trace in points if list(trace.y) == [10])
    share = rate(1, 10)
    assert one.error_y.array[0] == pytest.approx(100 * (share.high - share.value))
    assert one.error_y.arrayminus[0] == pytest.approx(100 * (share.value - share.low))
    assert one.hovertext[0].startswith("made on model dA, shown to model sA: 1 of 10")
    # The two ways of one pair are joined: dA and sA on the left, dA and sB on the right.
    joined = [sorted(trace.y) for trace in figure.data if trace.mode == "lines"]
    assert sorted(joined) == [pytest.approx([10, 20]), pytest.approx([50, 60])]


def test_an_empty_chart_says_why() -> None:
    # Mutant: an empty frame without a word.
    same = {pair: numbers for pair, numbers in COUNTS.items() if pair in {("dA", "sA"), ("sA", "dA")}}
    why = {True: "nothing alike", False: "only one architecture"}
    figure = directions_figure(directions_table(transfer_of(same), four_cards()), {"dA": "", "sA": ""}, why)
    words = [note.text for note in figure.layout.annotations]
    assert "only one architecture" in words and "nothing alike" not in words


def test_images_behind_the_numbers_add_up_to_them() -> None:
    # Mutant: images of another pair, or of another denominator.
    done = run_experiment(SPEC, image_set(), pair())
    decisions = decisions_table(done, ExitPolicy(0.6))
    images = transfer_images(decisions)
    for row in transfer_table(decisions).itertuples():
        behind = images[(images.source == row.source) & (images.target == row.target) & images[row.denominator]]
        assert (len(behind), int(behind.fooled.sum())) == (row.num_images, row.num_fooled)
    own = decisions[decisions.source == decisions.target]
    right = {
        image_id
        for image_id, *models in zip(
            image_set().image_ids,
            *(own[own.target == name].clean_prediction for name in pair()),
            image_set().labels.tolist(),
            strict=True,
        )
        if len(set(models)) == 1
    }
    assert set(images[images.common].image_id) <= right


# ----------------------------------------------------------------------------------------------------------------
# Between exits


@cache
def between_exits() -> ExitTransfer:
    return run_exit_transfer(EXITS_SPEC, image_set(), pair()[EARLY][0])


def test_each_exit_is_attacked_by_itself_and_all_exits_judge_the_outcome() -> None:
    # Mutant: one attack for all exits, attacked and shown exit swapped, or the clean logits judged.
    done, model = between_exits(), pair()[EARLY][0]
    labels = image_set().labels
    counted = {
        (row.source_exit, row.target_exit, row.denominator): (row.num_fooled, row.num_images)
        for row in exit_transfer_table(done).itertuples()
    }
    clean = model(image_set().pixels()).argmax(-1) == labels[:, None]
    for source in range(3):
        result = done.results[source]
        assert result.spec == pgd(2 / 255, num_steps=3, objective="exit", exit_index=source)
        wrong = model(result.adversarial).argmax(-1) != labels[:, None]
        for target in range(3):
            both = clean[:, source] & clean[:, target]
            groups = {"attackable": both, "common": clean.all(1), "fooled the source": both & wrong[:, source]}
            for denominator, among in groups.items():
                expected = (int((wrong[:, target] & among).sum()), int(among.sum()))
                assert counted[source, target, denominator] == expected
    assert len({counted[source, target, "attackable"] for source in range(3) for target in range(3)}) > 2


def test_images_of_an_exit_cell_are_those_that_its_number_counts() -> None:
    # Mutant: rows of images in another order.
    images = exit_transfer_images(between_exits())
    cell = images[(images.source_exit == 0) & (images.target_exit == 0) & images.attackable & images.fooled]
    wrong = between_exits().results[0].adversarial_logits[:, 0].argmax(-1) != image_set().labels
    right = between_exits().results[0].clean_logits[:, 0].argmax(-1) == image_set().labels
    ids = [image_id for image_id, hit in zip(image_set().image_ids, (wrong & right).tolist(), strict=True) if hit]
    assert cell.image_id.tolist() == ids


def test_exit_matrix_names_its_exits_and_counts_in_percent() -> None:
    # Mutant: transposed, or positions in the subset printed instead of exits.
    table = exit_transfer_table(between_exits())
    shown = table[(table.denominator == "attackable") & table.source_exit.isin([0, 2]) & table.target_exit.isin([0, 2])]
    figure = exit_transfer_figure(shown, 3)
    assert list(figure.data[0].x) == list(figure.data[0].y) == ["Exit 1", "Final"]
    cells = shown.set_index(["source_exit", "target_exit"])
    assert figure.data[0].text[0][1] == f"{100 * cells.loc[(0, 2), 'rate']:.0f}"
    assert figure.data[1].hovertext[1].startswith("made on Exit 1, shown to Final: ")


@pytest.mark.parametrize(
    ("num_exits", "expected"), [(7, tuple(range(7))), (8, tuple(range(8))), (27, (0, 4, 7, 11, 15, 19, 22, 26))]
)
def test_many_exits_are_thinned_out_evenly_from_the_first_to_the_final_one(num_exits: int, expected) -> None:
    # Mutant: the first eight, or the final exit left out.
    assert evenly_spread(num_exits) == expected


def test_exit_transfer_takes_no_goal_and_no_stop_and_asks_for_two_exits() -> None:
    # Mutant: an option of the page's attack that changes what "fooled" means.
    attack = pgd(goal_class=1, stop_when_fooled=True, objective="taken", num_steps=3)
    spec = dataclasses.replace(EXITS_SPEC, attack=attack)
    assert spec.attack_on(1) == LinfAttack(num_steps=3, objective="exit", exit_index=1)
    assert spec == dataclasses.replace(EXITS_SPEC, attack=pgd(num_steps=3))
    for exits in ((0,), (1, 0), (0, 0)):
        with pytest.raises(ExitLensError, match="two or more"):
            dataclasses.replace(EXITS_SPEC, exits=exits)


def test_exit_transfer_reports_over_all_exits_and_can_be_cancelled() -> None:
    # Mutant: the share of each attack by itself; the token not handed on.
    seen: list[AttackProgress] = []
    run_exit_transfer(EXITS_SPEC, image_set(), pair()[EARLY][0], on_progress=seen.append)
    assert [progress.share for progress in seen] == pytest.approx([number / 9 for number in range(1, 10)])
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        run_exit_transfer(EXITS_SPEC, image_set(), pair()[EARLY][0], cancel=cancel)


def test_a_static_model_has_no_exits_to_compare() -> None:
    # Mutant: a toy of one exit taken without a word.
    static = toy_model(num_exits=1, dtype=torch.float32)
    assert toy_card(static, STATIC, image_set()).num_exits == 1
    with pytest.raises(ExitLensError, match="exit"):
        run_exit_transfer(EXITS_SPEC, image_set(), static)
