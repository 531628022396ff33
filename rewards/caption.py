"""Caption rewards (RealignDiff, arXiv 2305.19599, section III-B1): does a captioner see what the prompt says?

The paper's reward is the cosine of two texts' embeddings, the caption decoded from the image and the prompt (eq. 4):

    R_cap = cos(f_enc(t_g), f_enc(t_p))

Decoding passes no gradient, so it is a black box here (``tiny-caption-cosine``, ``blip2-caption-cosine``). What tuners
can differentiate is its surrogate, the captioner's log-likelihood of the prompt given the image, teacher-forced, as a
mean over what is said so that long prompts are no worse off (``tiny-caption``, ``blip2-caption``):

    R = 1/n sum_k log p(t_k | t_<k, image)

``caption-ll`` and ``caption-cosine`` are other names of ``blip2-caption`` and ``blip2-caption-cosine``.

In the tiny world the captioner is the stored reader and a caption is the facts that it states; see ``TinyCaption``.
``blip`` is the paper's comparison, BLIP's image-text cosine.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from bench.assets import need
from bench.assets.files import sha256_of_all, weights_in
from bench.core.contract import Reward
from bench.core.errors import UserError
from bench.core.identity import digest, file_sha256, plain
from bench.diffusion.pretrained import load_pretrained, load_tokenizer, reading
from bench.tiny import weights_dir
from bench.tiny.language import Facts, Thing, caption_of, scene_facts
from bench.tiny.models import load_reader, reader_weights
from bench.tiny.reader import Reader
from bench.tiny.reading import facts_of
from bench.tiny.world import BACKGROUNDS, COLOURS, LIGHTS, MAX_OBJECTS, SHAPES, SIZES, STYLES, TEXTURES
from rewards.check import check_images
from rewards.squash import Squash
from rewards.tiny import LICENCE, tiny_clip

READER = "tiny-vqa"
"""Family of what the stored reader decides, TIFA in the tiny world among it."""


def tiny_caption(device: str = "cpu") -> TinyCaption:
    """Log-likelihood of the prompt's facts under the tiny world's reader: the caption reward, differentiable."""
    return TinyCaption(weights_dir() / READER, device)


def tiny_caption_cosine(device: str = "cpu") -> TinyCaptionCosine:
    """Cosine of the prompt and the caption that the tiny world's reader gives the image, as tiny-clip embeds them."""
    return TinyCaptionCosine(weights_dir() / READER, device)


# -- the tiny world


_CELLS = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES}
_WHOLE = {"background": BACKGROUNDS, "light": LIGHTS, "style": STYLES}


