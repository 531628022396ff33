"""``bench reward``: reward models that are trained here."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli import _options as o

HELP = """Train TreeReward's reward model on a file of votes: six dimensions, two branches and a gate on BLIP.

\b
FILE has one vote a line, as JSON:
  {"dimension": "color", "prompt": "a red circle", "winner": "a.png", "loser": "b.png"}
dimension  style, content, color, lighting, detail or layout
prompt     the text that the images were made for
winner     the image that is better in this dimension; a path relative to FILE's
           folder, or to --images
loser      the other image
loser_prompt  only where the loser is the winner's image under a worse text
Other keys, such as who voted, are passed over.

One prompt in six is held out; accuracy is measured on these. Killed at any time, the same command continues. The
folder that it writes is the reward tree(folder=NAME) when it lies in TUNEBENCH_MODELS.
"""


@click.command("tree", help=HELP)
@click.option("--votes", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The votes.")
@click.option("--images", type=click.Path(path_type=Path), metavar="DIR",
              help="Folder that the image files are relative to. Default: FILE's.")  # fmt: skip
@click.option("--backbone", metavar="DIR",
              help="A BlipForImageTextRetrieval folder with its tokenizer, or tiny-clip for the tiny world. "
                   "Default: the asset blip-itm, a ViT-B; the paper's is a ViT-L (blip-itm-large-coco).")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="New folder for the tree.")
@click.option("--structure", default="tree", show_default=True, help="tree, global or decoupled (the paper's table 3).")
@click.option("--steps", type=int, default=0, help="Optimiser steps. Default: four passes over the votes, or 100.")
@click.option("--batch", type=int, default=64, show_default=True, help="Pairs a step.")
@click.option("--micro-batch", type=int, default=16, show_default=True, help="Pairs a forward.")
@click.option("--lr", type=float, default=1e-3, show_default=True, help="Peak learning rate of gate and leaves.")
@click.option("--trunk-lr", type=float, default=0.01, show_default=True, help="The same for the backbone, of --lr.")
@click.option("--frozen", type=float, default=-1.0,
              help="Share of the backbone's layers that stay as they are. Default: 0.7 of BLIP, else 0.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of new weights and of the order of votes.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, or auto.")
@click.option("--checkpoint-every", "checkpoint_s", type=float, default=120.0, show_default=True,
              help="Seconds between two checkpoints of the fit.")  # fmt: skip
@o.as_json
def tree(
    votes: Path, images: Path | None, backbone: str | None, out: Path, structure: str, steps: int, batch: int,
    micro_batch: int, lr: float, trunk_lr: float, frozen: float, seed: int, device: str, checkpoint_s: float,
    json: bool,
) -> int:  # fmt: skip
    from bench.assets import need
    from bench.cli._output import print_json, print_table
    from bench.diffusion.devices import find_device
    from bench.engine.progress import Progress
    from bench.trees.dimensions import DIMENSIONS
    from bench.trees.training import Training, train_tree

    device = find_device(device)
    backbone = backbone or str(need("blip-itm"))
    card = train_tree(Training(
        votes, backbone, out, images, structure, steps, batch, micro_batch, lr, trunk_lr, frozen, seed, device,
        checkpoint_s,
    ), Progress(quiet=json))  # fmt: skip
    if json:
        print_json({"folder": str(out), **card})
        return 0
    print_table(("dimension", "fitted on", "held out", "pair accuracy"), [
        (d, str(card["n_train_of"][d]), str(card["n_held_out_of"][d]),
         f"{card['pair_accuracy'][d]:.3f}" if d in card["pair_accuracy"] else "-") for d in DIMENSIONS])  # fmt: skip
    if "gate_accuracy" in card:
        print(f"gate accuracy: {card['gate_accuracy']['pair']:.3f} of pairs, "
              f"{card['gate_accuracy']['point']:.3f} of images")  # fmt: skip
    name = "tree" if out.name == "tree" else f"tree(folder={out.name})"
    command = f"TUNEBENCH_MODELS={out.resolve().parent} bench run --suite coco --tuner drtune --reward '{name}'"
    print(f"tree: {out} (README.md says how good it is)\nuse it: {command}")
    return 0
