"""The model card of a fitted tree, for people. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.core.paired import wilson
from bench.trees.dimensions import BRANCHES


def card_text(card: Mapping[str, Any]) -> str:
    """Markdown of a card: what was fitted, to how many votes, how well it does on held-out ones."""
    of = card["settings"]
    lines = [
        "# A TreeReward reward model", "",
        f"Structure `{card['structure']}` on `{card['backbone_name']}` (weights {card['backbone']}), fitted by "
        f"`bench reward train tree` in {card['steps']:,} steps of {of['batch']} pairs, learning rate {of['lr']:g} "
        f"({of['trunk_lr']:g} of it for the backbone), seed {of['seed']}. Method: Zhang et al., TreeReward, ACM MM "
        "2024.", "",
        f"Held out are whole prompts: none of these {card['n_held_out']:,} votes shares its prompt with one that was "
        "fitted on. Accuracy is the share of held-out votes whose winner scores higher; 0.5 is chance.", "",
        "| branch | dimension | votes fitted on | held out | pair accuracy | 95 % interval |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]  # fmt: skip
    for branch, leaves in BRANCHES.items():
        for leaf in leaves:
            n = card["n_held_out_of"][leaf]
            accuracy = card["pair_accuracy"].get(leaf)
            told = "- | -" if accuracy is None else _told(accuracy, n)
            lines.append(f"| {branch} | {leaf} | {card['n_train_of'][leaf]:,} | {n:,} | {told} |")
    if "gate_accuracy" in card:
        gate = card["gate_accuracy"]
        lines += [
            "", f"Gate accuracy, mean over both branches: {gate['pair']:.3f} of pairs, {gate['point']:.3f} of single "
            f"images; entropy of its weights {card['gate_entropy']:.3f} of at most 0.693 nats. The gate learns which "
            "kind of vote a pair is, not what an image lacks.",
        ]  # fmt: skip
    return "\n".join([
        *lines, "",
        "Leaves are standardised on the held-out votes. Scores are in their standard deviations: comparable within "
        "this model only, and only for images like those it was fitted to. Use it as the reward `tree(folder=NAME)` "
        "with this folder inside `TUNEBENCH_MODELS`.", "",
        "The weights are a derivative of the backbone's: its licence applies, and that of the votes.", "",
    ])  # fmt: skip


def _told(accuracy: float, n: int) -> str:
    low, high = wilson(round(accuracy * n), n)
    return f"{accuracy:.3f} | [{low:.3f}, {high:.3f}]"
