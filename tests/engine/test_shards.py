"""Images by several processes: the same bytes as by one, whoever made which and whoever was killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench.core import exits
from bench.core.contract import Patch
from bench.core.errors import UserError
from bench.core.types import RunSpec, Suite
from bench.diffusion.models import BaseModel, load_model
from bench.engine import imaging
from bench.engine.progress import Progress
from bench.engine.shards import Shard
from bench.store import atomic
from bench.store.meeting import Meeting, adjourn, announce, is_over, look, note_over, share_out
from tests.engine.conftest import SITE, World
from tests.engine.test_runs import answers

MANY = "micro.many-sample@1"
N_IMAGES = 140


@pytest.mark.parametrize("n_images", [0, 1, 31, 32, 33, 70, 1000])
@pytest.mark.parametrize("of", [1, 2, 3, 8])
def test_slices_are_whole_batches_and_every_image_is_in_one(n_images: int, of: int) -> None:
    parts = [Shard(k, of).images(n_images, 32) for k in range(of)]
    assert [i for part in parts for i in part] == list(range(n_images))
    assert all(part.start % 32 == 0 for part in parts if part)
    batches = [-(-len(part) // 32) for part in parts]
    assert max(batches) - min(batches) <= 1


@pytest.mark.parametrize("text", ["2/2", "a/2", "1", "-1/2", "0/0"])
def test_a_slice_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--shard"):
        Shard.parse(text)


@pytest.fixture(scope="module")
def micro() -> Iterator[Any]:
    sys.path.insert(0, str(SITE))
    import micro

    yield micro
    sys.path.remove(str(SITE))


@pytest.fixture(scope="module")
def many(micro: Any) -> Suite:
    found: Suite = micro.suite(variant="many")
    assert len(imaging.pairs_of(found)) == N_IMAGES
    return found


class Maker:
    """Fills folders with the base model's images, without a run."""

    def __init__(self, model: BaseModel, suite: Suite, spec: RunSpec) -> None:
        self.model, self.suite, self.spec, self.n = model, suite, spec, 0

    def part(self, folder: Path, shard: Shard = imaging.WHOLE, *, images: int | None = None) -> None:
        """Makes a slice; killed after that many images."""
        self.n = 0

        def stop() -> None:
            self.n += 1
            if images is not None and self.n > images:
                raise KeyboardInterrupt

        imaging.make_part(
            folder, self.model, self.spec, self.suite, Patch(adapter=False), Progress(quiet=True), "x", stop, shard
        )


@pytest.fixture(scope="module")
def maker(random_model: Path, many: Suite) -> Maker:
    # all that images are made from of a spec
    spec = SimpleNamespace(eval_seeds=many.spec.eval_seeds, sampler=many.spec.sampler)
    return Maker(load_model(str(random_model), device="cpu"), many, cast(RunSpec, spec))


