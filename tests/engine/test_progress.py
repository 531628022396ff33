"""Progress of long work in plain lines: what counts, and how far the piece in hand is."""

from __future__ import annotations

import io
import time

from bench.engine.progress import Progress


def test_a_long_piece_tells_how_far_it_is_while_nothing_counts_yet() -> None:
    told = io.StringIO()
    progress = Progress(told, every_s=0.0)
    with progress.stage("score", 2, "metrics") as stage:
        for n in (64, 128):
            time.sleep(0.05)
            stage.inside("fid of f000", n, 1000, "images")
        assert progress.now() is not None
        stage.advance(1, "fid of f000")
        stage.inside("fid of f100", 64, 1000, "images")
    first, second, counted, other, last = told.getvalue().splitlines()
    assert first == "score: 0/2 metrics (0 %), 0 metrics/s, ETA unknown, fid of f000: 64/1,000 images"
    assert second.startswith("score: 0/2 metrics (0 %), 0 metrics/s, ETA unknown, fid of f000: 128/1,000 images, ")
    assert second.endswith(" s to go") and " images/s, " in second
    assert counted.startswith("score: 1/2 metrics (50 %)") and counted.endswith("fid of f000")
    assert other.endswith("fid of f100: 64/1,000 images")  # a rate needs two looks
    assert last.startswith("score: 1/2 metrics (50 %)")


def test_a_second_pass_over_the_same_images_has_a_rate_of_its_own() -> None:
    told = io.StringIO()
    with Progress(told, every_s=0.0).stage("score", 1, "metrics") as stage:
        for n in (500, 1000, 500):
            time.sleep(0.01)
            stage.inside("rewards of f000", n, 1000, "images")
    lines = told.getvalue().splitlines()
    assert "s to go" in lines[1] and "to go" not in lines[2]
