"""Images as metrics read them: one index file, one decode, one feature pass for each network.

Importing this module needs no torch; ``ImagesOnDisk`` imports it when the first batch is made.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.core.contract import ImageFolder, ImageRef
from bench.core.errors import UserError
from bench.core.identity import digest
from bench.metrics.cache import cached
from bench.metrics.precision import whole_float32
from bench.store import atomic

if TYPE_CHECKING:
    import torch

INDEX = "index.jsonl"
MEMORY_LIMIT_BYTES = 512 * 2**20
"""Folders that decode to at most this are kept in memory as 8-bit pixels; larger ones are decoded batch by batch."""

FEATURE_BATCH = 64
"""Images in a feature batch; fixed, because batch composition may change the last digits."""

_SHOWN = 20


class MissingImages(UserError):
    """Images that are absent or damaged: the metric fails, none is skipped."""

    def __init__(
        self, where: Path, keys: Sequence[tuple[str, int]], n_all: int, what: str = "missing or damaged"
    ) -> None:
        self.prompt_ids = tuple(dict.fromkeys(prompt_id for prompt_id, _ in keys))
        shown = ", ".join(self.prompt_ids[:_SHOWN])
        more = f" and {len(self.prompt_ids) - _SHOWN} more" if len(self.prompt_ids) > _SHOWN else ""
        super().__init__(
            f"{len(keys)} of {n_all} images in {where} are {what}; prompts: {shown}{more}",
            valid="one readable image, unchanged since it was made, for every prompt and seed",
            hint="bench score RUN --regenerate",
        )


def content_hash(refs: Sequence[ImageRef]) -> str:
    """Digest over (prompt id, seed, image digest) in order: 64 hex digits."""
    return digest([[ref.prompt_id, ref.seed, ref.sha256] for ref in refs])


def write_index(root: Path, refs: Sequence[ImageRef]) -> ImageFolder:
    """Writes ``index.jsonl`` whole or not at all: the last file of a complete image folder."""
    rows = [{"prompt_id": r.prompt_id, "seed": r.seed, "path": r.path, "sha256": r.sha256} for r in refs]
    atomic.write_jsonl(root / INDEX, rows)
    return ImageFolder(root, tuple(refs), content_hash(refs))


def read_folder(root: Path) -> ImageFolder:
    """The images that ``index.jsonl`` lists.

    Raises:
        MissingImages: a listed file does not exist.
        UserError: no index, or a line that is not an image's.
    """
    path = root / INDEX
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise UserError(f"{path} cannot be read: {err}", hint="bench score RUN --regenerate") from err
    refs: dict[tuple[str, int], ImageRef] = {}
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
            ref = ImageRef(str(fields["prompt_id"]), int(fields["seed"]), str(fields["path"]), str(fields["sha256"]))
        except (ValueError, KeyError, TypeError) as err:
            raise UserError(f"{path}, line {number} is damaged: {type(err).__name__}: {err}",
                            valid='{"prompt_id": ..., "seed": ..., "path": ..., "sha256": ...}',
                            hint="bench score RUN --regenerate") from err  # fmt: skip
        if ref.key in refs:
            raise UserError(f"{path}, line {number}: prompt {ref.prompt_id} with seed {ref.seed} is there twice")
        refs[ref.key] = ref
    if not refs:
        raise UserError(f"{path} lists no images", hint="bench score RUN --regenerate")
    absent = [ref.key for ref in refs.values() if not (root / ref.path).is_file()]
    if absent:
        raise MissingImages(root, absent, len(refs))
    return ImageFolder(root, tuple(refs.values()), content_hash(list(refs.values())))


class ImagesOnDisk:
    """The ``Images`` of a folder, or of a part of one.

    Args:
        folder: a complete set, or a stretch of one.
        cache_dir: where features are kept, shared by runs; one file for each batch's content and network.
        memory_limit_bytes: decoded pixels up to this stay in memory.
        first: place of the stretch's first image in the whole set.
        n_all: images of the whole set; None where ``folder`` is that. Of a stretch there are only those batches of the
            whole set that are wholly in it, as what comes with an image may change the last digits.
    """

    def __init__(
        self, folder: ImageFolder, cache_dir: Path, memory_limit_bytes: int = MEMORY_LIMIT_BYTES, *, first: int = 0,
        n_all: int | None = None,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.cache_dir = cache_dir
        self.memory_limit_bytes = memory_limit_bytes
        self.seen: Callable[[int, int], None] = lambda n_done, n_all: None
        """Told after each batch of a pass how many images are done, of how many."""
        self._first = first
        self._n_all = len(folder.refs) if n_all is None else n_all
        self._pixels: NDArray[np.uint8] | None = None
        self._streams = False
        self._features: dict[tuple[str, ...], NDArray[np.float32]] = {}
        self._grids: dict[int, list[tuple[slice, str]]] = {}

    def batches(self, n: int = FEATURE_BATCH) -> Iterator[torch.Tensor]:
        """(B, 3, H, W) uint8 in the order of ``folder.refs``.

        Raises:
            MissingImages: files that are gone, unreadable or not the bytes of the index; all of them are listed.
        """
        for at, _ in self._grid(n):
            yield self._batch(at)

    def features(
        self, network: str, extract: Callable[[torch.Tensor], torch.Tensor], *, n_batch: int = FEATURE_BATCH
    ) -> NDArray[np.float32]:
        """(N, D) float32, one row an image, from memory, from disk, or from ``extract`` on (B, 3, H, W) uint8."""

        def compute(at: slice) -> NDArray[np.float32]:
            return extract(self._batch(at)).float().cpu().numpy()

        return self._rows((network,), lambda: self._by_batch(network, n_batch, compute))

    def judged(
        self, network: str, extract: Callable[[torch.Tensor, Sequence[str]], torch.Tensor], texts: Sequence[str]
    ) -> NDArray[np.float32]:
        """``features`` of each image under a text of its own."""

        def compute(at: slice) -> NDArray[np.float32]:
            return extract(self._batch(at), texts[at]).float().cpu().numpy()

        about = digest(list(texts))
        return self._rows((network, about), lambda: self._by_batch(network, FEATURE_BATCH, compute, texts))

    def of_texts(
        self, network: str, read: Callable[[Sequence[str]], torch.Tensor], texts: Sequence[str]
    ) -> NDArray[np.float32]:
        """What ``read`` makes of each image's text alone, from disk where these texts were read before, for whichever
        images."""
        import torch

        def compute(at: slice) -> NDArray[np.float32]:
            with torch.no_grad(), whole_float32():
                return read(texts[at]).float().cpu().numpy()

        def rows() -> list[NDArray[Any]]:
            found = []
            for at, _ in self._grid(FEATURE_BATCH):
                said = digest(list(texts[at]))
                key = {"texts": said, "network": network, "n": at.stop - at.start}
                found.append(cached(self.cache_dir / "texts" / said[:2], key, partial(compute, at)))
            return found

        return self._rows((network, "texts alone", digest(list(texts))), rows)

    def answers(
        self, network: str, ask: Callable[[torch.Tensor, Sequence[Sequence[str]]], Sequence[Sequence[str]]],
        questions: Sequence[Sequence[str]],
    ) -> list[list[str]]:  # fmt: skip
        """What ``ask`` answers to the questions about each image, from disk where it was asked before."""

        def compute(at: slice) -> NDArray[np.uint8]:
            said = ask(self._batch(at), questions[at])
            return np.frombuffer(json.dumps([list(each) for each in said]).encode(), np.uint8)

        found = self._by_batch(network, FEATURE_BATCH, compute, questions)
        return [each for batch in found for each in json.loads(batch.tobytes())]

    def _rows(self, name: tuple[str, ...], compute: Callable[[], list[NDArray[Any]]]) -> NDArray[np.float32]:
        """All batches one below the other, made once."""
        if name not in self._features:
            found = compute()
            self._features[name] = np.concatenate(found) if found else np.empty((0, 0), np.float32)
        return self._features[name]

    def _by_batch(
        self, network: str, n: int, compute: Callable[[slice], NDArray[Any]], about: Sequence[Any] | None = None
    ) -> list[NDArray[Any]]:
        """``compute`` of every batch, kept on disk, so that what a process has done of a pass is another's too.

        Args:
            about: what is said of each image beside its pixels, as plain data.
        """
        import torch

        found = []
        with torch.no_grad(), whole_float32():
            for at, content in self._grid(n):
                key = {"content": content, "network": network, "n": at.stop - at.start}
                if about is not None:
                    key["about"] = digest(list(about[at]))
                found.append(cached(self.cache_dir / "features" / content[:2], key, partial(compute, at)))
                self.seen(at.stop, len(self.folder.refs))
        return found

    def _grid(self, n: int) -> list[tuple[slice, str]]:
        """Where in ``folder.refs`` each batch of ``n`` is, with its content hash."""
        if n not in self._grids:
            starts = range(-(-self._first // n) * n, self._n_all, n)
            inside = [slice(lo - self._first, min(lo + n, self._n_all) - self._first) for lo in starts]
            refs = self.folder.refs
            self._grids[n] = [(at, content_hash(refs[at])) for at in inside if at.stop <= len(refs)]
        return self._grids[n]

    def _batch(self, at: slice) -> torch.Tensor:
        import torch

        pixels = self._in_memory()
        part = self._decode(self.folder.refs[at]) if pixels is None else pixels[at]
        return torch.from_numpy(part.transpose(0, 3, 1, 2).copy())

    def _in_memory(self) -> NDArray[np.uint8] | None:
        """All pixels (N, H, W, 3), decoded once, or None for a folder that is too large."""
        if self._pixels is None and not self._streams:
            n_bytes = self._decode(self.folder.refs[:1]).nbytes * len(self.folder.refs)
            self._streams = n_bytes > self.memory_limit_bytes
            self._pixels = None if self._streams else self._decode(self.folder.refs)
        return self._pixels

    def _decode(self, refs: Sequence[ImageRef]) -> NDArray[np.uint8]:
        with ThreadPoolExecutor(4) as pool:
            images = list(pool.map(self._read, refs))
        good = [image for image in images if image is not None]
        if len(good) < len(images):
            bad = [ref.key for ref in self.folder.refs if self._read(ref) is None]
            raise MissingImages(self.folder.root, bad, len(self.folder.refs))
        if len({image.shape for image in good}) > 1:
            raise UserError(f"the images in {self.folder.root} differ in size", valid="one size for all images")
        return np.stack(good)

    def _read(self, ref: ImageRef) -> NDArray[np.uint8] | None:
        """(H, W, 3) pixels, or None when the file is gone, changed or no image."""
        try:
            data = (self.folder.root / ref.path).read_bytes()
            if hashlib.sha256(data).hexdigest() != ref.sha256:
                return None
            with Image.open(io.BytesIO(data)) as image:
                return np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError):  # Pillow raises SyntaxError for broken PNG chunks
            return None
