"""The rows of a run page's table of results, written directly.

A run has some thirty of them, each with a dozen figures: as a template they took half of the time of a page, and a site
of 5,000 runs has 150,000. Everything here that a record says goes through ``html``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from leaderboard import wording
from leaderboard.escaping import html
from leaderboard.pages import ROLE_WORDS, Figure

_passports: dict[str, str] = {}
_MOST_PASSPORTS = 1024


def results_rows(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """``<tr>`` of every entry of ``run_tables.results``."""
    return Markup("\n".join(_row(m) for m in rows))


def _row(m: Mapping[str, Any]) -> str:
    entry = m["entry"]
    unit = f' <span class="muted">({html(m["unit"])})</span>' if m["unit"] else ""
    better, arrow = ("higher", "↑") if entry.higher_is_better else ("lower", "↓")
    subject = f'<span class="span">{html(m["subject"])}</span>' if m["subject"] else ""
    plain = '<span class="span">no interval</span>' if m["unpaired"] else ""
    verdict = m["verdict"]
    reading = f'<span class="verdict verdict-{verdict.replace(" ", "-")}">{verdict}</span>' if verdict else ""
    warnings = "".join(f'<span class="warn">{html(w)}</span>' for w in (entry.error, *m["warnings"]) if w)
    role = html(entry.role)
    return (
        f'<tr class="is-{role}"><th scope="row" class="sticky">{html(m["label"])}{unit} '
        f'<span class="muted" title="{better} is better">{arrow}</span>{subject}{_passport(entry.passport)}</th>'
        f'<td class="num">{_figure(m["base"])}</td><td class="num">{_figure(m["tuned"])}</td>'
        f'<td class="num">{_figure(m["difference"])}{plain}</td><td>{reading}{warnings}</td>'
        f'<td><span class="role role-{role}">{ROLE_WORDS[entry.role]}</span></td>'
        f'<td class="num">{entry.n:,}</td></tr>'
    )


def _figure(f: Figure) -> str:
    title = f' title="{html(f.title)}"' if f.title else ""
    span = f' <span class="span">{f.span}</span>' if f.span else ""
    return f'<span class="figure"{title}>{html(f.text)}</span>{span}'


def _passport(passport: Mapping[str, Any]) -> str:
    """Thousands of runs share some dozens of protocols."""
    if not passport:
        return ""
    key = repr(passport)
    if key not in _passports:
        if len(_passports) >= _MOST_PASSPORTS:
            _passports.clear()
        shown = ((html(name), html(wording.plain_value(passport[name]))) for name in sorted(passport))
        facts = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in shown)
        _passports[key] = f'<details class="passport"><summary>protocol</summary><dl>{facts}</dl></details>'
    return _passports[key]
