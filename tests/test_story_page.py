"""The Story page, without a browser: its five steps, what is told, and what it says where there is nothing to tell.

A toy model tells the story quickly once the bundled samples carry the labels that its final exit gives them.
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from every_page import finished, fresh_caches, opened
from streamlit.testing.v1 import AppTest
from test_models_page import EARLY, STATIC, Zoo, zoo
from toys import toy_model

from core import data, kept
from core.attacks.spec import early, l2_attack, pgd
from core.checkpoints import load_card, load_model
from core.data import ImageSet, open_image_set
from core.evaluation import exit_logits
from core.exits import ExitPolicy
from core.experiment import ExperimentSpec, run_experiment
from core.kept import FOLDER_VARIABLE
from core.remedies import RemediesSpec, run_remedies
from core.story import Story, StorySpec, run_story
from core.story_tables import candidates_table, ranked
from core.tables import decisions_table, exits_table

__all__ = ["fresh_caches", "zoo"]
IMAGES, POLICY = "cifar10:samples:0-19", ExitPolicy()
SCENES = ("1 Early", "2 Noise", "3 Wrong", "4 How often", "5 What helps")
SMALLEST = 1 / 255


def relabelled(samples: ImageSet) -> ImageSet:
    """The samples with the labels that the toy model's final exit gives them."""
    model = toy_model(num_exits=4, num_classes=10, image_size=32, dtype=torch.float32, seed=7)
    return replace(samples, labels=exit_logits(model, samples)[:, -1].argmax(-1))


@pytest.fixture
def stage(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zoo:
    """Models that tell the story of the samples; nothing kept."""
    open_samples = data._open_samples
    monkeypatch.setattr(data, "_open_samples", lambda dataset: relabelled(open_samples(dataset)))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "nothing-kept"))
    return zoo


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """What the story's runs were kept as, once for all tests."""
    yield {"folder": tmp_path_factory.mktemp("kept")}


