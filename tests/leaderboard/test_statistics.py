"""What a board's rows say of each other, from synthetic runs whose score files are read once more here, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.core.paired import sign_test
from leaderboard.read import read_runs
from leaderboard.statistics import BASE, BoardFacts, board_facts
from leaderboard.table import Board, boards
from tests.leaderboard.factories import Fake


def board_of(runs: Path) -> Board:
    (board,) = boards(read_runs(runs)[0])
    return board


def facts_of(runs: Path, cache: Path | None = None) -> BoardFacts:
    return board_facts(board_of(runs), cache)


def scores(folder: Path, fraction: str) -> dict[tuple[str, int], float]:
    lines = (folder / "scores" / f"reward_tiny-judge__{fraction}.jsonl").read_text().splitlines()
    return {(r["prompt_id"], r["seed"]): r["value"] for r in map(json.loads, lines)}


def shift(folder: Path, by: float) -> None:
    """Moves the held-out judge's scores of the tuned images."""
    path = folder / "scores" / "reward_tiny-judge__f100.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "value": row["value"] + by}) + "\n" for row in rows))


def test_pairs_are_the_score_files_figures(tmp_path: Path) -> None:
    one, two = Fake().write(tmp_path), Fake(tuner="refl", held_out=0.55).write(tmp_path)
    facts = facts_of(tmp_path)
    a, b = scores(one, "f100"), scores(two, "f100")
    by_prompt: dict[str, list[float]] = {}
    for key in a:
        by_prompt.setdefault(key[0], []).append(1.0 if a[key] > b[key] else 0.5 if a[key] == b[key] else 0.0)
    means = [sum(v) / len(v) for v in by_prompt.values()]
    pair = next(p for p in facts.pairs if {p.a, p.b} == {one.name, two.name})
    expected = sum(means) / len(means)
    assert pair.rate.value == pytest.approx(expected if pair.a == one.name else 1 - expected)
    assert pair.p == pytest.approx(sign_test(sum(m > 0.5 for m in means), sum(m < 0.5 for m in means)))
    assert (facts.n_prompts, facts.n_noise, pair.n_seeds) == (16, 2.0, 1)
    assert facts.judges == ("tiny-judge",)
    assert set(facts.rows) == {one.name, two.name, BASE}
    against_base = next(p for p in facts.pairs if (p.a, p.b) == (one.name, BASE))
    before = scores(one, "f000")
    wins = [1.0 if a[key] > before[key] else 0.0 for key in a]
    assert against_base.rate.value == pytest.approx(sum(wins) / len(wins))


def test_what_is_far_apart_is_told_apart_and_its_places_and_groups_say_so(tmp_path: Path) -> None:
    folders = {name: Fake(tuner=name, held_out=rate).write(tmp_path)
               for name, rate in (("best", 0.8), ("good", 0.7), ("same", 0.69), ("poor", 0.4))}  # fmt: skip
    for name, by in (("best", 9.0), ("good", 4.0), ("same", 4.0), ("poor", -9.0)):
        shift(folders[name], by)
    facts = facts_of(tmp_path)
    ids = {name: folder.name for name, folder in folders.items()}
    assert [facts.names[i] for i in facts.rows] == ["best", "good", "same", "poor", "base model (tiny-sd)"]
    assert {name: facts.places[i] for name, i in ids.items()} == {
        "best": (1, 1), "good": (2, 3), "same": (2, 3), "poor": (4, 4),
    }  # fmt: skip
    assert facts.groups == ((ids["best"],), (ids["good"], ids["same"]), (ids["poor"],), (BASE,))
    elo = [facts.strengths[i].value for i in facts.rows]
    assert elo[-1] == 0
    assert elo[0] > max(elo[1], elo[2]) >= min(elo[1], elo[2]) > 0 > elo[3]
    (need,) = facts.needs
    assert {need.a, need.b} == {ids["good"], ids["same"]}
    assert need.more_seeds is None  # one tuning seed tells nothing of others
    assert any("one tuning seed" in note for note in facts.notes)


