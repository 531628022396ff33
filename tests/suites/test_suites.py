"""What the six suites make of published rows, on rows written here."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

import suites
from bench.core import registry
from bench.core.errors import UserError
from bench.core.types import Prompt
from suites import _card, _load, _train, abc6k, cc500, coco, data, dpgbench, genaibench, hpsv2, parti, vilg300
from suites._files import Published
from suites._text import clean, normalised


def _texts(texts: list[str]) -> list[dict[str, str]]:
    return [{"text": text} for text in texts]


# --------------------------------------------------------------------------------------------------------- text rules


@pytest.mark.parametrize(("raw", "text"), [
    ("  a bird ", "a bird"),
    ("in the shape of a\r\ntriangle.", "in the shape of a triangle."),
    ("one \n\n two", "one two"),
    ("two  spaces stay", "two  spaces stay"),
    ("a quote \" and a tab\tstay", "a quote \" and a tab\tstay"),
    ("ends in a line break\n", "ends in a line break"),
])  # fmt: skip
def test_clean(raw: str, text: str) -> None:
    assert clean(raw) == text
    assert clean(text) == text


def test_normalised() -> None:
    assert normalised(" A Red\n car. . ") == "a red car"
    assert normalised("What?") == "what?"


# ------------------------------------------------------------------------------------------------------------- suites


def test_abc6k_pairs_and_null_pairs() -> None:
    rows = _texts(
        ["A red car, a blue boat.", "A blue car , a red boat .", "A red car, a red boat.", "A red car , a red boat ."]
    )
    prompts = abc6k._prompts("abc6k", rows)
    assert [p.id for p in prompts] == ["00000", "00001", "00002", "00003"]
    assert [p.tags["pair"] for p in prompts] == ["0000", "0000", "0001", "0001"]
    assert [p.tags["member"] for p in prompts] == ["original", "exchanged"] * 2
    assert [p.tags["null_pair"] for p in prompts] == ["no", "no", "yes", "yes"]


def test_cc500_takes_the_first_446_lines() -> None:
    prompts = cc500._prompts(
        "cc500", _texts([f"a red car and a blue boat{i}" for i in range(446)] + ["a tail\t"] * 156)
    )
    assert len(prompts) == 446
    assert all("tail" not in p.text for p in prompts)


def test_cc500_pairs_by_content_when_lines_are_out_of_step_or_double() -> None:
    texts = [
        "A red car and a white sheep", "A green apple and a black backpack", "A yellow cup and a blue cell phone",
        "A white car and a red sheep", "A black apple and a green backpack", "A blue cup and a yellow cell phone",
        "a red book and a blue bowl", "a blue book and a red bowl",
        "a blue book and a red bowl", "a red book and a blue bowl",
        "A red apple and yellow bananas", "A yellow apple and red bananas",
    ]  # fmt: skip
    assert [n for n, _ in cc500.pair_up(texts)] == [0, 1, 2, 0, 1, 2, 3, 3, 4, 4, 5, 5]
    assert [member for _, member in cc500.pair_up(texts)] == list("aaabbb") + ["a", "b"] * 3


def test_vilg300_categories_in_english() -> None:
    rows = [
        {"Prompt": "A horse riding\r\nan astronaut.", "文本": "…", "类别": "加里·马库斯等人。", "来源": "DrawBench"}
    ]
    prompt = vilg300._prompts("vilg300", rows)[0]
    assert prompt.tags == {"category": "Gary Marcus et al.", "category_zh": "加里·马库斯等人。", "source": "DrawBench"}
    assert len(vilg300.CATEGORIES) == len(set(vilg300.CATEGORIES.values())) == 16


def test_parti_tags_without_empty_notes() -> None:
    rows = [{"Prompt": "bond", "Category": "Abstract", "Challenge": "Basic", "Note": ""}]
    assert parti._prompts("parti", rows)[0].tags == {"category": "Abstract", "challenge": "Basic"}


def test_dpg_bench_ids_and_sources_are_in_the_names_of_its_files() -> None:
    rows = [{"name": n, "text": "x"} for n in ("226.txt", "partiprompts97.txt", "COCOval2014000000403792.txt")]
    found = [(p.id, p.tags["source"]) for p in dpgbench._prompts("dpgbench", rows)]
    assert found == [("226", "plain"), ("partiprompts97", "partiprompts"), ("COCOval2014000000403792", "COCOval")]


def test_labels_name_prompts_by_their_published_number() -> None:
    prompts = genaibench._prompts("genai527", [{"name": f"0000{i}", "prompt": "x"} for i in (1, 2, 3)])
    rows = [{"label": "basic", "numbers": "1 3"}, {"label": "counting", "numbers": "3"}]
    found = _load._labelled(prompts, "skills", rows)
    assert [p.tags for p in found] == [{"skills": "basic"}, {}, {"skills": "basic, counting"}]


def test_hpsv2_ids_are_the_image_names_of_the_scorer() -> None:
    prompts = hpsv2._prompts("concept-art", _texts(["x", "y"]))
    assert [(p.id, p.tags["style"]) for p in prompts] == [
        ("concept-art-00000", "concept-art"),
        ("concept-art-00001", "concept-art"),
    ]


def test_coco_val2017_takes_caption_0_of_each_image_by_image_id() -> None:
    rows = [{"image_id": i, "id": c, "caption": t} for i, c, t in
            (("20", "1", "a"), ("3", "9", "b"), ("20", "5", "c"), ("3", "2", "d"))]  # fmt: skip
    prompts = coco._prompts("val2017", rows)
    assert [(p.text, p.tags["image_id"]) for p in prompts] == [("b", "3"), ("a", "20")]


def test_coco_esd_keeps_image_id_and_seed() -> None:
    rows = [
        {"image_id": "000000203564", "source": "coco-30k", "prompt": "A bicycle\nreplica", "evaluation_seed": "41337"}
    ]
    assert coco._prompts("esd30k", rows)[0].tags == {"image_id": "203564", "evaluation_seed": "41337"}


# -------------------------------------------------------------------------------------------- a whole edition, in small


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with a PartiPrompts of four rows and a training list of five."""
    card: dict[str, Any] = {"title": "small", "full": {**_card.card("parti")["full"], "n_prompts": 4}}
    card["full"]["variants"] = {"People": {"where": {"category": "People"}, "n_prompts": 1},
                                "first1": {"first_per": {"category": 1}, "n_prompts": 2}}  # fmt: skip
    card["files"] = {"parti": {**_card.card("parti")["files"]["parti"], "n_rows": 4, "sha256": ""}}
    monkeypatch.setattr(_card, "card", lambda name: card)
    monkeypatch.setattr(_load, "card", lambda name: card)
    refl = Published("refl.json", "json-objects", 5, "https://example.org", "CC0", ("text", "image"))
    known = {"refl": _train.TrainList("refl", "ReFL's list", "", "text", (refl,))}
    monkeypatch.setattr("suites._train.lists", lambda: known)
    (tmp_path / "parti").mkdir()
    (tmp_path / "parti" / "PartiPrompts.tsv").write_text(
        'Prompt\tCategory\tChallenge\tNote\n"G I G G L E"\tArts\tBasic\t\na cat \tArts\tBasic\t\n'
        "A dog.\tPeople\tBasic\t\na cat\tArts\tBasic\t\n"
    )
    train = [" a cat", "a DOG", "a horse ", "a horse", "a horse "]
    (tmp_path / "refl.json").write_text("[" + ", ".join(f'{{"text": "{text}", "image": "0"}}' for text in train) + "]")
    return tmp_path


