"""``prunelab-profile``: the removable parts of a network, and their costs."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from prunelab.cli.ending import TRACEBACK_FLAG, exit_code, take_traceback_flag
from prunelab.cli.profile.layers import layer_table
from prunelab.cli.profile.scores import BUDGET, scored_network
from prunelab.cli.profile.tree import tree
from prunelab.cli.run import console_messages

if TYPE_CHECKING:
    from prunelab.cli.profile.parts import Profile

PROGRAM = "prunelab-profile"
SHARES = (
    "\nFLOPs and params: the share that is removed with all channels of a group. A layer belongs to the group that it"
    " reads and to the group that it produces, so the shares add up to more than 100 %.\n"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = take_traceback_flag(list(sys.argv[1:] if arguments is None else arguments))
    options = _parser().parse_intermixed_args(words)
    if options.scores is not None:
        return exit_code(PROGRAM, lambda: _draw(options.words, options.scores))
    return exit_code(PROGRAM, lambda: _show(options.words, options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} model=NAME [data=NAME | image_size=N] [model.KEY=VALUE ...] [exact=true] [--layers] "
        "[--latency] [--json]\n"
        f"       {PROGRAM} model=NAME data=NAME method=NAME ... --scores FOLDER",
        description="Show the removable parts of a network (channel groups, residual blocks), the frozen groups "
        "with reasons, and the costs, for images of the size of the data, or of the size for which the network was "
        "published. No images are needed. With --scores: score the channels as prunelab would with the same words, "
        f"and draw for each group the sorted scores and the cut by the budget ({BUDGET} by default).",
        epilog=f"Examples: {PROGRAM} model=timm model.name=mobilenetv2_100 image_size=160; "
        f"{PROGRAM} model=resnet20 data=digits method=hrank --scores pictures",
    )
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="as for prunelab")
    parser.add_argument(
        "--scores", type=Path, metavar="FOLDER", help="save the picture of scores there, as PNG and HTML"
    )
    parser.add_argument(
        "--layers", action="store_true", help="list the layers with their shapes, parameters and MACs instead"
    )
    parser.add_argument(
        "--latency",
        action="store_true",
        help="measure the forward time on budget.target, for example budget.target.runtime=eager; with --layers also "
        "the part of each layer",
    )
    parser.add_argument("--json", action="store_true", help="print the profile as JSON")
    parser.add_argument(TRACEBACK_FLAG, action="store_true", help="show the traceback of an error")
    return parser


def _draw(words: Sequence[str], folder: Path) -> int:
    from prunelab.cli.profile.page import save_page  # these import matplotlib and plotly
    from prunelab.cli.profile.picture import save_picture

    with console_messages():
        network = scored_network(words)
    folder.mkdir(parents=True, exist_ok=True)
    save_picture(network, folder / "scores.png")
    save_page(network, folder / "scores.html")
    left = sum(group.left for group in network.groups)
    print(
        f"{network.title}: {network.weights}\n{network.budget} keeps {left} of "
        f"{sum(len(group.scores) for group in network.groups)} channels of {len(network.groups)} groups\n"
        f"{folder / 'scores.png'}\n{folder / 'scores.html'}"
    )
    return 0


def _show(words: Sequence[str], options: argparse.Namespace) -> int:
    from prunelab.cli.profile.parts import (
        profile,
    )  # imports torch and timm, which takes seconds that --help does not need

    with console_messages():
        found = profile(words, options.latency)
    _print(found, options.json, options.layers)
    for word in words:
        if word.startswith("method="):
            print(f"{PROGRAM}: add --scores FOLDER to draw the scores that {word} gives", file=sys.stderr)
    return 0


def _print(found: Profile, as_json: bool, by_layer: bool) -> None:
    if as_json:
        print(json.dumps(asdict(found), indent=2))
        return
    console = Console(highlight=False)
    console.print(layer_table(found) if by_layer else tree(found))
    if by_layer:
        console.print()
    elif found.groups or found.blocks:
        console.print(Text(SHARES, style="dim"))
    console.print(Text(_totals(found)))


def _totals(found: Profile) -> str:
    levels = Counter(part.level for part in (*found.groups, *found.blocks))
    lines = {
        found.model: f"input {'x'.join(map(str, found.input_size))}, {found.num_classes} classes",
        "removable": ", ".join(f"{count} of level {level}" for level, count in levels.items()) or "nothing",
        "FLOPs": f"{found.flops:,}",
        "MACs": f"{found.macs:,}",
        "parameters": f"{found.params:,}",
    }
    if found.latency:
        lines["latency"] = (
            f"{found.latency.p50:.3f} ms (90 % below {found.latency.p90:.3f}), {found.latency.target}"
        )
    if found.additions:
        lines["additions"] = _additions(found)
    if found.unused_parameters:
        lines["unused"] = (
            f"{', '.join(found.unused_parameters)}: no operator reads them, so they are not pruned"
        )
    if found.training_failure is not None:
        lines["training mode"] = (
            f"does not run on this input ({found.training_failure}): layers that only run in training mode are unknown"
        )
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


def _additions(found: Profile) -> str:
    """The number of sums of two activations in blocks that can be dropped, and the modules of the others by reason."""
    others: dict[str, list[str]] = {}
    for addition in found.additions:
        if addition.reason is not None:
            others.setdefault(addition.reason, []).append(addition.module or "the network")
    droppable = sum(addition.reason is None for addition in found.additions)
    lines = [f"{len(found.additions)} of two activations, {droppable} in blocks that can be dropped"]
    for reason, modules in others.items():
        names = ", ".join(dict.fromkeys(modules))
        lines.append(f"  {len(modules)} not ({names}): {reason}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
