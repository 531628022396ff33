"""TIFA (Hu et al., arXiv 2303.11897): share of questions about the prompt that a VQA model answers right.

Questions with parents make it DSG (Cho et al., arXiv 2310.18235): one counts only where its parents hold.
"""

from __future__ import annotations

import functools
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from bench.assets import locate, need
from bench.core.contract import Images, Measured, Metric, Scene
from bench.core.errors import UserError
from bench.core.identity import digest
from bench.core.paired import cluster_mean_ci
from bench.core.types import GraphQuestion, Question
from bench.metrics.layout import absent, layout
from bench.metrics.panel import SENTENCES, absent_assets, stamp_of
from bench.metrics.panel import VQA as PUBLISHED
from bench.metrics.sentences import SentenceEncoder
from bench.metrics.vqa import VQA, reader_of

if TYPE_CHECKING:
    import torch

Nearest = Callable[[str, Sequence[str]], str]
"""(answer, choices) → the choice closest in meaning: a sentence encoder's work."""


def choose(answer: str, choices: Sequence[str], nearest: Nearest | None = None) -> str | None:
    """TIFA's rule: the answer where it literally is a choice, else the choice nearest in meaning.

    Without an encoder there is no nearest: None, which is no right answer.
    """
    if answer in choices:
        return answer
    return nearest(answer, choices) if nearest else None


@functools.lru_cache(maxsize=1)
def sentence_encoder(device: str) -> SentenceEncoder:
    """The published encoder, loaded once a process. Raises UserError where it is not on this machine."""
    return SentenceEncoder(need(SENTENCES), SENTENCES, device)


class TIFA(Metric):
    """Mean over images of the share of right answers (``tifa/<reader>``); accuracy by kind of question beside it.

    An open reader's answers that are no choice stand for the nearest one in meaning, and the encoder that says so is
    part of the name (``tifa/blip-vqa-base/all-mpnet-base-v2``); without its weights they are wrong (``…/literal``).
    Questions that depend on others are scored in a column of their own (``dsg/<reader>``).
    """

    name = "tifa"
    higher_is_better = True
    nearest: Nearest | None = None
    """The tiny reader answers in the words of its question files; an open one needs a sentence encoder here."""

    @classmethod
    def depends(cls, scene: Scene) -> Any:
        asked = digest(scene.suite.questions)
        if scene.judging.world == "tiny" and not scene.judging.vqa:
            return asked
        return [asked, scene.judging.vqa, stamp_of(PUBLISHED), stamp_of(SENTENCES)]

    def score(self, scene: Scene) -> list[Measured]:
        at = layout(scene)
        published = scene.judging.world == "published"
        reason = None if scene.judging.vqa or not published else absent_assets("tifa", PUBLISHED)
        if published and not scene.suite.questions:
            reason = f"{scene.suite.spec.id} has no questions here (--questions FILE)"
        if reason:
            return [absent(self.name, reason)]
        prompts = set(at.prompt_ids)
        if not any(question.prompt_id in prompts for question in scene.suite.questions):
            raise UserError(f"{scene.suite.spec.id} has no questions about its prompts: tifa cannot be measured")
        vqa = reader_of(scene.judging, scene.device)
        nearest, suffix = self._nearest(scene)
        plain, graph = _kinds(scene.suite.questions)
        measured = []
        if plain:
            measured.append(self._measured(f"tifa/{vqa.name}{suffix}", vqa, nearest, scene, at.prompt_ids, plain))
        if graph:  # DSG's answers are yes or not yes
            measured.append(self._measured(f"dsg/{vqa.name}", vqa, None, scene, at.prompt_ids, graph))
        return measured

    def precompute(self, scene: Scene) -> None:
        vqa = reader_of(scene.judging, scene.device)
        for questions in filter(None, _kinds(scene.suite.questions)):
            asked = _by_prompt(questions)
            _said(scene.tuned, vqa, [asked.get(ref.prompt_id, []) for ref in scene.tuned.folder.refs])

    def _nearest(self, scene: Scene) -> tuple[Nearest | None, str]:
        """What stands for an answer outside the choices, and how the column is named for it."""
        if self.nearest is not None or (scene.judging.world == "tiny" and not scene.judging.vqa):
            return self.nearest, ""
        if locate(SENTENCES) is None:
            return None, "/literal"
        encoder = sentence_encoder(scene.device)
        return encoder.nearest, f"/{encoder.name}"

    def _measured(
        self, name: str, vqa: VQA, nearest: Nearest | None, scene: Scene, prompt_ids: Sequence[str],
        questions: Sequence[Question],
    ) -> Measured:  # fmt: skip
        asked = _by_prompt(questions)
        per_question = self._answers(scene, prompt_ids, asked, vqa, nearest)
        values = [_share(pairs) for pairs in per_question]
        kept = [(value, prompt_id) for value, prompt_id in zip(values, prompt_ids, strict=True) if value is not None]
        mean = cluster_mean_ci([value for value, _ in kept], [prompt_id for _, prompt_id in kept])
        n_without = len({p for p in prompt_ids if p not in asked})
        return Measured(
            name=name,
            value=mean.value, ci_low=mean.ci_low, ci_high=mean.ci_high,
            higher_is_better=True, n=mean.n, unit="share of questions",
            family=vqa.name, per_image=tuple(values), reasons=tuple(_reason(pairs) for pairs in per_question),
            passport={
                "vqa": vqa.sha256, "questions": digest(questions), "n": mean.n,
                "captions": scene.suite.spec.prompt_hash,
            },
            detail={
                # of single images, as the reference states it beside the mean
                "tifa_stdev": statistics.stdev(value for value, _ in kept) if len(kept) > 1 else None,
                "accuracy_by_kind": _by_kind(per_question), "n_prompts": mean.n_clusters,
                "n_questions": sum(map(len, per_question)), "n_prompts_without_questions": n_without,
                "n_answers_outside_choices": sum(answer not in q.choices for p in per_question for q, answer, _ in p),
            },
            warnings=(f"{n_without} prompts have no questions and are left out",) if n_without else (),
        )  # fmt: skip

    def _answers(
        self, scene: Scene, prompt_ids: Sequence[str], asked: dict[str, list[Question]], vqa: VQA,
        nearest: Nearest | None,
    ) -> list[list[Answered]]:  # fmt: skip
        """For each image its questions, the reader's answers and the choices they stand for."""
        about = [asked.get(p, []) for p in prompt_ids]
        return [[(q, answer, choose(answer, q.choices, nearest)) for q, answer in zip(questions, said, strict=True)]
                for questions, said in zip(about, _said(scene.tuned, vqa, about), strict=True)]  # fmt: skip


