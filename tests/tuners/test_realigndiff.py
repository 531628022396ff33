"""RealignDiff: the coarse stage's update, the fine stage's hook, what is refused at plan time."""

import dataclasses
from pathlib import Path

import pytest
import torch

from bench.core.budget import Budget, Ledger
from bench.core.contract import Patch, Setup, make_config
from bench.core.types import SamplerSpec
from bench.diffusion.generate import Batch, sample_latents
from bench.diffusion.meters import Meters
from bench.diffusion.models import load_model
from bench.diffusion.random_tiny import random_pipeline
from bench.diffusion.samplers import Noise
from tuners.realign.hook import FineRealignment, FineSettings, embed, regions_of, speak
from tuners.realign.modulation import ModulatedAttention
from tuners.realign.plan import Found, Plan
from tuners.realigndiff import RealignDiff
from tuners.refl import ReFL

from .world import context

SPEC = SamplerSpec("ddim", n_steps=10, guidance=3.0)
TEXTS = ["red cat", "old"]
NOISE = Noise([1, 2])


class Given:
    """Plans that are already there: stage 2 without tagger, judge, captioner and segmenter."""

    def __init__(self, *captions, score=2.0):
        self.captions, self.score = captions, score
        self.pictures = []

    def plan(self, images, prompts):
        self.pictures.append(images)
        mask = torch.zeros(16, 16, dtype=torch.bool)
        mask[2:10, 3:12] = True
        return [Plan(p, tuple(Found("x", self.score, c, mask) for c in self.captions)) for p in prompts]


@pytest.fixture(scope="module")
def model():
    model = random_pipeline(0, torch.float64)
    for p in model.attach_adapter(rank=2, alpha=2, generator=torch.Generator().manual_seed(0)):
        p.data += 0.2
    return model


def sampled(model, *hooks, spec=SPEC, texts=TEXTS):
    return sample_latents(model, texts, NOISE, spec, hooks)


def realign(planner, **settings):
    return FineRealignment(planner, dataclasses.replace(FineSettings(), **settings))


# -- the hook


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("scheduler", ["ddim", "ddpm", "dpmpp-2m"])
def test_without_objects_stage_2_is_stage_1(model, scheduler, guidance):
    """Same noise, same adapter, same text: the same picture, however random the sampler is."""
    spec = SamplerSpec(scheduler, n_steps=10, guidance=guidance)
    assert (sampled(model, realign(Given()), spec=spec) - sampled(model, spec=spec)).abs().max() < 1e-10


def test_the_plan_is_made_from_stage_1s_picture(model):
    planner = Given()
    sampled(model, realign(planner))
    assert torch.equal(planner.pictures[0], model.decode(sampled(model)).float())
    with model.with_patch(Patch(adapter=False)):
        sampled(model, realign(planner))
    assert not torch.equal(planner.pictures[0], planner.pictures[1])


def test_without_modulation_stage_2_is_sampling_with_the_longer_prompt(model):
    hook = realign(Given("a fox"), cross=0.0, own=0.0)
    out = sampled(model, hook)
    assert hook.texts == ["red cat, a fox", "old, a fox"]
    longer = sampled(model, texts=hook.texts)
    assert (out - longer).abs().max() < 1e-10
    assert (out - sampled(model)).abs().max() > 1e-3


def test_with_alone_a_caption_is_encoded_by_itself(model):
    spoken = speak(model, Given("a fox").plan(torch.zeros(1), ["red cat"])[0])
    ((span, caption),) = spoken.spans
    together, alone = (embed(model, spoken, alone=flag) for flag in (False, True))
    assert torch.equal(together, model.encode_prompts(["red cat, a fox"])[0])
    assert torch.equal(alone[span.start : span.stop], model.encode_prompts([caption])[0, 1 : 1 + len(span)])
    changed = (alone != together).any(-1)
    assert changed[span.start : span.stop].all() and changed.sum() == len(span)


def test_objects_of_score_0_change_nothing(model):
    assert (sampled(model, realign(Given("a fox", score=0.0))) - sampled(model)).abs().max() < 1e-10


