"""RealignDiff: coarse-to-fine semantic re-alignment (Jiang et al., arXiv 2305.19599 v5), section III-B.

Symbols: T sampler steps; i the step that trains, in execution order; x0_hat the clean latent that step i predicts; c
the prompt; phi the reward map; t_g the caption of a picture.

Coarse stage (tuning): reward feedback learning on a caption reward,

    i ~ U{0.6 T .. T - 1};   x_T .. x_i without gradient
    L = lambda phi(R_cap(c, decode(x0_hat(x_i, eps_theta(x_i))))) + L_pre,  phi(r) = ReLU(2 - r)       (eq. 5, its sign)
    R_cap = cos(f_enc(t_g), f_enc(c))                                                                           (eq. 4)

t_g is decoded text, which passes no gradient: the reward that is differentiated is the log-likelihood of c given the
picture under the captioner, its surrogate; R_cap itself is a black-box reward of its own. L_pre needs pictures that a
prompt list does not bring: its place takes the distance of eps_theta to the base model's eps.

Fine stage (generation only): ``tuners.realign`` samples every picture a second time, its attention led by what was
found in the first (eq. 6-10).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from bench.core.afford import Need
from bench.core.budget import Charge
from bench.core.contract import Context, Patch, Phase, Report, Setup, setting
from bench.core.types import SamplerSpec
from bench.diffusion.generate import SamplingHook, sample_latents
from bench.diffusion.samplers import Noise
from bench.tiny import is_tiny_world
from tuners.pool import draw_cost
from tuners.realign import parts
from tuners.realign.hook import FineRealignment, FineSettings
from tuners.refl import ReFL, ReFLConfig

DENSE = "DenseDiffusion's code"

REWARDS: Mapping[str, tuple[str, str]] = {
    "caption": ("tiny-caption", "blip2-caption"),
    "clip": ("tiny-clip", ""),
    "blip": ("", "blip"),
    "suite": ("", ""),
}
"""Choice of reward → its name in the tiny world and at scale; "" is none of its own."""


@dataclass(frozen=True)
class RealignDiffConfig(ReFLConfig):
    """RealignDiff's own settings, and ReFL's with its values."""

    stages: str = setting(
        "coarse+fine", unit="", source="Table II", choices=("coarse+fine", "coarse", "fine"),
        help="coarse tunes the adapter, fine samples every picture twice; fine alone leaves the base model as is",
    )  # fmt: skip
    reward: str = setting(
        "caption", unit="", source="Table III", choices=tuple(REWARDS),
        help="what the coarse stage tunes for where --reward names nothing; suite takes the suite's own",
    )  # fmt: skip
    share: float = setting(
        0.4, unit="of T", source="§III-B1: t >= 30 of 50; ReFL: the last 10 of 40", low=0.0, high=1.0,
        help="the trained step is one of the last so many, as a share of the sampler's steps",
    )  # fmt: skip
    loss_scale: float = setting(
        1e-3, unit="", source="§IV-A: lambda = 1e-3", low=0.0, help="factor lambda on the reward loss"
    )  # fmt: skip
    kl: float = setting(
        -1.0, unit="", source="in place of eq. 5's L_pre", low=-1.0,
        help="weight of the mean squared distance of trained predictions to the base model's; -1: 1/w^2 at the "
        "training rollout's guidance w (1 without guidance), as guidance scales a shift of eps_c by w",
    )  # fmt: skip
    cross_weight: float = setting(
        1.0, unit="", source=DENSE, low=0.0, help="w of lambda_t = w (tau/1000)^power in text attention"
    )  # fmt: skip
    self_weight: float = setting(
        0.3, unit="", source=DENSE, low=0.0, help="w of lambda_t in pixel attention"
    )  # fmt: skip
    power: float = setting(
        5.0, unit="", source=DENSE, low=0.0, help="how fast lambda_t fades with tau; the paper: 'proportional'"
    )  # fmt: skip
    fine_share: float = setting(
        0.3, unit="of T", source=DENSE, low=0.0, high=1.0, help="the first share of steps, whose attention is modulated"
    )  # fmt: skip
    outside: float = setting(
        0.0, unit="", source="eq. 9: 1", low=0.0,
        help="S where no mask is: 1 pushes the background's attention towards uniform, 0 leaves it alone",
    )  # fmt: skip
    b: str = setting(
        "area", unit="", source="eq. 8: product; DenseDiffusion: area", choices=("area", "product"),
        help="B: share of the picture that a region covers, or Q K^T as printed",
    )  # fmt: skip
    repeat: bool = setting(
        False, unit="", source="not stated; DenseDiffusion: false",
        help="append a local caption to the prompt also where it stands there word for word",
    )  # fmt: skip
    alone: bool = setting(
        False, unit="", source="not stated; DenseDiffusion: true",
        help="encode the tokens of each local caption by itself, not within the prompt",
    )  # fmt: skip
    tagger: str = setting("tiny", unit="", source="§III-B2: RAM", help="names what is seen: tiny, clip=FOLDER")
    judge: str = setting(
        "tiny", unit="", source="§III-B2: GPT-4", help="scores the tags against the prompt: tiny, rules, llm=FOLDER"
    )  # fmt: skip
    captioner: str = setting(
        "rules", unit="", source="§III-B2: GPT-4", help="describes each tag as the prompt wants it: rules, llm=FOLDER"
    )  # fmt: skip
    segmenter: str = setting(
        "tiny", unit="", source="§III-B2: Grounded-SAM", help="finds where each tag is: tiny, grounded-sam=FOLDER"
    )  # fmt: skip


class RealignDiff(ReFL):
    """Tunes for a caption reward, then samples twice, attention led by what is seen (Jiang et al. 2023)."""

    name = "realigndiff"
    version = 2
    paper = "Jiang et al., RealignDiff: Coarse-to-fine Semantic Re-alignment, arXiv 2305.19599 v5"
    equations = "eq. 4-10"
    deviations = (
        "the reward that is differentiated is the captioner's log-likelihood of the prompt: eq. 4 reads decoded text",
        "-lambda R, the gradient of lambda ReLU(2 - R) for a cosine or a likelihood; other rewards reach 2 "
        "(reward_map = hinge); eq. 5 as printed, lambda ReLU(R), minimises the reward",
        "the distance to the base model's guided predictions, weighted 1/w^2, in place of L_pre, whose pictures are "
        "not given; "
        "pretrain_weight adds L_pre on the base model's own pictures",
        "B is the area of a region, as in DenseDiffusion: B = Q K^T leaves [0, 1] and turns signs (b = product)",
        "R relates pixels to tokens: a vector over tokens localises nothing",
        "attention outside of all masks is left alone: eq. 9's S = 1 there flattens it (outside = 1)",
        "lambda_t = w (tau/1000)^5 in the first 30 % of steps: the paper says 'proportional to t' (power = 1, "
        "fine_share = 1)",
        "local captions are encoded within the prompt: DenseDiffusion encodes each by itself (alone = true)",
        "a score of 0 takes the modulation off an object, it does not suppress the object, as printed",
        "LoRA instead of the full U-Net, and guidance in the training rollout, as in DRTune's comparison",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"differentiable-reward", "attention"})
    Config = RealignDiffConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "realigndiff-caption": {},
        "realigndiff-coarse": {"stages": "coarse"},
        "realigndiff-fine": {"stages": "fine"},
        "realigndiff-clip": {"reward": "clip"},
        "realigndiff-blip": {"reward": "blip"},
        "realigndiff-pretrain": {"kl": 0.0, "pretrain_weight": 1.0},
        "realigndiff-literal": {
            "reward_map": "hinge", "b": "product", "outside": 1.0, "repeat": True, "power": 1.0, "fine_share": 1.0,
        },
    }  # fmt: skip

    def __init__(self, config: RealignDiffConfig, ctx: Context) -> None:
        if config.kl < 0:
            w = self.rollout_spec(config, ctx.sampler).guidance
            config = replace(config, kl=1 / max(w, 1.0) ** 2)
        super().__init__(config, ctx)
        self.rehearsed = False

    @classmethod
    def needs_of(cls, config: Any) -> frozenset[str]:
        """The coarse stage differentiates a reward, the fine one leads attention."""
        needing = {"differentiable-reward": "coarse", "attention": "fine"}
        return frozenset(need for need, stage in needing.items() if stage in config.stages)

    @classmethod
    def trained_reward(cls, config: Any, model: str) -> str:
        return REWARDS[config.reward][0 if is_tiny_world(model) else 1]

    @classmethod
    def problems(cls, config: Any, setup: Setup) -> list[str]:
        problems = super().problems(config, setup)
        tiny = is_tiny_world(setup.model)
        if not cls.trained_reward(config, setup.model) and config.reward != "suite" and config.stages != "fine":
            valid = [name for name, names in REWARDS.items() if name == "suite" or names[0 if tiny else 1]]
            problems.append(f"reward = {config.reward} has no model {'in' if tiny else 'outside of'} the tiny world: "
                            f"reward = {', '.join(valid)}")  # fmt: skip
        if -1 < config.kl < 0:
            problems.append(f"kl = {config.kl:g}: a weight of at least 0, or -1 for 1/w^2")
        if "fine" in config.stages:
            for kind in parts.KINDS:
                problems += parts.problems(kind, getattr(config, kind), tiny_world=tiny)
        return problems

    @classmethod
    def first_update(cls, config: Any, setup: Setup) -> list[Need]:
        if "coarse" not in config.stages:
            return []
        update = super().first_update(config, setup)
        if "fine" not in config.stages:
            return update
        return [Need("a rehearsal of the fine stage", _rehearsal_cost(setup.train_sampler), "stages = coarse"), *update]

    @classmethod
    def sampling_hooks(cls, config: Any) -> Sequence[SamplingHook]:
        if "fine" not in config.stages:
            return ()
        planner = parts.Planner({kind: getattr(config, kind) for kind in parts.KINDS})
        return (FineRealignment(planner, FineSettings(
            cross=config.cross_weight, own=config.self_weight, power=config.power, share=config.fine_share,
            outside=config.outside, literal=config.b == "product", repeat=config.repeat, alone=config.alone,
        )),)  # fmt: skip

    @classmethod
    def related_families(cls, config: Any) -> frozenset[str]:
        """The tiny world's parts see with the reader that answers TIFA's questions."""
        tiny = "tiny" in (config.tagger, config.segmenter)
        return frozenset({"tiny-vqa"}) if "fine" in config.stages and tiny else frozenset()

    @classmethod
    def files(cls, config: Any) -> Sequence[Path]:
        """The folders of the fine stage's parts."""
        if "fine" not in config.stages:
            return ()
        folders = (parts.folder_of(getattr(config, kind)) for kind in parts.KINDS)
        return list(dict.fromkeys(folder for folder in folders if folder))

    def phases(self) -> list[Phase]:
        """With a fine stage, one picture first: a part that fails is to fail before the budget is spent."""
        coarse = super().phases() if "coarse" in self.config.stages else []
        if "fine" not in self.config.stages:
            return coarse
        cost = _rehearsal_cost(self.ctx.sampler)
        return [Phase("rehearse", self.rehearse, lambda: self.rehearsed, lambda: cost), *coarse]

    def rehearse(self) -> Report:
        """Both stages of one training prompt, by one process."""
        ctx = self.ctx
        (hook,) = self.sampling_hooks(self.config)
        for k in ctx.share(1):
            noise = Noise([ctx.seed("realigndiff-rehearsal", sample=k)])
            sample_latents(ctx.model, [p.text for p in ctx.prompts(0, 1)], noise, ctx.sampler, (hook,))
        self.rehearsed = True
        return Report(n_steps=0)

    def patch(self) -> Patch:
        if "coarse" in self.config.stages:
            return super().patch()
        return Patch(adapter=False, hooks=tuple(self.sampling_hooks(self.config)))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "rehearsed": self.rehearsed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.rehearsed = bool(state["rehearsed"])


def _rehearsal_cost(sampler: SamplerSpec) -> Charge:
    """One picture, sampled twice and decoded in between."""
    return draw_cost(sampler, 2) + Charge({"images": 1})