@pytest.fixture
def story(stage: Zoo, filled: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> Story:
    """The story as computed without any page, all its runs kept."""
    if "story" not in filled:
        samples = open_image_set(IMAGES)
        models = {name: load_model(name) for name in (EARLY, STATIC)}
        hashes = [load_card(name).weights_sha256 for name in (EARLY, STATIC)]
        told = run_story(StorySpec(IMAGES, EARLY, hashes[0], STATIC, hashes[1], POLICY), samples, models)
        tried = run_remedies(RemediesSpec(told.spec, SMALLEST), samples, models)
        for each in (*told.on_model.values(), *told.on_twin.values(), *tried.experiments.values()):
            kept.keep(each, models, Path(str(filled["folder"])))
        filled["story"] = told
    monkeypatch.setenv(FOLDER_VARIABLE, str(filled["folder"]))
    told = filled["story"]
    assert isinstance(told, Story)
    return told


def best(story: Story) -> pd.DataFrame:
    tables = [
        candidates_table(decisions_table(each, POLICY), exits_table(each), EARLY, STATIC)
        for each in story.on_model.values()
    ]
    return ranked(pd.concat(tables, ignore_index=True), POLICY.threshold)


def is_told(test: AppTest) -> bool:
    return bool(test.title) and not any(button.key == "cancel-story" for button in test.button)


def told(**query: str) -> AppTest:
    """The page opened cold by its link, with its result."""
    test = finished(opened("story", **query), is_told)
    assert not test.exception and not test.error
    return test


def said(test: AppTest) -> str:
    texts = [element.value for element in (*test.title, *test.markdown, *test.caption, *test.info)]
    return "\n".join(texts).replace("\u00a0", " ")


def pictures(test: AppTest) -> list[str]:
    """What is said in place of each picture."""
    return [image.alt for element in test.get("image") for image in element.proto.imgs]


def charts(test: AppTest) -> int:
    return len(test.get("plotly_chart"))


# The five steps


def test_opened_cold_with_nothing_kept_it_attacks_picks_and_tells(stage: Zoo) -> None:
    # Mutants: a page that waits for a click; one without progress and Cancel meanwhile.
    test = opened("story")
    assert not test.exception and not test.error
    if not is_told(test):
        assert any("attacked now, on this machine" in text.value for text in test.markdown)
    test = finished(test, is_told)
    assert test.title[0].value == "An easy picture gets an early answer" and charts(test) == 1
    assert test.segmented_control(key="scene").value == SCENES[0]


def test_each_step_opens_cold_by_its_link_and_says_what_the_tables_say(story: Story) -> None:
    # Mutants: a link that always opens the first step; clean and adversarial swapped; another picture at every step.
    row, names = best(story).iloc[0], story.image_set.class_names
    truth, answer = names[row.label], names[row.answer]
    first = told()
    costs = load_card(EARLY).exit_costs
    assert f"**Exit {row.clean_exit + 1}** it was sure enough: **{truth}**" in said(first)
    assert f"**{100 * costs[row.clean_exit]:.0f} %**" in said(first)
    noise = told(scene=SCENES[1])
    assert "**1 of 255 steps**" in said(noise) and charts(noise) == 0
    assert [alt.split(":")[0] for alt in pictures(noise)] == ["Before", "The noise, ×120 to be seen", "After"]
    wrong = told(scene=SCENES[2])
    assert f"it says **{answer}** after {100 * costs[row.adversarial_exit]:.0f} % of the work" in said(wrong)
    assert f"would have said **{truth}**" in said(wrong) and "So does its twin ■ Toy static" in said(wrong)
    assert f"wrong · confidence {row.adversarial_confidence:.2f}" in said(wrong) and charts(wrong) == 1
    for each in (first, noise, wrong):
        assert row.image_id in said(each) and all(pictures(each))


def test_the_price_is_counted_with_its_denominator_and_the_twin_falls_too(story: Story) -> None:
    # Mutants: rates of another radius; the twin under the model's attack instead of its own.
    test = told(scene=SCENES[3])
    early_attack = story.on_model[SMALLEST].results[EARLY].success_rate(POLICY)
    own = story.on_twin[SMALLEST].results[STATIC].success_rate(POLICY)
    assert test.title[0].value == f"Not one unlucky picture: {early_attack.num_hits} of {early_attack.num_images}"
    for share in (early_attack, own):
        interval = f"{100 * share.value:.0f} % ({100 * share.low:.0f}–{100 * share.high:.0f} %)"
        assert f"**{share.num_hits} of {share.num_images}**" in said(test) and interval in said(test)
    assert own.num_hits and "attacked itself, the twin falls, too" in said(test)
    assert len(pictures(test)) == 20 and sum("fooled" in alt for alt in pictures(test)) == early_attack.num_hits
    assert charts(test) == 1


def test_what_helps_is_measured_anew_and_said_plainly(story: Story) -> None:
    # Mutants: the old attacks judged under the new threshold; a cost that is not that of the stricter policy.
    test = told(scene=SCENES[4])
    models = {EARLY: load_model(EARLY)}
    samples = open_image_set(IMAGES)
    strict = ExitPolicy(0.99)
    spec = ExperimentSpec(IMAGES, (EARLY,), (EARLY,), story.on_model[SMALLEST].spec.attack, strict)
    anew = decisions_table(run_experiment(spec, samples, models), strict)
    before = story.on_model[SMALLEST].results[EARLY].success_rate(POLICY).num_hits
    assert f"**{before} → {int((anew.succeeded & anew.attackable).sum())}**" in said(test)
    assert f"→ {100 * anew.clean_cost.mean():.0f} %**" in said(test)
    assert "only when **0.99** sure instead of 0.90" in said(test) and charts(test) == 1


def test_next_and_back_go_through_the_steps_and_stop_at_the_ends(story: Story) -> None:
    # Mutants: a button that goes the other way, or beyond the last step.
    test = told()
    assert test.button(key="story-back").disabled
    for scene in SCENES[1:4]:
        test = finished(test.button(key="story-next").click().run(), is_told)
        assert test.segmented_control(key="scene").value == scene
    test = finished(test.button(key="story-back").click().run(), is_told)
    assert test.segmented_control(key="scene").value == SCENES[2] and not test.exception
    test = finished(test.segmented_control(key="scene").set_value(SCENES[4]).run(), is_told)
    assert test.button(key="story-next").disabled and not test.button(key="story-back").disabled


def test_what_is_kept_is_not_attacked_again(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: kept runs that are not looked for.
    monkeypatch.setattr("core.experiment.attack", lambda *args, **kwargs: pytest.fail("an attack ran"))
    assert told().title and told(scene=SCENES[4]).title


# What is told


def test_another_picture_can_be_chosen_and_stands_in_the_link(story: Story) -> None:
    # Mutants: a choice without effect; a list of pictures that do not tell; a link that forgets it.
    order = best(story)
    test = told()
    box = test.selectbox(key="told_with")
    assert len(box.options) == len(order) and box.value == order.iloc[0].image_id
    other = order.iloc[1]
    label = next(option for option in box.options if option.startswith(f"{other.image_id.rsplit('/', 1)[-1]} ·"))
    assert label.count("·") == 1, "an index and a class, which no threshold moves"
    linked = told(told_with=f"{label} → frog · 1/255")  # as links of old said it
    assert linked.selectbox(key="told_with").value == other.image_id
    linked = told(told_with=label)
    assert linked.selectbox(key="told_with").value == other.image_id and other.image_id in said(linked)
    assert f"**{len(order)} tell this story**" in said(linked) and "Of 20 pictures" in said(linked)


def kept_address(folder: Path, attack: object, source: str = EARLY, policy: ExitPolicy = POLICY) -> dict[str, str]:
    """Addresses of the examples of a run kept now, by image id."""
    samples = open_image_set(IMAGES)
    models = {name: load_model(name) for name in (EARLY, STATIC)}
    targets = (source, STATIC if source == EARLY else EARLY)
    spec = ExperimentSpec(IMAGES, (source,), targets, attack, policy)  # type: ignore[arg-type]
    run = kept.keep(run_experiment(spec, samples, models), models, folder)
    return {image_id: f"{run.key}:{image_id}:{source}" for image_id in run.image_ids}


def test_a_kept_example_that_tells_the_story_is_told(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutants: the picked picture told all the same; controls that stay as they were; its noise not its own.
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "kept"))
    policy = ExitPolicy(0.8)
    addresses = kept_address(tmp_path / "kept", early(2 / 255), policy=policy)
    rows = kept.read_kept(tmp_path / "kept").examples
    rows = rows[rows.taken_broken_final_kept & (rows.clean_computed_exit < 3) & (rows.adversarial_computed_exit < 3)]
    image_id = rows.iloc[-1].image_id
    test = told(example=addresses[image_id], scene=SCENES[1])
    assert image_id in said(test) and "**2 of 255 steps**" in said(test) and "Early Attack 2/255" in said(test)
    assert (test.selectbox(key="model").value, test.slider(key="threshold").value) == (EARLY, 0.8)
    assert not test.info and "sent here from the gallery" in said(test)
    # Its price is that of its own model and policy.
    often = told(example=addresses[image_id], scene=SCENES[3])
    assert "Noise of at most 2/255" in said(often) and "made at T = 0.80" in said(often)
    # Moved controls no longer fit it: it steps aside, and comes back.
    moved = finished(test.slider(key="threshold").set_value(0.9).run(), is_told)
    assert "another network or threshold" in said(moved) and "example" not in moved.query_params
    back = next(button for button in moved.button if button.label == "Back to that example").click().run()
    back = finished(back, is_told)
    assert image_id in said(back) and back.slider(key="threshold").value == 0.8 and not back.info
    away = next(button for button in back.button if button.label.startswith("Tell it with a picture")).click().run()
    away = finished(away, is_told)
    assert not away.info and "example" not in away.query_params and "sent here" not in said(away)


def test_an_example_that_went_meanwhile_is_declined_kindly_when_it_is_to_come_back(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutants: looked up in the callback, whose errors are stack traces; an offer that stays and leads nowhere.
    folder = tmp_path / "kept"
    shutil.copytree(kept.kept_folder(), folder)
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    before = {path.name for path in folder.iterdir()}
    addresses = kept_address(folder, early(2 / 255), policy=ExitPolicy(0.8))
    rows = kept.read_kept(folder).examples
    rows = rows[rows.taken_broken_final_kept & (rows.clean_computed_exit < 3) & (rows.adversarial_computed_exit < 3)]
    test = told(example=addresses[rows[~rows.run.isin(before)].iloc[-1].image_id])
    moved = finished(test.slider(key="threshold").set_value(0.9).run(), is_told)
    (gone,) = {path.name for path in folder.iterdir()} - before
    kept.remove(gone, folder)
    back = next(button for button in moved.button if button.label == "Back to that example").click().run()
    back = finished(back, is_told)
    assert not back.exception and not back.error and len(back.info) == 1
    assert "is not kept here" in back.info[0].value and "instead" in back.info[0].value
    assert not any(button.label == "Back to that example" for button in back.button)


def test_a_kept_l2_example_is_told_by_its_largest_change(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutants: the length of the whole change taken for that of a pixel: refused as visible, or said in steps of 255.
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "kept"))
    addresses = kept_address(tmp_path / "kept", l2_attack("pgd", 0.05, objective="exit", exit_index=0))
    rows = kept.read_kept(tmp_path / "kept").examples
    rows = rows[rows.taken_broken_final_kept & (rows.clean_computed_exit < 3) & (rows.adversarial_computed_exit < 3)]
    row = rows[rows.linf < 4 / 255].iloc[0]
    test = told(example=addresses[row.image_id], scene=SCENES[1])
    assert row.image_id in said(test) and not test.info
    levels = float(re.search(r"more than \*\*([\d.]+) of 255 steps\*\*", said(test))[1])
    assert 255 * row.linf - 1e-4 <= levels <= 255 * row.linf + 0.01
    radius = next(each for each in (1, 2, 4) if each >= levels)
    assert f"Noise of at most {radius}/255" in said(told(example=addresses[row.image_id], scene=SCENES[3]))


@pytest.mark.parametrize(
    ("attack", "source", "why"),
    [
        (early(8 / 255, step_size=8 / 255), EARLY, "can be seen on a large picture"),
        (pgd(1 / 255, step_size=1e-6, num_steps=1), EARLY, "still right"),
        (pgd(2 / 255, objective="final"), STATIC, "static network"),
    ],
)
def test_a_kept_example_that_does_not_tell_it_is_declined_kindly(
    attack: object, source: str, why: str, story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutants: told all the same; an error instead of another picture; controls set to what cannot tell.
    folder = tmp_path / "kept"
    folder.mkdir()
    for run in Path(kept.kept_folder()).iterdir():  # so that the story itself needs no attack
        (folder / run.name).symlink_to(run)
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    addresses = kept_address(folder, attack, source)
    row = best(story).iloc[0]
    test = told(example=addresses[row.image_id])
    assert len(test.info) == 1 and why in test.info[0].value and "instead" in test.info[0].value
    assert test.title[0].value == "An easy picture gets an early answer" and row.image_id in said(test)
    assert test.selectbox(key="model").value == EARLY


@pytest.mark.parametrize("address", ["nonsense", "0123456789abcdef:cifar10/test/0:nobody"])
def test_an_address_of_nothing_is_named_and_the_picked_story_told(address: str, story: Story) -> None:
    # Mutant: a stack trace, or an error in the place of the story.
    test = told(example=address)
    assert len(test.info) == 1 and address in test.info[0].value and test.title


def test_the_gallery_sends_its_examples_here(story: Story) -> None:
    # Mutants: no link; a link to another example.
    run = next(run for run in kept.read_kept().runs.values() if run.spec.model == EARLY)
    address = f"{run.key}:{run.image_ids[0]}:{EARLY}"
    test = opened("gallery", example=address)
    links = [link.proto for link in test.get("page_link") if link.proto.label == "Send to Story"]
    assert (
        len(links) == 1
        and "story" in links[0].page
        and address.replace(":", "%3A") in links[0].query_string.replace(":", "%3A").replace("%2F", "/")
    )


# Where there is little, or nothing to tell


def test_a_static_model_is_offered_its_twin_and_alone_says_why(stage: Zoo) -> None:
    # Mutant: an attack on early exits that are not there ends the page.
    test = opened("story", model="■ Toy static")
    assert not test.exception and not test.error and "no early exit" in test.info[0].value
    next(button for button in test.button if "Toy early-exit" in button.label).click().run()
    assert test.selectbox(key="model").value == EARLY and not test.exception
    stage.remove(EARLY)
    alone = opened("story")
    assert "no early exit" in alone.info[0].value and not alone.exception
    assert any("no early-exit twin" in caption.value for caption in alone.caption)


def test_without_a_twin_the_story_is_told_all_the_same(story: Story, stage: Zoo) -> None:
    # Mutants: a twin taken for granted on any step.
    stage.remove(STATIC)
    for scene in SCENES:
        test = told(scene=scene)
        assert "Its twin" not in said(test)
    assert "there is none here yet" in said(told(scene=SCENES[2]))
    assert "There is no twin to compare with" in said(told(scene=SCENES[3]))


def test_no_model_at_all_gives_one_sentence(stage: Zoo) -> None:
    # Mutant: a page that insists on models.
    stage.remove(EARLY)
    stage.remove(STATIC)
    test = opened("story")
    assert not test.exception and len(test.error) == 1 and "no model here" in test.error[0].value


def test_where_no_picture_tells_it_says_why_and_what_to_do(story: Story) -> None:
    # Mutants: an empty page; a reason that is not the most frequent one; a button that leaves the threshold alone.
    test = finished(opened("story", threshold="1.0"), lambda page: bool(page.info))
    assert not test.exception and not test.title
    assert "None of these 20 pictures tells the story at threshold 1.00" in test.info[0].value
    assert "does not leave early" in test.info[0].value
    button = next(button for button in test.button if button.label == "Set the threshold to 0.90")
    assert finished(button.click().run(), is_told).slider(key="threshold").value == 0.9


def test_cancelled_it_waits_for_a_click(stage: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutants: a story that begins anew by itself; a Run button that starts nothing.
    from core.attacks import run as attacks

    slow = attacks.METHODS[type(early())].steps
    method = replace(attacks.METHODS[type(early())], steps=lambda *args: (__import__("time").sleep(1), slow(*args))[1])
    monkeypatch.setitem(attacks.METHODS, type(early()), method)
    test = opened("story")
    test.button(key="cancel-story").click().run()
    test = finished(test, lambda page: any("Cancelled" in each.value for each in page.info))
    assert not test.title and not test.exception
    monkeypatch.undo()


def test_many_pictures_wait_for_a_click_with_an_estimate(stage: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: a minute of attacks that nobody asked for.
    monkeypatch.setattr("ui.story.CROWDS", (10, 20))
    monkeypatch.setattr("ui.story.NUM_PICTURES", 10)
    test = opened("story", looked_at="the first 20")
    assert re.search(r"about \d+ s at most", said(test)) and not test.title and not test.exception
    assert test.button(key="story-run")
