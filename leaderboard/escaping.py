"""Text of strangers in files of other languages: names and reasons come from records, which anyone can write."""

from __future__ import annotations

import re
from functools import lru_cache

from markupsafe import escape

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+!|&~$-])")
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "−": "$-$", "–": "--", "↑": r"$\uparrow$",
    "↓": r"$\downarrow$", "×": r"$\times$", "·": r"$\cdot$", "±": r"$\pm$", "≈": r"$\approx$",
}  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


@lru_cache(maxsize=8192)
def html(text: str) -> str:
    """For HTML and its quoted attributes, where no template escapes; kept, as pages repeat their words.

    >>> html("<b> & 'c'")
    '&lt;b&gt; &amp; &#39;c&#39;'
    """
    return str(escape(text))


def one_line(text: str) -> str:
    """Without line breaks, control and direction characters, which could end a row or hide what follows."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def markdown(text: str) -> str:
    """For a cell of a Markdown table.

    >>> markdown("a|b <i> _c_")
    'a\\\\|b \\\\<i\\\\> \\\\_c\\\\_'
    """
    return _MARKDOWN.sub(r"\\\1", one_line(text))


def latex(text: str) -> str:
    """For a cell of a LaTeX table.

    >>> latex("50 % of a_b \\\\input{x}")
    '50 \\\\% of a\\\\_b \\\\textbackslash{}input\\\\{x\\\\}'
    """
    return "".join(_LATEX.get(c, c) for c in one_line(text))


def csv_text(text: str) -> str:
    """For a cell of a CSV file that a spreadsheet may open: text that would be run as a formula gets a quote before it.

    >>> csv_text("=1+1"), csv_text("drtune")
    ("'=1+1", 'drtune')
    """
    return f"'{text}" if text.startswith(_FORMULA) else text
