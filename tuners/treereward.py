"""TreeReward: feedback data, a tree-structured reward model, reward feedback learning (Zhang et al., ACM MM 2024).

Symbols: y prompt, x image; j one of six dimensions, b(j) its branch; (x_w, x_l) a pair of D_j; G gate, r_k leaves,
w_b, w_k weights, R the tree's reward; L_pre the pre-training loss, lambda = 0.05.

    feedback  D_j for style, content, color, lighting, detail, layout                                   (section 4)
    fit       L = CE(b(j), G(x)) - log sigma(r_j(x_w) - r_j(x_l)), along the path of j only               (eq. 2, 4, 6)
    tune      R = sum_b w_b sum_{k in b} w_k r_k,   w_b = softmax(G), w_k = softmax_b(-r_k)               (eq. 7, 8)
              L = L_pre + lambda (-R)  on ReFL's rollouts                                                 (eq. 9-11)

The tree is ``bench.trees``, the rollout ``tuners.refl``. What is optimised is R: a plan refuses ``--reward``, and the
suite's reward, which the run names, is a judge here like any other.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from bench.assets import locate, needed
from bench.core import registry
from bench.core.afford import Need
from bench.core.budget import Budget, Charge
from bench.core.contract import Context, Patch, Phase, Report, Reward, Setup, setting
from bench.core.errors import UserError, unknown_name
from bench.core.types import SamplerSpec
from bench.diffusion.rollout import Path as Rollout
from bench.store import atomic
from bench.tiny import is_tiny_world
from bench.trees.dimensions import DIMENSIONS
from bench.trees.feedback import Feedback
from bench.trees.fit import Fit, FitPlan, load_trained_state, trained_state
from bench.trees.model import RewardTree, TreeScore, Weighing
from bench.trees.pairs import Pair
from bench.trees.trunks import TINY, backbone_family, backbone_problem, build_trunk
from bench.trees.votes import Vote, load_vote, missing_dimensions, read_votes
from tuners.refl import ReFL, ReFLConfig
from tuners.tree.generated import CANDIDATES, recipe, recipe_cost, sample_pair
from tuners.tree.scenes import scene_pair

SCENES, GENERATED = "scenes", "generated"
SCENE_PAIRS = 3000
"""Pairs of all dimensions together; drawing them takes about 3 s."""
ALIGNER = "blip"
"""What finds the better caption where the base model is none of the tiny world."""
GENERATED_PAIRS = 3000
GENERATED_SHARE = 0.25
"""Of a limit on U, images or reward calls: what generating pairs may take of it where their number is not set."""
FIT_UNIT = 20
"""Optimiser steps between two safe points."""
SHARD = 240
"""Pairs a unit reads or draws; of generated ones, one of each dimension."""


@dataclass(frozen=True)
class TreeRewardConfig(ReFLConfig):
    """TreeReward's own settings."""

    loss_scale: float = setting(0.05, unit="", source="eq. 11: lambda = 0.05", low=0.0, help="factor on -R")
    pretrain_weight: float = setting(
        1.0, unit="", source="eq. 11", low=0.0, help="weight of L_pre on base-model images; 0 leaves it out"
    )  # fmt: skip
    structure: str = setting(
        "tree", unit="", source="table 3: TR, Data-Scale, Decouple", choices=("tree", "global", "decoupled"),
        help="gate and six leaves on one trunk; one head for all pairs; or six models, averaged",
    )  # fmt: skip
    backbone: str = setting(
        "", unit="", source="§5.1: BLIP, ViT-L and 12 text layers",
        help="tiny-clip, or a folder with a BLIP checkpoint; empty takes tiny-clip where the base model is tiny-sd",
    )  # fmt: skip
    frozen: float = setting(
        -1.0, unit="of the layers", source="ImageReward: 0.7 of BLIP", low=-1.0, high=1.0,
        help="share of layers, from the input, that fitting leaves alone; -1: 0.7 of BLIP, none of tiny-clip",
    )  # fmt: skip
    feedback: str = setting(
        "", unit="", source="§4", help="where pairs come from: scenes (tiny world), generated (by the base model), "
        "votes=FILE, or scenes+votes=FILE, generated+votes=FILE; empty: scenes for tiny-clip, else generated",
    )  # fmt: skip
    pairs: int = setting(
        0, unit="pairs", source="the paper's 2.2 million", low=0,
        help="pairs to draw or generate, all dimensions together; 0: 3000 drawn, or what a quarter of the budget makes",
    )  # fmt: skip
    aligner: str = setting(
        "", unit="", source="§4.1: CLIP score", help="reward that finds the better caption of generated images; "
        "empty takes tiny-clip where the base model is tiny-sd, else blip",
    )  # fmt: skip
    fit_steps: int = setting(360, unit="steps", source="not stated", low=1, help="optimiser steps of the reward model")
    fit_batch: int = setting(16, unit="pairs", source="not stated; ImageReward: 64", low=1, help="pairs a fit step")
    fit_lr: float = setting(
        1e-3, unit="1/step", source="not stated; ImageReward: 1e-5 of BLIP", low=0.0,
        help="peak learning rate of gate and leaves, warmed up and then linear to 0",
    )  # fmt: skip
    trunk_lr: float = setting(
        0.1, unit="of fit_lr", source="ours: 1 forgets what the backbone knows of content", low=0.0,
        help="the same for the backbone's own weights",
    )  # fmt: skip
    literal: bool = setting(
        False, unit="", source="eq. 7-8 as printed", help="gradient through both levels of weights as well"
    )
    uniform_gate: bool = setting(False, unit="", source="ours: an ablation", help="both branches weigh 1/2")
    gate_temperature: float = setting(1.0, unit="", source="eq. 7", low=1e-3, help="w_b = softmax(G / temperature)")
    leaf_temperature: float = setting(1.0, unit="", source="eq. 7", low=1e-3, help="w_k = softmax(-r_k / temperature)")