@pytest.mark.parametrize(("settings", "moves"), [
    ({}, True), ({"own": 0.0}, True), ({"cross": 0.0}, True), ({"literal": True}, True), ({"outside": 1.0}, True),
    ({"share": 0.0}, False),
])  # fmt: skip
def test_each_part_of_the_modulation_moves_the_picture(model, settings, moves):
    plain = sampled(model, realign(Given("cat"), cross=0.0, own=0.0))
    assert ((sampled(model, realign(Given("cat"), **settings)) - plain).abs().max() > 1e-6) == moves


def test_only_the_first_30_percent_of_steps_are_modulated_and_lambda_fades(model):
    """Watched from a hook that comes after: which processors a step meets, and at which strength."""
    fine, seen = realign(Given("cat")), []

    class Watch:
        def begin(self, batch: Batch) -> None: ...

        def before_step(self, i: int) -> None:
            ours = [isinstance(p, ModulatedAttention) for p in model.unet.attn_processors.values()]
            assert all(ours) or not any(ours)
            seen.append((any(ours), fine._state.cross_strength, fine._state.self_strength))

        def after_step(self, i: int, x: torch.Tensor) -> torch.Tensor:
            return x

        def end(self) -> None: ...

    before = model.unet.attn_processors
    sampled(model, fine, Watch())
    assert [ours for ours, _, _ in seen] == [True] * 3 + [False] * 7
    tau = [901, 801, 701]
    assert [c for _, c, _ in seen[:3]] == pytest.approx([(t / 1000) ** 5 for t in tau])
    assert [s for _, _, s in seen[:3]] == pytest.approx([0.3 * (t / 1000) ** 5 for t in tau])
    assert all(model.unet.attn_processors[name] is p for name, p in before.items())
    assert not model.unet._forward_pre_hooks


def test_the_unconditional_branch_reads_neither_captions_nor_regions(model):
    calls = []
    handle = model.unet.register_forward_hook(lambda unet, args, kwargs, out: calls.append((kwargs, out.sample)),
                                              with_kwargs=True)  # fmt: skip
    try:
        sampled(model)
        sampled(model, realign(Given("a fox")))
    finally:
        handle.remove()
    plain, fine = calls[0], calls[20]  # the first steps of stage 1 alone, and of stage 2 after its own stage 1
    n = len(TEXTS)
    assert torch.equal(plain[0]["encoder_hidden_states"][:n], fine[0]["encoder_hidden_states"][:n])
    assert not torch.equal(plain[0]["encoder_hidden_states"][n:], fine[0]["encoder_hidden_states"][n:])
    assert (plain[1][:n] - fine[1][:n]).abs().max() < 1e-12
    assert (plain[1][n:] - fine[1][n:]).abs().max() > 1e-3


def test_sdxls_pooled_text_is_of_the_captions_too():
    model, calls = random_pipeline(0, torch.float64, base="sdxl"), []
    handle = model.unet.register_forward_hook(lambda unet, args, kwargs, out: calls.append(kwargs), with_kwargs=True)
    try:
        sampled(model, realign(Given("a fox")))
    finally:
        handle.remove()
    n = len(TEXTS)
    for key in ("encoder_hidden_states", "text_embeds"):
        first, fine = (call["added_cond_kwargs"][key] if key == "text_embeds" else call[key]
                       for call in (calls[0], calls[10]))  # fmt: skip
        assert torch.equal(first[:n], fine[:n])
        assert not torch.equal(first[n:], fine[n:])


def test_everything_is_put_back_when_sampling_fails(model):
    class Breaks(FineRealignment):
        def before_step(self, i: int) -> None:
            super().before_step(i)
            raise RuntimeError("in the middle")

    before = model.unet.attn_processors
    with pytest.raises(RuntimeError):
        sampled(model, Breaks(Given("cat"), FineSettings()))
    assert all(model.unet.attn_processors[name] is p for name, p in before.items())
    assert not model.unet._forward_pre_hooks


def test_one_hook_serves_many_batches(model):
    hook = realign(Given("cat"))
    first = sampled(model, hook)
    sampled(model, hook, texts=["x", "y"])
    assert torch.equal(sampled(model, hook), first)


# -- the text of stage 2


def plan(prompt, *found):
    mask = torch.ones(4, 4, dtype=torch.bool)
    return Plan(prompt, tuple(Found(c, s, c, mask) for c, s in found))


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny-sd")


