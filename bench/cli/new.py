"""A commented template that passes its checks."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("tuner")
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("."), help="Where to write it.")
def tuner(name: str, folder: Path) -> int:
    """Write NAME.py: a small working tuner with every part of the contract explained."""
    from bench.diffusion.check import new_tuner

    path = new_tuner(name, folder)
    print(f"wrote {path}\ncheck it: bench check tuner {path}\nrun it:   bench run --suite coco --tuner {path}")
    return 0
