"""MS-COCO captions (Chen et al., arXiv 1504.00325), in the four lists that papers call "COCO val".

MLPerf's 5,000 (val2014, the default), the 30,000 of GigaGAN, the 30,000 of ESD, and val2017 with the first caption of
each of its 5,000 images, by ascending image id (DeepCache's choice).
"""

from __future__ import annotations

from pathlib import Path

from bench.core.types import Prompt, Suite
from suites._files import Row
from suites._load import load


def suite(
    edition: str = "sample", *, variant: str = "", data_dir: Path | None = None, limit: int | None = None,
    train_list: str = "",
) -> Suite:  # fmt: skip
    """MS-COCO captions: MLPerf's 5,000 of val2014; variants gigagan30k, esd30k, val2017."""
    return load("coco", _prompts, edition, variant, data_dir, limit, train_list)


def _prompts(key: str, rows: list[Row]) -> list[Prompt]:
    if key == "mlperf5k":
        return [_prompt(i, row["caption"], image_id=row["image_id"], caption_id=row["id"])
                for i, row in enumerate(rows)]  # fmt: skip
    if key == "esd30k":
        return [_prompt(i, row["prompt"], image_id=str(int(row["image_id"])), evaluation_seed=row["evaluation_seed"])
                for i, row in enumerate(rows)]  # fmt: skip
    if key == "val2017":
        first: dict[int, Row] = {}
        for row in rows:
            first.setdefault(int(row["image_id"]), row)
        return [_prompt(i, first[image]["caption"], image_id=str(image), caption_id=first[image]["id"])
                for i, image in enumerate(sorted(first))]  # fmt: skip
    # gigagan30k: bare captions, no image ids are published
    return [_prompt(i, row["text"]) for i, row in enumerate(rows)]


def _prompt(i: int, text: str, **tags: str) -> Prompt:
    return Prompt(f"{i:05d}", text, tags)
