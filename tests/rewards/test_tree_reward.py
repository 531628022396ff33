"""``bench reward train tree`` and the reward that it makes: what it learns, kills, files, refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from random_blip import save_random_blip

from bench.cli import main
from bench.core.errors import UserError
from bench.trees.dimensions import BRANCHES, DIMENSIONS
from bench.trees.feedback import Feedback
from bench.trees.folder import load_tree
from bench.trees.training import Training, train_tree
from bench.trees.votes import load_vote, read_votes
from rewards.expression import load_reward
from rewards.tree import FittedTree

PROMPTS = ["a red circle", "the blue square", "a cat and a circle", "picture of a red cat", "a square", "the blue cat",
           "a blue circle and a cat"]  # fmt: skip


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_blip(tmp_path_factory.mktemp("backbone") / "blip-itm-tiny")


@pytest.fixture(scope="module")
def votes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """84 votes, each dimension a statistic of its own: winners are brighter left, right, above, below, redder, bluer.
    Images of semantic pairs carry a grid, so that the gate has something to tell."""
    folder = tmp_path_factory.mktemp("votes")
    rng = np.random.default_rng(0)
    lines = []
    for k in range(84):
        name = DIMENSIONS[k % 6]
        loser = rng.integers(60, 160, (20, 20, 3))
        if name in BRANCHES["semantic"]:
            loser[::4] = 0
        winner = loser.copy()
        at = {"style": np.s_[:, :10], "content": np.s_[:, 10:], "color": np.s_[..., 0], "lighting": np.s_[:10],
              "detail": np.s_[10:], "layout": np.s_[..., 2]}[name]  # fmt: skip
        winner[at] += 80
        for kind, pixels in (("w", winner), ("l", loser)):
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{kind}{k}.png")
        lines.append({"dimension": name, "prompt": PROMPTS[k // 6 % 7], "winner": f"w{k}.png", "loser": f"l{k}.png"})
    path = folder / "votes.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


class Quiet:
    """A screen that a test can end the work from: after ``n`` reports, as Ctrl-C does."""

    def __init__(self, n: int = 10**9) -> None:
        self.left, self.said = n, list[str]()

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def stage(self, name: str, total: float, unit: str, *, done: float = 0.0) -> Iterator[Quiet]:
        yield self

    def advance_to(self, count: float, info: str = "") -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def training(votes: Path, blip: Path, out: Path, **changed: Any) -> Training:
    settings = {"steps": 40, "batch": 12, "micro_batch": 12, "lr": 1e-2, "trunk_lr": 1.0, "frozen": 0.0,
                "checkpoint_s": 0.0, **changed}  # fmt: skip
    return Training(votes, str(blip), out, **settings)


@pytest.fixture(scope="module")
def trained(votes: Path, blip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "people"
    command = ["reward", "train", "tree", "--votes", str(votes), "--backbone", str(blip), "--out", str(out),
               "--steps", "100", "--batch", "12", "--micro-batch", "6", "--lr", "0.01", "--trunk-lr", "1",
               "--frozen", "0", "--device", "cpu"]  # fmt: skip
    assert main(command) == 0
    return out


def test_held_out_votes_are_told_apart_and_the_card_says_how_well(trained: Path) -> None:
    card = json.loads((trained / "card.json").read_text())
    assert card["n_held_out"] == 24  # two of seven prompts
    assert card["n_train_of"] == dict.fromkeys(DIMENSIONS, 10)
    assert card["n_held_out_of"] == dict.fromkeys(DIMENSIONS, 4)
    assert sum(card["pair_accuracy"].values()) / 6 > 0.8
    assert card["gate_accuracy"]["point"] > 0.8
    text = (trained / "README.md").read_text()
    for branch, leaves in BRANCHES.items():
        for leaf in leaves:
            assert f"| {branch} | {leaf} | 10 | 4 | {card['pair_accuracy'][leaf]:.3f} | [" in text
    assert f"Gate accuracy, mean over both branches: {card['gate_accuracy']['pair']:.3f} of pairs" in text
    names = {p.name for p in trained.iterdir()}
    assert names == {"tree.json", "model.safetensors", "card.json", "README.md", "backbone"}


def test_the_same_command_again_does_nothing_and_another_is_refused(
    trained: Path, votes: Path, blip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "model.safetensors").stat().st_mtime_ns
    same = training(votes, blip, trained, steps=100, micro_batch=6)
    screen = Quiet()
    assert train_tree(same, screen) == json.loads((trained / "card.json").read_text())
    assert screen.said == [f"{trained} holds this tree already"]
    assert (trained / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="other votes, backbone or settings"):
        train_tree(training(votes, blip, trained, seed=1), Quiet())


@pytest.mark.parametrize("kills", [[0], [1, 1, 1], [3]])
def test_a_training_that_was_stopped_anywhere_ends_in_the_same_bits(
    votes: Path, blip: Path, tmp_path: Path, kills: list[int], uninterrupted: bytes
) -> None:
    what = training(votes, blip, tmp_path / "tree")
    for n in kills:
        with pytest.raises(KeyboardInterrupt):
            train_tree(what, Quiet(n))
        assert (tmp_path / "tree/work/training.json").is_file()
    train_tree(what, Quiet())
    assert (tmp_path / "tree/model.safetensors").read_bytes() == uninterrupted
    assert not (tmp_path / "tree/work").exists()


@pytest.fixture(scope="module")
def uninterrupted(votes: Path, blip: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("whole") / "tree"
    train_tree(training(votes, blip, out), Quiet())
    return (out / "model.safetensors").read_bytes()


def test_a_real_kill_at_a_checkpoint_changes_no_bit(votes: Path, blip: Path, tmp_path: Path) -> None:
    """SIGKILL as soon as the first checkpoint is there; the same command then continues it and ends as one that ran
    through."""
    command = [sys.executable, "-m", "bench", "reward", "train", "tree", "--votes", str(votes), "--backbone", str(blip),
               "--steps", "2000", "--batch", "12", "--device", "cpu", "--checkpoint-every", "0",
               "--frozen", "0"]  # fmt: skip
    out = tmp_path / "killed"
    # sums are rounded in the order of the threads that share them: as many there as here
    alone = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        [*command, "--out", str(out)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=alone
    )
    deadline = time.monotonic() + 120
    while not (out / "work/checkpoint.pt").is_file():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "tree.json").exists()
    killed_at = torch.load(out / "work/checkpoint.pt", weights_only=True)["step"]
    assert 0 < killed_at < 2000
    # both continue from that checkpoint for a few steps in this process: one on what the killed one left, one anew
    ends = []
    for folder in (out, tmp_path / "whole"):
        screen = Quiet(5 if folder == out else 5 + killed_at // 10 + 1)  # one report is the votes' shard
        with pytest.raises(KeyboardInterrupt):
            train_tree(Training(votes, str(blip), folder, steps=2000, batch=12, frozen=0.0, checkpoint_s=0.0), screen)
        ends.append(torch.load(folder / "work/checkpoint.pt", weights_only=True))
    assert ends[0]["step"] == ends[1]["step"] > killed_at
    assert all(torch.equal(v, ends[1]["model"][k]) for k, v in ends[0]["model"].items())


def test_votes_that_are_not_there_are_told_before_weights_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], votes: Path
) -> None:
    monkeypatch.delenv("TUNEBENCH_MODELS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    command = ["reward", "train", "tree", "--out", str(tmp_path / "tree"), "--device", "cpu", "--votes"]
    assert main([*command, "/nonexistent"]) == 2
    said = capsys.readouterr().err
    assert "vote file /nonexistent cannot be read" in said and "blip-itm" not in said
    assert main([*command, str(votes)]) == 2
    assert "bench assets fetch blip-itm" in capsys.readouterr().err


def test_whole_prompts_are_held_out(votes: Path, tmp_path: Path) -> None:
    """In whatever order the votes come, and with a prompt a vote in turns of the dimensions too."""
    read = [load_vote(vote, 8) for vote in read_votes(votes)]
    found = []
    for k, order in enumerate((read, read[::-1])):
        pairs = Feedback(tmp_path / str(k), by_prompt=True)
        pairs.add(order)
        held, train = ({pairs.batch([i]).texts[0] for i in part} for part in (pairs.held_out(), pairs.train()))
        assert len(held) == 2
        assert train == set(PROMPTS) - held
        found.append(held)
    assert found[0] == found[1]
    alone = Feedback(tmp_path / "alone", by_prompt=True)
    alone.add([replace(pair, winner_text=f"a cat {k}", loser_text=f"a cat {k}") for k, pair in enumerate(read)])
    for part in (alone.held_out(), alone.train()):
        assert {alone.dimension(i) for i in part} == set(range(6))
    assert 14 <= len(alone.held_out()) <= 20


# -- the reward


def pictures(n: int = 3, side: int = 24) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(3))


def test_the_folder_is_a_reward_by_name(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEBENCH_MODELS", str(trained.parent))
    reward = load_reward("tree(folder=people)")
    assert isinstance(reward, FittedTree)
    assert (reward.name, reward.family, reward.part_names) == ("tree", "BLIP", DIMENSIONS)
    x = pictures()
    model, weighing = load_tree(trained)
    reading = model.read(x, PROMPTS[:3], weighing)
    torch.testing.assert_close(reward.score(x, PROMPTS[:3]), reading.reward)
    torch.testing.assert_close(reward.measure_parts(x, PROMPTS[:3]), reading.leaves)
    assert reward.score(x, PROMPTS[:3]).std() > 1e-3
    alone = torch.cat([reward.score(x[k : k + 1], PROMPTS[k : k + 1]) for k in range(3)])
    torch.testing.assert_close(reward.score(x, PROMPTS[:3]), alone, rtol=0, atol=1e-5)
    assert reward.n_truncated(["a " * 100, "a cat"]) == 1


def test_the_reward_orders_pairs_as_voters_do(trained: Path, votes: Path) -> None:
    """The leaf of a vote's dimension, on all votes; R itself weighs all leaves."""
    reward = FittedTree(trained)
    right = []
    for vote in read_votes(votes):
        pair = load_vote(vote, 16)
        x = torch.stack([pair.winner, pair.loser]).float() / 255
        with torch.no_grad():
            leaf = reward.measure_parts(x, [vote.prompt] * 2)[:, DIMENSIONS.index(vote.dimension)]
        right.append(bool(leaf[0] > leaf[1]))
    assert np.mean(right) > 0.85


