"""Reference statistics of distances between image sets: built from a folder, shown, imported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.cli import _options as o

if TYPE_CHECKING:
    from bench.metrics.references import Reference


@click.command("build")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--protocol", required=True,
              help="pytorch-fid (FID and KID), torch-fidelity, clean, dinov2-l14 (FD-DINOv2) or cmmd.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write, an .npz.")
@click.option("--features/--no-features", default=None,
              help="Keep every picture's features, for KID and CMMD. Default: of up to 20,000 pictures.")  # fmt: skip
@o.device
@o.as_json
def build(folder: Path, protocol: str, out: Path, features: bool | None, device: str, json: bool) -> int:
    """Compute the statistics of all pictures of FOLDER; every picture is checked before anything is computed.

    The same pictures under the same protocol are not computed again.
    """
    import sys

    from bench.cli._output import print_json
    from bench.core.errors import UserError, unknown_name
    from bench.engine.devices import resolve
    from bench.engine.progress import Progress
    from bench.metrics import references
    from bench.metrics.extractors import load_extractor
    from bench.metrics.requirements import EXTRACTOR_PROTOCOLS

    # what was typed and what the machine lacks first: decoding a folder of pictures takes minutes
    if protocol not in EXTRACTOR_PROTOCOLS:
        raise unknown_name("protocol", protocol, EXTRACTOR_PROTOCOLS, "bench refs build --help")
    if out.suffix != ".npz":
        raise UserError(f"--out {out} is no .npz", hint=f"--out {out.with_suffix('.npz')}")
    device = resolve(device)
    paths = references.pictures_of(folder)
    # the network is not needed where the file is made already
    network = None if out.exists() else load_extractor(protocol, device)
    content = references.check_pictures(paths)
    made = _already(out, protocol, content, features)
    if made is None:
        network = network or load_extractor(protocol, device)
        with Progress(quiet=json).stage(f"{protocol} of {folder}", len(paths), "pictures") as stage:
            made = references.build(folder, network, keep_features=features,
                                    advance=lambda n: stage.advance(n, ""))  # fmt: skip
        references.write_reference(out, made)
    else:
        print(f"{out} holds these {len(paths)} pictures under {protocol} already", file=sys.stderr)
    facts = {**made.passport, "features": made.features is not None, "file": str(out)}
    print_json(facts) if json else _print(facts)
    return 0


def _already(out: Path, protocol: str, content: str, features: bool | None) -> Reference | None:
    """What ``out`` holds, where that is what would be made."""
    from bench.core.errors import UserError
    from bench.metrics import references

    if not out.exists():
        return None
    try:
        found = references.read_reference(out, protocol)
    except UserError:
        return None
    same = found.content_hash == content and features in (None, found.features is not None)
    return found if same else None


@click.command("show")
@click.argument("file", type=click.Path(path_type=Path))
@o.as_json
def show(file: Path, json: bool) -> int:
    """Say what a file of reference statistics is: protocol, pictures, network. Reads pytorch-fid's files too."""
    from bench.cli._output import print_json
    from bench.metrics.references import read_reference

    found = read_reference(file)
    g = found.gaussian
    facts = {**found.passport, "features": found.features is not None, "file": str(file), "dimensions": len(g.mu),
             "trace": float(g.sigma.trace())}  # fmt: skip
    print_json(facts) if json else _print(facts)
    return 0


@click.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write, an .npz.")
@o.as_json
def import_(source: Path, out: Path, json: bool) -> int:
    """Take over pytorch-fid's statistics (mu and sigma), with the root of sigma, which every later distance needs.

    How many pictures they are of is not in such a file: the passport says null.
    """
    from bench.cli._output import print_json
    from bench.metrics.references import read_reference, write_reference

    found = read_reference(source)
    write_reference(out, found)
    facts = {**found.passport, "features": found.features is not None, "file": str(out)}
    print_json(facts) if json else _print(facts)
    return 0


def _print(facts: dict[str, object]) -> None:
    for key, value in facts.items():
        print(f"{key:12} {'not known' if value in (None, '') else value}")
