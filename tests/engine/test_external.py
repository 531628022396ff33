"""Images from elsewhere: complete or refused by name, scored by the same scorer, on the board without a budget."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.core.errors import UserError
from bench.core.record import MetricEntry
from bench.core.types import Suite
from bench.engine.external import PAIRING, Request, _unpaired, evaluate
from bench.engine.images_elsewhere import Elsewhere, decode, read_index
from leaderboard.read import read_runs
from leaderboard.table import boards
from tests.engine.conftest import World


@pytest.fixture
def suite() -> Suite:
    from suites.coco import suite

    found: Suite = suite("sample", variant="", data_dir=None, limit=6)
    return found


def picture(path: Path, size: tuple[int, int] = (96, 96), seed: int = 0) -> Path:
    rng = random.Random(seed)
    image = Image.new("RGB", size, tuple(rng.randrange(256) for _ in range(3)))
    image.paste(tuple(rng.randrange(256) for _ in range(3)), (10, 20, 50, 50))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def folder_of(where: Path, prompt_ids: Sequence[str], n: int = 1, kind: str = "png") -> Path:
    """A folder with ``n`` images of each prompt and its CSV index, lines in no special order."""
    rows = []
    for i, prompt_id in enumerate(prompt_ids):
        for k in range(n):
            name = f"{i}-{k}.{kind}"
            picture(where / name, seed=100 * i + k)
            rows.append(f"{prompt_id},{name}")
    random.Random(1).shuffle(rows)
    (where / "index.csv").write_text("prompt_id,path\n" + "\n".join(rows) + "\n")
    return where


def pixels(data: bytes) -> Any:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def ids(suite: Suite) -> list[str]:
    return [p.id for p in suite.prompts]


def test_the_index_maps_prompts_to_files_whatever_their_order(tmp_path: Path, suite: Suite) -> None:
    found = read_index(folder_of(tmp_path, ids(suite)), suite)
    assert list(found.files) == ids(suite)
    assert [paths[0].name for paths in found.files.values()] == [f"{i}-0.png" for i in range(6)]
    assert found.n_per_prompt == 1


def test_seeds_order_the_images_of_a_prompt_and_json_lines_say_the_same(tmp_path: Path, suite: Suite) -> None:
    folder_of(tmp_path, ids(suite), 2)
    (tmp_path / "index.csv").unlink()
    rows = [{"prompt_id": p, "seed": 40 - k, "path": f"{i}-{k}.png"} for i, p in enumerate(ids(suite)) for k in (0, 1)]
    (tmp_path / "index.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read_index(tmp_path, suite)
    assert [path.name for path in found.files[ids(suite)[2]]] == ["2-1.png", "2-0.png"]


def test_everything_wrong_is_named_at_once_and_nothing_is_dropped(tmp_path: Path, suite: Suite) -> None:
    folder_of(tmp_path, ids(suite))
    lines = (tmp_path / "index.csv").read_text().splitlines()
    missing, gone = ids(suite)[1], ids(suite)[4]
    kept = [line for line in lines if not line.startswith(f"{missing},")]
    (tmp_path / "index.csv").write_text("\n".join([*kept, "no-such-prompt,0-0.png"]))
    (tmp_path / "4-0.png").unlink()
    picture(tmp_path / "more" / "unasked.jpg")
    with pytest.raises(UserError) as refused:
        read_index(tmp_path, suite)
    text = refused.value.problem
    assert f"no image of prompt: {missing}" in text
    assert f"no such file for prompt: {gone}" in text
    assert "prompts that the suite does not have: no-such-prompt" in text
    assert "files named twice: 0-0.png" in text
    assert "1-0.png" in text.partition("files in no line")[2]
    assert "more/unasked.jpg" in text.partition("files in no line")[2]


@pytest.mark.parametrize(
    ("index", "said"),
    [("prompt_id\n1\n", "lacks prompt_id or path"), ("a,b\n1,2\n", "lacks prompt_id or path"),
     ("prompt_id,seed,path\nX,one,0-0.png\n", "seed is no whole number"), ("", "no image of prompt")],
)  # fmt: skip
def test_an_index_of_another_form_is_refused(tmp_path: Path, suite: Suite, index: str, said: str) -> None:
    folder_of(tmp_path, ids(suite))
    (tmp_path / "index.csv").write_text(index)
    with pytest.raises(UserError, match=said):
        read_index(tmp_path, suite)


def test_unequal_numbers_of_images_and_too_many_are_refused(tmp_path: Path, suite: Suite) -> None:
    folder_of(tmp_path / "a", ids(suite))
    picture(tmp_path / "a" / "second.png")
    with (tmp_path / "a" / "index.csv").open("a") as f:
        f.write(f"{ids(suite)[0]},second.png\n")
    with pytest.raises(UserError, match=f"not 2 image.* of prompt: .*{ids(suite)[3]}"):
        read_index(tmp_path / "a", suite)
    with pytest.raises(UserError, match="not 2 image"):
        read_index(folder_of(tmp_path / "b", ids(suite), 3), suite)
    with pytest.raises(UserError, match="files outside the folder"):
        folder_of(tmp_path / "c", ids(suite))
        (tmp_path / "c" / "index.csv").write_text(
            "prompt_id,path\n" + "".join(f"{p},../a/0-0.png\n" for p in ids(suite))
        )
        read_index(tmp_path / "c", suite)


def elsewhere(tmp_path: Path, **sizes: tuple[int, int]) -> Elsewhere:
    files = {name: (picture(tmp_path / f"{name}.png", size),) for name, size in sizes.items()}
    return Elsewhere(tmp_path / "index.csv", files, 1)


def test_images_of_one_size_keep_their_pixels(tmp_path: Path) -> None:
    images = elsewhere(tmp_path, a=(80, 60), b=(80, 60))
    made, sizes, done = decode(images, None)
    assert (sizes, done) == ({"80x60": 2}, "none")
    assert (pixels(made["a"][0]) == pixels((tmp_path / "a.png").read_bytes())).all()


def test_several_sizes_need_a_stated_resize(tmp_path: Path) -> None:
    images = elsewhere(tmp_path, a=(80, 60), b=(64, 64))
    with pytest.raises(UserError, match="1 of 80x60, 1 of 64x64"):
        decode(images, None)
    made, _, done = decode(images, 32)
    assert "LANCZOS to 32x32" in done
    for (data,) in made.values():
        assert pixels(data).shape == (32, 32, 3)


def test_a_file_that_is_no_image_is_named_by_its_prompt(tmp_path: Path) -> None:
    images = elsewhere(tmp_path, a=(64, 64), b=(64, 64), c=(64, 64))
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:60])
    (tmp_path / "c.png").write_text("not an image")
    with pytest.raises(UserError, match=r"2 images cannot be decoded, of prompts: b \(b.png.*c \(c.png"):
        decode(images, None)


@pytest.fixture(scope="module")
def done(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, dict[str, Any]]:
    """``bench eval`` on the micro suite, beside nothing else."""
    world = World(random_model, tmp_path_factory.mktemp("ext") / "runs")
    listed = world.runs.parent / "prompts.csv"
    assert world.bench("eval", "--suite", "micro", "--prompts-to", str(listed)).returncode == 0
    prompt_ids = [line.split(",")[0] for line in listed.read_text().splitlines()[1:]]
    images = folder_of(world.runs.parent / "img", prompt_ids, 1, "jpg")
    said = world.bench("eval", "--suite", "micro", "--images", str(images), "--name", "midjourney-5.2", "--model",
                       str(random_model), "--runs", str(world.runs), "--note", "bought on a market")  # fmt: skip
    assert said.returncode == 0, said.stdout + said.stderr
    return world, world.record("midjourney-5.2")


def test_they_are_scored_by_the_same_scorer_and_have_no_budget(done: tuple[World, dict[str, Any]]) -> None:
    world, record = done
    assert (record["status"], record["external"]["name"]) == ("done", "midjourney-5.2")
    assert (record["external"]["sizes"], record["external"]["note"]) == ({"96x96": record["snapshots"][1]["n_images"]},
                                                                         "bought on a market")  # fmt: skip
    assert record["ledger"] == {"budget": {}, "spent": {}, "lost": {}, "evaluation_s": {}}
    assert record["attempts"] == []
    assert {m["role"] for m in record["metrics"]} == {"held-out"}
    base, final = record["metrics"]
    shown = [pixels(path.read_bytes()) for path in (world.runs.parent / "img").glob("*.jpg")]
    assert final["value"] == pytest.approx(np.mean([image.mean() / 255 for image in shown]), abs=1e-6)
    assert (base["n"], final["n"]) == (3, 3)  # the base's images of one noise seed: as many as came
    assert final["difference"]["value"] == pytest.approx(final["value"] - base["value"])
    assert final["passport"]["paired_by"].startswith("prompt only")
    assert "paired_by" not in base["passport"]
    (board,) = boards(read_runs(world.runs)[0])
    assert board.rows == ()
    assert [row.runs[0].tuner for row in board.external] == ["midjourney-5.2"]
    assert (world.runs / "leaderboard" / "runs" / f"{record['run_id']}.html").is_file()


def test_a_win_rate_says_that_only_prompts_are_shared() -> None:
    rate = MetricEntry(name="winrate/x", snapshot="f100", value=0.5, n=3, higher_is_better=True, role="held-out",
                       passport={"against": "base"})  # fmt: skip
    assert _unpaired(rate).passport == {"against": "base", "paired_by": PAIRING}
    mean = rate.model_copy(update={"passport": {"captions": "x"}})
    assert _unpaired(mean) == mean


def test_the_same_images_are_scored_once_and_others_are_another_run(done: tuple[World, dict[str, Any]]) -> None:
    world, record = done
    images = world.runs.parent / "img"
    path = world.folder("midjourney-5.2") / "record.json"
    before = path.stat().st_mtime_ns
    args = ("--suite", "micro", "--images", str(images), "--name", "midjourney-5.2", "--model", str(world.model))
    again = world.bench("eval", *args, "--runs", str(world.runs), "--json")
    assert json.loads(again.stdout)["run_id"] == record["run_id"]
    assert path.stat().st_mtime_ns == before
    resized = world.bench("eval", *args, "--runs", str(world.runs.parent / "other"), "--resolution", "48", "--json")
    assert json.loads(resized.stdout)["run_id"] != record["run_id"]


def test_bench_score_works_on_them_and_keeps_what_people_said(done: tuple[World, dict[str, Any]]) -> None:
    world, record = done
    path = world.folder("midjourney-5.2") / "record.json"
    human = {
        **next(m for m in record["metrics"] if m["snapshot"] == "f100"),
        "name": "human/preference",
        "scores": None,
    }
    path.write_text(json.dumps({**record, "metrics": [*record["metrics"], human]}))
    said = world.bench("score", record["run_id"], "--runs", str(world.runs))
    assert said.returncode == 0, said.stdout + said.stderr
    again = world.record("midjourney-5.2")
    by_name = {(m["name"], m["snapshot"]): m["value"] for m in record["metrics"]}
    assert {(m["name"], m["snapshot"]): m["value"] for m in again["metrics"][:-1]} == by_name
    assert again["metrics"][-1]["name"] == "human/preference"
    refused = world.bench("score", record["run_id"], "--runs", str(world.runs), "--regenerate")
    assert refused.returncode == 2
    assert "no adapter to sample with" in refused.stderr


def test_without_a_base_model_nothing_is_compared(done: tuple[World, dict[str, Any]]) -> None:
    world, record = done
    runs = world.runs.parent / "alone"
    said = world.bench("eval", "--suite", "micro", "--images", str(world.runs.parent / "img"), "--name", "dalle-3",
                       "--model", "none", "--runs", str(runs), "--json")  # fmt: skip
    assert said.returncode == 0, said.stdout + said.stderr
    alone = json.loads((next((runs / "micro-sample@1" / "dalle-3").iterdir()) / "record.json").read_text("utf-8"))
    assert [s["name"] for s in alone["snapshots"]] == ["f100"]
    (only,) = alone["metrics"]
    assert (only["snapshot"], only["difference"]) == ("f100", None)
    assert only["value"] == record["metrics"][1]["value"]
    assert (next((runs / "micro-sample@1" / "dalle-3").iterdir()) / only["scores"]).is_file()


@pytest.mark.parametrize("name", ["drtune", "../up", "", "a b"])
def test_a_name_must_not_be_a_tuners_or_a_path(tmp_path: Path, suite: Suite, name: str) -> None:
    with pytest.raises(UserError, match="--name"):
        evaluate(Request(tmp_path, name, suite, tmp_path / "runs"))
