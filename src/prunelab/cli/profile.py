"""``prunelab-profile``: what can be removed from a network, and what it costs."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from rich.console import Console
from rich.text import Text

from prunelab.cli.config import configure_parts
from prunelab.cli.ending import TRACEBACK_FLAG, exit_code, take_traceback_flag
from prunelab.cli.profile_scores import BUDGET, scored_network
from prunelab.cli.profile_tree import tree
from prunelab.cli.run import speaking
from prunelab.errors import UserError
from prunelab.models import build
from prunelab.structure import ChannelGraph, analyze

PROGRAM = "prunelab-profile"
SHARES = (
    "\nFLOPs and params: the share that would be gone with all of it. A layer goes with the group that it reads"
    " and with the one that it makes, so the shares add up to more than 100 %.\n"
)


@dataclass(frozen=True)
class Part:
    """A channel group or a block, and the fractions of the network's FLOPs and parameters that go with it.

    A layer goes with the group that it reads and with the one that it makes, so the fractions add up to more
    than 1. ``exact`` says whether the pruned network equals the masked one.
    """

    name: str
    level: str
    channels: int | None
    flops_share: float
    params_share: float
    exact: bool | None


@dataclass(frozen=True)
class Frozen:
    """A channel group of which nothing can be removed, and why."""

    name: str
    channels: int
    reason: str


@dataclass(frozen=True)
class Profile:
    """Everything that is printed; FLOPs (2 x multiply-accumulates + biases) and MACs are for one image."""

    model: str
    input_size: tuple[int, int, int]
    num_classes: int
    flops: int
    macs: int
    params: int
    groups: tuple[Part, ...]
    blocks: tuple[Part, ...]
    frozen: tuple[Frozen, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = take_traceback_flag(list(sys.argv[1:] if arguments is None else arguments))
    options = _parser().parse_intermixed_args(words)
    if options.scores is not None:
        return exit_code(PROGRAM, lambda: _draw(options.words, options.scores))
    code = exit_code(PROGRAM, lambda: _print(profile(options.words), options.json))
    for word in options.words:
        if word.startswith("method="):
            print(f"{PROGRAM}: add --scores FOLDER to draw the scores that {word} gives", file=sys.stderr)
    return code


def profile(words: Sequence[str]) -> Profile:
    """The profile of the network that the command line ``words`` choose.

    Raises:
        UserError: there is no such network, or it cannot take images of this size.
    """
    sizes = [word for word in words if word.startswith("image_size=")]
    chosen = [word for word in words if word not in sizes]
    settings, exact, cardinality = configure_parts(("model", "exact", "cardinality"), chosen)
    name = settings["name"]
    published = timm.get_pretrained_cfg(name, allow_unregistered=False) if timm.is_model(name) else None
    channels, height, width = published.input_size if published else (3, 224, 224)
    if sizes:
        height = width = _image_size(sizes[-1])
    classes = published.num_classes if published else 1000
    network = build(name, classes, channels, (height, width), **settings["arguments"])
    example = torch.zeros(1, channels, height, width)
    graph = analyze(network, example, exact=exact, cardinality=cardinality)
    return Profile(
        model=name,
        input_size=(channels, height, width),
        num_classes=classes,
        flops=graph.cost.flops(),
        macs=graph.cost.macs(),
        params=graph.cost.params(),
        groups=_groups(graph),
        blocks=_blocks(graph),
        frozen=tuple(Frozen(group.name, group.size, group.frozen or "") for group in graph.frozen),
    )


def _groups(graph: ChannelGraph) -> tuple[Part, ...]:
    without = np.tile(graph.cost.full, (len(graph.groups), 1))
    np.fill_diagonal(without, 0)
    shares = _shares(graph, without, np.ones((len(graph.groups), len(graph.blocks))))
    return tuple(
        Part(group.name, group.level, group.size, *share, group.exact)
        for group, share in zip(graph.groups, shares, strict=True)
    )


def _blocks(graph: ChannelGraph) -> tuple[Part, ...]:
    alive = 1 - np.eye(len(graph.blocks))
    shares = _shares(graph, np.tile(graph.cost.full, (len(graph.blocks), 1)), alive)
    return tuple(
        Part(block.name, "block", None, *share, None)
        for block, share in zip(graph.blocks, shares, strict=True)
    )


def _shares(graph: ChannelGraph, widths: np.ndarray, alive: np.ndarray) -> list[tuple[float, float]]:
    """For each row, the fractions of FLOPs and parameters that are gone with these widths and blocks."""
    if not len(widths):
        return []
    flops = 1 - graph.cost.flops(widths, alive) / graph.cost.flops()
    params = 1 - graph.cost.params(widths, alive) / graph.cost.params()
    return list(zip(flops.tolist(), params.tolist(), strict=True))


def _image_size(word: str) -> int:
    value = word.partition("=")[2]
    if not value.isdecimal() or int(value) < 1:
        raise UserError(f"{word}: the image size is a number of pixels, such as image_size=224.")
    return int(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} model=NAME [image_size=N] [model.KEY=VALUE ...] [exact=true] [--json]\n"
        f"       {PROGRAM} model=NAME data=NAME method=NAME ... --scores FOLDER",
        description="Show what can be removed from a network: channel groups, residual blocks, what is "
        "frozen and why, and what it all costs. No images are needed. With --scores: score the channels as prunelab "
        "would with the same words, and draw for each group the sorted scores and where the budget cuts "
        f"({BUDGET} unless given).",
        epilog=f"Examples: {PROGRAM} model=timm model.name=mobilenetv2_100 image_size=160; "
        f"{PROGRAM} model=resnet20 data=digits method=hrank --scores pictures",
    )
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="as for prunelab")
    parser.add_argument(
        "--scores", type=Path, metavar="FOLDER", help="save the picture of scores there, as PNG and HTML"
    )
    parser.add_argument("--json", action="store_true", help="print the profile as JSON")
    parser.add_argument(TRACEBACK_FLAG, action="store_true", help="show where in the program an error arose")
    return parser


def _draw(words: Sequence[str], folder: Path) -> int:
    from prunelab.cli.profile_page import save_page  # these bring matplotlib and plotly
    from prunelab.cli.profile_picture import save_picture

    with speaking():
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


def _print(found: Profile, as_json: bool) -> int:
    if as_json:
        print(json.dumps(asdict(found), indent=2))
        return 0
    console = Console(highlight=False)
    console.print(tree(found))
    if found.groups or found.blocks:
        console.print(Text(SHARES, style="dim"))
    console.print(Text(_totals(found)))
    return 0


def _totals(found: Profile) -> str:
    levels = Counter(part.level for part in (*found.groups, *found.blocks))
    lines = {
        found.model: f"input {'x'.join(map(str, found.input_size))}, {found.num_classes} classes",
        "removable": ", ".join(f"{count} of level {level}" for level, count in levels.items()) or "nothing",
        "FLOPs": f"{found.flops:,}",
        "MACs": f"{found.macs:,}",
        "parameters": f"{found.params:,}",
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())
