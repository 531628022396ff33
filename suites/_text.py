"""What is done to prompt texts, as rules with names: records keep the name, so a result says which text was drawn."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.core.errors import UserError
from bench.core.types import Prompt

RULE = "lines-joined-and-stripped/1"
"""The name of `clean`; raise the number with any change of it, and the version of every suite with it."""

_LINE_BREAK = re.compile(r"[ \t]*(?:\r\n|\r|\n)\s*")


def clean(text: str) -> str:
    """Line breaks, with the white space around them, become one space; outer white space goes; the rest stays.

    >>> clean(" in the shape of a\\r\\ntriangle.  ")
    'in the shape of a triangle.'
    """
    return _LINE_BREAK.sub(" ", text.strip())


def normalised(text: str) -> str:
    """The form in which two prompts count as the same for leaks: lower case, white space joined, no final stops.

    >>> normalised("A  red\\ncar. ")
    'a red car'
    """
    return " ".join(text.lower().split()).rstrip(". ")


@dataclass(frozen=True)
class Leak:
    """A training prompt that is also an evaluation prompt."""

    train_id: str
    eval_id: str
    """The first evaluation prompt of that text."""
    text: str
    """As it stands in the training list."""
    literal: bool
    """Equal letter by letter; otherwise equal only once both are `normalised`."""


def leaks(train: Iterable[Prompt], evaluation: Iterable[Prompt]) -> list[Leak]:
    """The training prompts that stand in the evaluation list, in the order of the training list."""
    literal: dict[str, str] = {}
    loose: dict[str, str] = {}
    for prompt in evaluation:
        literal.setdefault(prompt.text, prompt.id)
        loose.setdefault(normalised(prompt.text), prompt.id)
    found: list[Leak] = []
    for prompt in train:
        eval_id = literal.get(prompt.text) or loose.get(normalised(prompt.text))
        if eval_id is not None:
            found.append(Leak(prompt.id, eval_id, prompt.text, prompt.text in literal))
    return found


def refuse_leaks(train: Sequence[Prompt], evaluation: Sequence[Prompt]) -> None:
    """Raises UserError when a training list that somebody chose holds evaluation prompts."""
    found = leaks(train, evaluation)
    if found:
        n_literal = sum(leak.literal for leak in found)
        raise UserError(
            f"{len(found)} of {len(train)} training prompts are evaluation prompts ({n_literal} literally, the others "
            f"after lower-casing and dropping final stops), the first is {found[0].train_id}: {found[0].text[:60]!r}",
            valid="training prompts that are not in the evaluation list",
            hint="leave the suite's own training list, or remove these prompts from yours",
        )
