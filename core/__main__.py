"""The command line: ``python -m core COMMAND --help``."""

import json
import logging
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from core.errors import Cancelled, ExitLensError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command()
def models(
    as_json: AsJson = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the cards as checkpoints/README.md holds them.")
    ] = False,
) -> None:
    """The models that are ready, with test accuracy and cost at every exit."""
    from core.card_text import cards_markdown
    from core.checkpoints import list_models, load_card

    cards = [load_card(name) for name in list_models()]
    if as_markdown:
        print(cards_markdown(cards), end="")
        return
    if as_json:
        rows = [
            {
                "name": card.name,
                "dataset": card.dataset,
                "architecture": card.architecture,
                "kind": card.kind,
                "num_exits": card.num_exits,
                "test_accuracy": [share.value for share in card.test],
                "num_test_images": card.test[0].num_images,
                "exit_costs": list(card.exit_costs),
            }
            for card in cards
        ]
        print(json.dumps({"models": rows}))
        return
    for card in cards:
        print(f"{card.name}: {card.num_exits} exits, {card.num_parameters:,} parameters")
        accuracy = "  ".join(f"{100 * share.value:.1f} %" for share in card.test)
        print(f"  accuracy  {accuracy}  (n = {card.test[0].num_images:,}, {card.test_set})")
        print(f"  cost      {'  '.join(f'{100 * cost:.1f} %' for cost in card.exit_costs)}")
        if not card.stops_early:
            print("  cannot stop early: it computes all exits for every image, and its costs are those its owner gave")


data_commands = typer.Typer()
app.add_typer(data_commands, name="data")


@data_commands.callback(invoke_without_command=True)
def data(context: typer.Context, as_json: AsJson = False) -> None:
    """The image sets that can be opened here, and why the others cannot; `fetch` brings more."""
    if context.invoked_subcommand:
        return
    from core.data import list_image_sets

    statuses = list_image_sets()
    if as_json:
        print(json.dumps({"image_sets": [asdict(status) for status in statuses]}))
        return
    for status in statuses:
        print(f"{status.name:24} {f'{status.num_images:,} images' if status.is_ready else status.problem}")