def test_the_gradient_is_that_of_finite_differences(trained: Path) -> None:
    """Of sum w r with the weights held, as eq. 8 is tuned for."""
    reward = FittedTree(trained)
    reward.tree[0].double()
    x = pictures(1).double().requires_grad_()
    (gradient,) = torch.autograd.grad(reward.score(x, PROMPTS[:1]).sum(), x)
    reading = reward.read(x, PROMPTS[:1])
    w = (reading.w_branch[:, [0, 0, 1, 1, 1, 1]] * reading.w_leaf).detach()
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    step = 1e-6
    with torch.no_grad():
        up, down = ((w * reward.measure_parts(x + s * step * way, PROMPTS[:1])).sum().item() for s in (1, -1))
    assert gradient.abs().max() > 0
    assert (gradient * way).sum().item() == pytest.approx((up - down) / (2 * step), rel=1e-6)


def test_folders_that_are_no_tree_are_user_errors(trained: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import shutil

    monkeypatch.setenv("TUNEBENCH_MODELS", str(trained.parent))
    with pytest.raises(UserError, match=r"has none with tree\.json") as err:
        load_reward("tree")
    assert err.value.valid == "people"
    assert "bench reward train tree" in err.value.hint
    monkeypatch.delenv("TUNEBENCH_MODELS")
    with pytest.raises(UserError, match="which is not set"):
        load_reward("tree")
    bad = tmp_path / "bad"
    for damage, says in (
        (lambda: (bad / "model.safetensors").write_bytes(b"\0" * 100), "is no safetensors file"),
        ((bad / "model.safetensors").unlink, "holds no fitted tree"),
        (lambda: (bad / "tree.json").write_text("{}"), "not of format 1"),
        (lambda: (bad / "tree.json").write_text("{"), "is damaged"),
        ((bad / "backbone/config.json").unlink, "no folder with a config.json"),
    ):
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(trained, bad)
        damage()
        with pytest.raises(UserError, match=says):
            FittedTree(bad).prepare()


# -- refusals, before anything is read or written


def test_votes_without_votes_or_images_are_refused(votes: Path, blip: Path, tmp_path: Path) -> None:
    lines = votes.read_text().splitlines()
    bad = votes.parent / "bad.jsonl"
    cases = [
        ("", "holds no vote", {}),
        ("\n".join([*lines[:3], json.dumps({**json.loads(lines[3]), "winner": "gone.png"})]), "line 4.*gone.png", {}),
        ("\n".join(lines), "there is no image", {"images": tmp_path}),
        ("\n".join(lines[:6]), "fewer than 2 votes on style, content", {}),
        ("\n".join(lines[:1]), "fewer than 2 votes on anything", {"structure": "global"}),
        ("\n".join(lines), "structure 'bush'", {"structure": "bush"}),
        ("\n".join(lines), "batch = 0", {"batch": 0}),
    ]
    for text, says, changed in cases:
        bad.write_text(text)
        with pytest.raises(UserError, match=says):
            train_tree(training(bad, blip, tmp_path / "out", **changed), Quiet())
        assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"no folder with a config\.json"):
        train_tree(training(votes, tmp_path, tmp_path / "out"), Quiet())
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds something else"):
        train_tree(training(votes, blip, tmp_path / "full"), Quiet())


