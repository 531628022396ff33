"""Measure the stored weights and write `measured.json` and `MODEL_CARD.md`: `python -m bench.tiny.evaluate`.

Everything is measured on the float16 files as a user opens them, and on the held-out part of the world.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPModel

from bench.tiny import weights_dir
from bench.tiny.data import as_images, damage, near_miss, round_trip, spoil
from bench.tiny.language import Caption, caption_matches, describe
from bench.tiny.loop import draw
from bench.tiny.models import load_pipeline, load_reader, load_scorer
from bench.tiny.questions import Question, questions, sample_question
from bench.tiny.reader import Reader, answer_from
from bench.tiny.reference import reference_scenes
from bench.tiny.scorers import embed_images, embed_texts, scores
from bench.tiny.tokens import token_ids
from bench.tiny.world import Scene

SAMPLER_STEPS = 20
GUIDANCE = 4.5
NOT_WEIGHTS = ("MODEL_CARD.md", "measured.json")
_KNOWN = (
    "## Known limits",
    "",
    "- The base model is meant to be imperfect: reward tuning needs something to improve; see the row by kind.",
    "- The tokenizer is word-level: open it with `AutoTokenizer` (or through the pipeline).",
    "  `CLIPTokenizer.from_pretrained` rebuilds a byte-pair tokenizer out of its vocabulary and gives wrong ids",
    "  without a complaint.",
    "- The latent code is fixed (principal components of 8x8 patches); encoder and decoder only learn to speak it.",
    "- The reader answers questions of the tiny grammar only, and takes any blob for the shape nearest to it.",
    "- tiny-pick started from tiny-clip, so the two are of one family; tiny-judge shares no weights with them, but",
    "  the same world, training code and tokenizer.",
    "- tiny-clip and tiny-judge see colours, styles and damage nearly always, shapes mostly; of swapped colours,",
    "  spatial relations and counts they are unsure, as published CLIP scorers are.",
    "- Steps and learning rates are those of the plans in the code. The shipped weights came about less tidily: the",
    "  plans `vae`, `sd`, `vqa`, `clip`, `pick` and `judge` were lengthened or shortened under way (and with them",
    "  the decay of the learning rate); the loss weight of `sd` went from min(SNR, 5) to min(SNR, 20) after some",
    "  3,200 updates; `clip` got captions of its near misses after 1,600; `pick` turned to hard near misses after",
    "  some 550 and to a stronger lesson and a higher learning rate after some 1,800, and was continued from its",
    "  stored float16 weights, after 4,800 updates of 20, for 6,000 of 28 with a new lesson head. A fresh run gives",
    "  similar, not equal, weights.",
)


def digests(folder: Path) -> dict[str, dict[str, Any]]:
    """Digest and size of every file of the weights, by relative path."""
    out = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in NOT_WEIGHTS):
        data = path.read_bytes()
        out[path.relative_to(folder).as_posix()] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    return out


# ---------------------------------------------------------------------------------------------------- readings


def reader_accuracy(
    reader: Reader, scenes: Sequence[Scene], seed: int, change: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> dict[str, float]:
    """Share of right answers to balanced random questions, overall and by kind.

    Args:
        reader: the VQA model.
        scenes: asked about, four questions each.
        seed: of the questions.
        change: applied to the rendered pictures first.
    """
    rng = np.random.default_rng([0xA5C, seed])
    right: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, len(scenes), 50):
        part = scenes[start : start + 50]
        images = as_images(part)
        parsed = reader.parse(images if change is None else change(images))
        for scene, seen in zip(part, parsed, strict=True):
            for _ in range(4):
                asked = sample_question(scene, rng)
                right[asked.kind].append(answer_from(seen, asked.question) == asked.answer)
    return _shares(right)


def retrieval(clip: CLIPModel, scenes: Sequence[Scene], seed: int) -> dict[str, float]:
    """Top-1 retrieval among blocks of 100 scenes with fully detailed captions, both directions."""
    rng = np.random.default_rng([0xB0B, seed])
    found: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, len(scenes) - 99, 100):
        part = scenes[start : start + 100]
        texts = [describe(scene, rng, detail=1).text for scene in part]
        with torch.no_grad():
            cos = embed_texts(clip, token_ids(texts)) @ embed_images(clip, as_images(part)).T
        here = torch.arange(100)
        found["text_to_image"] += (cos.argmax(1) == here).tolist()
        found["image_to_text"] += (cos.argmax(0) == here).tolist()
    return {name: float(np.mean(values)) for name, values in found.items()}


def pair_accuracy(model: CLIPModel, scenes: Sequence[Scene], seed: int, vae: AutoencoderKL | None) -> dict[str, float]:
    """Share of held-out pairs in which the right picture scores higher.

    "near_miss" losers have one stated fact wrong, "spoiled" ones are damaged renders. With a `vae` both pictures of a
    pair have passed through it.
    """
    generator = draw("evaluate-pairs", seed)
    captions = [describe(scene, generator.np, detail=0.7) for scene in scenes]
    texts = [caption.text for caption in captions]
    winners = as_images(scenes)
    missed = as_images([_missed(s, c, generator.np) for s, c in zip(scenes, captions, strict=True)])
    spoiled = spoil(winners, generator)
    if vae is not None:
        winners, missed = round_trip(vae, winners), round_trip(vae, missed)
        spoiled = spoil(winners, generator)
    with torch.no_grad():
        high = scores(model, winners, texts)
        out = {
            "near_miss": float((high > scores(model, missed, texts)).float().mean()),
            "spoiled": float((high > scores(model, spoiled, texts)).float().mean()),
        }
    return {**out, "overall": 0.75 * out["near_miss"] + 0.25 * out["spoiled"]}


def _missed(scene: Scene, caption: Caption, rng: np.random.Generator) -> Scene:
    """A near miss of which the caption is surely false."""
    miss = near_miss(scene, caption.facts, rng)
    while caption_matches(miss, caption.facts):
        miss = near_miss(scene, caption.facts, rng)
    return miss


def reconstruction(vae: AutoencoderKL, scenes: Sequence[Scene]) -> dict[str, float]:
    """Mean absolute error in [0, 1] and PSNR in decibels of a round trip."""
    images = as_images(scenes)
    error = round_trip(vae, images) - images
    return {"l1": float(error.abs().mean()), "psnr_db": float(-10 * error.square().mean().log10())}


# ---------------------------------------------------------------------------------------------------- generation


def generate(pipe: StableDiffusionPipeline, texts: Sequence[str], seed: int, batch: int = 32) -> torch.Tensor:
    """(B, 3, 64, 64) float32 in [0, 1]: DDIM, `SAMPLER_STEPS` steps, guidance `GUIDANCE`, one generator an image."""
    parts = []
    for start in range(0, len(texts), batch):
        chunk = list(texts[start : start + batch])
        generators = [torch.Generator().manual_seed(1_000_003 * seed + start + i) for i in range(len(chunk))]
        out = pipe(
            chunk, num_inference_steps=SAMPLER_STEPS, guidance_scale=GUIDANCE, generator=generators, output_type="pt"
        )
        parts.append(out.images)
    return torch.cat(parts).float()


def tifa(reader: Reader, captions: Sequence[Caption], images: torch.Tensor) -> dict[str, float]:
    """TIFA of pictures: mean over captions of the share of questions answered as the caption says; also by kind."""
    right: dict[str, list[bool]] = defaultdict(list)
    means = []
    for caption, seen in zip(captions, reader.parse(images), strict=True):
        asked: list[Question] = questions(caption.facts)
        marks = [answer_from(seen, q.question) == q.answer for q in asked]
        means.append(float(np.mean(marks)))
        for q, mark in zip(asked, marks, strict=True):
            right[q.kind].append(mark)
    return {**_shares(right), "overall": float(np.mean(means))}


def generation(pipe: StableDiffusionPipeline, reader: Reader, n: int, sheet: Path | None) -> dict[str, Any]:
    """TIFA on held-out captions, the reader's steadiness there, and the cost of sampling."""
    rng = np.random.default_rng([0x6E6, 1])
    scenes = list(reference_scenes(4 * n, seed=77))
    captions = [c for c in (describe(scene, rng) for scene in scenes) if c.facts.held_out()][:n]
    texts = [caption.text for caption in captions]
    began = time.monotonic()
    images = generate(pipe, texts, seed=1)
    wall_s = time.monotonic() - began
    again = damage(images, draw("evaluate-steadiness", 0), strength=0.5)
    same = []
    for caption, first, second in zip(captions, reader.parse(images), reader.parse(again), strict=True):
        same += [answer_from(first, q.question) == answer_from(second, q.question) for q in questions(caption.facts)]
    if sheet is not None:
        save_sheet(images[:64], sheet)
    return {
        "captions": len(captions),
        "sampler": {"name": "DDIM", "steps": SAMPLER_STEPS, "guidance": GUIDANCE},
        "tifa": tifa(reader, captions, images),
        "reader_same_answer_after_mild_damage": float(np.mean(same)),
        "s_per_image": wall_s / len(captions),
        "threads": torch.get_num_threads(),
        "load_average_1min": os.getloadavg()[0],
    }


