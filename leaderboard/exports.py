"""Files for other programs: every figure as CSV, every record as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial

from leaderboard.page import Made, Page, Site, inputs_of
from leaderboard.table import long_table


def pages(site: Site) -> Iterator[Page]:
    runs = [run.digest for run in site.runs]
    yield Page("data/board.csv", inputs_of(runs), partial(_figures, site), here=True)
    yield Page("data/records.json", inputs_of(runs, [asdict(u) for u in site.unreadable]), partial(_records, site),
               here=True)  # fmt: skip


def _figures(site: Site) -> Made:
    return long_table(site.runs).to_csv(index=False, lineterminator="\n", float_format="%.10g"), {}


def _records(site: Site) -> Made:
    records = {
        "schema": "tunebench/records",
        "schema_version": 1,
        "records": [run.record.model_dump(mode="json", by_alias=True) for run in site.runs],
        "unreadable": [{"path": u.path, "reason": u.reason} for u in site.unreadable],
    }
    return json.dumps(records, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", {}
