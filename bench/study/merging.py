"""Votes of one study that were imported in two places: ``bench merge`` joins them in the run folder that stays.

Ballots are joined as an import joins them: by rater, a later file replacing an earlier one only where it holds all of
it. The figures are computed anew from all of them.
"""

from __future__ import annotations

from pathlib import Path

from bench.core.errors import UserError
from bench.core.identity import canonical_json
from bench.store import atomic
from bench.store.runs import RunFolder
from bench.study.importing import ballots_in, take, write_figures
from bench.study.tally import tally


def merge_votes(source: Path, target: Path) -> tuple[list[str], list[str]]:
    """Adds the votes that lie in one copy of a run to another copy of it; the source is only read.

    Returns:
        Raters whose votes are new in ``target``; and what was not taken, with the reason.

    Raises:
        UserError: damaged files; two different studies of one id; images that are not the ones that were shown.
    """
    added: list[str] = []
    refused: list[str] = []
    for entry in RunFolder(source).read_record().studies:
        at = source / "studies" / entry.study
        study, key = (atomic.read_json(at / f"{part}.json") for part in ("study", "key"))
        here = target / "studies" / entry.study
        if (here / "study.json").is_file():
            mine = [atomic.read_json(here / f"{part}.json") for part in ("study", "key")]
            if canonical_json(mine) != canonical_json([study, key]):
                raise UserError(f"study {entry.study} is not the same study in {source} and {target}")
        kept = {b.rater: b for b in ballots_in(target, study)}
        taken, _, why = take(study, kept, ballots_in(source, study))
        refused += why
        if taken:
            write_figures(study, key, kept, tally(study, key, list(kept.values())), RunFolder(target))
            added += taken
    return added, refused
