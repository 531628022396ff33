"""TreeReward as a tuner: phases, cost, resume, what a plan refuses, what it optimises."""

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from bench.core.afford import total
from bench.core.budget import KINDS, Budget, Ledger
from bench.core.contract import Setup, make_config
from bench.core.errors import UserError
from bench.core.types import Prompt, SamplerSpec
from bench.diffusion import adapters
from bench.diffusion.check import check_tuner
from bench.diffusion.meters import Meters
from bench.engine.plan import tuner_problems
from bench.engine.scoring import Trained
from bench.trees.dimensions import DIMENSIONS
from rewards.caption import BlipCosine
from rewards.expression import load_reward
from tuners.tree.generated import CANDIDATES
from tuners.treereward import (
    FIT_UNIT,
    GENERATED_PAIRS,
    SCENE_PAIRS,
    TreeReward,
    TreeRewardConfig,
    feedback_cost,
    n_pairs,
    parse_feedback,
)

from .world import context

SMALL = {"pairs": 24, "fit_steps": 3, "fit_batch": 4, "pretrain_pool": 2}


def treereward(tmp_path, ctx=None, **settings):
    ctx = ctx or context(work_dir=tmp_path)
    return TreeReward(make_config(TreeReward, {**SMALL, **settings}), ctx)


def drive(tuner, n_tune=1):
    """All units up to ``n_tune`` of the last phase; what each reported."""
    reports = []
    phases = tuner.phases()
    for phase in phases[:-1]:
        while not phase.done():
            reports.append((phase.name, phase.next_cost(), phase.unit()))
    for _ in range(n_tune):
        reports.append((phases[-1].name, phases[-1].next_cost(), phases[-1].unit()))
    return reports


@pytest.mark.parametrize("preset", TreeReward.presets)
def test_every_preset_keeps_its_promises(preset):
    results = check_tuner(TreeReward, make_config(TreeReward, TreeReward.presets[preset]))
    assert {r.name: r.detail for r in results if not r.ok} == {}


def test_pairs_of_the_base_model_and_votes_keep_their_promises_too(tmp_path):
    path = vote_file(tmp_path, DIMENSIONS)
    settings = {"feedback": f"generated+votes={path}", "aligner": "any"}
    results = check_tuner(TreeReward, make_config(TreeReward, settings))
    assert {r.name: r.detail for r in results if not r.ok} == {}


def test_phases_fit_between_feedback_and_tuning_and_the_card_is_kept(tmp_path):
    tuner = treereward(tmp_path)
    reports = drive(tuner)
    assert [name for name, _, _ in reports] == ["feedback", "fit", "fit", "pool", "tune"]
    read = reports[2][2].scalars
    assert {f"held_out_{d}" for d in DIMENSIONS} | {"gate_pair", "gate_point"} <= read.keys()
    card = json.loads((tmp_path / "tree-card.json").read_text())
    assert card["pair_accuracy"]["color"] == read["held_out_color"]
    assert (card["structure"], card["backbone_name"], card["n_held_out"]) == ("tree", "tiny-clip", 6)
    tuned = reports[-1][2].scalars
    assert {"reward", "pretrain_loss", "gate_entropy", "w_semantic", "leaf_style"} <= tuned.keys()


@pytest.mark.parametrize("structure", ["tree", "decoupled", "global"])
def test_the_fitted_tree_is_kept_and_judges_as_it_did_in_tuning(tmp_path, structure):
    tuner = treereward(tmp_path, structure=structure)
    assert tuner.kept() == {}  # nothing is fitted yet
    drive(tuner)
    buffer = io.BytesIO()
    torch.save(tuner.kept(), buffer)
    kept = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    own = TreeReward.own_rewards(tuner.config, kept, "cpu")["tree"]
    images, texts = torch.rand(3, 3, 64, 64), ["a red circle", "two blue squares", "a star"]
    with torch.no_grad():
        # evaluation mode adds up in another order
        assert torch.allclose(own.score(images, texts), tuner.score.score(images, texts), rtol=1e-5, atol=1e-5)
        if structure == "global":
            assert own.part_names == ()  # one head is no dimension
            return
        parts, reward = own.measure_parts(images, texts), own.measure(images, texts)
    assert own.part_names == DIMENSIONS and parts.shape == (3, 6)
    assert (parts.amin(1) <= reward).all() and (reward <= parts.amax(1)).all()


