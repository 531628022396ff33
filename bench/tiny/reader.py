"""The VQA reader: a small convolutional scene parser, and the exact question grammar on top of what it sees.

The network marks object centres on an 8x8 grid and names shape, colour, size and texture there, and background, light
and style of the whole; `language.answer` then answers from the parsed scene. So the reader can be wrong about a picture
and never about a question, and a wrong answer can be traced to what was (not) seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel

from bench.tiny.questions import answer
from bench.tiny.world import (
    BACKGROUNDS,
    COLOURS,
    LIGHTS,
    MAX_OBJECTS,
    SHAPES,
    SIZES,
    STYLES,
    TEXTURES,
    Obj,
    Scene,
)

CELL_HEADS = {"there": 1, "place": 2, "shape": len(SHAPES), "colour": len(COLOURS), "size": len(SIZES),
              "texture": len(TEXTURES)}  # fmt: skip
WHOLE_HEADS = {"background": len(BACKGROUNDS), "light": len(LIGHTS), "style": len(STYLES)}
NEAR_PX = 12.0
"""Two marks closer than this are one object; real centres are at least 20 px apart."""


class ReaderConfig(PretrainedConfig):  # type: ignore[misc]
    """Width of the reader."""

    model_type = "tiny_reader"

    def __init__(self, width: int = 48, **kwargs: Any) -> None:
        self.width = width
        super().__init__(**kwargs)


class _Block(nn.Module):
    """Residual block of two 3x3 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        out = h
        for norm, conv in zip(self.norms, self.convs, strict=True):
            out = conv(F.silu(norm(out)))
        return h + out


class Reader(PreTrainedModel):  # type: ignore[misc]
    """Parser of tiny-world pictures; `answer` is the VQA interface."""

    config_class = ReaderConfig

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__(config)
        w = config.width
        self.body = nn.Sequential(
            nn.Conv2d(3, w // 2, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(w // 2, w, 4, stride=2, padding=1),
            _Block(w),
            nn.Conv2d(w, 2 * w, 4, stride=2, padding=1),
            _Block(2 * w),
            _Block(2 * w),
            _Block(2 * w),
            nn.GroupNorm(8, 2 * w),
            nn.SiLU(),
        )
        self.cells = nn.ModuleDict({name: nn.Conv2d(2 * w, n, 1) for name, n in CELL_HEADS.items()})
        self.whole = nn.ModuleDict({name: nn.Linear(2 * w, n) for name, n in WHOLE_HEADS.items()})
        self.post_init()

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits of everything.

        Args:
            images: (B, 3, 64, 64) float32 in [0, 1].

        Returns:
            name to (B, classes, 8, 8) for each of `CELL_HEADS`, (B, classes) for each of `WHOLE_HEADS`; "place" is the
            logit of the centre within its cell, x first.
        """
        h = self.body(images * 2 - 1)
        out = {name: head(h) for name, head in self.cells.items()}
        mean = h.mean(dim=(2, 3))
        out.update({name: head(mean) for name, head in self.whole.items()})
        return out

    @torch.no_grad()
    def parse(self, images: torch.Tensor) -> list[Scene | None]:
        """What is seen in each picture; None where no object is."""
        if images.shape[-2:] != (64, 64):
            images = F.interpolate(images, size=(64, 64), mode="bilinear", antialias=True)
        logits = {name: value.float().cpu() for name, value in self.forward(images).items()}
        return [self._scene({name: value[i] for name, value in logits.items()}) for i in range(len(images))]

    def answer(self, images: torch.Tensor, questions: Sequence[str]) -> list[str]:
        """Answer one question about each picture.

        Args:
            images: (B, 3, 64, 64) float32 in [0, 1].
            questions: B texts of the grammar of `language.questions`.

        Returns:
            B answers out of `language.ANSWERS`; "none" where a question does not apply to what is seen.
        """
        return [answer_from(scene, text) for scene, text in zip(self.parse(images), questions, strict=True)]

    def _scene(self, seen: dict[str, torch.Tensor]) -> Scene | None:
        there = seen["there"][0]
        place = seen["place"].sigmoid()
        marks: list[tuple[float, float, float, int, int]] = []
        for row, column in (there > 0).nonzero().tolist():
            x = 8 * (column + float(place[0, row, column]))
            y = 8 * (row + float(place[1, row, column]))
            marks.append((float(there[row, column]), x, y, row, column))
        kept: list[tuple[float, float, int, int]] = []
        for _, x, y, row, column in sorted(marks, reverse=True):
            if all((x - u) ** 2 + (y - v) ** 2 >= NEAR_PX**2 for u, v, _, _ in kept):
                kept.append((x, y, row, column))
        if not kept:
            return None
        objects = tuple(
            Obj(
                SHAPES[int(seen["shape"][:, row, column].argmax())],
                COLOURS[int(seen["colour"][:, row, column].argmax())],
                SIZES[int(seen["size"][:, row, column].argmax())],
                TEXTURES[int(seen["texture"][:, row, column].argmax())],
                round(x),
                round(y),
            )
            for x, y, row, column in kept[:MAX_OBJECTS]
        )
        return Scene(
            objects,
            BACKGROUNDS[int(seen["background"].argmax())],
            LIGHTS[int(seen["light"].argmax())],
            STYLES[int(seen["style"].argmax())],
        )


_NOTHING = Scene((Obj("circle", "red", "small", "plain", 32, 32),))


def answer_from(scene: Scene | None, question: str) -> str:
    """`language.answer` where something is seen; else what holds of an empty picture."""
    if scene is not None:
        return answer(question, scene)
    answer(question, _NOTHING)  # refuses what is not a question
    if question.startswith("how many"):
        return "zero"
    return "no" if question.startswith("is there") else "none"