def test_all_votes_of_a_dimension_on_one_prompt_are_refused(votes: Path, blip: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in votes.read_text().splitlines()]
    for row in rows:
        if row["dimension"] == "color":
            row["prompt"] = PROMPTS[0]
    path = votes.parent / "one.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match="all votes on color are on held-out prompts"):
        train_tree(training(path, blip, tmp_path / "out"), Quiet())


def test_a_broken_image_and_a_broken_checkpoint_are_user_errors(votes: Path, blip: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in votes.read_text().splitlines()]
    (votes.parent / "broken.png").write_bytes(b"no picture")
    path = votes.parent / "broken.jsonl"
    path.write_text("\n".join(map(json.dumps, [*rows, {**rows[0], "winner": "broken.png"}])))
    with pytest.raises(UserError, match=r"broken\.png of a vote cannot be read"):
        train_tree(training(path, blip, tmp_path / "a"), Quiet())
    what = training(votes, blip, tmp_path / "b")
    with pytest.raises(KeyboardInterrupt):
        train_tree(what, Quiet(3))
    (tmp_path / "b/work/checkpoint.pt").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"checkpoint\.pt is damaged"):
        train_tree(what, Quiet())


def test_other_structures_are_trained_and_read_too(votes: Path, blip: Path, tmp_path: Path) -> None:
    for structure in ("global", "decoupled"):
        card = train_tree(training(votes, blip, tmp_path / structure, structure=structure, steps=4), Quiet())
        assert card["structure"] == structure
        reward = FittedTree(tmp_path / structure)
        assert torch.isfinite(reward.score(pictures(1), PROMPTS[:1])).all()


def test_the_tiny_worlds_backbone_is_trained_and_read_too(votes: Path, tmp_path: Path) -> None:
    card = train_tree(training(votes, Path("tiny-clip"), tmp_path / "tree", steps=2), Quiet())
    assert card["backbone_name"] == "tiny-clip"
    reward = FittedTree(tmp_path / "tree")
    assert reward.family == "tiny-pairs"
    assert not (tmp_path / "tree/backbone").exists()
    assert torch.isfinite(reward.score(pictures(1), PROMPTS[:1])).all()
    assert reward.n_truncated(["a red circle", "a " * 40]) == 1
