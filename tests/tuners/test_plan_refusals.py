"""What a plan says of a tuner and the reward it is given, before anything is spent."""

import subprocess
import sys

import pytest

from bench.core.contract import make_config
from bench.engine.options import Options
from bench.engine.plan import make_plan
from rewards.caption import TinyCaption
from rewards.expression import load_reward
from tuners.realigndiff import RealignDiff


def problems(tuner, **options):
    (run,) = make_plan(Options(suite="coco", tuner=tuner, **options)).runs
    return run.problems


@pytest.mark.parametrize("tuner", ["treereward", "treereward-global"])
def test_a_tuner_that_fits_its_own_reward_refuses_another(tuner):
    (problem,) = problems(tuner, reward="tiny-clip")
    assert problem == f"{tuner} tunes for a reward that it fits itself, and for no other: leave --reward tiny-clip out"
    assert problems(tuner) == ()


def test_of_all_tuners_it_alone_is_left_out_then():
    plan = make_plan(Options(suite="coco", tuner="all", reward="symmetry"))
    assert [sentence.split()[0] for sentence in plan.left_out] == ["treereward"]


def test_a_stage_needs_what_it_uses():
    def needs(preset):
        return RealignDiff.needs_of(make_config(RealignDiff, RealignDiff.presets[preset]))

    assert needs("realigndiff-fine") == {"attention"}
    assert needs("realigndiff-coarse") == {"differentiable-reward"}
    assert needs("realigndiff-caption") == RealignDiff.needs
    # a black box is no obstacle where nothing is tuned
    assert problems("realigndiff-fine", reward="tiny-caption-cosine") == ()
    (problem,) = problems("realigndiff-coarse", reward="tiny-caption-cosine")
    assert "'tiny-caption-cosine' has none" in problem


def test_a_prompt_that_the_tiny_captioner_cannot_read_is_named_before_the_run():
    texts = [p.text for p in make_plan(Options(suite="coco", tuner="drtune")).runs[0].suite.train_prompts]
    assert TinyCaption.prompt_problems(texts) == load_reward("tiny-clip").prompt_problems(["a cat on a sofa"]) == []
    (problem,) = TinyCaption.prompt_problems([*texts, "a cat on a sofa", "two dogs"])
    assert f"2 of {len(texts) + 2} training prompts are not, such as 'a cat on a sofa': --edition sample" in problem


def test_a_plan_of_all_tuners_says_nothing_that_is_not_ours(tmp_path):
    """Libraries advise where they are imported, for instance to install torchvision."""
    command = [sys.executable, "-m", "bench", "plan", "--suite", "coco", "--tuner", "all", "--runs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "8 run(s), 8 to do" in done.stdout
