"""The real published files: exact counts, and the traps of research/suites.md where they bite. Skipped without them."""

from __future__ import annotations

import functools
import importlib
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from bench.core.errors import UserError
from bench.core.identity import digest
from bench.core.types import Suite
from suites import _card, cc500, data, geneval, hpsv2, normalised, parti, t2icompbench, vilg300

# prompts, distinct, training prompts left, digest of ids and texts: a change here is a new version of the suite
GOLDEN = {
    "abc6k": (6434, 6388, 9803, "927f22e784cc"),
    "abc6k.no-null-pairs": (6234, 6219, 9803, "f041f0d7626f"),
    "cc500": (446, 432, 9803, "57325673ead4"),
    "coco": (5000, 4965, 9803, "577951576009"),
    "coco.gigagan30k": (30000, 29420, 9803, "441045af1cc1"),
    "coco.esd30k": (30000, 29480, 9803, "8c89cfd2d152"),
    "coco.val2017": (5000, 4959, 9803, "fd6e939b9617"),
    "dpgbench": (1065, 1065, 9803, "17fbbabe1b88"),
    "drawbench": (200, 200, 9803, "8ac8bc3da731"),
    "genaibench": (1600, 1600, 9803, "4fec57aa45d8"),
    "genaibench.527": (527, 527, 9803, "95f350bcf566"),
    "geneval": (553, 553, 9802, "5e2537df28b9"),
    "hpsv2": (3200, 3172, 9802, "415f331b14b5"),
    "hpsv2.first100": (400, 399, 9803, "d69439af692c"),
    "hpsv2.anime": (800, 781, 9802, "5d280eb53cf9"),
    "hpsv2.concept-art": (800, 795, 9803, "de7dba983c83"),
    "hpsv2.paintings": (800, 798, 9803, "fade33a39cc1"),
    "hpsv2.photo": (800, 800, 9803, "8bdd39bfefe2"),
    "hpsv2.hpdv2-test400": (400, 400, 9803, "b72a98ea7be8"),
    "parti": (1632, 1632, 9797, "8f6a903189ba"),
    "parti.People": (177, 177, 9801, "1d487f43c7fa"),
    "t2icompbench": (2400, 2400, 9803, "e2fc3e699e88"),
    "t2icompbench.six": (1800, 1800, 9803, "9ea033b00cc4"),
    "t2icompbench.color": (300, 300, 9803, "360af6a8c6bd"),
    "t2icompbench.shape": (300, 300, 9803, "41d08554e3bc"),
    "t2icompbench.texture": (300, 300, 9803, "f6a76035d304"),
    "t2icompbench.spatial": (300, 300, 9803, "9605a7f06b07"),
    "t2icompbench.non_spatial": (300, 300, 9803, "1626d29b91ab"),
    "t2icompbench.complex": (300, 300, 9803, "cba4a0ad9222"),
    "t2icompbench.numeracy": (300, 300, 9803, "c7a41f2c067a"),
    "t2icompbench.3d_spatial": (300, 300, 9803, "439ee6b7ba02"),
    "t2icompbench.color-2023": (300, 295, 9803, "c4eaed5db636"),
    "vilg300": (300, 300, 9803, "28998ad0c0ba"),
    "vilg300.split80-20@0": (60, 60, 240, "862e7fef54ca"),
}


# what else is in a run's id: settings of an edition on the tiny model
SETTINGS = {
    "abc6k-sample": "5f162734731c",
    "abc6k": "842cd838c721",
    "abc6k.no-null-pairs": "08ae87066f1d",
    "cc500-sample": "b9d2ffb35dc5",
    "cc500": "5010891b54fd",
    "coco-sample": "0e767c3047bf",
    "coco": "baea30540903",
    "coco.gigagan30k": "e741e19d6740",
    "coco.esd30k": "5ea4c3a0142a",
    "coco.val2017": "a435478e2467",
    "hpsv2-sample": "cd0311df19cb",
    "hpsv2": "1db48ea13a5b",
    "hpsv2.first100": "8884dec9c61b",
    "hpsv2.anime": "12f420887e2a",
    "hpsv2.concept-art": "f62ba33152eb",
    "hpsv2.paintings": "07ee5cf528b1",
    "hpsv2.photo": "96413b67cc3d",
    "parti-sample": "5bbf5b3fca25",
    "parti": "a81101634e4b",
    "parti.People": "bed37cda24d1",
    "vilg300-sample": "961d5a4da2a5",
    "vilg300": "3713c09ab68f",
}