def words_at(model, spoken):
    ids = model.tokenizer(spoken.text).input_ids
    return [model.tokenizer.convert_ids_to_tokens(ids[s.start : s.stop]) for s, _ in spoken.spans]


def test_a_caption_that_stands_in_the_prompt_is_not_said_again(tiny):
    spoken = speak(tiny, plan("a red circle and a blue square", ("a blue square", 2.0), ("a green star", 0.5)))
    assert spoken.text == "a red circle and a blue square, a green star"
    assert words_at(tiny, spoken) == [["a", "blue", "square"], ["a", "green", "star"]]
    again = speak(tiny, plan("a red circle", ("a red circle", 2.0)), repeat=True)
    assert again.text == "a red circle, a red circle"
    assert again.spans[0][0].start == 5


def test_captions_that_do_not_fit_are_left_out_the_surest_come_first(tiny):
    colours = ["red", "orange", "yellow", "green", "blue", "purple"]
    found = [(f"a large plain {c} circle", 0.5) for c in colours[:-1]] + [("a large plain purple circle", 2.0)]
    spoken = speak(tiny, plan("a star", *found))
    assert len(tiny.tokenizer(spoken.text).input_ids) <= 32
    assert spoken.text.startswith("a star, a large plain purple circle, a large plain red circle")
    assert [bool(span) for span, _ in spoken.spans] == [True, True, True, False, False, True]
    assert not tiny.truncated


def test_objects_without_tokens_stay_out_of_the_regions_unless_they_are_to_be_left_alone(tiny):
    spoken = speak(tiny, plan("a star", ("a star", 2.0), ("a ring", 0.0), (" ".join(["a large red ring"] * 9), 0.5)))
    regions = regions_of([spoken], tiny.encode_prompts([spoken.text]), 0.0)
    assert regions.scores.tolist() == [[2.0, 0.0]]
    assert regions.tokens.sum(-1).tolist() == [[2, 0]]


# -- the tuner


def tuner(ctx=None, **settings):
    return RealignDiff(make_config(RealignDiff, settings), ctx or context())


def test_the_trained_step_is_one_of_the_last_40_percent():
    own = tuner(context(n_steps=50), stages="coarse")
    assert {own.path(u).stop for u in range(600)} == set(range(30, 50))


def test_the_coarse_update_is_refls_with_lambda_hinge_and_the_distance_to_the_base():
    def gradient(cls, **settings):
        own = cls(make_config(cls, settings), context())
        for p in own.parameters:
            p.data += 0.1
        scalars = own.accumulate(own.path(0))
        return torch.cat([p.grad.flatten() for p in own.parameters]), scalars

    own, scalars = gradient(RealignDiff, stages="coarse", kl=1.0)
    reward, _ = gradient(ReFL, loss_scale=1e-3, share=0.4, reward_map="hinge")
    distance, _ = gradient(ReFL, loss_scale=0.0, kl=1.0, share=0.4)
    assert torch.allclose(own, reward + distance, atol=1e-8)
    assert scalars["kl"] > 0


@pytest.mark.parametrize(
    ("settings", "guidance", "weight"),
    [
        ({}, 4.0, 1 / 16), ({}, 1.0, 1.0), ({"guidance": 2.0}, 4.0, 0.25), ({"kl": 0.3}, 4.0, 0.3),
        ({"kl": 0.0}, 4.0, 0.0),
    ],
)  # fmt: skip
def test_the_distance_weighs_one_over_the_square_of_the_guidance(settings, guidance, weight):
    ledger = Ledger(Budget(denoiser_u=1e12))
    with Meters(context().model, ledger.charge) as meters:
        ctx = context(ledger=ledger, meters=meters, sampler=SamplerSpec("ddim", 4, guidance))
        own = tuner(ctx, stages="coarse", **settings)
        assert own.config.kl == weight
        (phase,) = own.phases()
        said = phase.next_cost()
        phase.unit()
    for kind in ("denoiser_fwd", "denoiser_bwd", "denoiser_u", "images", "reward_calls", "steps"):
        assert ledger.spent[kind] == said.get(kind), kind


def test_the_literal_preset_fades_in_proportion_to_t_over_all_steps():
    (hook,) = RealignDiff.sampling_hooks(make_config(RealignDiff, RealignDiff.presets["realigndiff-literal"]))
    assert (hook.settings.power, hook.settings.share) == (1.0, 1.0)