def test_full_edition_drops_leaks_and_says_so(small: Path) -> None:
    suite = parti.suite("full", data_dir=small)
    assert [p.text for p in suite.prompts] == ['"G I G G L E"', "a cat", "A dog.", "a cat"]
    assert [(p.id, p.text) for p in suite.train_prompts] == [("refl-00002", "a horse"), ("refl-00003", "a horse")]
    assert "removed 2 training prompts that are evaluation prompts (1 of them literally)" in suite.notes
    assert "4 prompts, 3 distinct; duplicates are kept" in suite.notes
    assert "text rule lines-joined-and-stripped/1: changed 1 of 4 prompts" in suite.notes
    assert suite.spec.n_prompts == 4
    assert suite.spec.n_train_prompts == 2


def test_variants_are_rules_and_keep_official_ids(small: Path) -> None:
    people = parti.suite("full", variant="people", data_dir=small)
    assert people.spec.id == "parti.People-full@1"
    assert [p.id for p in people.prompts] == ["00002"]
    assert [p.id for p in parti.suite("full", variant="first1", data_dir=small).prompts] == ["00000", "00002"]


def test_limit_takes_the_first_and_leaves_training_alone(small: Path) -> None:
    whole, limited = parti.suite("full", data_dir=small), parti.suite("full", data_dir=small, limit=2)
    assert limited.prompts == whole.prompts[:2]
    assert limited.train_prompts == whole.train_prompts
    assert limited.spec.train_prompt_hash == whole.spec.train_prompt_hash
    assert limited.spec.prompt_hash != whole.spec.prompt_hash
    assert limited.spec.limit == 2
    assert any("never ranked" in note for note in limited.notes)
    # a limit that cuts nothing off is the suite itself
    assert parti.suite("full", data_dir=small, limit=4).spec == whole.spec


