"""The command line: ``python -m core COMMAND --help``."""

import json
import logging
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

from core import bench
from core.device_options import Device, Precision
from core.errors import Cancelled, ExitLensError
from core.study.commands import app as study_commands

if TYPE_CHECKING:
    from core.checkpoints import ModelCard

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

    cards, num_unreadable = _readable_cards()
    if as_markdown:
        print(cards_markdown(cards), end="")
    elif as_json:
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
    else:
        for card in cards:
            print(f"{card.name}: {card.num_exits} exits, {card.num_parameters:,} parameters")
            accuracy = "  ".join(f"{100 * share.value:.1f} %" for share in card.test)
            print(f"  accuracy  {accuracy}  (n = {card.test[0].num_images:,}, {card.test_set})")
            print(f"  cost      {'  '.join(f'{100 * cost:.1f} %' for cost in card.exit_costs)}")
            if not card.stops_early:
                print(
                    "  cannot stop early: it computes all exits for every image, and its costs are those its owner gave"
                )
    if num_unreadable:
        raise typer.Exit(1)


def _readable_cards() -> tuple[list["ModelCard"], int]:
    """Cards of all models, and how many cannot be read: of each of those one line on stderr."""
    from core.checkpoints import list_models, load_card

    cards, num_unreadable = [], 0
    for name in list_models():
        try:
            cards.append(load_card(name))
        except ExitLensError as error:
            num_unreadable += 1
            print(f"error: {name}: {error}", file=sys.stderr)
    return cards, num_unreadable


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
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Measure the accuracies on the cards again; exit status 1 where one does not agree or cannot be measured."""
    from core import checkpoints
    from core.data import open_image_set

    image_sets = {images: open_image_set(images)} if images else {}
    cards, num_failed = ([checkpoints.load_card(name) for name in names], 0) if names else _readable_cards()
    wanted = [card for card in cards if names or images in (None, card.test_set)]
    if not wanted:
        raise ExitLensError(
            f"No model in {checkpoints.checkpoints_folder()} was measured on {images or 'any image set'}."
        )
    outcomes = []
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
    device: Device = None,
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
    device: Device = None,
) -> None:
    """Train a model, going on where an earlier run stopped, and write its weights and card."""
    from core.checkpoints import checkpoints_folder, save_model
    from core.data import open_image_set
    from core.export import check_can_be_written
    from core.training.finish import finish
    from core.training.loop import Epoch
    from core.training.loop import train as run_training
    from core.training.recipe import load_recipe

    chosen = load_recipe(recipe)
    check_can_be_written((out or checkpoints_folder()) / chosen.name)
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
    attack: Annotated[
        str,
        typer.Option(
            help="fgsm, pgd, mi-fgsm, early, early-published, slowdown, universal, worst-case, or a corruption such as "
            "gaussian-noise."
        ),
    ] = "pgd",
    norm: Annotated[str, typer.Option(help="Ball of fgsm, pgd and mi-fgsm: linf or l2.")] = "linf",
    epsilon: Annotated[str | None, typer.Option(help="Radius, such as 8/255; the attack's own without.")] = None,
    step_size: Annotated[str | None, typer.Option(help="Length of a step; the attack's own without.")] = None,
    steps: Annotated[int | None, typer.Option(help="Gradient steps; the attack's own without.")] = None,
    decay: Annotated[float | None, typer.Option(help="Momentum; the attack's own without.")] = None,
    random_start: Annotated[bool | None, typer.Option(help="Start inside the ball, or at the image.")] = None,
    objective: Annotated[
        str | None, typer.Option(help="taken, final, mean, max-average, slowdown (universal), or exit-1 … exit-K.")
    ] = None,
    tries: Annotated[int | None, typer.Option(help="Exits that an early attack goes through in turn.")] = None,
    goal_class: Annotated[int | None, typer.Option(help="Class to reach, 0-based: a targeted attack.")] = None,
    stop_when_fooled: Annotated[bool | None, typer.Option(help="Leave each image alone once it is fooled.")] = None,
    alpha: Annotated[float | None, typer.Option(help="early-published: how much the final exit counts.")] = None,
    start: Annotated[str | None, typer.Option(help="early-published: random, or image.")] = None,
    loss: Annotated[
        str | None,
        typer.Option(help="early-published: probabilities or logits; slowdown: uniform or confidence."),
    ] = None,
    fitted_on: Annotated[str | None, typer.Option(help="universal: images of validation that it is fitted on.")] = None,
    restarts: Annotated[int | None, typer.Option(help="worst-case: starts of every step attack.")] = None,
    severity: Annotated[int | None, typer.Option(help="Of a corruption, 1 to 5.")] = None,
    threshold: Annotated[float, typer.Option(help="Confidence that is enough to leave.")] = 0.9,
    fallback: Annotated[str, typer.Option(help="When no exit is sure: final or most_confident.")] = "final",
    seed: Annotated[int | None, typer.Option(help="Draws what is random.")] = None,
    checks: Annotated[bool, typer.Option(help="Look for signs that the result misleads: docs/checks.md.")] = True,
    precision: Precision = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Attack images on one model; write perturbations, tables and a summary."""
    from core.attacks.checks import check_attack
    from core.attacks.command import Options, parse_length, spec_from
    from core.checkpoints import load_model
    from core.data import open_image_set
    from core.exits import ExitPolicy
    from core.experiment import ExperimentSpec, attack_for, run_experiment
    from core.export import check_can_be_written, experiment_summary, write_experiment
    from core.models.prepared import prepared

    fields = {
        "epsilon": parse_length(epsilon),
        "step_size": parse_length(step_size),
        "num_steps": steps,
        "decay": decay,
        "random_start": random_start,
        "num_tries": tries,
        "goal_class": goal_class,
        "stop_when_fooled": stop_when_fooled,
        "alpha": alpha,
        "start": start,
        "loss": loss,
        "fitted_on": fitted_on,
        "num_restarts": restarts,
        "severity": severity,
        "seed": seed,
    }
    spec = spec_from(Options(attack, norm, objective, fields))
    policy = ExitPolicy(threshold, fallback)  # type: ignore[arg-type]
    network, card = load_model(model)
    image_set = open_image_set(images)
    if image_set.dataset != card.dataset:
        raise ExitLensError(f"{model} knows {card.dataset}; {images} are images of {image_set.dataset}.")
    spec.check_model(card.num_exits, card.num_classes)
    asked = ExperimentSpec(images, (model,), (model,), attack_for(card, spec), policy)
    check_can_be_written(out)
    cancel = _cancel_on_interrupt()
    with tqdm(total=100, unit="%", disable=as_json, file=sys.stderr) as bar:

        def on_progress(progress: Any) -> None:
            bar.n = round(100 * progress.share)
            bar.update(0)

        experiment = run_experiment(asked, image_set, {model: (network, card)}, on_progress=on_progress, cancel=cancel)
    summary = experiment_summary(experiment, policy)
    result = experiment.results[model]
    found = check_attack(network, result, search=prepared(network), cancel=cancel) if checks else None
    write_experiment(experiment, policy, out, found.notes if found else None)
    notes = found.notes if found else ()
    if as_json:
        print(json.dumps(summary | ({"notes": [asdict(note) for note in notes]} if found else {})))
        return
    print(f"{summary['attack']}: {summary['headline']}")
    for note in notes:
        print(f"note {note.code}: {note.text} See docs/checks.md.")
    print(f"Wrote {out}.")