def test_folders_of_its_parts_are_part_of_a_run_each_once():
    def files(**settings):
        return list(RealignDiff.files(make_config(RealignDiff, settings)))

    folders = {"tagger": "clip=a/b", "judge": "llm=c", "captioner": "llm=c"}
    assert files(**folders) == [Path("a/b"), Path("c")]
    assert files(**folders, stages="coarse") == files() == []


def test_the_stages_decide_phases_and_patch():
    names = {s: [p.name for p in tuner(stages=s).phases()] for s in ("coarse", "fine", "coarse+fine")}
    assert names == {"coarse": ["tune"], "fine": ["rehearse"], "coarse+fine": ["rehearse", "tune"]}
    patches = {s: tuner(stages=s).patch() for s in names}
    assert {s: (p.adapter, len(p.hooks)) for s, p in patches.items()} == {
        "coarse": (True, 0), "fine": (False, 1), "coarse+fine": (True, 1),
    }  # fmt: skip
    assert [p.name for p in tuner(pretrain_weight=1.0).phases()] == ["rehearse", "pool", "tune"]


def test_the_rehearsal_samples_both_stages_once_and_is_charged():
    ledger = Ledger(Budget(denoiser_u=1e12))
    model = context().model
    with Meters(model, ledger.charge) as meters:
        own = tuner(context(ledger=ledger, meters=meters), stages="fine")
        (phase,) = own.phases()
        cost = phase.next_cost()
        phase.unit()
        assert phase.done()
    for kind in ("denoiser_fwd", "denoiser_u", "images", "denoiser_bwd", "steps"):
        assert ledger.spent[kind] == cost.get(kind)
    assert ledger.spent["denoiser_u"] == 2 * 4 * 2
    again = tuner(stages="fine")
    again.load_state_dict(own.state_dict())
    assert again.phases()[0].done()


# -- refusals and choices


def problems(model="tiny-sd", n_steps=20, **settings):
    spec = SamplerSpec("ddim", n_steps=n_steps, guidance=4.0)
    setup = Setup(spec, spec, 8, Budget(denoiser_u=1e4), 100, "tiny-caption", model)
    return RealignDiff.problems(make_config(RealignDiff, settings), setup)


def test_what_works_has_no_problems():
    assert problems() == []
    assert problems(model="sd15", stages="coarse") == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"reward": "blip"}, "in the tiny world: reward = caption, clip, suite"),
        ({"tagger": "ram"}, "tiny, clip=FOLDER"),
        ({"model": "sd15"}, "segmenter = tiny knows the tiny world only"),
        ({"model": "sd15"}, "judge = tiny knows the tiny world only: choose among rules, llm=FOLDER"),
        ({"model": "my-tiny-finetune"}, "judge = tiny knows the tiny world only"),
        ({"model": "sd15", "reward": "clip"}, "outside of the tiny world: reward = caption, blip, suite"),
        ({"kl": -0.5}, "a weight of at least 0, or -1"),
        ({"segmenter": "grounded-sam"}, "grounded-sam=FOLDER"),
        ({"window": 30}, "at most 20"),
    ],
)
def test_what_cannot_work_is_refused_with_what_is_valid(settings, says):
    assert any(says in problem for problem in problems(**settings))


@pytest.mark.parametrize(
    ("preset", "model", "reward"),
    [
        ("realigndiff-caption", "tiny-sd", "tiny-caption"),
        ("realigndiff-caption", "sd15", "blip2-caption"),
        ("realigndiff-clip", "tiny-sd", "tiny-clip"),
        ("realigndiff-clip", "sd15", ""),
        ("realigndiff-blip", "sd15", "blip"),
    ],
)
def test_a_preset_names_its_reward(preset, model, reward):
    assert RealignDiff.trained_reward(make_config(RealignDiff, RealignDiff.presets[preset]), model) == reward


def test_tifas_reader_is_no_stranger_to_a_fine_stage_that_looks_with_it():
    assert RealignDiff.related_families(make_config(RealignDiff, {})) == {"tiny-vqa"}
    assert RealignDiff.related_families(make_config(RealignDiff, {"stages": "coarse"})) == frozenset()
