"""docs/speed.md, made from what ``benchmarks/attacks.json`` holds: no number there was typed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "speed.md"
_INTRODUCTION = (
    "# How fast attacks are\n"
    "Written by `python -m core bench attacks` from `benchmarks/attacks.json`; a test compares the two. The peers "
    "are installed by `pip install --no-deps -r requirements-bench.txt -r requirements-peers.txt`.\n"
    "\n"
    "**What makes ours fast is the model first, not the loop.** An attack by steps is little else than forward and "
    "backward passes, so loops are about as fast on the same model. Before it attacks, "
    "ExitLens prepares a copy of the model: batch norms folded into the convolutions, memory in the order that "
    "convolutions read fastest (channels last), layers after the first 16 bits wide where the processor "
    "multiplies 16 bits itself, and, on request, compiled. Only the layers up to the attacked exit run. The copy "
    "only searches: every verdict is that of the model as it was shipped, in 32 bits. **Then it is how the work is "
    "shared out**: on a processor each thread attacks images of its own, where peers (and the floor) have all "
    "threads woken for every layer. A compiled model is not shared out, nor is a batch below 8.\n"
    "\n"
    "*As loaded* is the network as torch reads it from its file: 32 bits, nothing folded. *float32* is folded and "
    "reordered only. *fast* is 16 bits wide where that pays. *compiled* is *fast*, compiled for one batch size. "
    "*Times the floor* is the time of the attack over that of its steps' forward and backward passes alone, on "
    "the same model; *memory* is the largest above that at the start. Times are medians over rounds in which all "
    "contenders take their turn; only ratios travel to "
    "other machines.\n"
)


def speed_page(measured: dict[str, Any]) -> str:
    """The page in Markdown; what was not measured is left out."""
    machine, peers = measured["machine"], measured["peers"]
    parts = [
        _INTRODUCTION,
        f"Measured on {machine['device']}, {machine['cores']} cores ({machine['architecture']}, "
        f"{machine['instructions']}), {machine['threads']} threads, `OMP_WAIT_POLICY={machine['omp_wait_policy']}`, "
        f"torch {machine['torch']}, search in {machine['search_precision']}. Model `{measured['model']['name']}`, "
        f"{measured['images']}, {measured['attack']}. Peers: "
        f"{', '.join(f'{name} {version}' for name, version in peers.items())}.\n",
    ]
    rows = measured.get("rows", [])
    parts += [_batch_table(rows, size) for size in sorted({row["batch_size"] for row in rows})]
    for group, table in _TABLES.items():
        parts += [table(measured[group])] if measured.get(group) else []
    return "\n".join(parts)


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _batch_table(rows: list[dict[str, Any]], size: int) -> str:
    shown = [
        [
            row["contender"],
            row["model"],
            f"{row['median']:.0f} ms",
            f"{row['times_fastest_peer']:.2f}",
            "" if row["times_fastest_peer_here"] is None else f"{row['times_fastest_peer_here']:.2f}",
            f"{row['times_floor']:.2f}",
            f"{row['peak_megabytes']:.0f} MB",
            f"{100 * row['success']:.0f} %",
        ]
        for row in sorted(rows, key=lambda row: -row["median"])
        if row["batch_size"] == size
    ]
    head = [
        "contender",
        "model",
        "time",
        "times as fast as the fastest peer as shipped",
        "… on this same model",
        "times the floor",
        "memory",
        "success",
    ]
    return f"## PGD, {size} {'image' if size == 1 else 'images'} at a time\n" + _table(head, shown)


def _warm_up_table(rows: list[dict[str, Any]]) -> str:
    def words(count: int | None) -> str:
        return "never" if count is None else f"{count:,} images"

    shown = [
        [
            str(row["batch_size"]),
            f"{row['prepare_seconds']:.2f} s",
            words(row["prepare_pays_after_images"]),
            "" if row["compile_seconds"] is None else f"{row['compile_seconds']:.0f} s",
            words(row["compile_pays_after_images"]),
        ]
        for row in rows
    ]
    text = (
        "## What preparing costs\nPreparing pays against the fastest peer on the model as loaded, compiling against "
        "the same copy not compiled. Compiling is left out wherever somebody waits."
    )
    if not all(row.get("without_cache") for row in rows):
        text += " Some compilers of this run had a cache on disk to go by: a first time takes longer."
    text += "\n\n"
    return text + _table(["batch", "prepare", "pays after", "compile", "pays after"], shown)


def _agreement_table(rows: list[dict[str, Any]]) -> str:
    shown = [
        [row["contender"], row["model"], f"{100 * row['success']:.1f} %", f"{100 * row['same_verdict']:.1f} %"]
        for row in rows
    ]
    text = (
        f"## Where half the images fall\n{rows[0]['attack']}, n = {rows[0]['num_images']}. Where every image falls, "
        "equal success is no sign of equal work, so it is asked for here too.\n\n"
    )
    return text + _table(["contender", "model", "success", "same verdict as ours on the model as loaded"], shown)


def _ratio_table(rows: list[dict[str, Any]]) -> str:
    shown = [
        [
            row["what"],
            f"{row['slow']}: {row['slow_milliseconds']:.0f} ms",
            f"{row['quick']}: {row['quick_milliseconds']:.0f} ms",
            f"{row['times']:.1f}",
            f"{100 * row['share']:.0f} %",
        ]
        for row in rows
    ]
    text = (
        "## What need not be computed\nStopping when fooled changes what the exits say: it is a figure about speed.\n\n"
    )
    return text + _table(["what", "slow", "quick", "times as fast", "share of the time"], shown)


def _dynamic_table(rows: list[dict[str, Any]]) -> str:
    shown = [
        [
            row["precision"],
            f"{1000 * row['full_seconds']:.0f} ms",
            f"{1000 * row['dynamic_seconds']:.0f} ms",
            f"{100 * row['saving']:.1f} %",
            f"{100 * row['allowed_saving']:.1f} %",
            "" if row["share_of_allowed"] is None else f"{row['share_of_allowed']:.2f}",
        ]
        for row in rows
    ]
    first = rows[0]
    text = (
        f"## Stopping early for real\n{first['num_images']:,} images of {first['image_set']}, "
        f"{first['batch_size']} at a time, threshold {first['threshold']}. Allowed is the saving if each stage took "
        "its share of the time that it takes on whole batches; both against the fastest full pass.\n\n"
    )
    return text + _table(["precision", "full pass", "stopping", "saved", "allowed", "reached of allowed"], shown)


_TABLES: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    "warm_up": _warm_up_table,
    "agreement": _agreement_table,
    "ratios": _ratio_table,
    "dynamic": _dynamic_table,
}