def test_what_is_optimised_is_the_tree_and_not_the_runs_reward(tmp_path):
    def absent(name):
        raise AssertionError("the run's reward was loaded")

    tuner = treereward(tmp_path, context(work_dir=tmp_path, rewards=absent))
    scalars = drive(tuner)[-1][2].scalars
    leaves = [scalars[f"leaf_{d}"] for d in DIMENSIONS]
    assert min(leaves) <= scalars["reward"] <= max(leaves)


def test_the_update_is_l_pre_minus_lambda_r(tmp_path):
    """The gradient with both terms is the sum of each alone; that of R scales with lambda = 0.05."""

    def gradient(folder, **settings):
        tuner = treereward(tmp_path / folder, context(work_dir=tmp_path / folder), **settings)
        drive(tuner, n_tune=0)
        for p in tuner.parameters:
            p.data += 0.1
        tuner.accumulate(tuner.path(0))
        return torch.cat([p.grad.flatten() for p in tuner.parameters])

    both = gradient("a")
    only_pre = gradient("b", loss_scale=0.0)
    reward = gradient("c", pretrain_weight=0.0, loss_scale=1.0)
    assert torch.allclose(both, only_pre + 0.05 * reward, atol=1e-6)
    assert TreeRewardConfig().loss_scale == 0.05 and TreeRewardConfig().pretrain_weight == 1.0


def test_costs_are_said_before_and_fitting_uses_no_unet(tmp_path):
    ledger = Ledger(Budget(denoiser_u=1e12))
    model = context().model
    with Meters(model, ledger.charge) as meters:
        tuner = treereward(tmp_path, context(ledger=ledger, meters=meters, work_dir=tmp_path))
        for phase in tuner.phases():
            while not phase.done():
                said, before = phase.next_cost(), dict(ledger.spent)
                report = phase.unit()
                seen = {k: ledger.spent[k] - before[k] for k in before}
                for kind in ("denoiser_fwd", "denoiser_bwd", "denoiser_u", "steps", "reward_calls"):
                    assert seen[kind] == said.get(kind), (phase.name, kind)
                assert report.n_steps == seen["steps"]
                if phase.name == "fit":
                    assert seen["flops"] > 0 and seen["denoiser_u"] == seen["images"] == 0
                if phase.name == "tune":
                    assert seen["reward_calls"] == 2
                    break


def test_generated_pairs_are_charged_to_the_unit(tmp_path):
    ledger = Ledger(Budget(denoiser_u=1e12))
    model = context().model
    with Meters(model, ledger.charge) as meters:
        ctx = context(ledger=ledger, meters=meters, work_dir=tmp_path)
        tuner = treereward(tmp_path, ctx, feedback="generated", pairs=18)
        said = []
        while not tuner.has_pairs():
            said.append(tuner.pair_cost())
            tuner.make_pairs()
        assert len(said) == 3
        whole = feedback_cost("generated", 18, ctx.sampler)
        for kind in ("denoiser_u", "denoiser_fwd", "images", "reward_calls"):
            assert ledger.spent[kind] == sum(c.get(kind) for c in said) == whole.get(kind) > 0, kind
    assert {how for of in tuner.pairs.counts().values() for how in of} == {
        "substitute", "recaption", "trigger", "generator", "depth",
    }  # fmt: skip


RESUMED = {"fit_steps": FIT_UNIT + 5, "fit_batch": 2}


