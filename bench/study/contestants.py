"""The images that a study compares: read from run folders, checked, paired by prompt and noise seed."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from bench.core.contract import ImageFolder
from bench.core.errors import UserError
from bench.core.types import Prompt
from bench.metrics.images import read_folder
from bench.store import atomic
from bench.store.runs import RunFolder, find_run
from bench.study.design import Item
from bench.study.form import BASE

if TYPE_CHECKING:
    from bench.core.record import Record, SnapshotEntry

_MUST_AGREE = ("suite", "prompt_hash", "limit")
_BASE_MUST_AGREE = ("model", "model_revision", "sampler")
_N_BLOCKS = 8


@dataclass(frozen=True)
class Contestant:
    """A run's last images, or the base model's."""

    name: str
    """The run id, or ``base``."""
    label: str
    """What boards call it."""
    folder: Path
    """Run folder that the images are in."""
    snapshot: str
    images: ImageFolder
    external: bool
    """Images from elsewhere share no noise with the others."""


@dataclass(frozen=True)
class Field:
    """All contestants, and the prompts that they share."""

    contestants: tuple[Contestant, ...]
    prompts: tuple[Prompt, ...]
    seeds: tuple[int, ...]
    """Noise seeds that all contestants have images of."""
    suite: str

    @property
    def shares_noise(self) -> bool:
        return not any(c.external for c in self.contestants)


def gather(names: Sequence[str], runs: Path) -> Field:
    """The contestants named: run ids (or the start of one), paths, and ``base``.

    Raises:
        UserError: fewer than two, one twice, an unknown one, one without images, or runs whose prompts differ.
    """
    if len(names) < 2:
        raise UserError("a study compares two or more", valid="run ids, and base", hint="--runs base 1a2b3c")
    folders = [find_run(runs, name) for name in names if name != BASE]
    if not folders:
        raise UserError("a study of the base model alone compares nothing", hint="--runs base RUN")
    records = [(folder, folder.read_record()) for folder in folders]
    _check_same(records, with_base=BASE in names)
    found = [_contestant(folder, record) for folder, record in records]
    if BASE in names:
        found.insert(names.index(BASE), _base(*records[0]))
    if len({c.name for c in found}) < len(found):
        raise UserError("a contestant is named twice", valid=", ".join(dict.fromkeys(c.name for c in found)))
    first = records[0][0].root
    prompts = tuple(Prompt(**row) for row in atomic.read_jsonl(first / "prompts.jsonl"))
    common = set.intersection(*({ref.key for ref in c.images.refs} for c in found))
    seeds = sorted({seed for _, seed in common})
    seeds = [seed for seed in seeds if all((p.id, seed) in common for p in prompts)]
    if not seeds:
        raise UserError("the contestants have no noise seed in common for which all prompts have an image")
    return Field(tuple(found), prompts, tuple(seeds), str(records[0][1].spec["suite"]))


def _check_same(records: Sequence[tuple[RunFolder, Record]], *, with_base: bool) -> None:
    (_, first), *others = records
    keys = _MUST_AGREE + (_BASE_MUST_AGREE if with_base else ())
    for _, record in others:
        for key in keys:
            a, b = first.spec.get(key), record.spec.get(key)
            if a != b:
                why = "their base models' images are not the same" if key in _BASE_MUST_AGREE else "the prompts differ"
                raise UserError(f"runs {first.run_id} and {record.run_id} cannot meet: {key} is {a} and {b}",
                                valid=f"runs with equal {', '.join(keys)}: {why}", hint="bench status")  # fmt: skip


def _contestant(folder: RunFolder, record: Record) -> Contestant:
    tuned = [s for s in record.snapshots if s.fraction > 0]
    if not tuned:
        raise UserError(f"run {record.run_id} has no images to show ({record.status}: {record.reason})")
    label = str(record.spec.get("label") or record.spec["tuner"])
    return _opened(folder, record, max(tuned, key=lambda s: s.fraction), record.run_id, label)


def _base(folder: RunFolder, record: Record) -> Contestant:
    found = next((s for s in record.snapshots if s.fraction == 0), None)
    if found is None:
        raise UserError(f"run {record.run_id} holds no images of the base model", valid="name a run that does first")
    return _opened(folder, record, found, BASE, f"base model {record.spec['model']}")


def _opened(folder: RunFolder, record: Record, snapshot: SnapshotEntry, name: str, label: str) -> Contestant:
    external = record.external is not None and name != BASE
    return Contestant(name, label, folder.root, snapshot.name, read_folder(folder.root / snapshot.images), external)


def choose(field: Field, n_prompts: int, seed: int) -> list[Item]:
    """``n_prompts`` prompts by the rule of ``PROMPT_RULE``: no image is looked at.

    Raises:
        UserError: more than there are, or fewer than two.
    """
    if not 2 <= n_prompts <= len(field.prompts):
        raise UserError(f"--prompts {n_prompts}", valid=f"2 to {len(field.prompts)}, the prompts of {field.suite}")

    def place(prompt: Prompt) -> str:
        return hashlib.sha256(f"{seed}:{prompt.id}".encode()).hexdigest()

    chosen = sorted(field.prompts, key=place)[:n_prompts]
    return [Item(p.id, field.seeds[int(place(p), 16) % len(field.seeds)]) for p in chosen]


PROMPT_RULE = (
    "prompts in order of sha256('<seed>:<prompt id>'), the first N; of the noise seeds that all contestants share, the "
    "one at that number modulo their count"
)


def pixels(contestant: Contestant, item: Item) -> np.ndarray:
    """(H, W, 3) uint8 of one image.

    Raises:
        UserError: the file is not the one that the run's index names.
    """
    ref = next(r for r in contestant.images.refs if r.key == (item.prompt_id, item.seed))
    data = (contestant.images.root / ref.path).read_bytes()
    if hashlib.sha256(data).hexdigest() != ref.sha256:
        raise UserError(f"the image of prompt {item.prompt_id} (seed {item.seed}) of {contestant.name} is damaged",
                        hint=f"bench score {contestant.name} --regenerate")  # fmt: skip
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def scrambled(image: np.ndarray, seed: int) -> np.ndarray:
    """The image's blocks in another order, in negative: nobody who looks takes it for the better one."""
    rng = np.random.default_rng(seed)
    rows, columns = (_block_order(n, rng) for n in image.shape[:2])
    return np.asarray(255 - image[np.ix_(rows, columns)], dtype=np.uint8)


def _block_order(n: int, rng: np.random.Generator) -> np.ndarray:
    blocks = np.array_split(np.arange(n), min(_N_BLOCKS, n))
    return np.concatenate([blocks[i] for i in rng.permutation(len(blocks))])


def png(image: np.ndarray) -> bytes:
    """PNG bytes of the pixels alone: whatever the file said of its origin stays behind."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=False)
    return buffer.getvalue()
