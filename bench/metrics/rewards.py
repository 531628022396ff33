"""What every judge says of the images, and how often it prefers them to the base model's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from bench.assets import needed
from bench.core.contract import Measured, Metric, Reward, Scene
from bench.core.paired import cluster_mean_ci, mean_difference, win_rate
from bench.metrics.judges import judge, look, per_image, per_part
from bench.metrics.layout import Layout, absent, is_base, layout, shown
from bench.metrics.panel import PROPERTIES, absent_judge, judges_of, stamp_of
from rewards.expression import registered, terms


class Rewards(Metric):
    """Mean of each judge (``reward/…``) and its paired win rate against the base (``winrate/…``), along the budget."""

    name = "rewards"
    higher_is_better = True
    when = "curve"

    @classmethod
    def depends(cls, scene: Scene) -> Any:
        trained = [name for name in terms(scene.trained_reward).names if needed(rewards=[registered(name)])]
        names = (*judges_of(scene.judging), *map(registered, trained))
        return {name: [stamp_of(asset.name) for asset in needed(rewards=[name])] for name in names}

    def score(self, scene: Scene) -> list[Measured]:
        at = layout(scene)
        measured = []
        for name, reward, compared in _asked(scene):
            if not isinstance(reward, Reward):
                columns = [f"reward/{name}", *([] if is_base(scene) else [f"winrate/{name}"])]
                measured += [absent(column, reward, judge=name) for column in columns]
                continue
            measured.append(_mean(name, reward, scene, at))
            if compared and not is_base(scene):
                measured.append(_win_rate(name, reward, scene, at))
        return measured

    def precompute(self, scene: Scene) -> None:
        for _, reward, _ in _asked(scene):
            if isinstance(reward, Reward):
                look(scene.tuned, reward, shown(scene))


def _asked(scene: Scene) -> Iterator[tuple[str, Reward | str, bool]]:
    """Name, judge and whether it says which of two images is preferred; in place of an absent judge why it is."""
    trained = terms(scene.trained_reward)
    tuned_for = (trained.canonical, *trained.names)
    told = set[str]()
    preference = judges_of(scene.judging)
    for name in dict.fromkeys((*tuned_for, *preference, *PROPERTIES)):
        # the whole sum of a run's reward is there where its terms are
        parts = trained.names if name == trained.canonical else (name,)
        reason = next(filter(None, map(absent_judge, map(registered, parts))), None)
        if reason:
            yield name, reason, False
            continue
        reward = judge(name, scene.device)
        if reward.name in told:  # an argument that is the default, as in compressibility(quality=10)
            continue
        told.add(reward.name)
        yield name, reward, name in tuned_for or name in preference
    yield from ((name, reward, True) for name, reward in scene.own_rewards.items())


def _mean(name: str, reward: Reward, scene: Scene, at: Layout) -> Measured:
    values = per_image(scene.tuned, reward, at.prompts)
    mean = cluster_mean_ci(values, at.prompt_ids)
    return Measured(
        name=f"reward/{reward.name}",
        value=mean.value, ci_low=mean.ci_low, ci_high=mean.ci_high,
        higher_is_better=not reward.minimise, n=at.n, unit=reward.unit,
        per_image=tuple(map(float, values)),
        passport=_passport(reward.identity(), scene), detail=_parts(reward, scene, at),
        family=reward.family, judge=name, warnings=_cut(reward.n_truncated(at.prompts)),
    )  # fmt: skip


def _cut(n_truncated: int) -> tuple[str, ...]:
    return (f"{n_truncated} prompts are longer than its text encoder reads",) if n_truncated else ()


def _parts(reward: Reward, scene: Scene, at: Layout) -> dict[str, object]:
    """Mean of each part over prompts, with its interval."""
    if not reward.part_names:
        return {}
    values = per_part(scene.tuned, reward, at.prompts)
    means = {part: cluster_mean_ci(column, at.prompt_ids)
             for part, column in zip(reward.part_names, values.T, strict=True)}  # fmt: skip
    return {"parts": {part: {"value": m.value, "ci_low": m.ci_low, "ci_high": m.ci_high, "n": m.n}
                      for part, m in means.items()}}  # fmt: skip


def _win_rate(name: str, reward: Reward, scene: Scene, at: Layout) -> Measured:
    """Pairs are the same prompt and noise; scores within the judge's ``tie_eps`` are ties and count half."""
    sign = -1 if reward.minimise else 1
    tuned, base = (sign * per_image(images, reward, at.prompts) for images in (scene.tuned, scene.base))
    rate = win_rate(tuned, base, at.prompt_ids, tie_eps=reward.tie_eps)
    difference = mean_difference(tuned, base, at.prompt_ids)
    return Measured(
        name=f"winrate/{reward.name}",
        value=rate.value, ci_low=rate.ci_low, ci_high=rate.ci_high,
        higher_is_better=True, n=rate.n, unit="share of pairs",
        per_image=tuple(
            0.5 if abs(t - b) <= reward.tie_eps else float(t > b) for t, b in zip(tuned, base, strict=True)
        ),
        passport={**_passport(_of_each_run(name, reward, scene), scene), "against": "base"},
        detail={
            "wins": rate.wins, "ties": rate.ties, "losses": rate.losses, "n_prompts": rate.n_clusters,
            "sign_test_p": rate.sign_test_p, "interval": rate.method,
            "score_difference": dataclasses.asdict(difference),
        },
        family=reward.family, judge=name,
    )  # fmt: skip


def _passport(judge: Mapping[str, object], scene: Scene) -> dict[str, object]:
    return {"reward": dict(judge), "captions": scene.suite.spec.prompt_hash}


def _of_each_run(name: str, reward: Reward, scene: Scene) -> Mapping[str, object]:
    """A reward that the run fitted for itself has weights of its own. Means under two of them tell nothing of each
    other; win rates share a column: how often each run beats the base by its own measure."""
    return {"name": name, "fitted_by": "each run itself"} if name in scene.own_rewards else reward.identity()
