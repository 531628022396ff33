"""TIFA (Hu et al., arXiv 2303.11897): share of questions about the prompt that a VQA model answers right."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from bench.core.contract import Measured, Metric, Scene
from bench.core.errors import UserError
from bench.core.identity import digest, file_sha256
from bench.core.paired import cluster_mean_ci
from bench.core.types import Question
from bench.metrics.layout import layout
from bench.tiny import weights_dir

if TYPE_CHECKING:
    from bench.tiny.reader import Reader

Nearest = Callable[[str, Sequence[str]], str]
"""(answer, choices) → the choice closest in meaning: a sentence encoder's work."""


class VQA(Protocol):
    """Answers questions about pictures."""

    name: str
    """Part of the column's name: values of two readers share no scale."""
    sha256: str
    """Digest of the weights."""

    def answers(self, images: torch.Tensor, questions: Sequence[Sequence[str]]) -> list[list[str]]:
        """(B, 3, H, W) float32 in [0, 1] and the questions about each: the answers in the same shape.

        Each picture goes through the image tower once, however many questions there are.
        """
        ...


class TinyVQA:
    """The reader of the tiny world: parses a picture once, then answers every question from what it saw.

    Raises:
        UserError: the weights are not there.
    """

    name = "tiny-vqa"

    def __init__(self, device: str) -> None:
        from bench.tiny.models import load_reader, reader_weights

        folder = weights_dir() / self.name
        self.sha256 = file_sha256(reader_weights(folder))
        self.device = device
        self.reader: Reader = load_reader(folder, device)

    def answers(self, images: torch.Tensor, questions: Sequence[Sequence[str]]) -> list[list[str]]:
        from bench.tiny.reader import answer_from

        scenes = self.reader.parse(images.to(self.device))
        return [[answer_from(scene, text) for text in asked] for scene, asked in zip(scenes, questions, strict=True)]


@functools.lru_cache(maxsize=1)
def tiny_vqa(device: str) -> VQA:
    """The tiny world's reader, loaded once a process."""
    return TinyVQA(device)


def choose(answer: str, choices: Sequence[str], nearest: Nearest | None = None) -> str | None:
    """TIFA's rule: the answer where it literally is a choice, else the choice nearest in meaning.

    Without an encoder there is no nearest: None, which is no right answer.
    """
    if answer in choices:
        return answer
    return nearest(answer, choices) if nearest else None


class TIFA(Metric):
    """Mean over images of the share of right answers (``tifa/<reader>``); accuracy by kind of question beside it."""

    name = "tifa"
    higher_is_better = True
    nearest: Nearest | None = None
    """The tiny reader answers in the words of its question files; an open one needs a sentence encoder here."""

    def score(self, scene: Scene) -> list[Measured]:
        at = layout(scene)
        asked: defaultdict[str, list[Question]] = defaultdict(list)
        for question in scene.suite.questions:
            asked[question.prompt_id].append(question)
        if not any(prompt_id in asked for prompt_id in at.prompt_ids):
            raise UserError(f"{scene.suite.spec.id} has no questions about its prompts: tifa cannot be measured")
        vqa = tiny_vqa(scene.device)
        per_question = self._answers(scene, at.prompt_ids, asked, vqa)
        values = [_share(pairs) for pairs in per_question]
        kept = [(value, prompt_id) for value, prompt_id in zip(values, at.prompt_ids, strict=True) if value is not None]
        mean = cluster_mean_ci([value for value, _ in kept], [prompt_id for _, prompt_id in kept])
        n_without = len({p for p in at.prompt_ids if p not in asked})
        return [
            Measured(
                name=f"tifa/{vqa.name}",
                value=mean.value, ci_low=mean.ci_low, ci_high=mean.ci_high,
                higher_is_better=True, n=mean.n, unit="share of questions",
                family=vqa.name, per_image=tuple(values), reasons=tuple(_reason(pairs) for pairs in per_question),
                passport={
                    "vqa": vqa.sha256, "questions": digest(scene.suite.questions), "n": mean.n,
                    "captions": scene.suite.spec.prompt_hash,
                },
                detail={
                    "accuracy_by_kind": _by_kind(per_question), "n_prompts": mean.n_clusters,
                    "n_questions": sum(map(len, per_question)), "n_prompts_without_questions": n_without,
                    "n_answers_outside_choices": sum(chosen is None for p in per_question for _, _, chosen in p),
                },
                warnings=(f"{n_without} prompts have no questions and are left out",) if n_without else (),
            )
        ]  # fmt: skip

    def _answers(
        self, scene: Scene, prompt_ids: Sequence[str], asked: dict[str, list[Question]], vqa: VQA
    ) -> list[list[Answered]]:
        """For each image its questions, the reader's answers and the choices they stand for."""
        result: list[list[Answered]] = []
        for batch in scene.tuned.batches():
            questions = [asked.get(p, []) for p in prompt_ids[len(result) : len(result) + len(batch)]]
            texts = [[q.question for q in about] for about in questions]
            answers = vqa.answers(batch.float() / 255, texts)
            result += [
                [(q, answer, choose(answer, q.choices, self.nearest)) for q, answer in zip(about, said, strict=True)]
                for about, said in zip(questions, answers, strict=True)
            ]
        return result


Answered = tuple[Question, str, str | None]
"""Question, what the reader said, the choice it stands for."""


def _share(answered: Sequence[Answered]) -> float | None:
    """Share of right answers about one image, None without questions."""
    return sum(chosen == q.answer for q, _, chosen in answered) / len(answered) if answered else None


def _reason(answered: Sequence[Answered]) -> str:
    """A sentence: how many are right, and for each wrong one what was said and expected."""
    if not answered:
        return "no questions"
    wrong = [f"{q.question!r}: {said!r}, not {q.answer!r}" for q, said, chosen in answered if chosen != q.answer]
    head = f"{len(answered) - len(wrong)} of {len(answered)} right"
    return f"{head}; {'; '.join(wrong)}" if wrong else head


def _by_kind(per_question: Iterable[Sequence[Answered]]) -> dict[str, dict[str, float]]:
    """Accuracy pooled over all questions of a kind, as the reference reports it."""
    right: defaultdict[str, list[bool]] = defaultdict(list)
    for answered in per_question:
        for question, _, chosen in answered:
            right[question.kind].append(chosen == question.answer)
    return {kind: {"accuracy": sum(r) / len(r), "n": len(r)} for kind, r in sorted(right.items())}
