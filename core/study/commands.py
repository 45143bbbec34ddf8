"""The command line of studies: ``python -m core study COMMAND --help``."""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from core.device_options import Device
from core.errors import Cancelled, ExitLensError

app = typer.Typer(no_args_is_help=True, help="Many attacks on many models, in cells that are done once.")
SpecArgument = Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped study.")]


@app.command("list")
def list_studies() -> None:
    """The studies that come with the project."""
    from core.study.spec import load_study, shipped_studies

    for name in shipped_studies():
        spec, _ = load_study(name)
        print(f"{name:16} {spec.title}: {spec.question}")


@app.command()
def run(
    spec: SpecArgument,
    out: Annotated[Path, typer.Option(help="Folder for parts and tables; an earlier run there is gone on with.")],
    workers: Annotated[int | None, typer.Option(help="Processes; one a core without.", min=1)] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Work on Ray: its address, or `local` to start one here.")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(help="GPUs that each cell takes on Ray; 0.5 for two cells on one.", min=0.01)
    ] = None,
    num_images: Annotated[int | None, typer.Option(help="Only the first so many images of each set.", min=1)] = None,
    device: Device = None,
) -> None:
    """Do every cell of a study that is not done yet, and write its tables.

    Stopped in any way, the same command goes on where it was. Ctrl-C finishes the cells and surrogates at hand.
    """
    from dataclasses import replace

    from core.study import workers as places
    from core.study.runner import StudyProgress, run_study
    from core.study.spec import load_study, with_num_images

    if ray and workers:
        raise ExitLensError("Give either --workers or --ray: on Ray, its own CPUs say how many cells run at once.")
    if gpus and not ray:
        raise ExitLensError("--gpus shares out GPUs among cells on Ray: give --ray too, `--ray local` on one machine.")
    study, text = load_study(spec)
    if num_images:
        study, text = replace(study, num_images=num_images), with_num_images(text, num_images)
    count = workers or max(1, (os.cpu_count() or 1) // study.num_threads)
    on_this_machine = places.here if count == 1 else places.spawned(count)
    place = places.on_ray(ray, study.num_threads, gpus or 0) if ray else on_this_machine
    cancel = threading.Event()

    def stop(*_: object) -> None:
        cancel.set()
        tqdm.write("Finishing the cells at hand, or the surrogates; the same command goes on later.", file=sys.stderr)

    signal.signal(signal.SIGINT, stop)
    with tqdm(total=100, bar_format="{l_bar}{bar}| {elapsed}", delay=0.2, file=sys.stderr) as bar:

        def on_progress(progress: StudyProgress) -> None:
            bar.set_description(progress.words, refresh=False)
            bar.n = round(100 * progress.share)
            bar.refresh()

        try:
            done = run_study(study, text, out, place, on_progress=on_progress, cancel=cancel)
        except Cancelled as stopped:  # while surrogates were trained: there are no tables yet
            print(stopped)
            raise typer.Exit(130) from stopped
    print(f"{done.num_done} of {len(done.cells)} cells are done; tables in {out}.")
    if not done.is_complete:
        raise typer.Exit(130)


@app.command()
def claims(
    folder: Annotated[Path, typer.Argument(help="Of a study that was run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Whether what is claimed of early exits holds in this study: holds, does not hold, or undecided."""
    from core.study.claims import count_words, first_policy, interval_words, judge_claims

    table = judge_claims(folder)
    if as_json:
        print(table.to_json(orient="records"))
        return
    if table.empty:
        print("No claim is about this study.")
    for row in first_policy(table).to_dict("records"):
        named = {str(name): value for name, value in row.items()}
        print(f"{named['verdict'].upper():13} {named['text']}")
        print(f"{'':13} {named['measure']} It holds {named['region']}.")
        if measured := interval_words(named):
            elsewhere = f"; {named['elsewhere']}" if named["elsewhere"] else ""
            turns = ", so it depends on the policy" if named["policy_dependent"] else ""
            print(
                f"{'':13} {measured}, {count_words(named)}, {named['scope']}, under {named['policy']}"
                f"{elsewhere}{turns}."
            )


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Of a study that was run.")],
    out: Annotated[Path | None, typer.Option(help="The HTML file; report.html in the folder without.")] = None,
) -> None:
    """Write a study as one HTML file that opens offline."""
    from core.study.parts import write_whole
    from core.study.report import report_html

    path = out or folder / "report.html"
    write_whole(path, report_html(folder).encode())
    print(f"Wrote {path}.")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Of a finished study; its perturbations are not needed.")],
    cells: Annotated[int, typer.Option(help="How many cells are done again.", min=1)] = 3,
    seed: Annotated[int, typer.Option(help="Draws them.")] = 0,
    device: Device = None,
) -> None:
    """Do some cells of a study again and compare every verdict; exit status 1 where fewer than 99 % are the same."""
    from core.progress import Progress
    from core.study.runner import available_cards
    from core.study.verify import verify_study

    with tqdm(total=100, bar_format="{l_bar}{bar}| {elapsed}", delay=0.2, file=sys.stderr) as bar:

        def on_progress(progress: Progress) -> None:
            bar.set_description(progress.words, refresh=False)
            bar.n = round(100 * progress.share)
            bar.refresh()

        verified = verify_study(folder, available_cards(), cells, seed, on_progress)
    print(
        f"{verified.num_same:,} of {verified.num_rows:,} verdicts are the same ({100 * verified.share:.2f} %), in "
        f"{verified.num_cells} cells done again."
    )
    if not verified.agrees:
        raise typer.Exit(1)


@app.command()
def ship(
    folder: Annotated[Path, typer.Argument(help="Of a finished study.")],
    out: Annotated[Path, typer.Option(help="Where its tables go, such as results/transfer.")],
) -> None:
    """Copy the tables of a finished study, without perturbations, as results/ holds them."""
    from core.study import store

    store.ship(folder, out)
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"Wrote {out}: {size / 1e6:.1f} MB.")
