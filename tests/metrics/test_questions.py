"""Question files: TIFA's form, DSG's, and files that a language model wrote and a person must have reviewed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from metric_world import make_suite
from random_networks import save_random_llm

import suites
from bench.core.errors import UserError
from bench.core.types import GraphQuestion, Prompt
from bench.metrics.question_making import LanguageModel, answerable, make_questions, parse, word_f1

ROW = {"id": "drawbench_1", "caption": "Two blue  squares.", "question": "are there squares?", "choices": ["yes", "no"],
       "answer": "yes", "element_type": "shape", "element": "squares"}  # fmt: skip


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content) if not isinstance(content, str) else content)
    return path


def test_tifas_file_is_matched_by_text(tmp_path: Path) -> None:
    """The suite's prompts: "a red circle", "two blue squares", "a green star"."""
    color = {"question": "what color?", "choices": ["blue", "red"], "answer": "blue", "element_type": "color"}
    rows = [ROW, {**ROW, **color},
            {**ROW, "caption": "a green star", "question": "a star?"}, {**ROW, "caption": "a horse"}]  # fmt: skip
    suite = suites.with_questions(make_suite(edition="full"), written(tmp_path / "q.json", rows), None)
    assert [(q.prompt_id, q.question) for q in suite.questions] == [
        ("p1", "are there squares?"), ("p1", "what color?"), ("p2", "a star?")]  # fmt: skip
    assert suite.questions[1].choices == ("blue", "red")
    assert suite.questions[1].kind == "color"
    assert suite.spec == make_suite(edition="full").spec  # no run's identity


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "cannot be read as questions"),
        ([], "holds no list of questions"),
        ([{**ROW, "answer": "maybe"}], "question 1: the answer 'maybe' is none of the choices"),
        ([{"question": "?"}], "question 1: KeyError"),
        ({"format": "else"}, "is in the format 'else'"),
        ([{**ROW, "caption": "a horse"}], "holds no question about a prompt of toy-full@1"),
    ],
)
def test_other_files_are_refused(content: object, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        suites.with_questions(make_suite(edition="full"), written(tmp_path / "q.json", content), None)


def test_nobody_reviewed_nobody_uses(tmp_path: Path) -> None:
    content = {"format": suites.QUESTION_FORMAT, "reviewed": False, "questions": [ROW]}
    with pytest.raises(UserError, match="nobody has reviewed it"):
        suites.with_questions(make_suite(), written(tmp_path / "q.json", content), None)
    kept = suites.with_questions(make_suite(), written(tmp_path / "q.json", {**content, "reviewed": True}), None)
    assert len(kept.questions) == 1


def test_dsg_keeps_its_graph(tmp_path: Path) -> None:
    text = ("item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
            'question_natural_language\nx,a red circle,,1,0,entity,whole,,Is there a circle?\n'
            'x,a red circle,,2,"0,1",attribute,color,,Is the circle red?\n')  # fmt: skip
    suite = suites.with_questions(make_suite(edition="full"), written(tmp_path / "dsg.csv", text), None)
    first, second = suite.questions
    assert isinstance(first, GraphQuestion)
    assert isinstance(second, GraphQuestion)
    assert (first.number, first.parents, second.number, second.parents) == (1, (), 2, (1,))
    assert (second.question, second.answer, second.kind) == ("Is the circle red?", "yes", "attribute")
    with pytest.raises(UserError, match="DSG's columns"):
        suites.with_questions(make_suite(), written(tmp_path / "other.csv", "a,b\n1,2\n"), None)


def test_published_dsg_is_read_whole() -> None:
    places = [Path(__file__).parents[n].parent / "shared" / "suites-data" / "dsg" / "dsg-1k-anns.csv" for n in (2, 3)]
    file = next((p for p in places if p.is_file()), None)
    if file is None:
        pytest.skip("DSG-1k is not here")
    from suites._questions import read_questions

    asked = read_questions(file)
    assert len(asked) == 8_182
    assert len({caption for caption, _ in asked}) == 1_059
    assert all(isinstance(q, GraphQuestion) for _, q in asked)
    assert sum(bool(q.parents) for _, q in asked if isinstance(q, GraphQuestion)) == 4_871


# -------------------------------------------------------------------------------------------------- written by a model


class Scribe:
    """Says what was written down for each caption."""

    sha256 = "d" * 64

    def __init__(self, said: dict[str, str]) -> None:
        self.said = said

    def write(self, prompt: str) -> str:
        return next((answer for key, answer in self.said.items() if prompt.rstrip().endswith(key)), "")


def test_lines_that_are_no_questions_are_dropped_and_counted() -> None:
    dropped: Counter[str] = Counter()
    text = ("shape | is it a circle? | yes; no | yes\nnot a question\nshape | is it a circle? | yes; no | no\n"
            "Color | what color? | red; blue; | green\nWEATHER | what color? | red; blue; red | red\n\n"
            "shape | beyond the empty line | yes; no | yes")  # fmt: skip
    rows = parse(text, dropped)
    assert rows == [
        {"question": "is it a circle?", "choices": ["yes", "no"], "answer": "yes", "element_type": "shape"},
        {"question": "what color?", "choices": ["red", "blue"], "answer": "red", "element_type": "other"},
    ]
    assert dropped == {"not four parts": 1, "asked twice": 1, "the answer is none of the choices": 1}


def test_the_filter_drops_what_the_caption_does_not_say() -> None:
    said = "color | what color? | red; blue | red\nshape | is it big? | yes; no | yes"
    writer = Scribe({"Caption: a red circle": said})
    check = Scribe({"(a) red (b) blue \\n a red circle": "red", "what color? \\n a red circle": "the red",
                    "(a) yes (b) no \\n a red circle": "no"})  # fmt: skip
    made = make_questions([Prompt("p0", "a red circle"), Prompt("p1", "a star")], writer, check)
    assert [(row["id"], row["question"]) for row in made.rows] == [("p0", "what color?")]
    assert made.dropped == {"not answered from the caption as expected": 1}
    assert made.without == ["a star"]
    row = {"question": "how many?", "choices": ["2", "3"], "answer": "2"}
    assert answerable("two", row, Scribe({"(b) 3 \\n two": "2", "how many? \\n two": "two"}))
    assert not answerable("two", row, Scribe({"(b) 3 \\n two": "2", "how many? \\n two": "several"}))


def test_word_f1() -> None:
    assert word_f1("the red car", "a red car") == 1
    assert word_f1("red car", "blue car") == 0.5
    assert word_f1("two", "2") == 1
    assert word_f1("", "x") == 0


def test_the_command_writes_a_file_for_review(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.cli import main

    folder = save_random_llm(tmp_path / "llm")
    model = LanguageModel(folder)
    assert isinstance(model.write("is there a cat ?"), str)
    command = ["tifa", "questions", "--suite", "cc500", "--llm", str(folder), "--limit", "2", "--out",
               str(tmp_path / "q.json")]  # fmt: skip
    monkeypatch.setattr(LanguageModel, "write", lambda self, prompt: "")
    assert main(command) == 2
    assert "wrote no question that could be read" in capsys.readouterr().err
    monkeypatch.setattr(LanguageModel, "write", lambda self, prompt: "shape | is there a shape? | yes; no | yes\n")
    assert main(command) == 0
    content = json.loads((tmp_path / "q.json").read_text())
    assert content["reviewed"] is False
    assert len(content["questions"]) == 2
    assert content["made_by"]["llm_sha256"] == model.sha256
    assert main(command) == 2  # never over a file that somebody may have reviewed
    assert "is there already" in capsys.readouterr().err
    content["reviewed"] = True
    (tmp_path / "q.json").write_text(json.dumps(content))
    suite = suites.with_questions(make_suite(), None, None)
    assert suite.questions == ()
    with pytest.raises(UserError, match="no question about a prompt"):  # another suite's
        suites.with_questions(make_suite(), tmp_path / "q.json", None)
    with pytest.raises(UserError, match="no language model"):
        LanguageModel(tmp_path)