@app.command()
def white_box(
    model: Annotated[str, typer.Option(help="A model of `python -m core models`.")],
    images: Annotated[str, typer.Option(help="Such as cifar10:test:0-199.")],
    epsilon: Annotated[str, typer.Option(help="Radius, such as 1/255.")] = "1/255",
    steps: Annotated[int, typer.Option(help="Gradient steps of each attack, a quarter of the radius each.")] = 20,
    restarts: Annotated[int, typer.Option(help="Starts of every step attack; the first at the image.")] = 2,
    threshold: Annotated[float, typer.Option(help="Confidence that is enough to leave.")] = 0.9,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """White-box accuracy: what every objective leaves standing, and their worst case, image by image."""
    from core import white_box as measuring
    from core.attacks.command import parse_length
    from core.attacks.spec import WorstCaseAttack
    from core.checkpoints import load_model
    from core.data import open_image_set
    from core.exits import ExitPolicy

    radius = parse_length(epsilon) or 0.0
    spec = WorstCaseAttack(epsilon=radius, step_size=radius / 4, num_steps=steps, num_restarts=restarts)
    policy, image_set = ExitPolicy(threshold), open_image_set(images)
    network, card = load_model(model)
    if image_set.dataset != card.dataset:
        raise ExitLensError(f"{model} knows {card.dataset}; {images} are images of {image_set.dataset}.")
    with tqdm(total=100, unit="%", disable=as_json, file=sys.stderr) as bar:

        def on_progress(progress: Any) -> None:
            bar.n = round(100 * progress.share)
            bar.update(0)

        pixels, cancel = image_set.pixels(), _cancel_on_interrupt()
        outcome = measuring.white_box(
            network, pixels, image_set.labels, spec, policy, on_progress=on_progress, cancel=cancel
        )
    rows = outcome.table.to_dict("records")
    if as_json:
        print(json.dumps({"model": model, "weights_sha256": card.weights_sha256, "images": images, "rows": rows}))
        return
    for row in rows:
        interval = f"{100 * row['low']:.1f}–{100 * row['high']:.1f} %"
        counts = f"{row['num_right']} of {row['num_images']}"
        print(f"{row['objective']:12} {100 * row['accuracy']:5.1f} %  ({counts}, {interval})")


app.add_typer(study_commands, name="study")
bench_commands = typer.Typer(no_args_is_help=True)
app.add_typer(bench_commands, name="bench", help="Measure speed on this machine; nothing else should run meanwhile.")


for measure in (bench.attacks, bench.early, bench.slowdown, bench.studies, bench.white_box):
    bench_commands.command(measure.__name__.replace("_", "-"))(measure)


@bench_commands.command("app")
def bench_app() -> None:
    """How long the dashboard keeps a viewer waiting, in a real browser; writes benchmarks/app.json."""
    from benchmarks.app import RESULT, measure_app
    from benchmarks.waits import write_waits

    waits = measure_app()
    _print_waits(waits)
    print(f"Wrote {write_waits(waits, RESULT)}.")


@bench_commands.command("attribution")
def bench_attribution(
    model: Annotated[str, typer.Option(help="A model of `python -m core models`.")] = "cifar10-resnet56-early-exit",
    device: Device = None,
) -> None:
    """How long the maps of one image take at all exits, method by method; writes benchmarks/attribution.json."""
    from benchmarks.attribution import RESULT, measure_attribution
    from benchmarks.waits import write_waits

    waits = measure_attribution(model)
    _print_waits(waits)
    print(f"Wrote {write_waits(waits, RESULT)}.")


def _print_waits(waits: list[Any]) -> None:
    for wait in waits:
        shown = " ".join(f"{seconds:.2f}" for seconds in wait.seconds)
        print(f"{wait.name}: median {wait.median:.2f} s of {shown} (promised {wait.limit_seconds:g} s)")


def _cancel_on_interrupt() -> threading.Event:
    token = threading.Event()

    def stop(*_: object) -> None:
        token.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second one does not wait

    signal.signal(signal.SIGINT, stop)
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
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
