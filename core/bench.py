"""The commands that measure what attacks achieve; each writes JSON beside its benchmark."""

import sys
from typing import Annotated, Any

import typer

from core.device_options import Device


def early(
    images: Annotated[
        str | None,
        typer.Option(help="Image set with its selection; 400 test images without, of the published forms 200."),
    ] = None,
    form: Annotated[list[str] | None, typer.Option(help="Only this form; may be given again.")] = None,
    device: Device = None,
) -> None:
    """What each form of the Early Attack achieves, the weak exit and transfer; hours. Writes benchmarks/early.json."""
    from benchmarks.early import RESULT, measure_early, measure_weak_exits

    for row in measure_early(images, forms=form):
        share, eligible = _percent(row, "rate", "low", "high"), _percent(row, "eligible_share", "eligible")
        everywhere, base = _percent(row, "all_image_rate", "all_image"), _percent(row, "clean_base_rate", "clean_base")
        print(
            f"{row['model']}, {row['form']}: {share} of {row['num_eligible']} eligible ({eligible} of all "
            f"{row['num_images']}); all images {everywhere}, clean {base}; median L∞ "
            f"{255 * row['median_linf']:.2f}/255, L2 {row['median_l2']:.2f}, {row['median_steps']:.0f} steps; "
            f"{_percent(row, 'survive_rate', 'survive')} survive rounding"
        )
    if form is None:
        for row in (measure_weak_exits(images) if images else measure_weak_exits())["exits"]:
            print(f"{row['model']}, through exit {row['exit_index'] + 1}: {100 * row['rate']:.0f} %")
    print(f"Wrote {RESULT}.")


def attacks(
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this section, keeping the others: batch-1, batch-8, batch-64, batch-256, agreement, sweep, "
            "exit-1, stopping or dynamic; may be given again."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="An early-exit model.")] = "cifar10-resnet56-early-exit",
    rounds: Annotated[int | None, typer.Option(help="Timed rounds; 5 to 2 by batch size without.", min=1)] = None,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="Whether compiled forms take part.")] = True,
    device: Device = None,
) -> None:
    """How fast attacks are beside other libraries (requirements-bench.txt), a quarter of an hour.

    Writes benchmarks/attacks.json and docs/speed.md, section by section.
    """
    from benchmarks.attacks import RESULT, Bench, measure_attacks
    from benchmarks.speed_page import PAGE

    def say(words: str) -> None:
        print(f"  {words}", file=sys.stderr, flush=True)

    measure_attacks(Bench(model, compiled, rounds, say), only or (), on_written=say)
    print(f"Wrote {RESULT} and {PAGE}.")


def _percent(row: dict[str, Any], value: str, *ends: str) -> str:
    """A share with its interval: the columns of its ends, or what stands before ``_low`` and ``_high``."""
    low, high = ends if len(ends) == 2 else (f"{ends[0]}_low", f"{ends[0]}_high")
    return f"{100 * row[value]:.1f} % ({100 * row[low]:.0f}–{100 * row[high]:.0f} %)"


def slowdown(
    images: Annotated[str, typer.Option(help="Image set with its selection.")] = "cifar10:test:0-199",
    device: Device = None,
) -> None:
    """What slowdowns take from early exits; writes benchmarks/slowdown.json."""
    from benchmarks.slowdown import RESULT, measure_slowdown

    for row in measure_slowdown(images):
        saving = f"saving {100 * row['clean_mean_saving']:.0f} → {100 * row['adversarial_mean_saving']:.0f} %"
        print(f"{row['model']}, {row['form']}: {row['num_slowed']} of {row['num_could_be_slowed']} slowed, {saving}")
    print(f"Wrote {RESULT}.")


def white_box(
    model: Annotated[str, typer.Option(help="An early-exit model.")] = "cifar10-resnet56-early-exit",
    images: Annotated[str, typer.Option(help="Image set with its selection.")] = "cifar10:test:0-199",
    epsilon: Annotated[str, typer.Option(help="Radius, small enough that not every image falls.")] = "0.5/255",
    device: Device = None,
) -> None:
    """Our worst case beside APGD on the exit taken (requirements-bench.txt); writes benchmarks/white_box.json."""
    from benchmarks.results import write_result
    from benchmarks.white_box import RESULT, measure_white_box
    from core.attacks.command import parse_length

    row = measure_white_box(model, images, parse_length(epsilon) or 0.0)
    for name, accuracy in row["accuracy"].items():
        print(f"{name:12} {100 * accuracy:5.1f} %")
    write_result(RESULT, {"rows": [row]})
    print(f"Wrote {RESULT}.")


def studies(
    model: Annotated[str, typer.Option(help="Attacked by FGSM.")] = "cifar10-resnet56-early-exit",
    device: Device = None,
) -> None:
    """Peak memory and time per image of a study on 1,000 and on 8,000 images; writes benchmarks/studies.json."""
    from benchmarks.studies import RESULT, measure_studies

    for row in measure_studies(model):
        print(
            f"{row['num_images']:,} images: {row['peak_megabytes']:,.0f} MB at most, "
            f"{row['milliseconds_per_image']:.1f} ms an image"
        )
    print(f"Wrote {RESULT}.")
