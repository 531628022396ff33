"""Latent adaptive normalisation (HG-DPO eq. 7) as a sampling hook."""

import pytest
import torch

from bench.core.contract import Patch, make_config
from bench.core.types import Prompt, SamplerSpec
from bench.diffusion import adapters
from bench.diffusion.generate import generate, sample_latents
from bench.diffusion.samplers import SCHEDULERS, Noise
from tuners.hgdpo import HGDPO, LatentAdaptiveNormalisation, match_statistics

from .world import context

TEXTS = ["a cat", "a dog"]


@pytest.fixture
def model():
    """Tuned: an adapter away from its start."""
    model = context().model
    for i, p in enumerate(model.attach_adapter(rank=2, alpha=2, generator=torch.Generator().manual_seed(0))):
        p.data += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
    return model


def statistics(x):
    return x.mean((2, 3)), x.std((2, 3))


def test_matching_takes_mean_and_deviation_of_every_channel():
    x, like = torch.randn((2, 3, 4, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    like = 5 * like - 2
    out = match_statistics(x, like)
    for a, b in zip(statistics(out), statistics(like), strict=True):
        assert torch.allclose(a, b, rtol=1e-12)
    # what is left of x is its pattern
    assert torch.allclose(match_statistics(out, x), x, rtol=1e-10)


def test_matching_a_flat_channel_stays_finite():
    out = match_statistics(torch.zeros(1, 4, 8, 8), torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert torch.isfinite(out).all()


class Watched(LatentAdaptiveNormalisation):
    """Keeps what went by."""

    def begin(self, batch):
        super().begin(batch)
        self.seen = []

    def after_step(self, i, x):
        out = super().after_step(i, x)
        self.seen.append((x, out, self.h_ref))
        return out

    def end(self):
        seen = self.seen
        super().end()
        self.seen = seen


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_step_has_the_references_statistics_and_the_reference_is_the_base(model, scheduler):
    spec = SamplerSpec(scheduler, n_steps=4, guidance=3.0)
    hook = Watched()
    x = sample_latents(model, TEXTS, Noise([1, 2]), spec, [hook])
    assert len(hook.seen) == 4
    for before, out, ref in hook.seen:
        for a, b in zip(statistics(out), statistics(ref), strict=True):
            assert torch.allclose(a, b, rtol=1e-3, atol=1e-4)
        assert not torch.equal(before, out)
    assert torch.equal(x, hook.seen[-1][1])
    with model.with_patch(Patch(adapter=False)):
        base = sample_latents(model, TEXTS, Noise([1, 2]), spec)
    assert torch.equal(hook.seen[-1][2], base)
    assert not torch.allclose(x, base, atol=1e-3)


def test_an_untuned_model_is_left_as_it_is():
    ctx = context()
    model = ctx.model
    model.attach_adapter(rank=2, alpha=2, generator=torch.Generator().manual_seed(0))
    plain = sample_latents(model, TEXTS, Noise([1, 2]), ctx.sampler)
    hooked = sample_latents(model, TEXTS, Noise([1, 2]), ctx.sampler, [LatentAdaptiveNormalisation()])
    assert torch.allclose(plain, hooked, atol=1e-4)


def test_the_tuned_half_keeps_the_adapters_scale(model):
    """Switching the adapter off for the reference must not lose the scale of the patch that generation is inside of."""
    layers = adapters._layers(model.unet)
    with model.with_patch(Patch(adapter_scale=0.5)):
        inside = [layer.scaling["default"] for layer in layers]
        sample_latents(model, TEXTS, Noise([1, 2]), context().sampler, [LatentAdaptiveNormalisation()])
        assert [layer.scaling["default"] for layer in layers] == inside
    assert inside[0] == 0.5


def test_generation_rebuilds_the_hook_from_the_settings(model):
    config = make_config(HGDPO, HGDPO.presets["hgdpo-lan"])
    first, second = HGDPO.sampling_hooks(config)[0], HGDPO.sampling_hooks(config)[0]
    assert isinstance(first, LatentAdaptiveNormalisation) and first is not second
    assert HGDPO.sampling_hooks(make_config(HGDPO, {})) == ()
    prompts = [Prompt("a", "a cat"), Prompt("b", "a dog")]
    spec = SamplerSpec("ddim", n_steps=4, guidance=3.0)
    images = {}
    for batch_size in (1, 4):  # one hook serves batch after batch
        out = generate(model, prompts, [0, 1], spec, Patch(hooks=(first,)), batch_size=batch_size)
        images[batch_size] = torch.stack([g.image for g in out])
    assert torch.allclose(images[1], images[4], atol=1e-4)
    assert vars(first) == {}
