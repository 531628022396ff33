"""Which image belongs to which prompt, and that none is missing: the first thing every metric asks."""

from __future__ import annotations

from dataclasses import dataclass

from bench.core.contract import ImageFolder, Measured, Scene
from bench.core.errors import UserError
from bench.metrics.images import MissingImages


@dataclass(frozen=True)
class Layout:
    """One entry for each image, in the order of ``folder.refs``."""

    prompts: tuple[str, ...]
    """Text."""
    prompt_ids: tuple[str, ...]
    """What the bootstrap resamples."""

    @property
    def n(self) -> int:
        return len(self.prompts)


def layout(scene: Scene) -> Layout:
    """Checks that tuned and base images are complete and in suite order, and says what they show.

    Raises:
        MissingImages: a prompt or seed of the suite has no image.
        UserError: images that the suite does not ask for, or another order.
    """
    _check(scene.tuned.folder, scene)
    if not is_base(scene):
        _check(scene.base.folder, scene)
    seeds = scene.suite.spec.eval_seeds
    return Layout(
        prompts=tuple(prompt.text for prompt in scene.suite.prompts for _ in seeds),
        prompt_ids=tuple(prompt.id for prompt in scene.suite.prompts for _ in seeds),
    )


def shown(scene: Scene) -> tuple[str, ...]:
    """Text of each of the images, be they all or a part."""
    texts = {prompt.id: prompt.text for prompt in scene.suite.prompts}
    return tuple(texts[ref.prompt_id] for ref in scene.tuned.folder.refs)


def is_base(scene: Scene) -> bool:
    """Whether the scored images are the base model's own."""
    return scene.tuned is scene.base


def absent(name: str, reason: str, *, judge: str = "", higher_is_better: bool = True) -> Measured:
    """The column of something that this machine lacks: the record says so instead of being silent."""
    return Measured(name=name, value=None, higher_is_better=higher_is_better, n=0, judge=judge, warnings=(reason,))


def _check(folder: ImageFolder, scene: Scene) -> None:
    expected = [(prompt.id, seed) for prompt in scene.suite.prompts for seed in scene.suite.spec.eval_seeds]
    found = [ref.key for ref in folder.refs]
    if found == expected:
        return
    absent = [key for key in expected if key not in set(found)]
    if absent:
        raise MissingImages(folder.root, absent, len(expected), what="not in the index")
    raise UserError(
        f"{folder.root} holds {len(found)} images, {scene.suite.spec.id} asks for {len(expected)}",
        valid="the suite's prompts and seeds, in its order",
        hint="bench score RUN --regenerate",
    )
