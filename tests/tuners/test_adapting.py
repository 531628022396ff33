"""What every tuner with an adapter promises beside its update: the moving average, and the scale at inference."""

import io

import pytest
import torch

from bench.core.contract import Patch, make_config
from bench.core.types import Prompt, SamplerSpec
from bench.diffusion import adapters
from bench.diffusion.generate import generate
from tuners.draft import DRaFT

from .world import context

EMA = {"ema": 0.6, "lr": 0.05, "K": 1}


def tuner(**settings):
    return DRaFT(make_config(DRaFT, settings), context())


def values(tensors):
    return torch.cat([t.detach().double().flatten() for t in tensors])


def by_hand(weights, ema):
    """The average a_n = d_n a_{n-1} + (1 - d_n) w_n with d_n = min(ema, (1 + n)/(10 + n)), a_0 = w_0, in float64."""
    a = weights[0]
    for n, w in enumerate(weights[1:], 1):
        d = min(ema, (1 + n) / (10 + n))
        a = d * a + (1 - d) * w
    return a


@pytest.mark.parametrize("ema", [0.05, 0.6, 0.9999])
def test_the_average_is_the_recursion_by_hand(ema):
    """0.05 is below the warm-up's 2/11 from the first step, 0.9999 above it all along; 0.6 is met at step 13."""
    own = tuner(**{**EMA, "ema": ema})
    weights = [values(own.parameters)]
    for _ in range(16):
        own.unit()
        weights.append(values(own.parameters))
    expected = by_hand(weights, ema)
    assert torch.allclose(values(own.average), expected, rtol=1e-5, atol=1e-7)
    assert (expected - weights[-1]).abs().max() > 1e-3  # an average, not the weights themselves


def test_without_a_decay_there_is_no_average():
    own = tuner(K=1)
    own.unit()
    before = values(own.parameters)
    with own.snapshot_weights():
        assert own.average == [] and torch.equal(values(own.parameters), before)


def test_a_snapshot_holds_the_average_and_tuning_goes_on_with_the_weights(tmp_path):
    own = tuner(**EMA)
    for _ in range(3):
        own.unit()
    weights, average = values(own.parameters), values(own.average)
    assert not torch.equal(weights, average)
    model = own.ctx.model
    with own.snapshot_weights():
        assert torch.equal(values(own.parameters), average)
        adapters.save_adapter(model.unet, tmp_path)
        inside = adapters.adapter_state(model.unet)
        (image,) = generate(model, [Prompt("p", "text")], [0], SamplerSpec("ddim", 2, 3.0), own.patch())
    assert torch.equal(values(own.parameters), weights)
    assert torch.equal(values(own.average), average)
    (other,) = generate(model, [Prompt("p", "text")], [0], SamplerSpec("ddim", 2, 3.0), own.patch())
    assert not torch.equal(image.image, other.image)
    # what was saved is the average: put in place, it gives the snapshot's image
    adapters.load_adapter_state(model.unet, inside)
    (again,) = generate(model, [Prompt("p", "text")], [0], SamplerSpec("ddim", 2, 3.0), own.patch())
    assert torch.equal(again.image, image.image)
    assert list(tmp_path.iterdir())


def test_a_snapshot_that_fails_leaves_the_weights_in_place():
    own = tuner(**EMA)
    for _ in range(2):
        own.unit()
    weights = values(own.parameters)
    with pytest.raises(RuntimeError, match="disk"), own.snapshot_weights():
        raise RuntimeError("disk")
    assert torch.equal(values(own.parameters), weights)


def test_killed_after_any_update_it_ends_in_the_same_bits():
    def saved(own):
        buffer = io.BytesIO()
        torch.save(own.state_dict(), buffer)
        return buffer.getvalue()

    own = tuner(**EMA)
    states = [saved(own)]
    for _ in range(4):
        own.unit()
        states.append(saved(own))
    for k in range(4):
        resumed = tuner(**EMA)
        resumed.load_state_dict(torch.load(io.BytesIO(states[k]), weights_only=True))
        for _ in range(4 - k):
            resumed.unit()
        assert saved(resumed) == states[-1], k


def test_a_snapshot_between_updates_changes_none_of_them():
    def end(snapshots):
        own = tuner(**EMA)
        for _ in range(3):
            own.unit()
            if snapshots:
                with own.snapshot_weights():
                    pass
        return values([*own.parameters, *own.average])

    assert torch.equal(end(False), end(True))


# -- the scale at inference


def tuned_image(scale, factor=1.0):
    """At this scale, with the adapter's second factors B multiplied: the LoRA update s B A is linear in both."""
    own = tuner(adapter_scale=scale, K=1)
    for i, p in enumerate(own.parameters):
        p.data += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
    for name, p in own.ctx.model.unet.named_parameters():
        if "lora_B" in name:
            p.data *= factor
    patch = own.patch()
    assert patch.adapter_scale == scale
    (image,) = generate(own.ctx.model, [Prompt("p", "text")], [0], SamplerSpec("ddim", 2, 3.0), patch)
    return image.image


def test_half_the_scale_is_half_the_update():
    assert torch.allclose(tuned_image(0.5), tuned_image(1.0, factor=0.5), atol=1e-6)
    assert torch.allclose(tuned_image(1.5), tuned_image(1.0, factor=1.5), atol=1e-6)
    assert (tuned_image(0.5) - tuned_image(1.0)).abs().max() > 1e-3


def test_scale_zero_is_the_base_model():
    own = tuner(K=1)
    (base,) = generate(
        own.ctx.model, [Prompt("p", "text")], [0], SamplerSpec("ddim", 2, 3.0), Patch(adapter=False)
    )  # fmt: skip
    assert torch.allclose(tuned_image(0.0), base.image, atol=1e-6)


def test_the_scale_is_of_inference_alone():
    """Tuning sees the adapter at full strength, whatever it is evaluated at."""

    def end(**settings):
        own = tuner(K=1, **settings)
        for _ in range(2):
            own.unit()
        return values(own.parameters)

    assert torch.equal(end(adapter_scale=0.5), end())
