"""Identity: one spelling for one value, golden ids, and what stays out of an id."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.budget import Budget
from bench.core.identity import canonical_json, digest
from bench.core.seeds import derive_seed
from bench.core.types import RunSpec, SamplerSpec

SPEC = RunSpec(
    suite="coco-sample@1", suite_name="coco", edition="sample", variant="", prompt_hash="p", train_prompt_hash="t",
    limit=None, model="tiny-sd", model_revision="r", model_defaults={"lr": 0.001},
    tuner="drtune", tuner_version=1, label="drtune", tuner_sha256="",
    settings={"K": 3}, reward="tiny-pick", budget=Budget(denoiser_u=1000), sampler=SamplerSpec(),
    train_sampler=SamplerSpec("ddpm"), global_batch=8, eval_seeds=(0, 1), fractions=(0.0, 1.0),
    metrics=("fid",), seed=0,
)  # fmt: skip

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_canonical_json_does_not_depend_on_insertion_order(value: dict[str, object]) -> None:
    assert canonical_json(value) == canonical_json(dict(reversed(value.items())))


def test_nan_has_no_place_in_canonical_json() -> None:
    with pytest.raises(ValueError, match="null and a reason"):
        canonical_json({"x": float("nan")})


def test_golden_ids_hold_still() -> None:
    """A change here renames every run on every disk: raise IDENTITY_VERSION and say so in the change log."""
    assert digest({"b": [1, 2.5, None, "ü"], "a": True}, 16) == "4aa821e015075b43"
    assert SPEC.run_id == "581047db75a1"
    assert derive_seed(0, "init-noise", prompt="p1", seed=3) == 22484711407728614


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"reward": "symmetry"}, {"reward_revision": "w"}, {"files": {"votes.jsonl": "v"}},
     {"prompt_hash": "q"}, {"limit": 3},
     {"model_revision": "s"}, {"model_defaults": {"lr": 0.002}},
     {"settings": {"K": 4}}, {"tuner_version": 2}, {"global_batch": 16}, {"budget": Budget(denoiser_u=1001)},
     {"sampler": SamplerSpec(guidance=5.0)}, {"eval_seeds": (0,)}, {"fractions": (0.0, 0.5, 1.0)}],
)  # fmt: skip
def test_what_changes_the_answer_changes_the_id(change: dict[str, object]) -> None:
    assert dataclasses.replace(SPEC, **change).run_id != SPEC.run_id  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change", [{"label": "x"}, {"metrics": ("kid",)}, {"budget": Budget(denoiser_u=1000, hard_wall_s=5)}]
)
def test_what_does_not_change_the_answer_stays_out_of_the_id(change: dict[str, object]) -> None:
    assert dataclasses.replace(SPEC, **change).run_id == SPEC.run_id  # type: ignore[arg-type]
