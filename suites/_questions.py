"""Questions about prompts: TIFA's published file, DSG's, and what ``bench tifa questions`` made and a person reviewed.

A file's questions are matched to a suite's prompts by text, since each list of prompts has ids of its own.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.types import GraphQuestion, Prompt, Question, Suite
from suites._files import data_root
from suites._text import clean, normalised

TIFA_FILE = "tifa/tifa_v1.0_question_answers.json"
"""TIFA v1.0 (Hu et al., arXiv 2303.11897), some 25,000 questions: where the data folder keeps it."""

FORMAT = "tunebench-questions/1"
"""What ``bench tifa questions`` writes."""

Asked = tuple[str, Question]
"""A prompt's text and a question about it, whose prompt id is not known yet."""


def with_questions(suite: Suite, file: Path | None, data: Path | None) -> Suite:
    """The suite with the questions of ``file``; without one those it has, or of TIFA's file in the data folder.

    They change no run's identity: TIFA's passport names them by their digest.

    Raises:
        UserError: a file that cannot be read, was not reviewed, or is about other prompts.
    """
    if file is None:
        root = data_root(data)
        file = None if root is None or suite.questions else root / TIFA_FILE
        if file is None or "tifa" not in suite.spec.metrics or not file.is_file():
            return suite
        # of a suite that TIFA was not made for it knows few prompts or none
        return replace(suite, questions=_matched(read_questions(file), suite.prompts))
    questions = _matched(read_questions(file), suite.prompts)
    if not questions:
        raise UserError(f"{file} holds no question about a prompt of {suite.spec.id}",
                        valid="a file whose captions are this suite's prompts",
                        hint=f"bench tifa questions --suite {suite.spec.name} --llm FOLDER --out FILE")  # fmt: skip
    return replace(suite, questions=questions)


def read_questions(file: Path) -> list[Asked]:
    """The questions of a file: TIFA's JSON list, DSG's CSV, or ``bench tifa questions``'s.

    Raises:
        UserError: unreadable, another form, an answer that is no choice, or not reviewed.
    """
    try:
        text = file.read_text("utf-8-sig")
        if file.suffix == ".csv":
            return _dsg(file, text)
        data = json.loads(text)
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as err:
        raise UserError(f"{file} cannot be read as questions: {err}", valid=_VALID) from err
    if isinstance(data, dict):
        data = _reviewed(file, data)
    if not isinstance(data, list) or not data:
        raise UserError(f"{file} holds no list of questions", valid=_VALID)
    return [_tifa(file, number, row) for number, row in enumerate(data, 1)]


_VALID = (
    "a JSON list of {caption, question, choices, answer, element_type} as TIFA v1.0, DSG's CSV, or a reviewed file of "
    "'bench tifa questions'"
)


def _tifa(file: Path, number: int, row: Any) -> Asked:
    try:
        choices = tuple(map(str, row["choices"]))
        question = Question("", str(row["question"]), choices, str(row["answer"]), str(row["element_type"]))
        caption = str(row["caption"])
    except (KeyError, TypeError) as err:
        raise UserError(f"{file}, question {number}: {type(err).__name__}: {err}", valid=_VALID) from err
    if question.answer not in choices:
        raise UserError(f"{file}, question {number}: the answer {question.answer!r} is none of the choices",
                        valid=", ".join(map(repr, choices)))  # fmt: skip
    return caption, question


def _reviewed(file: Path, data: dict[str, Any]) -> Any:
    if data.get("format") != FORMAT:
        raise UserError(f"{file} is in the format {data.get('format')!r}", valid=_VALID)
    if data.get("reviewed") is not True:
        raise UserError(f"{file} was written by a language model, and nobody has reviewed it: it is not used",
                        valid='"reviewed": true and "reviewer": "NAME" at its top, once somebody has read them',
                        hint=f"read {file}, delete or mend what is wrong, then set \"reviewed\": true")  # fmt: skip
    return data.get("questions")


_DSG_COLUMNS = ("text", "proposition_id", "dependency", "category_broad", "question_natural_language")


def _dsg(file: Path, text: str) -> list[Asked]:
    """DSG's rows (Cho et al., arXiv 2310.18235): yes-no questions whose answer is yes, each with its parents."""
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows or not set(_DSG_COLUMNS) <= set(rows[0]):
        raise UserError(f"{file} has not DSG's columns", valid=", ".join(_DSG_COLUMNS))
    found: list[Asked] = []
    for number, row in enumerate(rows, 1):
        try:
            # ten published rows also name a thing that no question is about ("5, right"): it is no parent
            parents = tuple(int(p) for p in row["dependency"].split(",") if p.strip().isdigit() and int(p) > 0)
            place = int(row["proposition_id"])
        except (ValueError, AttributeError) as err:
            raise UserError(f"{file}, row {number}: {err}", valid="whole numbers, with commas") from err
        question = GraphQuestion("", row["question_natural_language"], ("yes", "no"), "yes", row["category_broad"],
                                 place, parents)  # fmt: skip
        found.append((row["text"], question))
    return found


def _matched(asked: Iterable[Asked], prompts: Sequence[Prompt]) -> tuple[Question, ...]:
    """The questions of each prompt in the suite's order: by its very text, else in another case or punctuation."""
    literal: defaultdict[str, list[Question]] = defaultdict(list)
    loose: defaultdict[str, list[Question]] = defaultdict(list)
    for caption, question in asked:
        literal[clean(caption)].append(question)
        loose[normalised(clean(caption))].append(question)
    found: list[Question] = []
    for prompt in prompts:
        about = literal.get(prompt.text) or loose.get(normalised(prompt.text)) or []
        # two items of a file may have one text: their questions are asked once
        found += [replace(question, prompt_id=prompt.id) for question in dict.fromkeys(about)]
    return tuple(found)