def new_tree(config: TreeRewardConfig, backbone: str, generator: torch.Generator) -> RewardTree:
    """An unfitted tree; ``generator`` draws its heads."""
    return RewardTree(config.structure, lambda: build_trunk(backbone, generator, config.frozen), generator)


def weighing(config: TreeRewardConfig) -> Weighing:
    """How the leaves become R."""
    return Weighing(config.literal, config.uniform_gate, config.gate_temperature, config.leaf_temperature)


class TreeReward(ReFL):
    """Builds feedback pairs, fits a tree of reward leaves to them, then tunes for the tree's reward (Zhang 2024)."""

    name = "treereward"
    version = 1
    paper = "Zhang et al., TreeReward: Improve Diffusion Model via Tree-Structured Feedback Learning, ACM MM 2024"
    equations = "eq. 2, 4, 6 (fit), 7-11 (tune)"
    deviations: ClassVar[tuple[str, ...]] = (
        "the leaf loss is Bradley-Terry's (eq. 2): eq. 5 as printed is NaN for every pair that is ranked wrongly",
        "gradient stops at both levels of weights: through the soft-min a well-met dimension would be pushed down "
        "(preset treereward-literal keeps it)",
        "leaves are standardised on held-out pairs: their offsets are arbitrary, and the soft-min compares them",
        "both branches are drawn as often: the gate would else learn how many leaves each has",
        "the 2.2 million pairs are not published: exact scenes in the tiny world, elsewhere pairs of the base model "
        "labelled by how they were made, and votes from a file",
        "re-captioning picks the best of eight texts instead of asking a language model; outside of the tiny world "
        "BLIP's cosine picks it, not CLIP's",
        "the suite's reward takes no part in tuning and --reward is refused: what is optimised is R alone",
        "fitting uses no U-Net: it is charged in FLOPs, device-seconds and optimiser steps, and is free under a "
        "budget in U alone",
        "rollout, learning rate, rank and clipping are ReFL's and the common protocol's: none are stated",
        "L_pre on images of the base model, summed into one update; LoRA instead of the full U-Net",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"pairs"})
    Config = TreeRewardConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "treereward": {},
        "treereward-global": {"structure": "global"},
        "treereward-decoupled": {"structure": "decoupled"},
        "treereward-literal": {"literal": True},
        "treereward-uniform-gate": {"uniform_gate": True},
        # the paper's 0.05 multiplies leaves of unknown scale; ours are divided by a deviation of 10 to 27, and
        # L_pre then outweighs R three to one in the gradient (tiny-sd, coco sample)
        "treereward-strong": {"loss_scale": 1.0},
    }
    check_settings: ClassVar[Mapping[str, Any]] = {"pairs": 36, "fit_steps": 3, "fit_batch": 4, "pretrain_pool": 2}

    def __init__(self, config: TreeRewardConfig, ctx: Context) -> None:
        super().__init__(config, ctx)
        side = ctx.model.latent_shape(ctx.sampler.resolution)[1] * ctx.model.vae_factor
        # tiny-clip sees 64 pixels: a base model that draws more is none of the tiny world
        tiny = side <= 64
        self.backbone = config.backbone or (TINY if tiny else "")
        self.aligner = config.aligner or (TINY if tiny else ALIGNER)
        if not self.backbone:
            raise UserError(f"treereward: {_NO_BACKBONE}")
        source, votes = parse_feedback(config.feedback or (SCENES if self.backbone == TINY else GENERATED))
        self.source = source
        self.votes: list[Vote] = read_votes(votes) if votes else []
        self.n_made = n_pairs(config, source, ctx.sampler, ctx.budget)
        self.tree = new_tree(config, self.backbone, ctx.rng("tree-init")).to(ctx.model.device)
        self.pairs = Feedback(ctx.work_dir / "feedback", ctx.model.device)
        plan = FitPlan(
            config.fit_steps, config.fit_batch, ctx.micro_batch, config.fit_lr, config.trunk_lr
        )  # fmt: skip
        self.fit = Fit(
            self.tree, self.pairs, plan, ctx.seed, share=ctx.share, all_reduce=ctx.all_reduce, charge=ctx.charge_flops
        )
        self.fitted = False
        self.score = TreeScore(self.tree, weighing(config))
        self._charged = ctx.own_reward(self.score)

    @classmethod
    def problems(cls, config: Any, setup: Setup) -> list[str]:
        found = super().problems(config, setup)
        tiny = is_tiny_world(setup.model)
        if not config.backbone and not tiny:
            found.append(_NO_BACKBONE)
        elif config.backbone and (problem := backbone_problem(config.backbone)):
            found.append(problem)
        try:
            source, votes = parse_feedback(config.feedback or (SCENES if tiny else GENERATED))
            if votes:
                lacking = missing_dimensions(read_votes(votes))
                if not source and config.structure != "global" and lacking:
                    found.append(f"{votes} has fewer than 2 votes on {', '.join(lacking)}, which nothing else teaches: "
                                 "add votes, or feedback = scenes+votes=FILE or generated+votes=FILE")  # fmt: skip
        except UserError as err:
            return [*found, f"{err.problem}; valid: {err.valid}"]
        if source == SCENES and not tiny:
            found.append("feedback = scenes draws the tiny world: base models other than tiny-sd take generated or "
                         "votes=FILE")  # fmt: skip
        if source and 0 < config.pairs < 2 * len(DIMENSIONS):
            found.append(f"pairs = {config.pairs}: at least {2 * len(DIMENSIONS)}, one to fit and one held out a leaf")
        if source == GENERATED:
            found += cls._aligner_problems(config.aligner or (TINY if tiny else ALIGNER), tiny)
            if setup.n_train_prompts < 2:
                found.append("re-captioning needs other images' texts: at least 2 training prompts, or votes=FILE")
        if config.structure != "tree" and (config.literal or config.uniform_gate):
            found.append(f"structure = {config.structure} has no gate: literal and uniform_gate go with tree")
        return found

    @classmethod
    def _aligner_problems(cls, aligner: str, tiny: bool) -> list[str]:
        known = registry.entries("rewards")
        if aligner not in known:
            return [str(unknown_name("reward", aligner, known, "bench list rewards"))]
        if aligner.startswith("tiny-") and not tiny:
            return [f"aligner = {aligner} knows the tiny world only: {ALIGNER}, or another of bench list rewards that "
                    "reads prompts"]  # fmt: skip
        lacking = [asset for asset in needed(rewards=[aligner]) if locate(asset) is None]
        return [f"the aligner {aligner} is not on this machine: bench assets fetch --reward {aligner}, another "
                "aligner, or feedback = votes=FILE"] if lacking else []  # fmt: skip

    @classmethod
    def first_update(cls, config: Any, setup: Setup) -> list[Need]:
        source, _ = parse_feedback(config.feedback or (SCENES if is_tiny_world(setup.model) else GENERATED))
        n = n_pairs(config, source, setup.train_sampler, setup.budget)
        steps = config.fit_steps
        return [
            Need(f"{n} pairs of feedback", feedback_cost(source, n, setup.train_sampler), "fewer pairs"),
            Need(f"{steps} fit_steps", Charge({"steps": steps}), "fit_steps is at most {room}", steps),
            *super().first_update(config, setup),
        ]

    @classmethod
    def own_reward_family(cls, config: Any, model: str) -> str | None:
        return backbone_family(config.backbone or (TINY if is_tiny_world(model) else ""))

    @classmethod
    def files(cls, config: Any) -> Sequence[Path]:
        """The vote file and the backbone's folder."""
        try:
            votes = parse_feedback(config.feedback)[1]
        except UserError:  # empty or wrong: no file
            votes = None
        folder = Path(config.backbone) if config.backbone not in ("", TINY) else None
        return [path for path in (votes, folder) if path]

    def phases(self) -> list[Phase]:
        return [
            Phase("feedback", self.make_pairs, self.has_pairs, self.pair_cost),
            Phase("fit", self.fit_tree, lambda: self.fitted, self.fit_cost),
            *super().phases(),
        ]

    # -- feedback

    def has_pairs(self) -> bool:
        return self.fitted or len(self.pairs) >= self.n_made + len(self.votes)

    def make_pairs(self) -> Report:
        """One shard of pairs: drawn, generated, or read from votes."""
        have = len(self.pairs)
        if have >= self.n_made:
            votes = self.votes[have - self.n_made :][:SHARD]
            self.pairs.add([load_vote(vote, self.tree.trunk.side) for vote in votes])
        elif self.source == SCENES:
            numbers = range(have, min(have + SHARD, self.n_made))
            self.pairs.add([self._draw(i) for i in numbers])
        else:
            self.pairs.add(self._generate(self._next_generated()))
        return Report({"pairs": len(self.pairs)}, n_steps=0)

    def _draw(self, i: int) -> Pair:
        made = scene_pair(DIMENSIONS[i % len(DIMENSIONS)], self.ctx.seed("tree-scene", pair=i))
        return made.at(self.tree.trunk.side)

    def _next_generated(self) -> range:
        have = len(self.pairs)
        return range(have, min(have + len(DIMENSIONS), self.n_made))

    def _recipe(self, i: int) -> Any:
        (prompt,) = self.ctx.prompts(i, 1)
        return recipe(i, prompt.text, self.ctx.seed("tree-generated", pair=i))

    def _generate(self, numbers: Sequence[int]) -> list[Pair]:
        """Pairs by number; each is made by one process and handed to all."""
        ctx, side = self.ctx, self.tree.trunk.side
        recipes = [self._recipe(i) for i in numbers]
        others = [
            self._others(i, r.prompt) if r.how == "recaption" else [] for i, r in zip(numbers, recipes, strict=True)
        ]
        images = torch.zeros((len(recipes), 2, 3, side, side), device=ctx.model.device)
        told = torch.zeros((len(recipes), 2), dtype=torch.int64, device=ctx.model.device)
        with ctx.model.with_patch(Patch(adapter=False)):
            for k in ctx.share(len(recipes)):
                pair = sample_pair(ctx.model, ctx.sampler, recipes[k], others[k], self._agreement, side)
                images[k] = torch.stack([pair.winner, pair.loser]).to(images)
                texts = [recipes[k].prompt, *others[k]]
                told[k, 0], told[k, 1] = texts.index(pair.winner_text), texts.index(pair.loser_text)
        ctx.all_reduce([images, told])
        return [
            Pair(r.dimension, r.how, x[0].to(torch.uint8), [r.prompt, *o][w], x[1].to(torch.uint8), [r.prompt, *o][l])
            for r, o, x, (w, l) in zip(recipes, others, images, told.tolist(), strict=True)
        ]

    def _others(self, i: int, own: str) -> list[str]:
        """The texts that compete with pair i's own. They may be of another epoch, where its own comes up again: that
        one is passed over for the next."""
        n, tries = CANDIDATES - 1, 1000
        drawn = (self.ctx.prompts((i + 1) * n + k, 1)[0].text for k in range(tries))
        found = list(itertools.islice((text for text in drawn if text != own), n))
        if len(found) < n:
            raise UserError(f"treereward: of {tries} training prompts in a row, {len(found)} differ from {own!r}",
                            valid="training prompts with several texts, or feedback = votes=FILE")  # fmt: skip
        return found

    def _agreement(self, images: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
        return self.ctx.reward(self.aligner).score(images, texts)

    def pair_cost(self) -> Charge:
        if self.source != GENERATED or len(self.pairs) >= self.n_made:
            return Charge()
        costs = [recipe_cost(self._recipe(i).how, self.ctx.sampler) for i in self._next_generated()]
        return sum(costs, Charge())

    # -- fit

    def fit_tree(self) -> Report:
        """Twenty optimiser steps, or, after the last, the reading of held-out pairs."""
        if not self.fit.done:
            before = self.fit.step
            scalars = self.fit.advance(FIT_UNIT)
            return Report(scalars, n_steps=self.fit.step - before)
        card = self.fit.finish()
        self.fitted = True
        self._keep_card(card)
        return Report(
            {
                **{f"held_out_{d}": a for d, a in card["pair_accuracy"].items()},
                **{f"gate_{k}": a for k, a in card.get("gate_accuracy", {}).items()},
                "n_held_out": card["n_held_out"],
            },
            n_steps=0,
        )  # fmt: skip

    def fit_cost(self) -> Charge:
        return Charge({"steps": min(FIT_UNIT, self.config.fit_steps - self.fit.step)})

    def _keep_card(self, card: Mapping[str, Any]) -> None:
        """What was fitted on what, and how well it does on held-out pairs: ``work_dir/tree-card.json``."""
        atomic.write_json(self.ctx.work_dir / "tree-card.json", {**card, "backbone_name": self.backbone})

    def kept(self) -> Mapping[str, Any]:
        """The fitted tree: it judges the run's images, dimension by dimension."""
        return {"backbone": self.backbone, "tree": trained_state(self.tree)} if self.fitted else {}

    @classmethod
    def own_rewards(cls, config: Any, kept: Mapping[str, Any], device: str) -> Mapping[str, Reward]:
        tree = new_tree(config, kept["backbone"], torch.Generator())
        load_trained_state(tree, kept["tree"])
        return {TreeScore.name: TreeScore(tree.to(device).eval(), weighing(config))}

    # -- tune

    def tuned_for(self) -> Reward:
        """R: the run's reward is not even loaded, as its weights may not be here."""
        return self._charged

    def accumulate(self, path: Rollout) -> dict[str, float]:
        return {**super().accumulate(path), **self.score.take()}

    # -- resume

    def state_dict(self) -> dict[str, Any]:
        fit = {"model": trained_state(self.tree)} if self.fitted else self.fit.state_dict()
        shards = [] if self.fitted else self.pairs.state()
        return {**super().state_dict(), "shards": shards, "fitted": self.fitted, "fit": fit}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.fitted = bool(state["fitted"])
        if not self.fitted:
            self.pairs.restore(state["shards"])
            self.fit.load_state_dict(state["fit"])
            return
        # the pairs have done their work, and no step of the fit is left
        load_trained_state(self.tree, state["fit"]["model"])
        self.tree.requires_grad_(False)


_NO_BACKBONE = (
    "backbone is not set: base models other than tiny-sd need a folder with a BLIP checkpoint "
    "(BlipForImageTextRetrieval.save_pretrained and its tokenizer, such as a copy of Salesforce/blip-itm-large-coco)"
)


def parse_feedback(text: str) -> tuple[str, Path | None]:
    """(``scenes``, ``generated`` or "", vote file or None).

    >>> parse_feedback("scenes+votes=a.jsonl")
    ('scenes', PosixPath('a.jsonl'))

    Raises:
        UserError: anything else.
    """
    found = re.fullmatch(rf"(?:({SCENES}|{GENERATED})(?:\+(?=votes=)|$))?(?:votes=(.+))?", text)
    if found is None or not text:
        raise UserError(
            f"feedback = {text!r}", valid=f"{SCENES}, {GENERATED}, votes=FILE, {SCENES}+votes=FILE, "
            f"{GENERATED}+votes=FILE"
        )  # fmt: skip
    return found[1] or "", Path(found[2]) if found[2] else None


def feedback_cost(source: str, n: int, sampler: SamplerSpec) -> Charge:
    """What ``n`` pairs cost, in all."""
    if source != GENERATED:
        return Charge()
    return sum((recipe_cost(recipe(i, "", 0).how, sampler) for i in range(n)), Charge())


def n_pairs(config: TreeRewardConfig, source: str, sampler: SamplerSpec, budget: Budget) -> int:
    """Pairs to draw or generate: the setting, or by default what ``GENERATED_SHARE`` of each limit allows."""
    if not source:
        return 0
    if config.pairs:
        return config.pairs
    if source == SCENES:
        return SCENE_PAIRS
    n_round = 3 * len(DIMENSIONS)  # every way of every dimension once
    each = feedback_cost(source, n_round, sampler)
    rooms = [int(GENERATED_SHARE * limit / each.get(kind)) for kind, limit in budget.limits() if each.get(kind)]
    return min([GENERATED_PAIRS, *(max(1, room) * n_round for room in rooms)])