def unet_gflop(pipe: StableDiffusionPipeline) -> float:
    """10^9 floating-point operations of one U-Net forward of one sample (a multiply-add is two)."""
    channels, side = pipe.unet.config.in_channels, pipe.unet.config.sample_size
    width = pipe.text_encoder.config.hidden_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        pipe.unet(torch.zeros(1, channels, side, side), torch.tensor([10]), torch.zeros(1, 32, width))
    return float(counter.get_total_flops()) / 1e9


def save_sheet(images: torch.Tensor, path: Path, columns: int = 16) -> None:
    """A contact sheet of (B, 3, H, W) pictures in [0, 1] as PNG."""
    pixels = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    rows = [np.concatenate(list(pixels[i : i + columns]), axis=1) for i in range(0, len(pixels), columns)]
    Image.fromarray(np.concatenate([row for row in rows if row.shape == rows[0].shape], axis=0)).save(path)


# ---------------------------------------------------------------------------------------------------- report


def measure(folder: Path, n: int, sheet: Path | None = None) -> dict[str, Any]:
    """Everything in `measured.json`. `n` scales all sample sizes; 400 is the default of the command."""
    scenes = list(reference_scenes(n, seed=5))
    pipe = load_pipeline(folder / "tiny-sd")
    vae: AutoencoderKL = pipe.vae
    reader = load_reader(folder / "tiny-vqa")
    clip, pick, judge = (load_scorer(name, folder / name) for name in ("tiny-clip", "tiny-pick", "tiny-judge"))
    files = digests(folder)
    training = json.loads((folder / "training.json").read_text())
    return {
        "schema": "tiny-weights",
        "schema_version": 1,
        "command": "python -m bench.tiny.train && python -m bench.tiny.evaluate",
        "held_out_scenes": n,
        "total_bytes": sum(int(entry["bytes"]) for entry in files.values()),
        "files": files,
        "training": training,
        "vae": reconstruction(vae, scenes),
        "vqa": {
            "renders": reader_accuracy(reader, scenes, 1),
            "vae_round_trips": reader_accuracy(reader, scenes, 1, lambda x: round_trip(vae, x)),
            "damaged_renders": reader_accuracy(reader, scenes, 1, lambda x: damage(x, draw("evaluate-damage", 0))),
        },
        "clip": {"retrieval_top1_of_100": retrieval(clip, scenes, 2)},
        "pairs": {
            name: {
                "renders": pair_accuracy(model, scenes, 3, None),
                "vae_round_trips": pair_accuracy(model, scenes, 3, vae),
            }
            for name, model in (("tiny-clip", clip), ("tiny-pick", pick), ("tiny-judge", judge))
        },
        "sd": {"unet_gflop": unet_gflop(pipe), **generation(pipe, reader, n, sheet)},
    }


