"""ViLG-300 (ERNIE-ViLG 2.0, Feng et al., arXiv 2210.15257): 150 prompts of DrawBench and 150 of its authors.

The line breaks inside 36 prompts come from the PDF they were copied from. Categories are Chinese in the file, one of
them machine-translated from a name; `CATEGORIES` puts them back into English.
"""

from __future__ import annotations

from pathlib import Path

from bench.core.types import Prompt, Suite
from suites._files import Row
from suites._load import load

CATEGORIES = {
    # DrawBench, by its own English names
    "颜色": "Colors",
    "计数": "Counting",
    "位置": "Positional",
    "矛盾": "Conflicting",
    "描述": "Descriptions",
    "DALL-E图像生成器": "DALL-E",
    "加里·马库斯等人。": "Gary Marcus et al.",
    "Reddit论坛": "Reddit",
    # ERNIE-ViLG, by ours
    "单物+属性描述": "One object with attributes",
    "多物+属性描述+关系描述": "Several objects with attributes and relations",
    "反事实": "Counterfactual",
    "地理类": "Geography",
    "拟人化动物/卡通形象": "Personified animals and cartoon figures",
    "不同视角": "Viewpoints",
    "不同风格": "Styles",
    "不同时间/场景": "Times and scenes",
}
"""Category in the file to English."""


def suite(
    edition: str = "sample", *, variant: str = "", data_dir: Path | None = None, limit: int | None = None,
    train_list: str = "",
) -> Suite:  # fmt: skip
    """ViLG-300: 300 prompts in 16 categories, half from DrawBench; variant split80-20@SEED."""
    return load("vilg300", _prompts, edition, variant, data_dir, limit, train_list)


def _prompts(key: str, rows: list[Row]) -> list[Prompt]:
    return [
        Prompt(f"{i:05d}", row["Prompt"],
               {"category": CATEGORIES[row["类别"]], "category_zh": row["类别"], "source": row["来源"]})
        for i, row in enumerate(rows)
    ]  # fmt: skip
