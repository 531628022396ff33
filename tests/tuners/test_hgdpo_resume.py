"""HG-DPO killed at every unit boundary; its pool's files; what is refused at plan time."""

import io
import shutil

import pytest
import torch

from bench.core.budget import Budget, Ledger
from bench.core.contract import Setup, make_config
from bench.core.errors import UserError
from bench.core.types import SamplerSpec
from bench.diffusion import adapters
from bench.diffusion.meters import Meters
from bench.engine.plan import tuner_problems
from tuners.hgdpo import HGDPO, N_THRIFTY, pool_size, update_cost
from tuners.pool import draw_cost

from .world import context

SETTINGS = {"D": 2, "N": 3}
N_UNITS = 2 + 2 + 4


def build(work_dir):
    return HGDPO(make_config(HGDPO, SETTINGS), context(work_dir=work_dir))


def next_unit(tuner):
    phase = next(p for p in tuner.phases() if not p.done())
    phase.unit()
    return phase.name


def saved(tuner):
    buffer = io.BytesIO()
    torch.save(tuner.state_dict(), buffer)
    return buffer.getvalue()


def load(data):
    return torch.load(io.BytesIO(data), weights_only=True)


def test_killed_at_any_boundary_it_ends_in_the_same_bits(tmp_path):
    """Each kill leaves the whole finished run's files behind: ahead of the state, and not to be trusted."""
    tuner = build(tmp_path / "whole")
    states = [saved(tuner)]
    names = []
    for _ in range(N_UNITS):
        names.append(next_unit(tuner))
        states.append(saved(tuner))
    assert names == ["pool"] * 2 + ["score"] * 2 + ["train"] * 4
    end = adapters.adapter_state(tuner.ctx.model.unet)
    for k in range(N_UNITS):
        shutil.copytree(tmp_path / "whole", tmp_path / str(k))
        resumed = build(tmp_path / str(k))
        resumed.load_state_dict(load(states[k]))
        for name in names[k:]:
            assert next_unit(resumed) == name
        assert all(torch.equal(v, end[n]) for n, v in adapters.adapter_state(resumed.ctx.model.unet).items())
        assert saved(resumed) == states[-1]


def test_a_shard_that_the_state_does_not_know_is_drawn_again_and_charged_again(tmp_path):
    ledger = Ledger(Budget(denoiser_u=1e12))
    with Meters(context().model, ledger.charge) as meters:
        tuner = HGDPO(make_config(HGDPO, SETTINGS), context(work_dir=tmp_path, ledger=ledger, meters=meters))
        before = tuner.state_dict()
        tuner.pool.draw_next()
        tuner.load_state_dict(before)
        tuner.pool.draw_next()
    assert ledger.spent["denoiser_u"] == 2 * draw_cost(tuner.ctx.sampler, 3).get("denoiser_u")


def test_a_fresh_process_resumes_into_training(tmp_path):
    """The first U-Net call that the new process's meters see has a timestep for every row."""
    tuner = build(tmp_path)
    for _ in range(4):
        next_unit(tuner)
    state = load(saved(tuner))
    ledger = Ledger(Budget(denoiser_u=1e12))
    with Meters(context().model, ledger.charge) as meters:
        resumed = HGDPO(make_config(HGDPO, SETTINGS), context(work_dir=tmp_path, ledger=ledger, meters=meters))
        resumed.load_state_dict(state)
        resumed.unit()
    assert ledger.spent["denoiser_u"] == 2 * 8


@pytest.mark.parametrize(
    ("harm", "word"), [(lambda p: p.unlink(), "missing"), (lambda p: p.write_bytes(b"x"), "damaged")]
)
def test_a_shard_that_is_not_the_one_written_is_named(tmp_path, harm, word):
    tuner = build(tmp_path)
    tuner.pool.draw_next()
    path = tmp_path / tuner.pool.shard_name(0)
    harm(path)
    with pytest.raises(UserError, match=word) as caught:
        tuner.pool.score_next()
    assert str(path) in str(caught.value)


def test_files_are_whole_or_absent(tmp_path):
    tuner = build(tmp_path)
    tuner.pool.draw_next()
    tuner.pool.draw_next()
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert names == sorted(tuner.pool.shard_name(d) for d in range(2))
    shard = tuner.pool.read(1)
    assert shard.latents.shape == (3, 4, 8, 8)
    assert shard.latents.dtype == torch.float32
    assert torch.equal(shard.cond, tuner.ctx.model.encode_prompts([tuner.pool.prompts[1].text])[0])