def units(tuner):
    """Of all phases, with two updates."""
    phases = tuner.phases()
    for phase in phases[:-1]:
        while not phase.done():
            yield phase.unit
    while tuner.update < 2:
        yield phases[-1].unit


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """(work_dir, state after each unit, adapter and tree at the end): 24 pairs, 25 fit steps in two units, their
    reading, the pool, two updates."""
    folder = tmp_path_factory.mktemp("whole")
    tuner = treereward(folder, **RESUMED)
    states = []
    for unit in units(tuner):
        unit()
        torch.save(tuner.state_dict(), folder / "state.pt")
        states.append(torch.load(folder / "state.pt", weights_only=True))
    return folder, states, adapters.adapter_state(tuner.ctx.model.unet), tuner.tree.state_dict()


@pytest.mark.parametrize("kill_at", [1, 2, 3, 4, 5, 6])
def test_killed_at_any_unit_of_any_phase_it_continues_bit_for_bit(uninterrupted, kill_at):
    folder, states, adapter, tree = uninterrupted
    assert len(states) == 7
    tuner = treereward(folder, **RESUMED)
    tuner.load_state_dict(states[kill_at - 1])
    for unit in units(tuner):
        unit()
    again = adapters.adapter_state(tuner.ctx.model.unet)
    assert all(torch.equal(v, again[k]) for k, v in adapter.items())
    assert all(torch.equal(v, tuner.tree.state_dict()[k]) for k, v in tree.items())


# -- what a plan refuses


def vote_file(folder, dimensions, each=2):
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    Image.new("RGB", (8, 8), "blue").save(folder / "b.png")
    vote = {"prompt": "a card", "winner": "a.png", "loser": "b.png"}
    path = folder / "votes.jsonl"
    path.write_text("".join(json.dumps({**vote, "dimension": d}) + "\n" for d in dimensions for _ in range(each)))
    return path


SEED = 5


def problems(model="tiny-sd", budget=None, n_prompts=100, seed=0, **settings):
    setup = Setup(
        train_sampler=SamplerSpec("ddim", 20, 4.0), sampler=SamplerSpec("ddim", 20, 4.0), global_batch=8,
        budget=budget or Budget(denoiser_u=24_000), n_train_prompts=n_prompts, reward="tiny-pick", model=model,
        seed=seed,
    )  # fmt: skip
    return "; ".join(tuner_problems(TreeReward, make_config(TreeReward, settings), setup))


def test_the_defaults_on_the_tiny_model_have_no_problem():
    for settings in TreeReward.presets.values():
        assert problems(**settings) == ""


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("sd15", {}, "backbone is not set: base models other than tiny-sd need a folder with a BLIP checkpoint"),
        ("sd15", {"backbone": "nowhere"}, "nowhere is no folder with a config.json"),
        ("sd15", {"backbone": "tiny-clip", "feedback": "scenes"}, "feedback = scenes draws the tiny world"),
        ("tiny-sd", {"feedback": "dreams"}, "feedback = 'dreams'; valid: scenes, generated"),
        ("tiny-sd", {"feedback": "votes=gone.jsonl"}, "vote file gone.jsonl cannot be read"),
        ("tiny-sd", {"pairs": "6"}, "pairs = 6: at least 12"),
        ("tiny-sd", {"feedback": "generated", "aligner": "tiny-clop"}, "did you mean 'tiny-clip'"),
        ("tiny-sd", {"structure": "global", "literal": "true"}, "has no gate"),
        ("tiny-sd", {"feedback": "generated", "pairs": "600"}, "so no update is left"),
    ],
)
def test_bad_settings_are_refused_at_plan_time(model, settings, message):
    assert message in problems(model, **settings)