@functools.cache
def _suite(name: str, root: Path) -> Suite:
    suite, _, variant = name.partition(".")
    return importlib.import_module(f"suites.{suite}").suite("full", variant=variant, data_dir=root)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", GOLDEN)
def test_exact_counts_and_digests(name: str, real: Path) -> None:
    suite = _suite(name, real)
    distinct = len({p.text for p in suite.prompts})
    assert (len(suite.prompts), distinct, len(suite.train_prompts), suite.spec.prompt_hash[:12]) == GOLDEN[name]
    assert len({p.id for p in suite.prompts}) == len(suite.prompts)
    assert all(
        p.text and p.text == p.text.strip() and "\n" not in p.text for p in (*suite.prompts, *suite.train_prompts)
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_run_ids_of_these_suites_hold_still(name: str, real: Path) -> None:
    s = (sample_of(name.removesuffix("-sample")) if name.endswith("-sample") else _suite(name, real)).spec
    identity = [s.id, s.prompt_hash, s.train_prompt_hash, s.model, s.reward, s.budget.to_json(), s.sampler,
                s.train_sampler, s.global_batch, s.eval_seeds, s.fractions]  # fmt: skip
    assert digest(identity, 12) == SETTINGS[name]


def sample_of(name: str) -> Suite:
    """The sample edition."""
    return importlib.import_module(f"suites.{name}").suite("sample")  # type: ignore[no-any-return]


def test_every_variant_is_pinned() -> None:
    assert set(GOLDEN) == {f"{n}.{v}" if v else n for n in _card.names() for v in ("", *_card.variants(n))}


def test_status_finds_all(real: Path) -> None:
    files = data.status(real)
    assert {f.state for f in files if f.needed} == {"found"}
    # lists that nobody may pass on, or that are too large
    assert {f.suite for f in files if f.state == "missing"} == {"hpdv2", "coco-train2014", "diffusiondb-100k"}
    assert {f.state for f in files} == {"found", "missing"}


@pytest.mark.parametrize(("name", "n_files"), [
    ("coco", 5), ("coco.val2017", 2), ("hpsv2-400", 5), ("vilg300.split80-20@3", 1), ("ddpo-animals", 1),
    ("genaibench", 5), ("genaibench.527", 3), ("t2icompbench.numeracy", 2),
])  # fmt: skip
def test_status_of_one_suite_is_what_it_reads(name: str, n_files: int, real: Path) -> None:
    files = data.status(real, [name])
    assert len({f.path for f in files}) == len(files) == n_files
    assert all(f.state == "found" and f.needed for f in files)


def test_parti_quotation_marks_survive(real: Path) -> None:
    prompts = _suite("parti", real).prompts
    assert sum('"' in p.text for p in prompts) == 22
    assert [p.text[:13] for p in prompts if p.text.startswith('"')] == ['"G I G G L E"']
    assert len({p.tags["category"] for p in prompts}) == 12
    assert len({p.tags["challenge"] for p in prompts}) == 11
    assert sum("note" in p.tags for p in prompts) == 190


def test_mlperf_quotes_are_undone(real: Path) -> None:
    prompts = _suite("coco", real).prompts
    assert not [p for p in prompts if '""' in p.text or p.text.startswith('"A man in glasses')]
    assert 'A man in glasses sitting next to a woman and holding up a red frisbee that says "Cheese Shop" on it.' in {
        p.text for p in prompts
    }


def test_coco_lists_agree_where_they_share_images(real: Path) -> None:
    esd = {p.tags["image_id"]: p.text for p in _suite("coco.esd30k", real).prompts}
    mlperf = {p.tags["image_id"]: p.text for p in _suite("coco", real).prompts}
    assert len(mlperf.keys() & esd.keys()) == 3668
    gigagan = Counter(p.text for p in _suite("coco.gigagan30k", real).prompts)
    assert gigagan != Counter(esd.values())


def test_vilg300_is_not_348_lines(real: Path) -> None:
    suite = _suite("vilg300", real)
    assert suite.prompts[0].text == "A red colored car."  # no byte-order mark
    assert Counter(p.tags["source"] for p in suite.prompts) == {"DrawBench": 150, "ERNIE-VILG": 150}
    assert Counter(p.tags["category"] for p in suite.prompts)["Gary Marcus et al."] == 9
    assert any(p.text.endswith("in the shape of a triangle.") for p in suite.prompts)
    assert any("changed 36 of 300" in note for note in suite.notes)


def test_abc6k_null_pairs(real: Path) -> None:
    prompts = _suite("abc6k", real).prompts
    pairs = list(zip(prompts[::2], prompts[1::2], strict=True))
    assert all(a.tags["pair"] == b.tags["pair"] for a, b in pairs)
    assert sum(a.text == b.text for a, b in pairs) == 31
    assert sum(a.tags["null_pair"] == "yes" for a, _ in pairs) == 100
    left = _suite("abc6k.no-null-pairs", real).prompts
    assert set(Counter(p.tags["pair"] for p in left).values()) == {2}


def test_cc500_tail_and_pairs(real: Path) -> None:
    prompts = _suite("cc500", real).prompts
    assert prompts[-1].text == "A yellow apple and red bananas"
    pairs: dict[str, list[str]] = {}
    for p in prompts:
        pairs.setdefault(p.tags["pair"], []).append(p.text)
    assert len(pairs) == 223
    for a, b in pairs.values():
        assert a != b
        assert sorted(a.lower().split()) == sorted(b.lower().split())


def test_hpsv2_styles_in_package_order(real: Path) -> None:
    suite = _suite("hpsv2", real)
    styles = [p.tags["style"] for p in suite.prompts]
    assert list(dict.fromkeys(styles)) == ["anime", "concept-art", "paintings", "photo"]
    raw = json.loads((real / "hpsv2" / "hpsv2.json").read_text("utf-8"))
    assert [" ".join(p.text.split()) for p in suite.prompts] == [" ".join(row["prompt"].split()) for row in raw]
    first = _suite("hpsv2.first100", real)
    assert Counter(p.tags["style"] for p in first.prompts) == dict.fromkeys(dict.fromkeys(styles), 100)


def test_the_other_400_of_hpsv2(real: Path) -> None:
    other = _suite("hpsv2.hpdv2-test400", real)
    assert Counter(p.tags["style"] for p in other.prompts) == dict.fromkeys(hpsv2.STYLES, 100)
    shared = {p.text for p in other.prompts} & {p.text for p in _suite("hpsv2", real).prompts}
    assert len(shared) == 4
    assert shared <= {p.text for p in _suite("hpsv2.photo", real).prompts}


def test_split_of_vilg300_is_seeded_disjoint_and_whole(real: Path) -> None:
    whole = {p.id for p in _suite("vilg300", real).prompts}
    splits = [_suite(f"vilg300.split80-20@{seed}", real) for seed in (0, 1)]
    for suite in splits:
        trains, evaluates = {p.id for p in suite.train_prompts}, {p.id for p in suite.prompts}
        assert (len(trains), len(evaluates)) == (240, 60)
        assert trains | evaluates == whole
        assert not trains & evaluates
        assert any("drawn by us with seed" in note for note in suite.notes)
    assert splits[0].spec.prompt_hash != splits[1].spec.prompt_hash
    assert splits[1].spec.id == "vilg300.split80-20@1-full@1"


def test_drawbench_is_200_with_stripped_categories(real: Path) -> None:
    categories = Counter(p.tags["category"] for p in _suite("drawbench", real).prompts)
    assert (len(categories), categories["Gary Marcus et al."], categories["Reddit"]) == (11, 10, 38)
    squeezed = {" ".join(p.text.split()) for p in _suite("drawbench", real).prompts}
    shared = [p for p in _suite("vilg300", real).prompts if " ".join(p.text.split()) in squeezed]
    assert len(shared) == 150


def test_geneval_tasks_are_not_of_one_size(real: Path) -> None:
    suite = _suite("geneval", real)
    assert Counter(p.tags["task"] for p in suite.prompts) == {
        "single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100,
    }  # fmt: skip
    lines = (real / "geneval" / "generation_prompts.txt").read_text("utf-8").splitlines()
    assert [p.text for p in suite.prompts] == lines
    assert suite.spec.eval_seeds == (0, 1, 2, 3)


def test_t2i_compbench_is_its_validation_lists_without_carriage_returns(real: Path) -> None:
    suite = _suite("t2icompbench", real)
    assert set(Counter(p.tags["category"] for p in suite.prompts).values()) == {300}
    assert not any("\r" in p.text for p in suite.prompts)
    assert any("changed" in note for note in suite.notes)
    old, new = ({p.text for p in _suite(f"t2icompbench.{v}", real).prompts} for v in ("color-2023", "color"))
    assert (len(old), len(new), len(new - old)) == (295, 300, 5)
    assert len(suite.spec.eval_seeds) == 10


def test_dpg_bench_sources(real: Path) -> None:
    found = Counter(p.tags["source"] for p in _suite("dpgbench", real).prompts)
    assert (found["plain"], found["partiprompts"], found["COCOval"], found["localized"]) == (299, 324, 100, 22)
    assert sum(len(p.text.split()) > 77 for p in _suite("dpgbench", real).prompts) == 204


def test_genai_bench_skills_and_its_two_numberings(real: Path) -> None:
    large, small = _suite("genaibench", real), _suite("genaibench.527", real)
    assert (large.prompts[0].id, small.prompts[0].id) == ("00000", "00001")
    by_id = {p.id: p.text for p in large.prompts}
    assert sum(by_id[p.id] == p.text for p in small.prompts) < 50  # the same number is another prompt
    normal = {normalised(p.text) for p in large.prompts}
    assert sum(normalised(p.text) in normal for p in small.prompts) == 489
    skills = Counter(s for p in large.prompts for s in p.tags.get("skills", "none").split(", "))
    assert (len(skills), skills["basic"], skills["counting"], skills["none"]) == (13, 722, 340, 7)
    assert Counter(s for p in small.prompts for s in p.tags["skills"].split(", "))["basic"] == 214


def test_a_short_jsonl_and_a_wrong_list_are_refused(real: Path, tmp_path: Path) -> None:
    for name in ("geneval", "imagereward", "t2i-compbench"):
        shutil.copytree(real / name, tmp_path / name, copy_function=shutil.copyfile)
        (tmp_path / name).chmod(0o755)
    path = tmp_path / "geneval" / "evaluation_metadata.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:500]))
    with pytest.raises(UserError, match="500 good rows instead of 553"):
        geneval.suite("full", data_dir=tmp_path)
    shutil.copyfile(real / "t2i-compbench" / "color_val.2023.txt", tmp_path / "t2i-compbench" / "color_val.txt")
    with pytest.raises(UserError, match="all 300 rows are there, but its text"):
        t2icompbench.suite("full", data_dir=tmp_path)
    path = tmp_path / "t2i-compbench" / "color_val.txt"
    path.write_bytes((real / "t2i-compbench" / "color_val.txt").read_bytes().replace(b"\r\n", b"\n"))
    with pytest.raises(UserError, match="its line ends were converted"):
        t2icompbench.suite("full", variant="color", data_dir=tmp_path)


@pytest.fixture
def copied(real: Path, tmp_path: Path) -> Path:
    """A writable copy of the smaller folders."""
    for folder in ("parti", "vilg-300", "hpsv2", "structured-diffusion", "imagereward"):
        shutil.copytree(real / folder, tmp_path / folder, copy_function=shutil.copyfile)
        (tmp_path / folder).chmod(0o755)
    return tmp_path


def test_diffusion_sdpo_style_copy_of_parti_is_refused(copied: Path) -> None:
    path = copied / "parti" / "PartiPrompts.tsv"
    path.write_bytes(path.read_bytes().replace(b'"', b"'"))  # jesterjunk/Google_Parti: the same size
    with pytest.raises(UserError, match=r"all 1,632 rows are there, but its text"):
        parti.suite("full", data_dir=copied)


def test_older_vilg_with_other_line_ends_is_recognised(real: Path, copied: Path) -> None:
    shutil.copyfile(real / "vilg-300" / "BCE-300.csv", copied / "vilg-300" / "ViLG-300.csv")
    with pytest.raises(UserError, match="all 300 rows are there"):
        vilg300.suite("full", data_dir=copied)


def test_exchanged_style_files_of_hpsv2_are_refused(copied: Path) -> None:
    shutil.copyfile(copied / "hpsv2" / "photo.json", copied / "hpsv2" / "anime.json")
    with pytest.raises(UserError, match=r"anime\.json: row 0 reads 'A man taking a drink"):
        hpsv2.suite("full", data_dir=copied)


def test_reserialised_hpsv2_is_accepted(copied: Path) -> None:
    # the official bytes were never seen: another spelling of the same JSON must do
    path = copied / "hpsv2" / "anime.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")), indent=2), "utf-8")
    assert hpsv2.suite("full", data_dir=copied).spec.prompt_hash[:12] == GOLDEN["hpsv2"][3]


def test_truncated_training_list(copied: Path) -> None:
    path = copied / "imagereward" / "refl_data.json"
    path.write_bytes(path.read_bytes()[:1_000_000])
    with pytest.raises(UserError, match=r"refl_data\.json: 0 good rows instead of 10,000; first bad thing: not JSON"):
        parti.suite("full", data_dir=copied)


def test_whole_cc500_is_not_taken_for_line_counts(copied: Path) -> None:
    path = copied / "structured-diffusion" / "CC-500.txt"
    path.write_bytes(b"\n".join(path.read_bytes().split(b"\n")[:446]) + b"\n")
    with pytest.raises(UserError, match="446 good rows instead of 602"):
        cc500.suite("full", data_dir=copied)
