"""``bench study``: human judgement, from a blinded page to the records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli import _options as o

if TYPE_CHECKING:
    from bench.study.importing import Imported

_dir = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))


class _ManyRuns(click.Command):
    """Lets ``--runs A B C`` stand for ``--runs A --runs B --runs C``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        many = False
        for arg in args:
            if arg == "--runs":
                many = True
                continue
            many = many and not arg.startswith("-")
            spread += ["--runs", arg] if many else [arg]
        return super().parse_args(ctx, spread)


@click.command(cls=_ManyRuns)
@click.option("--runs", "names", multiple=True, required=True, metavar="A B ...",
              help="Contestants: run ids (or their start), run folders, and base.")  # fmt: skip
@click.option("--prompts", type=int, default=100, show_default=True, help="Prompts, one trial each.")
@click.option("--kind", default="pairwise", show_default=True,
              help="pairwise (HG-DPO: which of two), rank (RealignDiff: by alignment and fidelity), "
                   "scale (TreeReward: -5 to 5 on six dimensions).")  # fmt: skip
@click.option("--question", default="preference", show_default=True, help="Of pairwise: preference or naturalness.")
@click.option("--out", type=click.Path(path_type=Path), help="New folder. Default: study-<kind>.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of prompts.")
@click.option("--runs-dir", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
              help="Folder that the runs are in.")  # fmt: skip
@o.as_json
def new(
    names: tuple[str, ...], prompts: int, kind: str, question: str, out: Path | None, seed: int, runs_dir: Path,
    json: bool,
) -> int:  # fmt: skip
    """Write a blinded page for raters: bench study new --runs base 1a2b 3c4d --prompts 100 --kind rank."""
    from bench.cli._output import print_json
    from bench.study.making import Wanted, make

    where = out or Path(f"study-{kind}")
    study = make(Wanted(names, runs_dir, where, kind, prompts, seed, question))
    n_trials = len(study["variants"][0])
    if json:
        print_json({"study": study["id"], "folder": str(where), "page": str(where / "page.html"), "trials": n_trials,
                    "variants": len(study["variants"]), "attention_rule": study["attention_rule"],
                    "prompt_rule": study["prompt_rule"]})  # fmt: skip
        return 0
    embedded = "data:image/png" in (where / "page.html").read_text("utf-8")
    alone = "give this file to raters" if embedded else "give this file and images/ beside it to raters"
    print(f"study {study['id']}: {n_trials} trials a rater, checks included")
    print(f"page:     {where / 'page.html'} ({alone}; keep key.json)")
    print(f"serve:    bench study serve {where}")
    print(f"import:   bench study import {where} votes-*.json")
    print(f"rule:     {study['attention_rule']}")
    return 0


@click.command()
@_dir
@click.option("--n", type=click.IntRange(1, 10_000), required=True, help="How many links to add.")
@click.option("--url", default="http://127.0.0.1:8900", show_default=True, help="Where raters reach the server.")
@o.as_json
def links(folder: Path, n: int, url: str, json: bool) -> int:
    """Add one-time links for raters; each works in the browser that opens it first."""
    from bench.cli._output import print_json
    from bench.study.database import Votes
    from bench.study.importing import open_study

    made = [f"{url.rstrip('/')}/r/{token}" for token in Votes(folder, open_study(folder)[0]).add_links(n)]
    print_json({"links": made}) if json else print("\n".join(made))
    return 0


@click.command()
@_dir
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 opens it to the network.")
@click.option("--port", type=click.IntRange(0, 65535), default=8900, show_default=True, help="0 takes a free one.")
def serve(folder: Path, host: str, port: int) -> int:
    """Serve the study to raters on one network, until Ctrl-C. Votes are kept in DIR/votes.db."""
    from bench.study.importing import open_study
    from bench.study.server import LOOPBACK, open_server

    study, _ = open_study(folder)
    server = open_server(folder, study, host, port)
    at = f"http://{host}:{server.server_address[1]}"
    rows = server.votes.links()
    print(f"study {study['id']} at {at}; {len(rows)} links, {sum(opened for _, opened, _ in rows)} opened", flush=True)
    if not rows:
        print(f"no links yet: bench study links {folder} --n 10 --url {at}", flush=True)
    if host in LOOPBACK:
        print("only this machine can reach it; for raters on your network: --host 0.0.0.0, and links with --url "
              "http://<this machine's address>:<port>. It speaks plain http: use it on a network that you trust.",
              flush=True)  # fmt: skip
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("stopped; every vote that a page saw arrive is in votes.db")
    finally:
        server.server_close()
    return 0


@click.command("import")
@_dir
@click.argument("files", nargs=-1, metavar="VOTES.json...", type=click.Path(path_type=Path))
@click.option("--runs-dir", type=click.Path(path_type=Path), help="Where the runs are now, if they were moved.")
@o.as_json
def import_(folder: Path, files: tuple[Path, ...], runs_dir: Path | None, json: bool) -> int:
    """Put votes, of files and of the server, into the runs' records. Exit code 1 when a file or rater was refused."""
    from bench.cli._methods import describe
    from bench.cli._output import print_json
    from bench.study.importing import import_votes
    from leaderboard.site import build

    found = import_votes(folder, files, runs_dir)
    pages = [build(root, describe=describe) for root in dict.fromkeys(path.parents[2] for path in found.runs)]
    if json:
        print_json(_facts(found, pages))
    else:
        _print(found, pages)
    return 1 if found.refused else 0


def _facts(found: Imported, pages: list[Path]) -> dict[str, Any]:
    import dataclasses

    return {
        **dataclasses.asdict(found), "runs": [str(path) for path in found.runs], "pages": [str(page) for page in pages],
        "n_raters": found.tally.n_raters, "n_excluded": found.tally.n_excluded,
    }  # fmt: skip


def _print(found: Imported, pages: list[Path]) -> None:
    from bench.cli._output import print_table

    t = found.tally
    print(f"{t.n_raters} raters count, {t.n_excluded} left out by the attention rule, {t.n_votes} votes; "
          f"{len(found.taken)} new or longer ballots, {len(found.known)} known")  # fmt: skip
    for reason in found.refused:
        print(f"refused: {reason}")
    if t.meetings:
        print_table(("question", "", "against", "win rate", "95 % interval", "votes", "prompts"), [
            (m.question, m.a, m.b, f"{m.rate.value:.3f}", f"[{m.rate.ci_low:.3f}, {m.rate.ci_high:.3f}]",
             str(m.rate.n), str(m.rate.n_clusters)) for m in t.meetings])  # fmt: skip
    if t.places:
        print_table(("question", "", "mean rank", "95 % interval"), [
            (p.question, p.name, f"{p.rank.value:.2f}", f"[{p.rank.ci_low:.2f}, {p.rank.ci_high:.2f}]")
            for p in t.places])  # fmt: skip
    for a in t.agreement:
        alpha = "not defined" if a.alpha is None else f"{a.alpha:.3f} [{a.ci_low:.3f}, {a.ci_high:.3f}]"
        print(f"agreement on {a.question}, Krippendorff's alpha: {alpha}")
    for page in pages:
        print(f"leaderboard: {page}")