def test_without_a_setting_the_aligner_is_of_the_base_models_world(tmp_path, monkeypatch):
    foreign = problems("sd15", feedback="generated", aligner="tiny-clip")
    assert "aligner = tiny-clip knows the tiny world only: blip, or another of bench list rewards" in foreign
    assert "aligner" not in problems(feedback="generated", aligner="tiny-clip")
    assert treereward(tmp_path).aligner == "tiny-clip"
    # its weights are looked for where pairs are generated
    monkeypatch.setenv("TUNEBENCH_MODELS", str(tmp_path))
    assert "the aligner blip is not on this machine: bench assets fetch --reward blip" in problems("sd15")
    assert "aligner" not in problems("sd15", feedback="votes=gone.jsonl")
    (tmp_path / "blip-itm-base-coco").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "blip-itm-base-coco" / name).touch()
    assert "aligner" not in problems("sd15")
    assert problems(feedback="generated", n_prompts=1).startswith("re-captioning needs other images' texts")


@pytest.mark.parametrize(
    ("kind", "least", "settings"),
    [
        ("steps", 360 + 1, {}),
        ("images", 8, {}),
        ("reward_calls", 8, {}),
        # pool of 64, the cheapest update (17 forwards, one of them trained: 3 more), L_pre
        ("denoiser_u", 64 * 40 + 8 * 2 * (17 + 3) + 3 * 8, {}),
        ("denoiser_fwd", 64 * 40 + 8 * 2 * (17 + 1) + 8, {}),
        ("denoiser_fwd", 64 * 40 + 8 * (17 + 1) + 8, {"guidance": "1"}),
        ("denoiser_u", 8 * 2 * (17 + 4), {"pretrain_weight": "0", "kl": "1"}),
    ],
)
def test_a_budget_must_hold_feedback_fit_pool_and_one_update(kind, least, settings):
    def at(limit):
        # of this seed, the first update stops at the first step of the window
        return problems(budget=Budget(**{kind: limit}, primary=kind), seed=SEED, **settings)

    assert at(least - 1).count("no update is left") == 1
    assert at(least) == ""


def test_the_least_cost_is_that_of_the_pool_and_the_first_update(tmp_path):
    ctx = context(work_dir=tmp_path)
    tuner = treereward(tmp_path, ctx, share=0.25)
    setup = Setup(ctx.sampler, ctx.sampler, ctx.global_batch, ctx.budget, 6, "red", "tiny-sd")
    said = total(TreeReward.first_update(tuner.config, setup)[2:])  # without feedback and fit
    known = tuner.pool_cost() + tuner.next_cost()
    assert {k: said.get(k) for k in KINDS} == {k: known.get(k) for k in KINDS}


def test_the_vote_file_and_the_backbone_are_part_of_a_run():
    def files(**settings):
        return list(TreeReward.files(make_config(TreeReward, settings)))

    assert files() == files(backbone="tiny-clip", feedback="scenes") == files(feedback="dreams") == []
    assert files(feedback="scenes+votes=a/b.jsonl", backbone="blip/x") == [Path("a/b.jsonl"), Path("blip/x")]


def test_competing_captions_are_never_the_prompts_own(tmp_path):
    """Three prompts, two of one text: every few draws are another epoch's copy of the own."""
    prompts = [Prompt("0", "a"), Prompt("1", "a"), Prompt("2", "b")]
    tuner = treereward(tmp_path, context(work_dir=tmp_path, train_prompts=prompts))
    for i in range(12):
        others = tuner._others(i, "a")
        assert others == tuner._others(i, "a") == ["b"] * (CANDIDATES - 1)
    alone = treereward(tmp_path, context(work_dir=tmp_path, train_prompts=prompts[:2]))
    with pytest.raises(UserError, match="differ from 'a'"):
        alone._others(0, "a")


def test_generated_content_pairs_have_two_texts(tmp_path):
    tuner = treereward(tmp_path, feedback="generated", pairs=30)
    while not tuner.has_pairs():
        tuner.make_pairs()
    content = [i for i in range(30) if tuner.pairs.dimension(i) == DIMENSIONS.index("content")]
    texts = [tuner.pairs.batch([i]).texts for i in content]
    assert len(texts) == 5 and all(winner != loser for winner, loser in texts)