# -- sizes and refusals


def setup(limit=24_000.0, n_prompts=256, **budget):
    sampler = SamplerSpec("ddim", n_steps=20, guidance=4.0)
    return Setup(
        train_sampler=sampler, sampler=sampler, global_batch=8, n_train_prompts=n_prompts, reward="symmetry",
        model="tiny-sd", budget=Budget(**budget) if budget else Budget(denoiser_u=limit),
    )  # fmt: skip


def problems(s, **settings):
    return tuner_problems(HGDPO, make_config(HGDPO, settings), s)


@pytest.mark.parametrize("limit", [200, 1_000, 24_000, 100_000, 10_000_000])
def test_a_pool_of_unset_size_takes_its_share_of_the_budget(limit):
    s, config = setup(limit), make_config(HGDPO, {})
    D, N = pool_size(config, s.train_sampler, s.budget, s.n_train_prompts)
    spent = draw_cost(s.train_sampler, D * N).get("denoiser_u")
    assert 1 <= D <= 256 and 2 <= N <= 20
    assert spent <= config.pool_share * limit
    if D < 256:
        assert spent > config.pool_share * limit - draw_cost(s.train_sampler, N).get("denoiser_u")
    else:
        more = draw_cost(s.train_sampler, D).get("denoiser_u")  # of one image more a prompt
        assert N == 20 or spent > config.pool_share * limit - more
    assert problems(s) == []


def test_five_images_a_prompt_make_the_most_of_a_pool():
    """Squared expected range of N normal draws over N, by simulation."""
    draws = torch.randn((200_000, 9), generator=torch.Generator().manual_seed(0))
    worth = {N: (draws[:, :N].amax(1) - draws[:, :N].amin(1)).mean().item() ** 2 / N for N in range(2, 10)}
    assert max(worth, key=worth.get) == N_THRIFTY == 5
    assert [round(worth[N], 2) for N in (2, 5)] == pytest.approx([0.64, 1.08], abs=0.011)


def test_sizes_that_are_set_are_kept():
    s = setup()

    def size(**settings):
        return pool_size(make_config(HGDPO, settings), s.train_sampler, s.budget, s.n_train_prompts)

    assert size(D=7, N=5) == (7, 5)
    assert size(N=5)[1] == 5
    assert size(D=10) == (10, 20)
    assert size(D=100) == (100, 4)


def test_images_and_reward_calls_bound_the_pool_too():
    s = setup(denoiser_u=24_000.0, reward_calls=64)
    D, N = pool_size(make_config(HGDPO, {}), s.train_sampler, s.budget, s.n_train_prompts)
    assert D * N <= 64
    assert problems(s) == []


def test_a_budget_without_a_price_has_a_stated_size():
    s = setup(device_s=60.0, primary="device_s")
    assert pool_size(make_config(HGDPO, {}), s.train_sampler, s.budget, 5_000) == (4_000, 5)
    assert problems(s) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"N": 1}, "N is 2 or more"),
        ({"pair_rank": 1}, "2 to N"),
        ({"N": 4, "pair_rank": 5}, "at most 4"),
        ({"D": 257}, "256 training prompts"),
        ({"loss": "sft"}, "lambda_stat = 0"),
        ({"D": 100, "N": 20}, "D x N is at most 598"),
        ({"D": 30, "N": 20}, "D x N is at most 598"),
    ],
)
def test_what_cannot_work_is_refused_with_what_can(settings, words):
    (problem,) = problems(setup(), **settings)
    assert words in problem


def test_the_largest_pool_that_is_named_is_accepted():
    """24,000 U hold 598 images of 40 U and an update of 64 U; 599 they do not."""
    assert problems(setup(), D=46, N=13) == []  # 598
    assert len(problems(setup(), D=200, N=3)) == 1  # 600
    assert draw_cost(setup().train_sampler, 598).get("denoiser_u") + update_cost(
        make_config(HGDPO, {}), 8
    ).get("denoiser_u") <= 24_000  # fmt: skip


def test_a_budget_too_small_for_any_pair_says_how_much_is_enough():
    (problem,) = problems(setup(140))
    assert "the budget is at least 144" in problem
    assert problems(setup(144)) == []


def test_presets_can_be_planned():
    for settings in HGDPO.presets.values():
        assert problems(setup(), **settings) == []
    assert HGDPO.needs >= {"black-box-reward", "pairs", "reference"}
    assert "differentiable-reward" not in HGDPO.needs