def test_tuning_seeds_widen_what_is_said_and_give_a_floor(tmp_path: Path) -> None:
    for seed in range(3):
        shift(Fake(seed=seed).write(tmp_path), (-0.6, 0.0, 0.6)[seed])
        shift(Fake(tuner="refl", seed=seed, held_out=0.6).write(tmp_path), (0.6, 0.0, -0.6)[seed])
    facts = facts_of(tmp_path)
    assert {p.n_seeds for p in facts.pairs} == {3}
    assert facts.floor_seed is not None
    assert facts.floor_seed > 0.2
    assert all(p.rate.high is not None and p.rate.low is not None and p.rate.high - p.rate.low > 0.4
               for p in facts.pairs)  # fmt: skip
    assert facts.floor_noise is not None
    assert not facts.notes


@pytest.mark.parametrize("n_won", [6, 7])
def test_what_is_below_the_noise_floor_is_not_told_apart_however_small_its_p(tmp_path: Path, n_won: int) -> None:
    """The base's two noise seeds never tie, so the floor is t(15) · sqrt(1/4 / 32) = 18.8 points. Of 16 prompts 6 won
    and 10 tied are 18.75 points with p = 2/64, 7 won are 21.9 points."""
    folders = [Fake(tuner=name, held_out=rate).write(tmp_path) for name, rate in (("drtune", 0.7), ("refl", 0.6))]
    for folder, won in zip(folders, (n_won, 0), strict=True):
        path = folder / "scores" / "reward_tiny-judge__f100.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({**r, "value": 90.0 + (int(r["prompt_id"]) < won)}) + "\n" for r in rows))
    facts = facts_of(tmp_path)
    a, b = (folder.name for folder in folders)
    pair = next(p for p in facts.pairs if (p.a, p.b) == (a, b))
    assert pair.rate.value == pytest.approx(0.5 + n_won / 32)
    assert pair.p_holm == pytest.approx(2 / 2**n_won)
    assert pair.p_holm < 0.05
    assert pair.floor == pytest.approx(2.1314 * (1 / 4 / 32) ** 0.5, abs=1e-4)
    told = n_won == 7
    assert pair.told_apart == told
    assert facts.places == ({a: (1, 1), b: (2, 2)} if told else {a: (1, 2), b: (1, 2)})
    assert facts.groups == (((a,), (b,), (BASE,)) if told else ((a, b), (BASE,)))
    assert [(need.a, need.b, need.more_seeds) for need in facts.needs] == ([] if told else [(a, b, None)])


def test_a_judge_that_declares_a_tolerance_has_ties(tmp_path: Path) -> None:
    for name in ("drtune", "refl"):
        path = Fake(tuner=name).write(tmp_path) / "record.json"
        record = json.loads(path.read_text())
        for metric in record["metrics"]:
            if metric["name"] == "reward/tiny-judge":
                metric["passport"] = {"reward": {"tie_eps": 100.0}}
        path.write_text(json.dumps(record))
    assert {p.rate.value for p in facts_of(tmp_path).pairs} == {0.5}


def test_no_order_of_runs_changes_a_digit(tmp_path: Path) -> None:
    for seed in range(2):
        for name in ("drtune", "refl", "draft"):
            Fake(tuner=name, seed=seed).write(tmp_path)
    runs, _ = read_runs(tmp_path)
    (forward,), (backward,) = boards(runs), boards(runs[::-1])
    assert board_facts(forward, None) == board_facts(backward, None)


def test_facts_are_kept_until_something_that_they_are_made_from_changes(tmp_path: Path) -> None:
    folder, cache = Fake().write(tmp_path), tmp_path / ".cache"
    Fake(tuner="refl").write(tmp_path)
    first = facts_of(tmp_path, cache)
    (kept,) = (cache / "statistics").iterdir()
    stamp = kept.stat().st_mtime_ns
    assert facts_of(tmp_path, cache) == first
    assert kept.stat().st_mtime_ns == stamp
    shift(folder, 3.0)
    changed = facts_of(tmp_path, cache)
    assert changed.digest != first.digest
    assert changed.pairs != first.pairs
    kept.write_text("half a f")
    assert facts_of(tmp_path, cache) == changed


