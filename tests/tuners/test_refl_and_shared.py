"""ReFL's draws and its pre-training term; what the path-gradient tuners share."""

from collections import Counter

import pytest
import torch

from bench.core.budget import Budget, Ledger
from bench.core.contract import make_config
from bench.core.errors import Diverged, UserError
from bench.diffusion import adapters
from bench.diffusion.meters import Meters
from tuners.drtune import DRTune
from tuners.online import map_reward
from tuners.refl import ReFL

from .world import Red, context


def refl(n_steps=4, ctx=None, **settings):
    return ReFL(make_config(ReFL, settings), ctx or context(n_steps=n_steps))


@pytest.mark.parametrize(
    ("preset", "T", "first"), [("refl-10", 50, 40), ("refl-20", 50, 30), ("refl-official", 40, 30), ("refl-20", 20, 12)]
)
def test_one_of_the_last_steps_trains_and_the_rollout_stops_there(preset, T, first):
    tuner = refl(T, **ReFL.presets[preset])
    paths = [tuner.path(u) for u in range(600)]
    counts = Counter(p.stop for p in paths)
    assert set(counts) == set(range(first, T))
    assert all(p.train == {p.stop} and not p.through_input for p in paths)


def test_a_window_in_steps_overrides_the_share_and_must_fit():
    assert refl(10, window=3).window == 3
    with pytest.raises(UserError, match="at most 10"):
        refl(10, window=11)


def test_the_official_preset_rolls_out_without_guidance():
    tuner = refl(20, **ReFL.presets["refl-official"])
    assert (tuner.sampler.branches, refl(20).sampler.branches) == (1, 2)
    assert tuner.loss_scale == 1e-3


def test_the_hinge_gives_no_gradient_above_c_and_linear_gives_one_everywhere():
    r = torch.tensor([-1.0, 1.9, 2.0, 2.5, 7.0], requires_grad=True)
    assert torch.autograd.grad(map_reward(r, "hinge", 2.0).sum(), r)[0].tolist() == [-1, -1, 0, 0, 0]
    assert torch.autograd.grad(map_reward(r, "linear", 2.0).sum(), r)[0].tolist() == [-1] * 5


def test_a_saturated_hinge_leaves_the_adapter_without_gradient():
    tuner = refl(reward_map="hinge", hinge_at=-5.0)
    assert tuner.unit().scalars["grad_norm"] == 0


def test_the_pretraining_pool_is_the_base_models_and_is_charged():
    ledger = Ledger(Budget(denoiser_u=1e12))
    model = context().model
    with Meters(model, ledger.charge) as meters:
        tuner = refl(ctx=context(ledger=ledger, meters=meters), pretrain_weight=1.0, pretrain_pool=3)
        pool, tune = tuner.phases()
        costs = []
        while not pool.done():
            costs.append(pool.next_cost())
            pool.unit()
        assert len(tuner.pool) == 3
        assert ledger.spent["denoiser_u"] == sum(c.get("denoiser_u") for c in costs) == 3 * 4 * 2
        before = dict(ledger.spent)
        cost = tune.next_cost()
        report = tune.unit()
        assert ledger.spent["denoiser_u"] - before["denoiser_u"] == cost.get("denoiser_u")
        assert 0 < report.scalars["pretrain_loss"] < 10
    assert tune.name == "tune"
    assert [p.name for p in refl().phases()] == ["tune"]


def test_both_losses_are_summed_into_one_update():
    """The gradient with both terms is the sum of the gradients of each."""

    def gradient(**settings):
        tuner = refl(pretrain_pool=2, **settings)
        while len(tuner.pool) < 2:
            tuner.fill_pool()
        for p in tuner.parameters:
            p.data += 0.1  # away from B = 0, where half of the gradients vanish
        tuner.accumulate(tuner.path(0))
        return torch.cat([p.grad.flatten() for p in tuner.parameters])

    both = gradient(pretrain_weight=0.5)
    only_reward = gradient(pretrain_weight=0.0)
    only_pretraining = gradient(pretrain_weight=0.5, loss_scale=0.0)
    assert torch.allclose(both, only_reward + only_pretraining, atol=1e-6)
    assert only_pretraining.norm() > 0


def test_micro_batches_change_the_accumulation_only():
    def gradient(micro_batch):
        tuner = DRTune(make_config(DRTune, {}), context(micro_batch=micro_batch))
        scalars = tuner.accumulate(tuner.path(0))
        return torch.cat([p.grad.flatten() for p in tuner.parameters]), scalars

    (a, one), (b, two) = gradient(1), gradient(2)
    assert torch.allclose(a, b, rtol=1e-4, atol=1e-9)
    assert one == pytest.approx(two, rel=1e-4)


def test_settings_left_at_zero_are_the_base_models():
    tuner = DRTune(make_config(DRTune, {}), context())
    assert tuner.optimizer.defaults["lr"] == 1e-3
    assert tuner.parameters[0].shape[0] == 2
    tuner = DRTune(make_config(DRTune, {"lr": "1e-4", "rank": "3", "alpha": "6"}), context())
    assert (tuner.optimizer.defaults["lr"], tuner.parameters[0].shape[0]) == (1e-4, 3)
    assert context().model.unet.peft_config["default"].lora_alpha == 6


def test_an_update_is_logged_with_the_norm_before_clipping():
    tuner = DRTune(make_config(DRTune, {"clip": 1e-9}), context())
    scalars = tuner.unit().scalars
    assert scalars.keys() == {"reward", "saturated", "n_executed", "n_trained", "grad_norm", "clipped"}
    assert scalars["grad_norm"] > 1e-9
    assert scalars["clipped"] == 1.0


def test_a_reward_that_is_not_finite_diverges_and_leaves_the_adapter_as_it_was():
    class Broken(Red):
        def measure(self, images, prompts):
            return super().measure(images, prompts) / 0.0

    tuner = DRTune(make_config(DRTune, {}), context(rewards=lambda name: Broken()))
    before = adapters.adapter_state(tuner.ctx.model.unet)
    with pytest.raises(Diverged):
        tuner.unit()
    assert all(torch.equal(v, before[k]) for k, v in adapters.adapter_state(tuner.ctx.model.unet).items())


def test_tuning_raises_the_reward_it_is_given():
    tuner = DRTune(make_config(DRTune, {"lr": 0.02}), context(train_prompts=context().prompts(0, 2)))
    rewards = [tuner.unit().scalars["reward"] for _ in range(12)]
    assert sum(rewards[-3:]) > sum(rewards[:3]) + 0.01
