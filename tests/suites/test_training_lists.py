"""Training prompts: published lists, their known leaks, and a user's own files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import suites
from bench.cli import main
from bench.core.errors import UserError
from bench.core.types import Prompt, Suite
from suites import abc6k, cc500, coco, data, hpsv2, parti, t2icompbench
from suites._files import Published, read
from suites._text import clean
from suites._train import file_prompts, find_list, list_prompts, lists

# distinct as published, of so many rows
KNOWN = {
    "refl": (9_803, 10_000), "ddpo-animals": (45, 45), "alignprop-hpsv2": (751, 752),
    "t2icompbench-train": (5_559, 5_600), "pickapic-flowgrpo": (25_432, 25_432), "pickapic-spo": (4_000, 4_000),
}  # fmt: skip


def _list(name: str, real: Path) -> list[Prompt]:
    return list_prompts(name, lambda: real)[0]


def _texts(real: Path, path: str, dialect: str, n_rows: int, column: str) -> list[Prompt]:
    """A published list that is no suite, as evaluation prompts."""
    rows = read(Published(path, dialect, n_rows, "", "", (column,) if column != "text" else ()), real)
    return [Prompt(str(i), clean(row[column])) for i, row in enumerate(rows)]


@pytest.mark.parametrize("name", KNOWN)
def test_lists_that_are_here_have_the_rows_that_were_published(name: str, real: Path) -> None:
    prompts, note = list_prompts(name, lambda: real)
    n_distinct, n_rows = KNOWN[name]
    assert f"of {n_rows:,} rows" in note
    assert f"{n_distinct:,} distinct of" in note
    assert len({p.id for p in prompts}) == len(prompts) > 0
    assert all(p.text and p.text == clean(p.text) for p in prompts)


def test_lists_that_are_not_here_say_where_they_are(tmp_path: Path) -> None:
    for name in ("hpdv2", "coco-train2014", "diffusiondb-100k"):
        with pytest.raises(UserError, match="there is no such file") as caught:
            list_prompts(name, lambda: tmp_path)
        assert find_list(name).files[0].url in caught.value.valid
        assert find_list(name).files[0].licence in caught.value.valid
        assert caught.value.hint == f"bench data status --data {tmp_path}"


def test_hpdv2_is_read_as_it_is_published(tmp_path: Path) -> None:
    (tmp_path / "hpdv2").mkdir()
    rows = [{"prompt": " a cat\n", "human_preference": [1, 0]}, {"prompt": "a dog", "human_preference": [0, 1]},
            {"prompt": "a dog", "human_preference": [1, 0]}]  # fmt: skip
    (tmp_path / "hpdv2" / "train.json").write_text(json.dumps(rows))
    prompts, note = list_prompts("hpdv2", lambda: tmp_path)
    assert [(p.id, p.text) for p in prompts] == [("hpdv2-00000", "a cat"), ("hpdv2-00001", "a dog")]
    assert "2 distinct of 3 rows" in note
    (tmp_path / "hpdv2" / "train.json").write_text('[{"text": "a cat"}]')
    with pytest.raises(UserError, match="record 0 is not of the published form"):
        list_prompts("hpdv2", lambda: tmp_path)


def test_coco_train_captions_are_read_as_they_are_published(tmp_path: Path) -> None:
    (tmp_path / "coco").mkdir()
    document = {"images": [], "annotations": [{"image_id": 9, "id": 48, "caption": "A bicycle. \n"}]}
    (tmp_path / "coco" / "captions_train2014.json").write_text(json.dumps(document))
    prompts, _ = list_prompts("coco-train2014", lambda: tmp_path)
    assert [p.text for p in prompts] == ["A bicycle."]


def test_diffusiondb_in_another_form_and_the_same_draw_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "diffusiondb").mkdir()
    texts = [f"a castle, number {i}" for i in range(40)]
    path = tmp_path / "diffusiondb" / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    found = find_list("diffusiondb-100k")
    assert len(list_prompts(found.name, lambda: tmp_path)[0]) == 40
    small = type(found)(**{**vars(found), "take": 10})
    monkeypatch.setattr("suites._train.lists", lambda: {found.name: small})
    prompts, note = list_prompts(found.name, lambda: tmp_path)
    assert "of which the 10 of the smallest SHA-256" in note
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in reversed(texts)))
    assert {p.text for p in list_prompts(found.name, lambda: tmp_path)[0]} == {p.text for p in prompts}
    path.unlink()
    (tmp_path / "diffusiondb" / "prompts.csv").write_text('prompt\n"a castle, at night"\n')
    assert [p.text for p in list_prompts(found.name, lambda: tmp_path)[0]] == ["a castle, at night"]


def test_status_knows_other_forms_of_a_list_and_formats_that_nothing_here_reads(tmp_path: Path) -> None:
    (tmp_path / "diffusiondb").mkdir()
    (tmp_path / "diffusiondb" / "prompts.csv").write_text("prompt\na castle\na tower\n")
    (file,) = data.status(tmp_path, ["diffusiondb-100k"])
    assert (file.state, Path(file.path).name) == ("found", "prompts.csv")
    assert file.detail.startswith("2 rows, how many there should be is not known")
    (tmp_path / "diffusiondb" / "metadata.parquet").write_bytes(b"PAR1 and no table")
    (file,) = data.status(tmp_path, ["diffusiondb-100k"])
    assert file.state == "wrong"
    assert "pyarrow" in file.todo or "download" in file.todo


@pytest.mark.slow
def test_a_plan_tells_what_was_taken_out_of_a_list(
    real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--suite", "abc6k", "--edition", "full", "--tuner", "drtune", "--data", str(real), "--runs", str(tmp_path)]
    assert main(["plan", *args, "--train-list", "t2icompbench-train"]) == 0
    out = capsys.readouterr().out
    assert "abc6k-full@1: training prompts: T2I-CompBench++'s training prompts (8 files)" in out
    assert "removed 132 training prompts that are evaluation prompts (84 of them literally)" in out


def test_unknown_list_names_the_closest() -> None:
    with pytest.raises(UserError, match="no training list named 'hpdv3'") as caught:
        find_list("hpdv3")
    assert "'hpdv2'" in caught.value.hint
    assert ".jsonl" in caught.value.valid


def test_every_list_states_origin_and_licence() -> None:
    for found in lists().values():
        assert found.title and found.used_by and found.column
        for file in (*found.files, *found.instead):
            assert file.url.startswith(("https://raw.githubusercontent.com/", "https://huggingface.co/",
                                        "http://images.cocodataset.org/"))  # fmt: skip
            assert file.licence


# ------------------------------------------------------------------------------------------- leaks that were published


@pytest.mark.parametrize(("name", "make", "variant", "n_literal", "n_normalised"), [
    # in the data folder's README 148, 112, 19, 8 and 84 (132): the text rule strips, which makes a few more literal
    ("alignprop-hpsv2", coco.suite, "esd30k", 149, 149),
    ("alignprop-hpsv2", coco.suite, "gigagan30k", 113, 113),
    ("alignprop-hpsv2", coco.suite, "", 21, 21),
    ("alignprop-hpsv2", hpsv2.suite, "first100", 100, 100),
    ("alignprop-hpsv2", abc6k.suite, "", 8, 8),
    ("t2icompbench-train", cc500.suite, "", 306, 306),
    ("t2icompbench-train", abc6k.suite, "", 84, 132),
    ("t2icompbench-train", t2icompbench.suite, "", 2, 6),
    ("refl", parti.suite, "", 5, 6),
    ("ddpo-animals", parti.suite, "", 0, 0),
])  # fmt: skip
def test_leaks_are_taken_out_of_a_named_list_and_counted_both_ways(
    name: str, make: Callable[..., Suite], variant: str, n_literal: int, n_normalised: int, real: Path
) -> None:
    suite = make("full", variant=variant, data_dir=real, train_list=name)
    assert (f"removed {n_normalised:,} training prompts that are evaluation prompts ({n_literal:,} of them literally)"
            in suite.notes)  # fmt: skip
    assert suites.leaks(suite.train_prompts, suite.prompts) == []
    assert len(suite.train_prompts) == len(_list(name, real)) - n_normalised


def test_leaks_of_lists_that_are_no_suites(real: Path) -> None:
    """research/suites.md, at the end of the data folder's README."""
    refl, test = _list("refl", real), _texts(real, "imagereward/test.json", "json-objects", 466, "prompt")
    # 8 letter by letter as published: nearly all of ReFL's rows carry outer white space
    published = {row["text"] for row in read(lists()["refl"].files[0], real)}
    raw = read(Published("imagereward/test.json", "json-objects", 466, "", "", ("prompt",)), real)
    assert len({row["prompt"] for row in raw} & published) == 8
    assert _counts(refl, test) == (42, 44)
    v2 = _texts(real, "pick-a-pic/papv2.json", "json-objects", 487, "prompt")
    assert _counts(_list("pickapic-flowgrpo", real), v2) == (205, 206)
    assert _counts(_list("pickapic-spo", real), v2)[0] == 57
    flow = _texts(real, "pick-a-pic/flow_grpo_test.txt", "lines", 2048, "text")
    assert _counts(_list("pickapic-spo", real), flow)[0] == 224