@pytest.mark.parametrize("damage", ["", "{not json\n", '{"prompt_id": "000"}\n'])
def test_a_row_without_its_scores_is_named_and_the_others_are_compared(tmp_path: Path, damage: str) -> None:
    Fake().write(tmp_path)
    Fake(tuner="refl").write(tmp_path)
    broken = Fake(tuner="draft").write(tmp_path) / "scores" / "reward_tiny-judge__f100.jsonl"
    broken.unlink()
    if damage:
        broken.write_text(damage)
    facts = facts_of(tmp_path)
    assert sorted(facts.names[i] for i in facts.rows) == ["base model (tiny-sd)", "drtune", "refl"]
    assert any(note.startswith("draft: ") for note in facts.notes)
    assert len(facts.places) == 2


def test_no_common_judge_no_comparison(tmp_path: Path) -> None:
    Fake().write(tmp_path)
    Fake(tuner="refl", reward="tiny-judge", judge_roles={"tiny-pick": "held-out", "tiny-judge": "trained-on"}).write(
        tmp_path
    )
    facts = facts_of(tmp_path)
    assert (facts.pairs, facts.places, facts.groups) == ((), {}, ())
    assert facts.notes == ("No judge is held out for every row, so the rows are not compared with each other.",)


def test_hacking_is_flagged_by_its_definition(tmp_path: Path) -> None:
    """Intervals are the value ± 6 points: trained-on 93 with held-out 44 is flat (up to 50), with 40 down."""
    ids = {
        name: Fake(tuner=name, trained=trained, held_out=held_out).write(tmp_path).name
        for name, trained, held_out in (
            ("honest", 0.9, 0.62), ("flat", 0.93, 0.44), ("down", 0.93, 0.4), ("weak", 0.54, 0.5),
        )
    }  # fmt: skip
    facts = facts_of(tmp_path)
    assert {name: facts.hacking[i].flag for name, i in ids.items()} == {
        "honest": "", "flat": "flat", "down": "down", "weak": "",
    }  # fmt: skip
    found = facts.hacking[ids["down"]]
    assert found.trained_on == ("tiny-pick",)
    assert not found.paired  # these records have no per-image wins
    assert found.gap is not None
    assert found.gap.value == pytest.approx(0.53)
    assert [p.fraction for p in found.curve] == [0.0, 0.1, 0.25, 0.5, 1.0]


def test_the_curve_along_the_budget(tmp_path: Path) -> None:
    """The fakes' held-out win rate is 0.5 + 0.3 f^0.7 at a share f of the budget."""
    run_id = Fake(held_out=0.8).write(tmp_path).name
    slow = Fake(tuner="slow", held_out=0.55).write(tmp_path).name
    facts = facts_of(tmp_path)
    times = [0.0, 0.1, 0.25, 0.5, 1.0]
    values = [0.5 + 0.3 * f**0.7 for f in times]
    area = sum((t1 - t0) * (v0 + v1) / 2 for t0, t1, v0, v1 in zip(times, times[1:], values, values[1:], strict=False))
    found = facts.anytime[run_id]
    assert found.area == pytest.approx(area)
    assert found.to_target == pytest.approx(0.1 + 0.15 * (0.6 - values[1]) / (values[2] - values[1]))
    assert facts.anytime[slow].to_target is None


def test_a_large_board_compares_its_best_rows_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leaderboard.statistics.MAX_ROWS", 3)
    for i in range(5):
        Fake(tuner=f"t{i}", held_out=0.5 + 0.05 * i, fractions=(0.0, 1.0)).write(tmp_path)
    facts = facts_of(tmp_path)
    assert [facts.names[i] for i in facts.rows] == ["t4", "t3", "t2", "base model (tiny-sd)"]
    assert facts.notes[0].startswith("The best 3 of 5 rows")
    assert len(facts.anytime) == 5