@data_commands.command()
def fetch(
    name: Annotated[str, typer.Argument(help="cifar10, cifar100 or tiny-imagenet.")],
    origin: Annotated[
        str | None, typer.Option("--from", help="The official archive as a file or at another address.")
    ] = None,
    any_checksum: Annotated[
        bool, typer.Option("--any-checksum", help="With --from: take an archive that was packed anew.")
    ] = False,
) -> None:
    """Download a data set from its authors, check it, and store it in the data root."""
    from core.fetch import fetch as bring
    from core.progress import Progress

    # Delayed, so that what fails at once is one line.
    with tqdm(total=100, bar_format="{l_bar}{bar}| {elapsed}<{remaining}", delay=0.2, file=sys.stderr) as bar:

        def on_progress(progress: Progress) -> None:
            bar.set_description(progress.words, refresh=False)
            bar.n = round(100 * progress.share)
            bar.update(0)

        fetched = bring(name, origin, any_checksum=any_checksum, on_progress=on_progress, cancel=_cancel_on_interrupt())
    parts = " and ".join(f"{count:,} {split} images" for split, count in fetched.written.items())
    print(f"Wrote {parts} of {name} to {fetched.folder}.")
    if fetched.kept:
        print(f"Kept the {fetched.kept[0]} images that were there already.")


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Models; all of them without.")] = None,
    images: Annotated[
        str | None, typer.Option(help="Only cards measured on this image set; without, each on its own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the accuracies on the cards again; exit status 1 where one does not agree or cannot be measured."""
    from core import checkpoints
    from core.data import open_image_set

    image_sets = {images: open_image_set(images)} if images else {}
    cards = [checkpoints.load_card(name) for name in names or checkpoints.list_models()]
    wanted = [card for card in cards if names or images in (None, card.test_set)]
    if not wanted:
        raise ExitLensError(
            f"No model in {checkpoints.checkpoints_folder()} was measured on {images or 'any image set'}."
        )
    outcomes, num_failed = [], 0
    for card in tqdm(wanted, disable=as_json, file=sys.stderr):
        try:
            name = images or card.test_set
            image_sets[name] = image_sets.get(name) or open_image_set(name)
            outcomes.append(checkpoints.verify(card.name, image_sets[name]))
        except ExitLensError as error:
            # One model that cannot be measured, such as an import whose code is gone, must not hide the others.
            if names:
                raise
            num_failed += 1
            tqdm.write(f"error: {card.name}: {error}", file=sys.stderr)
    if as_json:
        print(json.dumps({"models": [{**asdict(outcome), "agrees": outcome.agrees} for outcome in outcomes]}))
    else:
        for outcome in outcomes:
            pairs = zip(outcome.card, outcome.measured, strict=True)
            shown = "  ".join(f"{old.value:.4f}/{new.value:.4f}" for old, new in pairs)
            print(f"{outcome.name}: {'agrees' if outcome.agrees else 'DIFFERS'} (card/measured per exit) {shown}")
    if num_failed or not all(outcome.agrees for outcome in outcomes):
        raise typer.Exit(1)


@app.command()
def import_model(
    factory: Annotated[
        str,
        typer.Argument(
            help="The function that returns the network: package.module:function or path/to/file.py:function. "
            "Its code runs now and whenever the model is loaded: name only code that you trust."
        ),
    ],
    weights: Annotated[Path, typer.Option(help="State dict: .safetensors, or .pt as torch.save wrote it.")],
    card: Annotated[Path, typer.Option(help="What you say about the model, TOML or JSON: see docs/import-model.md.")],
) -> None:
    """Make a network of your own a model like any other."""
    from core.importing.model import import_model as bring

    made = bring(factory, weights, card)
    costs = "  ".join(f"{100 * cost:.1f} %" for cost in made.card.exit_costs)
    accuracy = "  ".join(f"{100 * share.value:.1f} %" for share in made.card.test)
    print(f"Wrote {made.place}: {made.card.label}, {made.card.num_exits} exits")
    print(f"  accuracy  {accuracy}  (n = {made.card.test[0].num_images:,}, {made.card.test_set})")
    print(f"  cost      {costs}")
    for note in made.notes:
        print(note)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped recipe.")],
    out: Annotated[Path | None, typer.Option(help="Where the finished model goes; checkpoints/ without.")] = None,
    state: Annotated[
        Path | None, typer.Option(help="Where unfinished trainings lie; the user's cache without.")
    ] = None,
    compiled: Annotated[bool, typer.Option(help="Compile the network; needs a C++ compiler.")] = True,
) -> None:
    """Train a model, going on where an earlier run stopped, and write its weights and card."""
    from core.checkpoints import save_model
    from core.data import open_image_set
    from core.training.finish import finish
    from core.training.loop import Epoch
    from core.training.loop import train as run_training
    from core.training.recipe import load_recipe

    chosen = load_recipe(recipe)
    training, validation = (open_image_set(f"{chosen.dataset}:{split}") for split in ("train", "validation"))
    test = open_image_set(f"{chosen.dataset}:test")
    bar = tqdm(unit="step", file=sys.stderr)

    def on_step(step: int, num_steps: int) -> None:
        bar.total = num_steps
        bar.n = step
        bar.update(0)

    def on_epoch(epoch: Epoch) -> None:
        accuracy = " ".join(f"{value:.3f}" for value in epoch.validation_accuracy)
        tqdm.write(
            f"epoch {epoch.number}/{epoch.num_epochs}  loss {epoch.mean_loss:.3f}  validation {accuracy}  "
            f"{epoch.seconds:.0f} s",
            file=sys.stderr,
        )

    model, seconds = run_training(
        chosen, training, validation, state_folder=state, compiled=compiled, on_step=on_step, on_epoch=on_epoch
    )
    bar.close()
    payload, card = finish(chosen, model, seconds, validation, test)
    print(f"Wrote {save_model(payload, card, out)}: final exit {100 * card.test[-1].value:.2f} % on {card.test_set}.")


@app.command()
def attack(
    model: Annotated[str, typer.Option(help="A model of `python -m core models`.")],
    images: Annotated[str, typer.Option(help="Such as cifar10:test:0-99 or cifar10:samples.")],
    out: Annotated[Path, typer.Option(help="Folder for perturbations, tables and summary.")],
    attack: Annotated[str, typer.Option(help="fgsm, pgd, mi-fgsm or early.")] = "pgd",
    epsilon: Annotated[str, typer.Option(help="Radius, such as 8/255 or 0.03.")] = "8/255",
    step_size: Annotated[str | None, typer.Option(help="Length of a step; the preset's without.")] = None,
    steps: Annotated[int | None, typer.Option(help="Gradient steps; the preset's without.")] = None,
    decay: Annotated[float | None, typer.Option(help="Momentum; the preset's without.")] = None,
    random_start: Annotated[bool, typer.Option(help="Start inside the ball instead of at the image.")] = False,
    objective: Annotated[str, typer.Option(help="taken, final, mean, or exit-1 … exit-K.")] = "taken",
    tries: Annotated[int | None, typer.Option(help="Exits that an early attack goes through in turn.")] = None,
    goal_class: Annotated[int | None, typer.Option(help="Class to reach, 0-based: a targeted attack.")] = None,
    stop_when_fooled: Annotated[bool, typer.Option(help="Leave each image alone once it is fooled.")] = False,
    threshold: Annotated[float, typer.Option(help="Confidence that is enough to leave.")] = 0.9,
    fallback: Annotated[str, typer.Option(help="When no exit is sure: final or most_confident.")] = "final",
    seed: Annotated[int, typer.Option(help="Draws random starts.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Attack images on one model; write perturbations, tables and a summary."""
    from core.attacks.spec import PRESETS, AttackSpec, early
    from core.checkpoints import load_model
    from core.data import open_image_set
    from core.exits import ExitPolicy
    from core.experiment import ExperimentSpec, attack_for, run_experiment
    from core.export import experiment_summary, write_experiment

    if attack not in (*PRESETS, "early"):
        raise ExitLensError(f"Unknown attack {attack!r}. Choose one of {', '.join(PRESETS)} and early.")
    kind, exit_index = _parse_objective(objective)
    chosen: dict[str, Any] = {"step_size": _parse_length(step_size), "num_steps": steps, "decay": decay}
    fields = {name: value for name, value in chosen.items() if value is not None}
    fields |= {"epsilon": _parse_length(epsilon), "exit_index": exit_index}
    spec: AttackSpec
    if attack == "early":
        if random_start or stop_when_fooled or goal_class is not None or kind not in ("taken", "exit"):
            raise ExitLensError(
                "An early attack goes from the image on, for any wrong class, through exits: leave out "
                "--random-start, --stop-when-fooled and --goal-class, and aim at taken or at an exit."
            )
        spec = early(**fields, **({} if tries is None else {"num_tries": tries}))
    elif tries is not None:
        raise ExitLensError("Only an early attack tries several exits: leave out --tries, or give --attack early.")
    else:
        spec = PRESETS[attack](
            random_start=random_start,
            objective=kind,
            goal_class=goal_class,
            stop_when_fooled=stop_when_fooled,
            seed=seed,
            **fields,
        )
    policy = ExitPolicy(threshold, fallback)  # type: ignore[arg-type]
    network, card = load_model(model)
    image_set = open_image_set(images)
    if image_set.dataset != card.dataset:
        raise ExitLensError(f"{model} knows {card.dataset}; {images} are images of {image_set.dataset}.")
    spec.check_model(card.num_exits, card.num_classes)
    asked = ExperimentSpec(images, (model,), (model,), attack_for(card, spec), policy)
    with tqdm(total=100, unit="%", disable=as_json, file=sys.stderr) as bar:

        def on_progress(progress: Any) -> None:
            bar.n = round(100 * progress.share)
            bar.update(0)

        experiment = run_experiment(
            asked, image_set, {model: (network, card)}, on_progress=on_progress, cancel=_cancel_on_interrupt()
        )
    summary = experiment_summary(experiment, policy)
    write_experiment(experiment, policy, out)
    if as_json:
        print(json.dumps(summary))
    else:
        print(f"{summary['attack']}: {summary['headline']}\nWrote {out}.")


bench_commands = typer.Typer(no_args_is_help=True)
app.add_typer(bench_commands, name="bench", help="Measure speed on this machine; nothing else should run meanwhile.")


@bench_commands.command("app")
def bench_app() -> None:
    """How long the dashboard keeps a viewer waiting, in a real browser; writes benchmarks/app.json."""
    from benchmarks.app import measure_app, write_result

    waits = measure_app()
    for wait in waits:
        shown = " ".join(f"{seconds:.2f}" for seconds in wait.seconds)
        print(f"{wait.name}: median {wait.median:.2f} s of {shown} (promised {wait.limit_seconds:g} s)")
    print(f"Wrote {write_result(waits)}.")


def _parse_length(text: str | None) -> float | None:
    if text is None:
        return None
    numerator, _, denominator = text.partition("/")
    try:
        return float(numerator) / (float(denominator) if denominator else 1.0)
    except (ValueError, ZeroDivisionError) as error:
        raise ExitLensError(f"Cannot read the pixel length {text!r}. Write 8/255 or 0.03.") from error


def _parse_objective(text: str) -> tuple[str, int | None]:
    if not text.startswith("exit-"):
        return text, None
    number = text.removeprefix("exit-")
    if not number.isdecimal() or int(number) == 0:
        raise ExitLensError(f"Unknown objective {text!r}. Write taken, final, mean, or exit-1, exit-2 …")
    return "exit", int(number) - 1


def _cancel_on_interrupt() -> threading.Event:
    token = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: token.set())
    return token


def main(run: Callable[[], None] = app) -> None:
    """Runs a command; an error that users may see becomes one sentence and exit status 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        run()
    except ExitLensError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Cancelled:
        print("Cancelled; nothing was written.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
