"""Image folders: index, decode, cache, and what damage does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from metric_world import make_suite, picture, save_images, suite_keys

from bench.core.contract import ImageFolder, Scene
from bench.core.errors import UserError
from bench.metrics.images import INDEX, ImagesOnDisk, MissingImages, content_hash, read_folder
from bench.metrics.layout import layout

KEYS = [(f"p{i}", seed) for i in range(3) for seed in (0, 1)]


@pytest.fixture
def folder(tmp_path: Path) -> ImageFolder:
    return save_images(tmp_path / "run", picture, KEYS)


def mean_colour(batch: torch.Tensor) -> torch.Tensor:
    return batch.float().mean(dim=(2, 3))


def test_what_was_written_is_read(folder: ImageFolder, tmp_path: Path) -> None:
    again = read_folder(folder.root)
    assert again == folder
    assert [ref.key for ref in again.refs] == KEYS
    batches = list(ImagesOnDisk(again, tmp_path / "cache").batches(4))
    assert [tuple(b.shape) for b in batches] == [(4, 3, 16, 16), (2, 3, 16, 16)]
    assert batches[0].dtype == torch.uint8
    assert np.array_equal(torch.cat(batches)[5].permute(1, 2, 0).numpy(), picture(5))


def test_streaming_gives_the_same_pixels(folder: ImageFolder, tmp_path: Path) -> None:
    whole = torch.cat(list(ImagesOnDisk(folder, tmp_path / "cache").batches(4)))
    streamed = torch.cat(list(ImagesOnDisk(folder, tmp_path / "cache", memory_limit_bytes=0).batches(4)))
    assert torch.equal(whole, streamed)


def test_the_content_hash_follows_pixels_seeds_and_order(folder: ImageFolder, tmp_path: Path) -> None:
    others = [
        save_images(tmp_path / "pixels", lambda i: picture(i + 1), KEYS),
        save_images(tmp_path / "keys", picture, [(p, s + 1) for p, s in KEYS]),
    ]
    hashes = {folder.content_hash, *(o.content_hash for o in others), content_hash(folder.refs[::-1])}
    assert len(hashes) == 4
    assert save_images(tmp_path / "elsewhere", picture, KEYS).content_hash == folder.content_hash


def test_a_pass_is_told_batch_by_batch_and_reads_in_whole_float32(folder: ImageFolder, tmp_path: Path) -> None:
    """On a GPU convolutions would otherwise round to TF32."""
    images, told, allowed = ImagesOnDisk(folder, tmp_path / "cache"), [], []
    images.seen = lambda n_done, n_all: told.append((n_done, n_all))

    def extract(batch: torch.Tensor) -> torch.Tensor:
        allowed.append(torch.backends.cudnn.allow_tf32)
        return mean_colour(batch)

    before = torch.backends.cudnn.allow_tf32
    images.features("mean", extract, n_batch=4)
    assert told == [(4, 6), (6, 6)]
    assert (allowed, torch.backends.cudnn.allow_tf32) == ([False, False], before)


def test_features_are_computed_once_and_kept_on_disk(folder: ImageFolder, tmp_path: Path) -> None:
    images = ImagesOnDisk(folder, tmp_path / "cache")
    first = images.features("mean", mean_colour)
    assert first.shape == (6, 3)
    assert first.dtype == np.float32

    def never(batch: torch.Tensor) -> torch.Tensor:
        raise AssertionError("computed again")

    assert images.features("mean", never) is first
    assert np.array_equal(ImagesOnDisk(folder, tmp_path / "cache").features("mean", never), first)
    with pytest.raises(AssertionError):
        images.features("another network", never)


def test_damaged_cache_files_are_made_again(folder: ImageFolder, tmp_path: Path) -> None:
    first = ImagesOnDisk(folder, tmp_path / "cache").features("mean", mean_colour)
    (file,) = (tmp_path / "cache" / "features").rglob("*.npz")
    for damage in (b"", b"PK\x03\x04 nothing", file.read_bytes()[:-40]):
        file.write_bytes(damage)
        assert np.array_equal(ImagesOnDisk(folder, tmp_path / "cache").features("mean", mean_colour), first)
    other = save_images(tmp_path / "other", lambda i: picture(i + 9), KEYS)
    ImagesOnDisk(other, tmp_path / "cache").features("mean", mean_colour)
    (foreign,) = set((tmp_path / "cache" / "features").rglob("*.npz")) - {file}
    file.write_bytes(foreign.read_bytes())
    assert np.array_equal(ImagesOnDisk(folder, tmp_path / "cache").features("mean", mean_colour), first)


def test_a_failed_pass_leaves_no_file(folder: ImageFolder, tmp_path: Path) -> None:
    def fails(batch: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError):
        ImagesOnDisk(folder, tmp_path / "cache").features("mean", fails)
    assert not list((tmp_path / "cache").rglob("*.npz"))


class Asked:
    """Mean colours; notes how many images came at once, and is killed before the n-th time."""

    def __init__(self, killed_at: int = -1) -> None:
        self.sizes: list[int] = []
        self.killed_at = killed_at

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        if len(self.sizes) == self.killed_at:
            raise KeyboardInterrupt
        self.sizes.append(len(batch))
        return mean_colour(batch)


def test_what_other_processes_asked_is_taken_over_batch_by_batch(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "run", picture, [(f"p{i}", 0) for i in range(14)])
    alone = ImagesOnDisk(folder, tmp_path / "alone").features("mean", mean_colour, n_batch=4)

    def part(lo: int, hi: int, asked: Asked) -> None:
        refs = folder.refs[lo:hi]
        images = ImagesOnDisk(
            ImageFolder(folder.root, refs, content_hash(refs)), tmp_path / "cache", first=lo, n_all=len(folder.refs)
        )
        assert np.array_equal(images.features("mean", asked, n_batch=4), alone[-(-lo // 4) * 4 : hi])

    asked = [Asked(killed_at=1), Asked(), Asked()]
    with pytest.raises(KeyboardInterrupt):
        part(0, 8, asked[0])
    part(7, 14, asked[1])  # 8 to 11, and the rest; 7 is of a batch that is not wholly here
    part(8, 14, asked[2])
    assert [a.sizes for a in asked] == [[4], [4, 2], []]
    lead = Asked()
    assert np.array_equal(ImagesOnDisk(folder, tmp_path / "cache").features("mean", lead, n_batch=4), alone)
    assert lead.sizes == [4], "what the killed process did not come to"


def test_texts_and_questions_are_part_of_what_was_asked(folder: ImageFolder, tmp_path: Path) -> None:
    def lengths(batch: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[float(len(text))] for text in texts])

    def echo(batch: torch.Tensor, questions: Sequence[Sequence[str]]) -> list[list[str]]:
        return [[f"{q} é" for q in asked] for asked in questions]

    def never(*_: object) -> torch.Tensor:
        raise AssertionError("asked again")

    texts, others = list("abcdef"), ["ab", *"bcdef"]
    questions: list[list[str]] = [["a?", "b?"], [], ["c?"], [], [], ["d?"]]
    for _ in range(2):
        images = ImagesOnDisk(folder, tmp_path / "cache")
        assert images.judged("n", lengths, texts)[:, 0].tolist() == [1] * 6
        assert images.judged("n", lengths, others)[:, 0].tolist() == [2, *[1] * 5]
        assert images.answers("n", echo, questions) == echo(torch.empty(0), questions)
    again = ImagesOnDisk(folder, tmp_path / "cache")
    again.judged("n", never, texts)
    assert again.answers("n", never, questions)[0] == ["a? é", "b? é"]  # type: ignore[arg-type]
    # texts alone are read once, whatever the images
    def letters(texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[float(ord(text[0]))] for text in texts])

    assert again.of_texts("n", letters, texts)[:, 0].tolist() == [97, 98, 99, 100, 101, 102]
    other = ImagesOnDisk(save_images(tmp_path / "other", lambda i: picture(i + 9), KEYS), tmp_path / "cache")
    assert np.array_equal(other.of_texts("n", never, texts), again.of_texts("n", letters, texts))
    with pytest.raises(AssertionError):
        other.of_texts("n", never, others)
    with pytest.raises(AssertionError):
        again.answers("n", never, [["other?"], *questions[1:]])  # type: ignore[arg-type]


@pytest.mark.parametrize("memory_limit_bytes", [0, 2**20])
def test_missing_and_damaged_images_are_all_listed(
    folder: ImageFolder, tmp_path: Path, memory_limit_bytes: int
) -> None:
    (folder.root / folder.refs[1].path).unlink()
    truncated = folder.root / folder.refs[2].path
    truncated.write_bytes(truncated.read_bytes()[:100])
    swapped = folder.root / folder.refs[5].path
    swapped.write_bytes((folder.root / folder.refs[0].path).read_bytes())
    images = ImagesOnDisk(folder, tmp_path / "cache", memory_limit_bytes)
    with pytest.raises(MissingImages, match=r"3 of 6 images .* prompts: p0, p1, p2") as err:
        images.features("mean", mean_colour)
    assert err.value.prompt_ids == ("p0", "p1", "p2")
    with pytest.raises(MissingImages, match="1 of 6"):
        read_folder(folder.root)


def test_long_lists_are_cut_and_counted(tmp_path: Path) -> None:
    err = MissingImages(tmp_path, [(f"p{i}", 0) for i in range(50)], 60)
    assert "p19 and 30 more" in err.problem
    assert len(err.prompt_ids) == 50


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("not json\n", "line 7 is damaged"),
        ('{"prompt_id": "p9", "seed": 0}\n', "line 7 is damaged"),
        ("[1, 2]\n", "line 7 is damaged"),
        (
            '{"prompt_id": "p0", "seed": 0, "path": "images/000000.png", "sha256": "x"}\n',
            "line 7: prompt p0 with seed 0",
        ),
        ('{"prompt_id": "p9", "seed": 0, "path": "images/9.png", "sha256": "x"}\n', "1 of 7 images .* prompts: p9"),
    ],
)
def test_a_damaged_index_names_its_line(folder: ImageFolder, damage: str, says: str) -> None:
    with (folder.root / INDEX).open("a") as file:
        file.write(damage)
    with pytest.raises(UserError, match=says):
        read_folder(folder.root)


def test_no_index_and_an_empty_one(folder: ImageFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_folder(tmp_path)
    (folder.root / INDEX).write_text("")
    with pytest.raises(UserError, match="lists no images"):
        read_folder(folder.root)


def test_sizes_must_agree(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "run", lambda i: picture(i, side=16 + i // 5), KEYS)
    with pytest.raises(UserError, match="differ in size"):
        list(ImagesOnDisk(folder, tmp_path / "cache").batches())


def test_layout_follows_the_suite(tmp_path: Path) -> None:
    suite = make_suite()
    full = save_images(tmp_path / "full", picture, suite_keys(suite))
    images = ImagesOnDisk(full, tmp_path / "cache")
    at = layout(Scene(suite, images, images, "symmetry", "cpu", tmp_path))
    assert at.prompt_ids == ("p0", "p0", "p1", "p1", "p2", "p2")
    assert at.prompts[2] == "two blue squares"
    for name, keys, says in (
        ("short", suite_keys(suite)[:-1], "1 of 6 images .* not in the index; prompts: p2"),
        ("long", [*suite_keys(suite), ("p3", 0)], "holds 7 images, toy-sample@1 asks for 6"),
        ("turned", suite_keys(suite)[::-1], "holds 6 images"),
    ):
        wrong = ImagesOnDisk(save_images(tmp_path / name, picture, keys), tmp_path / "cache")
        with pytest.raises(UserError, match=says):
            layout(Scene(suite, images, wrong, "symmetry", "cpu", tmp_path))
        with pytest.raises(UserError, match=says):
            layout(Scene(suite, wrong, images, "symmetry", "cpu", tmp_path))