def _shares(right: dict[str, list[bool]]) -> dict[str, float]:
    everything = [mark for marks in right.values() for mark in marks]
    return {
        **{kind: float(np.mean(marks)) for kind, marks in sorted(right.items())},
        "overall": float(np.mean(everything)),
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def card(measured: dict[str, Any]) -> str:
    """The model card, every number out of `measured`."""
    sd, vqa = measured["sd"], measured["vqa"]
    rows = [
        ("autoencoder: L1 of a round trip", f"{measured['vae']['l1']:.4f}"),
        ("autoencoder: PSNR of a round trip", f"{measured['vae']['psnr_db']:.1f} dB"),
        ("tiny-sd: TIFA on held-out captions, read by tiny-vqa", f"{sd['tifa']['overall']:.3f} (n = {sd['captions']})"),
        ("tiny-sd: by kind", ", ".join(f"{k} {v:.2f}" for k, v in sd["tifa"].items() if k != "overall")),
        ("tiny-vqa: accuracy on held-out renders", f"{vqa['renders']['overall']:.3f}"),
        ("tiny-vqa: the same after the autoencoder", f"{vqa['vae_round_trips']['overall']:.3f}"),
        ("tiny-vqa: the same after mild damage", f"{vqa['damaged_renders']['overall']:.3f}"),
        ("tiny-vqa: same answer on a generated picture and a mildly damaged copy",
         f"{sd['reader_same_answer_after_mild_damage']:.3f}"),
        ("tiny-clip: retrieval top-1 of 100, text to image / image to text",
         " / ".join(f"{v:.3f}" for v in (measured["clip"]["retrieval_top1_of_100"]["text_to_image"],
                                         measured["clip"]["retrieval_top1_of_100"]["image_to_text"]))),
    ]  # fmt: skip
    for name, by in measured["pairs"].items():
        rows.append((f"{name}: right picture preferred, renders (near miss / spoiled)",
                     f"{by['renders']['near_miss']:.3f} / {by['renders']['spoiled']:.3f}"))  # fmt: skip
        rows.append((f"{name}: the same after the autoencoder",
                     f"{by['vae_round_trips']['near_miss']:.3f} / {by['vae_round_trips']['spoiled']:.3f}"))  # fmt: skip
    rows += [
        ("tiny-sd: GFLOP of one U-Net forward", f"{sd['unet_gflop']:.3f}"),
        (f"tiny-sd: seconds an image, {SAMPLER_STEPS} steps, guidance, batch 32",
         f"{sd['s_per_image']:.3f} ({sd['threads']} thread(s), load {sd['load_average_1min']:.1f})"),
        ("size of all files", f"{measured['total_bytes'] / 2**20:.1f} MiB"),
    ]  # fmt: skip
    stages = [
        (name, str(t["steps"]), str(t["batch"]), f"{t['lr']:g}", f"{t['wall_s'] / 60:.0f}")
        for name, t in measured["training"].items()
    ]
    return "\n".join(
        [
            "# The tiny world's weights",
            "",
            "Written by `python -m bench.tiny.evaluate` from `measured.json`; do not edit. Made from nothing but the",
            "procedural scenes of `bench/tiny/world.py` by `python -m bench.tiny.train` on two shared CPU cores: no",
            "downloaded weights, no pictures or texts of others. Licence: that of this repository. Nothing measured",
            "with these models is comparable with a published number.",
            "",
            _table(("measured on held-out scenes", "value"), rows),
            "",
            _table(("stage", "updates", "batch", "peak lr", "wall minutes"), stages),
            "",
            "Wall minutes include waiting for other programs on the same cores.",
            "",
            *_KNOWN,
            "",
        ]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.tiny.evaluate", description="Measure the tiny weights.")
    parser.add_argument("--weights", type=Path, default=weights_dir())
    parser.add_argument("--n", type=int, default=400, help="held-out scenes of each measurement")
    parser.add_argument("--sheet", type=Path, help="also write a PNG of generated pictures here")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    measured = _rounded(measure(args.weights, args.n, args.sheet))
    text = json.dumps(measured, indent=1, sort_keys=True, allow_nan=False) + "\n"
    measured = json.loads(text)  # the card is that of the file, order of keys included
    (args.weights / "measured.json").write_text(text)
    (args.weights / "MODEL_CARD.md").write_text(card(measured))
    print(card(measured))


if __name__ == "__main__":
    main()
