"""``bench study new``: from runs to a study folder.

DIR/page.html     what raters open; with the images inside unless they are large
DIR/images/       the images under blinded names
DIR/study.json    what a rater may know
DIR/key.json      which image is whose; mode 600, for nobody who votes
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.identity import digest
from bench.store import atomic
from bench.study import contestants as c
from bench.study.design import SCRAMBLED, Item, Trial, blind, variants
from bench.study.form import ATTENTION_RULE, form_of
from bench.study.page import data_url, render

EMBED_LIMIT_BYTES = 24 << 20
"""Studies whose images take at most this have them inside the page; a larger page is slow to open."""


@dataclass(frozen=True)
class Wanted:
    """What ``bench study new`` is asked for."""

    names: tuple[str, ...]
    runs: Path
    out: Path
    kind: str
    n_prompts: int
    seed: int = 0
    question: str = "preference"
    secret: str = ""
    """Of the blinding and the design; drawn anew unless given."""


def make(wanted: Wanted) -> dict[str, Any]:
    """Writes the study folder and returns ``study.json``.

    Raises:
        UserError: what ``gather`` and ``choose`` refuse; a folder that is there already.
    """
    form = form_of(wanted.kind, wanted.question)
    if wanted.out.exists():
        raise UserError(f"{wanted.out} is there already: votes on an older page of that name would not fit",
                        hint="--out with a new folder")  # fmt: skip
    field = c.gather(wanted.names, wanted.runs)
    if form.kind == "rank" and len(field.contestants) > 9:
        raise UserError(f"{len(field.contestants)} images cannot be ranked by hand", valid="2 to 9 contestants")
    items = c.choose(field, wanted.n_prompts, wanted.seed)
    secret = wanted.secret or secrets.token_hex(16)
    names = [x.name for x in field.contestants]
    n_checks = max(2, math.ceil(len(items) / 10))
    n_repeats = 0 if form.kind == "rank" else max(1, len(items) // 10)
    lists = variants(form.kind, names, items, secret, n_checks=n_checks, n_repeats=n_repeats)
    images = _images(field, lists, secret)
    study = _study(wanted, form, field, lists, images, secret)
    with atomic.new_folder(wanted.out) as making:
        (making / "images").mkdir()
        for name, data in sorted(images.items()):
            (making / "images" / f"{name}.png").write_bytes(data)
        atomic.write_json(making / "study.json", study)
        atomic.write_json(making / "key.json", _key(wanted, field, items, lists, study, secret))
        (making / "key.json").chmod(0o600)
        inside = sum(map(len, images.values())) <= EMBED_LIMIT_BYTES
        where = (lambda name: data_url(images[name])) if inside else (lambda name: f"images/{name}.png")
        atomic.write_text(making / "page.html", render(study, where, {"server": False}))
    return study


def asset_of(secret: str, shown: str, prompt_id: str, seed: int) -> str:
    """The blinded name of an image."""
    return blind(secret, "image", shown, prompt_id, seed)


def _images(field: c.Field, lists: list[list[Trial]], secret: str) -> dict[str, bytes]:
    by_name = {x.name: x for x in field.contestants}
    wanted = {(shown, t.prompt_id, t.seed) for trials in lists for t in trials for shown in t.shown}
    found = {}
    for shown, prompt_id, seed in sorted(wanted):
        image = c.pixels(by_name[shown.removeprefix(SCRAMBLED)], Item(prompt_id, seed))
        asset = asset_of(secret, shown, prompt_id, seed)
        found[asset] = c.png(c.scrambled(image, int(asset, 16)) if shown.startswith(SCRAMBLED) else image)
    return found


def _study(
    wanted: Wanted, form: Any, field: c.Field, lists: list[list[Trial]], images: dict[str, bytes], secret: str
) -> dict[str, Any]:
    from PIL import Image

    texts = {p.id: p.text for p in field.prompts}
    used = sorted({texts[t.prompt_id] for t in lists[0]})
    facts = {}
    for asset, data in sorted(images.items()):
        width, height = Image.open(_stream(data)).size
        facts[asset] = {"sha256": hashlib.sha256(data).hexdigest(), "width": width, "height": height}
    content = {
        "schema": "tunebench/study", "schema_version": 1, "kind": form.kind, "title": form.title,
        "instruction": form.instruction, "salt": blind(secret, "salt") + blind(secret, "salt", 2),
        "questions": [dataclasses.asdict(q) for q in form.questions],
        "prompts": used, "prompt_rule": f"{c.PROMPT_RULE}; seed {wanted.seed}, N {wanted.n_prompts}",
        "attention_rule": ATTENTION_RULE, "suite": field.suite, "images": facts,
        "variants": [[{"id": t.id, "prompt": used.index(texts[t.prompt_id]),
                       "images": [asset_of(secret, shown, t.prompt_id, t.seed) for shown in t.shown]} for t in trials]
                     for trials in lists],
    }  # fmt: skip
    return {**content, "id": digest(content, 12)}


def _stream(data: bytes) -> Any:
    import io

    return io.BytesIO(data)


def _key(
    wanted: Wanted, field: c.Field, items: list[Item], lists: list[list[Trial]], study: dict[str, Any], secret: str
) -> dict[str, Any]:
    return {
        "schema": "tunebench/study-key", "schema_version": 1, "study": study["id"], "secret": secret,
        "runs": str(wanted.runs.resolve()), "seed": wanted.seed, "shares_noise": field.shares_noise,
        "contestants": [
            {"name": x.name, "label": x.label, "folder": str(x.folder.resolve()), "snapshot": x.snapshot,
             "content_hash": x.images.content_hash} for x in field.contestants
        ],
        "items": [dataclasses.asdict(item) for item in items],
        "trials": {t.id: {"prompt_id": t.prompt_id, "seed": t.seed, "role": t.role, "shown": list(t.shown)}
                   for trials in lists for t in trials},
    }  # fmt: skip