def test_data_folder_from_the_environment(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEBENCH_DATA", str(small))
    assert parti.suite("full").spec.n_prompts == 4


def test_wrong_count_of_prompts_is_an_error(small: Path) -> None:
    _card.card("parti")["full"]["n_prompts"] = 5
    with pytest.raises(UserError, match="4 prompts instead of 5"):
        parti.suite("full", data_dir=small)


# ------------------------------------------------------------------------------------------------ what people mistype


def test_no_data_folder() -> None:
    with pytest.raises(UserError, match="no data folder is given") as caught:
        coco.suite("full")
    assert "bench data status" in caught.value.hint


def test_data_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no data folder"):
        coco.suite("full", data_dir=tmp_path / "nowhere")


def test_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"coco/captions_source\.tsv: there is no such file") as caught:
        coco.suite("full", data_dir=tmp_path)
    assert "mlcommons/inference" in caught.value.valid
    assert caught.value.hint == f"bench data status --data {tmp_path}"


def test_unknown_edition_variant_and_limit() -> None:
    with pytest.raises(UserError, match="no edition named 'ful'"):
        coco.suite("ful")
    with pytest.raises(UserError, match="no full variant of coco named 'val2071'") as caught:
        coco.suite("full", variant="val2071")
    assert "'val2017'" in caught.value.hint
    with pytest.raises(UserError, match="sample edition does not have it"):
        coco.suite(variant="val2017")
    with pytest.raises(UserError, match="limit = 0"):
        coco.suite(limit=0)


@pytest.mark.parametrize(("name", "meaning"), [
    ("coco", ("coco", "")), ("coco-mlperf5k", ("coco", "")), ("coco-val2017", ("coco", "val2017")),
    ("coco.val2017", ("coco", "val2017")), ("cc500.conjunction", ("cc500", "")), ("unheard-of", ("unheard-of", "")),
    ("hpsv2-400", ("hpsv2", "first100")), ("hpsv2.first100", ("hpsv2", "first100")),
    ("parti-people", ("parti", "People")), ("parti.People", ("parti", "People")),
    ("hpsv2.concept-art", ("hpsv2", "concept-art")), ("abc6k-no-null-pairs", ("abc6k", "no-null-pairs")),
    ("hpsv2/first100", ("hpsv2", "first100")), ("abc6k/no-null-pairs", ("abc6k", "no-null-pairs")),
    ("vilg300/split80-20@7", ("vilg300", "split80-20@7")), ("vilg300.split80-20", ("vilg300", "split80-20@0")),
    ("vilg300-SPLIT80-20@007", ("vilg300", "split80-20@7")), ("genaibench-527", ("genaibench", "527")),
    ("t2icompbench.3d_spatial", ("t2icompbench", "3d_spatial")),
])  # fmt: skip
def test_resolve(name: str, meaning: tuple[str, str]) -> None:
    assert suites.resolve(name) == meaning


def test_resolve_refuses_unknown_variants_and_editions() -> None:
    with pytest.raises(UserError, match="named '4000'"):
        suites.resolve("hpsv2-4000")
    with pytest.raises(UserError, match="is an edition") as caught:
        suites.resolve("coco-full")
    assert "--edition full" in caught.value.hint
    with pytest.raises(UserError, match="'x' is no seed"):
        suites.resolve("vilg300.split80-20@x")
    with pytest.raises(UserError, match="is not drawn, so it takes no seed"):
        suites.resolve("coco.val2017@3")
    with pytest.raises(UserError, match="named 'split80-21@0'") as caught:
        suites.resolve("vilg300.split80-21@0")
    assert "'split80-20@0'" in caught.value.hint


@pytest.mark.parametrize(("suite", "variant", "asked", "meant"), [
    ("hpsv2", "first100", None, "full"), ("hpsv2", "", None, "sample"), ("hpsv2", "", "full", "full"),
    ("drawbench", "", None, "full"), ("drawbench", "", "sample", "sample"), ("somebody-elses", "", None, "sample"),
    ("somebody-elses", "hard", None, "sample"), ("books", "", None, "full"), ("books", "", "sample", "sample"),
])  # fmt: skip
def test_the_edition_that_a_name_means(suite: str, variant: str, asked: str | None, meant: str) -> None:
    assert suites.edition_of(suite, variant, asked) == meant