def _kinds(questions: Sequence[Question]) -> tuple[list[Question], list[Question]]:
    """Those that stand alone, and those of graphs."""
    graph = [q for q in questions if isinstance(q, GraphQuestion)]
    return [q for q in questions if not isinstance(q, GraphQuestion)], list(graph)


def _by_prompt(questions: Sequence[Question]) -> dict[str, list[Question]]:
    asked: defaultdict[str, list[Question]] = defaultdict(list)
    for question in questions:
        asked[question.prompt_id].append(question)
    return asked


def _said(images: Images, vqa: VQA, about: Sequence[Sequence[Question]]) -> list[list[str]]:
    """The reader's answers to the questions about each image."""

    def ask(batch: torch.Tensor, questions: Sequence[Sequence[str]]) -> list[list[str]]:
        return vqa.answers(batch.float() / 255, questions)

    return images.answers(f"vqa-{vqa.key}", ask, [[q.question for q in questions] for questions in about])


Answered = tuple[Question, str, str | None]
"""Question, what the reader said, the choice it stands for."""


def holds(answered: Sequence[Answered]) -> list[bool]:
    """Whether each question counts as right: its own answer is, and those of its parents, and of theirs. Parents that
    nobody asks about (in DSG-1k eight questions have one) are left aside."""
    right = [chosen == q.answer for q, _, chosen in answered]
    numbers = {q.number: k for k, (q, _, _) in enumerate(answered) if isinstance(q, GraphQuestion)}

    def above(k: int) -> set[int]:
        """The question and all that it depends on; published graphs have circles."""
        found, rest = set[int](), [k]
        while rest:
            at = rest.pop()
            if at not in found:
                found.add(at)
                question = answered[at][0]
                parents = question.parents if isinstance(question, GraphQuestion) else ()
                rest += [numbers[p] for p in parents if p in numbers]
        return found

    return [all(right[a] for a in above(k)) for k in range(len(answered))]


def _share(answered: Sequence[Answered]) -> float | None:
    """Share of right answers about one image, None without questions."""
    return sum(holds(answered)) / len(answered) if answered else None


def _reason(answered: Sequence[Answered]) -> str:
    """A sentence: how many are right, and for each wrong one what was said and expected."""
    if not answered:
        return "no questions"
    wrong = [
        f"{q.question!r}: " + (f"{said!r}, not {q.answer!r}" if chosen != q.answer else "what it asks of is not there")
        for (q, said, chosen), held in zip(answered, holds(answered), strict=True) if not held
    ]  # fmt: skip
    head = f"{len(answered) - len(wrong)} of {len(answered)} right"
    return f"{head}; {'; '.join(wrong)}" if wrong else head


def _by_kind(per_question: Iterable[Sequence[Answered]]) -> dict[str, dict[str, float]]:
    """Accuracy pooled over all questions of a kind, as the reference reports it."""
    right: defaultdict[str, list[bool]] = defaultdict(list)
    for answered in per_question:
        for (question, _, _), held in zip(answered, holds(answered), strict=True):
            right[question.kind].append(held)
    return {kind: {"accuracy": sum(r) / len(r), "n": len(r)} for kind, r in sorted(right.items())}