def test_a_resumed_tuner_that_is_fitted_needs_no_pairs(uninterrupted):
    folder, states, _, _ = uninterrupted
    tuner = treereward(folder, **RESUMED)
    tuner.load_state_dict(states[-1])
    assert len(tuner.pairs) == 0 and all(phase.done() for phase in tuner.phases()[:2])


def test_bad_votes_are_refused_at_plan_time_with_their_line(tmp_path):
    path = vote_file(tmp_path, DIMENSIONS)
    assert problems(feedback=f"votes={path}") == ""
    with path.open("a") as file:
        file.write('{"dimension": "smell", "prompt": "a", "winner": "a.png", "loser": "b.png"}\n')
    assert "line 13: unknown dimension 'smell'; valid: style, content" in problems(feedback=f"votes={path}")
    path.write_text("")
    assert "holds no vote" in problems(feedback=f"scenes+votes={path}")


def test_votes_alone_must_teach_every_leaf(tmp_path):
    path = vote_file(tmp_path, ["color"])
    assert "fewer than 2 votes on style, content, lighting, detail, layout" in problems(feedback=f"votes={path}")
    assert problems(feedback=f"scenes+votes={path}") == ""
    assert problems(feedback=f"votes={path}", structure="global") == ""


def test_votes_are_fitted_after_the_drawn_pairs(tmp_path):
    tuner = treereward(tmp_path, feedback=f"scenes+votes={vote_file(tmp_path, ['color'])}")
    while not tuner.has_pairs():
        tuner.make_pairs()
    assert tuner.pairs.counts()["color"] == {"spoil": 4, "vote": 2}


def test_feedback_is_spelled_one_way():
    assert parse_feedback("generated") == ("generated", None)
    source, path = parse_feedback("votes=a+b=c.jsonl")
    assert (source, str(path)) == ("", "a+b=c.jsonl")
    for text in ("", "scenes+", "votes=", "scenes+generated", "scenesvotes=a"):
        with pytest.raises(UserError, match="feedback = "):
            parse_feedback(text)


def test_generated_pairs_take_at_most_a_quarter_of_the_budget():
    sampler = SamplerSpec("ddim", 20, 4.0)
    for limit in (24_000, 200_000):
        n = n_pairs(TreeRewardConfig(), "generated", sampler, Budget(denoiser_u=limit))
        assert 0.5 * 0.25 * limit < feedback_cost("generated", n, sampler).get("denoiser_u") <= 0.25 * limit
    assert n_pairs(TreeRewardConfig(), "generated", sampler, Budget(device_s=60, primary="device_s")) == GENERATED_PAIRS
    assert n_pairs(TreeRewardConfig(), "scenes", sampler, Budget(denoiser_u=24_000)) == SCENE_PAIRS


def test_a_base_model_that_draws_more_than_64_pixels_needs_a_backbone(tmp_path):
    ctx = context(work_dir=tmp_path, sampler=SamplerSpec("ddim", 4, 3.0, resolution=128))
    with pytest.raises(UserError, match="backbone is not set"):
        treereward(tmp_path, ctx)


def test_judges_that_share_the_backbone_are_related_and_the_runs_reward_is_no_exception():
    family = TreeReward.own_reward_family(make_config(TreeReward, {}), "tiny-sd")
    trained = Trained(frozenset(), frozenset({family}))
    assert family == load_reward("tiny-pick").family
    assert BlipCosine.family == TreeReward.own_reward_family(make_config(TreeReward, {}), "sd15")
    assert trained.role("tiny-pick", load_reward("tiny-pick").family) == "related"
    assert trained.role("tiny-judge", load_reward("tiny-judge").family) == "held-out"