# -------------------------------------------------------------------------------------------------------------- leaks


def test_leaks_literal_and_normalised() -> None:
    train = [Prompt("t0", "a cat"), Prompt("t1", "A  Cat."), Prompt("t2", "a cow")]
    found = suites.leaks(train, [Prompt("e0", "a dog"), Prompt("e1", "a cat"), Prompt("e2", "a cat")])
    assert [(leak.train_id, leak.eval_id, leak.literal) for leak in found] == [("t0", "e1", True), ("t1", "e1", False)]
    assert suites.leaks(train[2:], [Prompt("e", "a dog")]) == []


def test_a_forced_list_with_leaks_is_refused() -> None:
    with pytest.raises(UserError, match=r"1 of 2 training prompts are evaluation prompts \(0 literally"):
        suites.refuse_leaks([Prompt("t0", "A CAT."), Prompt("t1", "x")], [Prompt("e", "a cat")])
    suites.refuse_leaks([Prompt("t1", "x")], [Prompt("e", "a cat")])


# -------------------------------------------------------------------------------------------------------- data status


def test_status_of_nothing_says_what_to_do(tmp_path: Path) -> None:
    for where in (None, tmp_path):
        files = data.status(where)
        assert {f.state for f in files} == {"missing"}
        assert {f.suite for f in files} == {"all", *_card.names(), *(n for n in _train.lists() if n != "refl")}
        assert all(f.todo and f.url and f.licence and f.n_rows for f in files if f.needed)
        assert {f.suite for f in files if not f.needed} == {n for n in _train.lists() if n != "refl"}


def test_status_tells_wrong_from_missing(tmp_path: Path) -> None:
    (tmp_path / "hpsv2").mkdir()
    (tmp_path / "hpsv2" / "anime.json").write_text('["half", "a li')
    wrong = [f for f in data.status(tmp_path) if f.state == "wrong"]
    assert [(f.suite, f.variant) for f in wrong] == [("hpsv2", "default, first100, anime")]
    assert "0 good rows instead of 800" in wrong[0].detail
    assert "again" in wrong[0].todo


# --------------------------------------------------------------------------------------------------------- the cards


@pytest.mark.parametrize("name", _card.names())
def test_cards_are_whole(name: str) -> None:
    module = importlib.import_module(f"suites.{name}")
    assert module.suite.__doc__.splitlines()[0].endswith(".")
    known = _card.files(name)
    for edition in filter(lambda edition: _card.has_edition(name, edition), _card.EDITIONS):
        for variant in ("", *_card.variants(name, edition)):
            _, table = _card.settings(name, edition, variant)
            fractions = table["fractions"]
            assert fractions[0] == 0
            assert fractions[-1] == 1
            assert fractions == sorted(set(fractions))
            assert set(table.get("files", ())) <= set(known)
            assert all(scorer["source"] and bool(scorer.get("column")) != bool(scorer.get("url"))
                       for scorer in table.get("scorers", ()))  # fmt: skip
            spec = _load._spec(name, edition, variant, table, (), (), (), None)
            assert spec.model == "tiny-sd"
    tables = [_card.settings(name, "full", v)[1] for v in ("", *_card.variants(name))]
    assert {key for table in tables for key in (*table["files"], *table.get("labels", {}).values())} == set(known)
    # what the tiny models' judges can read of published prompts, in U
    assert {tuple(table["metrics"]) for table in tables} == {("clipscore", "rewards")}
    assert {table["budget"]["denoiser_u"] for table in tables} == {24_000}
    # 8 GPU-hours, and where that is from
    assert all(table["scale"]["budget"]["device_s"] == 28_800 and table["scale"]["source"] for table in tables)


def test_six_suites_have_both_editions_and_five_only_the_published_one() -> None:
    six = ["abc6k", "cc500", "coco", "hpsv2", "parti", "vilg300"]
    assert _card.names("sample") == six
    assert set(_card.names()) - set(six) == {"dpgbench", "drawbench", "genaibench", "geneval", "t2icompbench"}
    assert set(_card.names()) <= set(registry.entries("suites"))


@pytest.mark.parametrize("name", sorted(set(_card.names()) - set(_card.names("sample"))))
def test_a_suite_without_a_sample_edition_says_what_to_type(name: str) -> None:
    make = importlib.import_module(f"suites.{name}").suite
    with pytest.raises(UserError, match="has no sample edition") as caught:
        make("sample")
    assert caught.value.hint == f"--suite {name} --edition full --data DIR"
    assert suites.edition_of(name, "", None) == "full"
    with pytest.raises(UserError, match="no data folder is given"):
        make()
