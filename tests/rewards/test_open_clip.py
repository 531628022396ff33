"""open_clip's layout as CLIPModel: against a forward pass of that layout written here with plain tensor operations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from random_published import open_clip_state, vocabulary

from bench.core.errors import UserError
from rewards.open_clip import TEXT_HEAD, VISION_HEAD, clip_model, renamed

START, END = vocabulary()["<|startoftext|>"], vocabulary()["<|endoftext|>"]
SMALL = {"patch": 8, "side": 24, "n_tokens": 12}


def normed(x, state, name):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5)


def transformer(x, state, name, head, mask=None):
    """Pre-norm blocks; x (B, L, D)."""
    layer = 0
    while f"{name}.resblocks.{layer}.ln_1.weight" in state:
        at = f"{name}.resblocks.{layer}"
        h = normed(x, state, f"{at}.ln_1")
        q, k, v = (h @ state[f"{at}.attn.in_proj_weight"].T + state[f"{at}.attn.in_proj_bias"]).chunk(3, -1)
        b, n, width = q.shape
        q, k, v = (t.view(b, n, width // head, head).transpose(1, 2) for t in (q, k, v))
        logits = q @ k.transpose(-1, -2) / head**0.5
        if mask is not None:
            logits = logits + mask
        mixed = (logits.softmax(-1) @ v).transpose(1, 2).reshape(b, n, width)
        x = x + mixed @ state[f"{at}.attn.out_proj.weight"].T + state[f"{at}.attn.out_proj.bias"]
        h = normed(x, state, f"{at}.ln_2")
        h = h @ state[f"{at}.mlp.c_fc.weight"].T + state[f"{at}.mlp.c_fc.bias"]
        h = 0.5 * h * (1 + torch.erf(h / 2**0.5))  # the exact GELU
        x = x + h @ state[f"{at}.mlp.c_proj.weight"].T + state[f"{at}.mlp.c_proj.bias"]
        layer += 1
    assert layer > 0
    return x


def encode_image(x, state):
    weight = state["visual.conv1.weight"]
    cells = F.conv2d(x, weight, stride=weight.shape[-1]).flatten(2).transpose(1, 2)
    first = state["visual.class_embedding"].expand(len(x), 1, -1)
    x = torch.cat([first, cells], 1) + state["visual.positional_embedding"]
    x = transformer(normed(x, state, "visual.ln_pre"), state, "visual.transformer", VISION_HEAD)
    return normed(x[:, 0], state, "visual.ln_post") @ state["visual.proj"]


def encode_text(ids, state):
    n = ids.shape[1]
    x = state["token_embedding.weight"][ids] + state["positional_embedding"][:n]
    mask = torch.full((n, n), -torch.inf, dtype=x.dtype).triu(1)
    x = normed(transformer(x, state, "transformer", TEXT_HEAD, mask), state, "ln_final")
    return x[torch.arange(len(ids)), ids.argmax(-1)] @ state["text_projection"]


def token_ids():
    rows = [[START, 5, 3, END], [START, 7, 7, 9, 1, 2, 30, 31, 32, 33, 34, END], [START, END]]
    return torch.tensor([row + [0] * (12 - len(row)) for row in rows])


@pytest.fixture(scope="module")
def state():
    return {name: tensor.double() for name, tensor in open_clip_state(1, **SMALL).items()}


@pytest.fixture(scope="module")
def model(state):
    return clip_model(state).double().eval()


def test_both_towers_say_what_open_clips_operations_say(model, state):
    pixels = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        image = model.get_image_features(pixel_values=pixels).pooler_output
        text = model.get_text_features(input_ids=token_ids()).pooler_output
    # the loaded weights went through float32
    torch.testing.assert_close(image, encode_image(pixels, state), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(text, encode_text(token_ids(), state), atol=1e-5, rtol=1e-5)
    assert model.logit_scale.item() == pytest.approx(4.6052, abs=1e-4)


def test_neither_padding_nor_the_mask_moves_the_text(model):
    """open_clip pads with 0 and masks nothing, transformers' tokeniser with its own token and masks it."""
    ids = token_ids()
    other = torch.where(ids == 0, END, ids)
    seen = ((ids != 0) | (torch.arange(12) == 0)).long()
    with torch.no_grad():
        a = model.get_text_features(input_ids=ids).pooler_output
        b = model.get_text_features(input_ids=other, attention_mask=seen).pooler_output
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_the_renaming_loses_nothing(state):
    """Every number is there once."""
    there = renamed(state)
    assert sum(t.numel() for t in there.values()) == sum(t.numel() for t in state.values())
    total = sum(t.sum().item() for t in state.values())
    assert sum(t.sum().item() for t in there.values()) == pytest.approx(total, abs=1e-9)


def test_sizes_are_read_off_the_tensors():
    config = clip_model(open_clip_state(0, vision_width=80, text_width=64, n_layers=1, **SMALL)).config
    assert (config.vision_config.image_size, config.vision_config.patch_size) == (24, 8)
    assert (config.vision_config.num_attention_heads, config.text_config.num_attention_heads) == (1, 1)
    assert config.vision_config.hidden_act == config.text_config.hidden_act == "gelu"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("visual.conv1.weight"), "visual.conv1.weight"),
        (lambda s: s.pop("ln_final.bias"), "absent"),
        (lambda s: s.update({"visual.attnpool.q": torch.zeros(1)}), "visual.attnpool.q"),
        (lambda s: s.update({"text_projection": torch.zeros(128, 7)}), "fit"),
        (lambda s: s.update({"visual.positional_embedding": torch.zeros(12, 160)}), "11 cells"),
    ],
)
def test_another_layout_is_refused_by_name(change, says):
    state = open_clip_state(0, **SMALL)
    change(state)
    with pytest.raises(UserError, match=says):
        clip_model(state)


def test_the_buffer_of_older_versions_is_passed_over():
    state = open_clip_state(0, **SMALL) | {"attn_mask": torch.zeros(12, 12)}
    assert "attn_mask" not in renamed(state)