@pytest.fixture(scope="module")
def alone(maker: Maker, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("alone")
    maker.part(folder)
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_three_parts_in_any_order_are_the_whole_also_where_one_was_killed(
    maker: Maker, alone: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    maker.part(folder, Shard(2, 3))
    with pytest.raises(KeyboardInterrupt):
        maker.part(folder, Shard(0, 3), images=10)
    assert len(list(folder.glob("*.png"))) == (N_IMAGES - 128) + 10
    assert len(imaging.missing(folder, maker.suite, Shard(0, 3))) == 54
    maker.part(folder, Shard(0, 3))
    assert not imaging.missing(folder, maker.suite, Shard(0, 3))
    maker.part(folder, Shard(0, 3))
    assert maker.n == 0, "what is there is not made again"
    # the third part never came: whoever counts makes it
    assert len(imaging.missing(folder, maker.suite)) == 64
    maker.part(folder)
    assert contents(folder) == alone
    first, again = imaging.complete(folder, maker.suite), imaging.complete(folder, maker.suite)
    assert first == again
    assert [ref.key for ref in first.refs] == [(p.id, s) for p, s in imaging.pairs_of(maker.suite)]


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    """A process that was given up may be of another device, whose last bits differ."""
    path = tmp_path / "folder" / "a.png"
    atomic.write_new(path, b"first")
    atomic.write_new(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path]


def test_processes_on_other_nodes_are_called_through_the_file(tmp_path: Path) -> None:
    place = tmp_path / "7-0.meeting.json"
    assert look(place) is None
    announce(place, 4711)
    tuning = look(place)
    assert tuning is not None and tuning.port == 4711 and not tuning.over
    share_out(place, 3, "abcd")
    assert look(place) == Meeting(shards=3, token="abcd")
    assert not is_over(place, "abcd", 1)
    note_over(place, "abcd", 1)
    assert is_over(place, "abcd", 1) and not is_over(place, "abcd", 2) and not is_over(place, "efgh", 1)
    adjourn(place)
    ended = look(place)
    assert ended is not None and ended.over


def run_folder(runs: Path) -> Path:
    (found,) = (runs / MANY / "drtune").iterdir()
    return found


def scores(root: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (root / "scores").iterdir()}


def pictures(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.glob("snapshots/*/images/*")}


def watched(path: Path) -> list[tuple[str, int]]:
    """(process, images) of each batch that the watched metric was asked about."""
    return [(pid, int(n)) for pid, n in (line.split() for line in path.read_text().splitlines())]


def test_two_processes_give_the_record_images_and_scores_of_one(world: World, tmp_path: Path) -> None:
    command = ["micro-many" if word == "micro" else word for word in world.command(
        "--processes", "2", "--budget", "steps=1", "--fractions", "0,1", "--metrics", "+micro-watched,rewards,colour",
    )]  # fmt: skip
    env = {**world.env, "MICRO_WATCH": str(tmp_path / "two")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=400)
    assert done.returncode == 0, done.stderr
    two = run_folder(world.runs)
    # of three blocks process 0 makes the first
    assert "generate base, part 1 of 2: 64/64" in done.stderr
    assert "generate f100, part 1 of 2: 64/64" in done.stderr
    assert not [line for line in done.stderr.splitlines() if line.startswith("generate f100:")], "parts were missing"
    # and asks about it; the other process about the rest, whose answers the first one takes over
    asked = watched(tmp_path / "two")
    assert "score, part 1 of 2: 8/8 metrics" in done.stderr
    (lead,) = {pid for pid, n in asked} - {pid for pid, n in asked if n == 12}
    assert [n for pid, n in asked if pid == lead] == [64, 64]
    assert [n for pid, n in asked if pid != lead] == [64, 12, 64, 12]

    # the same tuned adapter, evaluated by one process that finds no image
    shutil.copytree(world.runs / MANY, tmp_path / MANY)
    one = run_folder(tmp_path)
    for path in [*one.glob("snapshots/*/images"), one / "scores", one / "attempts"]:
        shutil.rmtree(path)
    for name in ("record.json", "evaluation.json", "fence.json"):
        (one / name).unlink()
    request = json.loads((one / "request.json").read_text())
    (one / "request.json").write_text(json.dumps({**request, "runs": str(tmp_path)}))
    worker = [sys.executable, "-m", "bench.engine.worker", str(one), "--stage", "evaluate"]
    env["MICRO_WATCH"] = str(tmp_path / "one")
    again = subprocess.run(worker, capture_output=True, text=True, check=False, env=env, timeout=400)
    assert again.returncode == exits.DONE, again.stderr
    assert len({pid for pid, _ in watched(tmp_path / "one")}) == 1
    assert pictures(one) == pictures(two)
    assert len(pictures(two)) == 2 * (N_IMAGES + 2)
    records = [json.loads((root / "record.json").read_text()) for root in (one, two)]
    assert answers(records[0]) == answers(records[1])
    assert records[0]["snapshots"] == records[1]["snapshots"]
    assert not [entry for entry in records[0]["metrics"] if entry["error"]]
    assert scores(one) == scores(two) and len(scores(one)) > 10

    # a part by itself, of a folder that lost some images, makes those of its slice only
    for name in ("record.json", "snapshots/f100/images/index.jsonl"):
        (one / name).unlink()
    lost = [one / f"snapshots/f100/images/{i:06d}.png" for i in (3, 139)]
    for path in lost:
        path.unlink()
    part = subprocess.run([*worker, "--shard", "1/2"], capture_output=True, text=True, check=False, timeout=400,
                          env={**env, "SLURM_JOB_ID": "9"})  # fmt: skip
    assert part.returncode == exits.DONE, part.stderr
    assert [path.exists() for path in lost] == [False, True]
    assert not (one / "record.json").exists()
    assert os.listdir(one / "attempts") == ["001"], "a part is no attempt"