def _counts(train: list[Prompt], evaluation: list[Prompt]) -> tuple[int, int]:
    """(literally, once normalised): distinct evaluation texts that stand in the training list."""
    literal, loose = {p.text for p in train}, {suites.normalised(p.text) for p in train}
    texts = {p.text for p in evaluation}
    return len(texts & literal), sum(suites.normalised(text) in loose for text in texts)


def test_a_list_that_is_the_suite_leaves_nothing_to_train_on(real: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds nothing but evaluation prompts: 750, 7"):
        hpsv2.suite("full", variant="photo", data_dir=real, train_list="alignprop-hpsv2")


def test_a_named_list_takes_the_place_of_the_suites_own(real: Path) -> None:
    own, other = parti.suite("full", data_dir=real), parti.suite("full", data_dir=real, train_list="ddpo-animals")
    assert other.train_list == "ddpo-animals"
    assert {p.text for p in other.train_prompts} <= {p.text for p in _list("ddpo-animals", real)}
    assert other.spec.prompt_hash == own.spec.prompt_hash
    assert other.spec.train_prompt_hash != own.spec.train_prompt_hash
    assert not any("ReFL" in note for note in other.notes)
    assert any(note.startswith("removed") and "of them literally" in note for note in other.notes)


# ------------------------------------------------------------------------------------------------------- a user's file


@pytest.mark.parametrize(("name", "data"), [
    ("a.txt", "a cat\n\n a dog\r\na cat\n"),
    ("a.json", '["a cat", "", " a dog", "a cat"]'),
    ("a.json", '[{"Prompt": "a cat"}, {"Prompt": ""}, {"Prompt": "a dog"}, {"Prompt": "a cat"}]'),
    ("a.jsonl", '{"text": "a cat"}\n{"text": ""}\n{"text": "a\\ndog", "n": 1}\n{"text": "a cat"}\n'),
    ("a.csv", '\ufeffid,caption\n1,a cat\n2,\n3,"a\ndog"\n4,a cat\n'),
    ("a.tsv", "prompt\tn\na cat\t1\n\t2\na dog\t3\na cat\t4\n"),
])  # fmt: skip
def test_a_file_in_every_form(name: str, data: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(data, "utf-8", newline="")
    prompts, note = file_prompts(tmp_path / name)
    assert [(p.id, p.text) for p in prompts] == [("own-00000", "a cat"), ("own-00002", "a dog")]
    assert note == f"training prompts: {name}, 2 distinct of 4 rows, 1 empty ones left out"


@pytest.mark.parametrize(("name", "data", "says"), [
    ("a.doc", "a cat", "no list of prompts is known by the ending '.doc'"),
    ("a.txt", "", "holds no prompt"),
    ("a.json", '{"a": 1}', "it is JSON, but no list"),
    ("a.json", '["a", 1]', "neither all texts nor all objects"),
    ("a.json", '[{"prompt": "a"}, {"prompt": 1}]', "record 1 has no text under 'prompt'"),
    ("a.json", '["a', "Unterminated string"),
    ("a.csv", "id,words\n1,a cat\n", r"none of its columns \(id, words\) is called prompt"),
    ("a.csv", "id,prompt\n1,a cat\n2\n", "line 3 has 1 fields instead of 2"),
    ("a.txt", "caf\udce9", "byte 3 is not UTF-8"),
])  # fmt: skip
def test_a_file_that_is_no_list_is_told_what_is(name: str, data: str, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=says) as caught:
        file_prompts(tmp_path / name)
    assert caught.value.valid


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        file_prompts(tmp_path / "a.txt")


def test_a_users_file_trains_a_sample_edition_and_may_hold_no_evaluation_prompt(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("a red circle above a blue star\na green square\n")
    suite = coco.suite(train_list=str(path))
    assert [p.text for p in suite.train_prompts] == ["a red circle above a blue star", "a green square"]
    assert suite.spec.n_train_prompts == 2
    assert suite.train_list == str(path)
    leaked = suite.prompts[3].text.upper()
    path.write_text(f"{leaked}.\na green square\n")
    with pytest.raises(UserError, match=r"1 of 2 training prompts are evaluation prompts \(0 literally"):
        coco.suite(train_list=str(path))