class TinyCaption(Reward):
    """Mean log-probability of the facts that a prompt states, under the reader's heads.

    With cells u of the reader's grid, p(u) that an object's centre is there, p(v | u) of its attributes:

        thing      log P(exactly n objects fit it), each cell fitting by itself with q(u) = p(u) prod p(v | u)
        relation   log sum_{u,u'} a(u) b(u') [u stands so to u'],  a = q_1 / sum q_1,  b = q_2 / sum q_2
        setting    log p(background), log p(light), log p(style)

    Args:
        folder: ``save_pretrained`` folder of the reader.

    Raises:
        UserError: the weights are not there.
    """

    name = "tiny-caption"
    family = READER
    licence = LICENCE
    unit = "nats a fact"

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.weights_sha256 = file_sha256(reader_weights(folder))
        self.device = torch.device(device)
        self.reader: Reader = load_reader(folder, self.device)

    @classmethod
    def prompt_problems(cls, prompts: Sequence[str]) -> list[str]:
        foreign = [prompt for prompt in prompts if facts_of(prompt) is None]
        if not foreign:
            return []
        return [
            f"reward {cls.name!r} reads captions of the tiny world only, which {len(foreign)} of {len(prompts)} "
            f"training prompts are not, such as {textwrap.shorten(foreign[0], 60)!r}: --edition sample, or another "
            "reward (bench list rewards)"
        ]

    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        check_images(self.name, images, prompts)
        facts = [_facts(self.name, prompt) for prompt in prompts]
        seen = self._read(images)
        things = self._things(seen, facts)
        rows = []
        for b, stated in enumerate(facts):
            terms = [things[b, k] for k in range(len(stated.things))]
            if stated.relation is not None:
                terms.append(self._relation(seen, b, stated))
            for name, valid in _WHOLE.items():
                value = getattr(stated, name)
                if value is not None:
                    terms.append(seen[name][b, valid.index(value)])
            rows.append(torch.stack(terms).mean())
        return torch.stack(rows).float() if images.dtype == torch.float32 else torch.stack(rows)

    def _read(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Log-probabilities in float64, in which small ones multiply: cells flattened row by row."""
        images = images.to(self.device, self.reader.dtype)
        if images.shape[-2:] != (64, 64):
            images = F.interpolate(images, size=(64, 64), mode="bilinear", antialias=True)
        raw = {name: value.double() for name, value in self.reader(images).items()}
        seen = {name: raw[name].flatten(2).log_softmax(1) for name in _CELLS}
        seen["there"] = F.logsigmoid(raw["there"].flatten(2)[:, 0])
        height, width = raw["there"].shape[-2:]
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        corners = torch.stack([columns, rows]).flatten(1).to(raw["place"])
        # where exactly is a fact of the picture, not a lever: whole-cell moves are what changes a relation
        seen["place"] = 8 * (corners + raw["place"].flatten(2).sigmoid().detach())
        return seen | {name: raw[name].log_softmax(1) for name in _WHOLE}

    def _fits(self, seen: dict[str, torch.Tensor], b: int, thing: Thing) -> torch.Tensor:
        """log q(u) of one thing in picture b, (cells,)."""
        log_q = seen["there"][b]
        for name, valid in _CELLS.items():
            value = getattr(thing, name)
            if value is not None:
                log_q = log_q + seen[name][b, valid.index(value)]
        return log_q

    def _things(self, seen: dict[str, torch.Tensor], facts: Sequence[Facts]) -> dict[tuple[int, int], torch.Tensor]:
        """(picture, thing) → log P(exactly its number of objects fit)."""
        keys = [(b, k) for b, stated in enumerate(facts) for k in range(len(stated.things))]
        log_q = torch.stack([self._fits(seen, b, facts[b].things[k]) for b, k in keys])
        log_p = log_count(log_q, MAX_OBJECTS)
        return {(b, k): log_p[i, facts[b].things[k].number] for i, (b, k) in enumerate(keys)}

    def _relation(self, seen: dict[str, torch.Tensor], b: int, stated: Facts) -> torch.Tensor:
        assert stated.relation is not None
        first, second = (self._fits(seen, b, thing).log_softmax(0) for thing in stated.things)
        x, y = seen["place"][b]
        holds = _stands(stated.relation, x[:, None] - x, y[:, None] - y)
        joint = (first[:, None] + second).masked_fill(~holds, -torch.inf)
        # no cell may stand so, and then nothing can be learnt from the relation
        return joint.logsumexp((0, 1)) if holds.any() else joint.new_zeros(())


def log_count(log_q: torch.Tensor, most: int) -> torch.Tensor:
    """log P(n of the cells hold one), n = 0 .. most, for independent cells: log_q (M, cells) → (M, most + 1).

    The coefficients of prod_u (1 - q_u + q_u z), multiplied pair by pair and cut off after z^most.
    """
    # at q = 1 the gradient of log(1 - q) is lost; rounding in float64 never needs it closer
    log_q = log_q.clamp(max=-1e-12)
    polynomials = F.pad(torch.stack([-torch.expm1(log_q), log_q.exp()], -1), (0, most - 1))
    while polynomials.shape[1] > 1:
        if polynomials.shape[1] % 2:
            one = torch.zeros_like(polynomials[:, :1])
            one[..., 0] = 1
            polynomials = torch.cat([polynomials, one], 1)
        a, b = polynomials[:, ::2], polynomials[:, 1::2]
        polynomials = torch.stack(
            [torch.stack([a[..., i] * b[..., n - i] for i in range(n + 1)]).sum(0) for n in range(most + 1)], -1
        )
    return polynomials[:, 0].clamp_min(torch.finfo(log_q.dtype).tiny).log()


def _stands(relation: str, dx: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
    """``bench.tiny.world.relation`` on tensors of differences in pixels, bool."""
    wide, high = dx.abs(), dy.abs()
    clear = (torch.maximum(wide, high) >= 6) & ((wide - high).abs() >= 4)
    aside = clear & (wide > high)
    upright = clear & (wide <= high)
    return {"left of": aside & (dx < 0), "right of": aside & (dx > 0),
            "above": upright & (dy < 0), "below": upright & (dy > 0)}[relation]  # fmt: skip


def _facts(name: str, prompt: str) -> Facts:
    facts = facts_of(prompt)
    if facts is None:
        raise UserError(f"reward {name!r} reads captions of the tiny world only, which {prompt!r} is not",
                        valid="the prompts of a sample edition", hint="another reward: bench list rewards")  # fmt: skip
    return facts


class TinyCaptionCosine(Reward):
    """Eq. 4 in the tiny world: the reader parses the image, the grammar words all it saw, and tiny-clip's text tower
    compares. Where no object is seen the caption is "a picture".
    """

    name = "tiny-caption-cosine"
    differentiable = False
    family = READER
    licence = LICENCE
    unit = "cosine of texts"

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        sha = file_sha256(reader_weights(folder))
        self.reader: Reader = load_reader(folder, device)
        self.device = device
        self.texts: Any = tiny_clip(device)
        self.weights_sha256 = digest([sha, self.texts.weights_sha256])

    @torch.no_grad()
    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        check_images(self.name, images, prompts)
        said, asked = self.texts.text_features(self.captions(images)), self.texts.text_features(prompts)
        cosine: torch.Tensor = (said * asked).sum(-1)
        return cosine

    def captions(self, images: torch.Tensor) -> list[str]:
        """t_g of each image (B, 3, H, W)."""
        return [_caption(scene) for scene in self.reader.parse(images.to(self.device, torch.float32))]


def _caption(scene: Any) -> str:
    if scene is None:
        return "a picture"
    f = scene_facts(scene)
    return caption_of(*f.things, relation=f.relation, background=f.background, light=f.light, style=f.style).text


def _weights(name: str, folder: Path) -> str:
    """Digest of a folder's weights. Raises UserError where they are missing."""
    files = weights_in(folder)
    if not files:
        raise UserError(f"the weights of reward {name!r} are missing in {folder}",
                        valid="a complete save_pretrained folder")  # fmt: skip
    return sha256_of_all(files)


# -- published models


def blip2_caption(device: str = "cpu") -> Blip2Caption:
    """Log-likelihood of the prompt given the image under BLIP-2: the caption reward, differentiable."""
    return Blip2Caption(need("blip2"), device)


def blip2_caption_cosine(device: str = "cpu") -> Blip2CaptionCosine:
    """Cosine of the prompt and BLIP-2's caption of the image, both embedded by BLIP-2's text encoder (eq. 4)."""
    return Blip2CaptionCosine(need("blip2"), need("blip2-itm"), device)


def blip(device: str = "cpu") -> BlipCosine:
    """Cosine of image and prompt under BLIP's contrastive head: the reward that the caption reward is compared with."""
    return BlipCosine(need("blip-itm"), device)


class Blip2Caption(Reward):
    """Mean log-probability of the prompt's tokens given the image, teacher-forced, under BLIP-2 with a decoder-only
    language model (Li et al., arXiv 2301.12597). Pairs go through one at a time: no padding enters a score.

    Args:
        folder: ``save_pretrained`` folder of Blip2ForConditionalGeneration, AutoTokenizer and the image processor.

    Raises:
        UserError: weights missing, or a language model with an encoder.
    """

    name = "blip2-caption"
    family = "BLIP-2"
    licence = "MIT"
    unit = "nats a token"

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from transformers import Blip2ForConditionalGeneration

        self.weights_sha256 = _weights(self.name, folder)
        self.device = torch.device(device)
        self.preprocess = Squash.read(folder)
        with reading(folder):
            self.tokenizer: Any = load_tokenizer(folder)
            model: Any = load_pretrained(Blip2ForConditionalGeneration, folder)
        if not model.config.use_decoder_only_language_model:
            raise UserError(f"{folder} holds a BLIP-2 whose language model has an encoder",
                            valid="one with a decoder only, such as blip2-opt-2.7b")  # fmt: skip
        self.model = model.eval().requires_grad_(False).to(self.device)

    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        check_images(self.name, images, prompts)
        pixels = self.preprocess(images.to(self.device, self.model.dtype))
        return torch.stack([self._likelihood(x[None], prompt) for x, prompt in zip(pixels, prompts, strict=True)])

    def _likelihood(self, pixels: torch.Tensor, prompt: str) -> torch.Tensor:
        n, image = self.model.config.num_query_tokens, self.model.config.image_token_id
        # the start token is given, as before every caption; each token after it is predicted from those before
        start = [self.model.config.text_config.bos_token_id]
        said = self.tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
        ids = torch.tensor([[image] * n + start + said], device=self.device)
        logits = self.model(pixel_values=pixels, input_ids=ids).logits[0, n:-1]
        log_p: torch.Tensor = logits.log_softmax(-1).gather(1, ids[0, n + 1 :, None]).mean()
        return log_p

    def captions(self, images: torch.Tensor) -> list[str]:
        """t_g of each image (B, 3, H, W), by greedy decoding."""
        pixels = self.preprocess(images.to(self.device, self.model.dtype))
        said = []
        for x in pixels:
            with torch.no_grad():
                ids = self.model.generate(pixel_values=x[None], max_new_tokens=30, do_sample=False)[0]
            said.append(self.tokenizer.decode(ids, skip_special_tokens=True).replace("<image>", "").strip())
        return said

    def identity(self) -> dict[str, object]:
        return {**super().identity(), "preprocess": plain(self.preprocess)}


class Blip2CaptionCosine(Reward):
    """Eq. 4 with BLIP-2: greedy caption, then the cosine of caption and prompt under its text encoder's class token.

    Args:
        captioner: folder of Blip2ForConditionalGeneration.
        encoder: folder of a BLIP-2 with text projection (Blip2ForImageTextRetrieval's files) and AutoTokenizer.
    """

    name = "blip2-caption-cosine"
    differentiable = False
    family = "BLIP-2"
    licence = "MIT"
    unit = "cosine of texts"

    def __init__(self, captioner: Path, encoder: Path, device: str = "cpu") -> None:
        from transformers import Blip2TextModelWithProjection

        self.captioner = Blip2Caption(captioner, device)
        self.weights_sha256 = digest([self.captioner.weights_sha256, _weights(self.name, encoder)])
        with reading(encoder):
            self.tokenizer: Any = load_tokenizer(encoder)
            model: Any = load_pretrained(Blip2TextModelWithProjection, encoder)
        self.model = model.eval().requires_grad_(False).to(device)
        self.device = device

    @torch.no_grad()
    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        check_images(self.name, images, prompts)
        said = self.captioner.captions(images)
        return torch.stack([(self._embed(a) * self._embed(b)).sum() for a, b in zip(said, prompts, strict=True)])

    def _embed(self, text: str) -> torch.Tensor:
        most = self.model.config.qformer_config.max_position_embeddings
        tokens = self.tokenizer([text], truncation=True, max_length=most, return_tensors="pt").to(self.device)
        out = self.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        feature: torch.Tensor = out.text_embeds[0, 0]
        return feature


class BlipCosine(Reward):
    """Cosine of image and text features of BLIP's contrastive head (Li et al., arXiv 2201.12086).

    Args:
        folder: ``save_pretrained`` folder of BlipForImageTextRetrieval, AutoTokenizer and the image processor.
    """

    name = "blip"
    family = "BLIP"
    licence = "BSD-3-Clause"
    unit = "cosine"

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from transformers import BlipForImageTextRetrieval

        self.weights_sha256 = _weights(self.name, folder)
        self.device = torch.device(device)
        self.preprocess = Squash.read(folder)
        with reading(folder):
            self.tokenizer: Any = load_tokenizer(folder)
            model: Any = load_pretrained(BlipForImageTextRetrieval, folder)
        self.model = model.eval().requires_grad_(False).to(self.device)

    def measure(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        check_images(self.name, images, prompts)
        pixels = self.preprocess(images.to(self.device, self.model.dtype))
        seen = self.model.vision_proj(self.model.vision_model(pixel_values=pixels).last_hidden_state[:, 0])
        asked = torch.stack([self._embed(prompt) for prompt in prompts])
        return (F.normalize(seen, dim=-1) * asked).sum(-1)

    def n_truncated(self, prompts: Iterable[str]) -> int:
        """Distinct prompts that are longer than the text tower; their end was cut."""
        most = self.model.config.text_config.max_position_embeddings
        return sum(len(self.tokenizer(p, verbose=False).input_ids) > most for p in set(prompts))

    @torch.no_grad()
    def _embed(self, text: str) -> torch.Tensor:
        most = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer([text], truncation=True, max_length=most, return_tensors="pt").to(self.device)
        hidden = self.model.text_encoder(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        feature: torch.Tensor = F.normalize(self.model.text_proj(hidden.last_hidden_state[0, 0]), dim=-1)
        return feature

    def identity(self) -> dict[str, object]:
        return {**super().identity(), "preprocess": plain(self.preprocess)}
