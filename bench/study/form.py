"""The three forms of study, their questions and the rules that a study states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.core.agreement import Level
from bench.core.errors import unknown_name

Kind = Literal["pairwise", "rank", "scale"]

BASE = "base"
"""The name of the untouched base model among contestants."""

SCALE_LIMIT = 5
"""TreeReward's raters score from -5 to 5."""

MIN_RIGHT_SHARE = 0.8
MIN_CHECKS = 2
ATTENTION_RULE = (
    "a rater counts when at least 2 attention checks were answered and at least 80 % of those answered are right; "
    "else all votes of that rater are left out and counted as excluded. A check shows an image beside a scrambled "
    "copy: right is the intact one preferred (pairwise), placed above its copy under every question (rank), or "
    "scored above it on average over the questions (scale). Pairs repeated with sides swapped are reported as "
    "consistency and exclude nobody"
)


@dataclass(frozen=True)
class Question:
    """One thing that raters are asked of each trial."""

    id: str
    """Part of the metric's name: ``human/<id>``."""
    label: str
    text: str


@dataclass(frozen=True)
class Form:
    """What raters do, after one paper's study."""

    kind: Kind
    title: str
    instruction: str
    questions: tuple[Question, ...]
    level: Level
    """Of Krippendorff's alpha over the votes."""


PREFERENCE = Question("preference", "Better image", "Which image is better, all in all, for this prompt?")
NATURALNESS = Question("naturalness", "More natural", "Which image looks more natural?")

FORMS: dict[str, Form] = {
    # HG-DPO (arXiv 2405.20216), appendix E, figure 18: a prompt and two images; the one that looks more natural
    "pairwise": Form(
        "pairwise", "Two images of one prompt",
        "You see a prompt and two images. Choose the better one, or say that you cannot decide.",
        (PREFERENCE,), "ordinal",
    ),
    # RealignDiff (arXiv 2305.19599), IV-A: order the results by alignment and by fidelity; mean rank is the score
    "rank": Form(
        "rank", "Images in order",
        "You see a prompt and several images. For each question choose the images from the best to the worst.",
        (
            Question("alignment", "Alignment", "How well does the image show what the prompt says?"),
            Question("fidelity", "Fidelity", "How good is the image as a picture, whatever the prompt says?"),
        ),
        "ordinal",
    ),
    # TreeReward (MM '24), 6.1: how much better than the base model's image, -5 to 5, in six dimensions
    "scale": Form(
        "scale", "How much better, by dimension",
        "You see a prompt and two images. Say for each dimension how much better one is: "
        "−5 the left one is far better, 0 no difference, 5 the right one is far better.",
        (
            Question("style", "Style", "The style that the prompt asks for"),
            Question("content", "Content", "The things that the prompt asks for"),
            Question("colour", "Colour", "Colours: pleasant and as the prompt says"),
            Question("lighting", "Lighting", "Light and shadow"),
            Question("detail", "Detail", "Fine detail"),
            Question("layout", "Layout", "Where things stand in the picture"),
        ),
        "interval",
    ),
}  # fmt: skip


def form_of(kind: str, question: str = "preference") -> Form:
    """The form of that kind; pairwise studies may ask ``naturalness``, as HG-DPO did.

    Raises:
        UserError: no such kind or question.
    """
    if kind not in FORMS:
        raise unknown_name("kind of study", kind, FORMS, "bench study new --help")
    form = FORMS[kind]
    choices = {q.id: q for q in (PREFERENCE, NATURALNESS)}
    if question not in choices:
        raise unknown_name("question", question, choices, "bench study new --help")
    if kind != "pairwise":
        return form
    return Form(form.kind, form.title, form.instruction, (choices[question],), form.level)
