"""End-to-end scoring, one pass here against the peers' own ways one after the other, on the same images and weights.

    OMP_NUM_THREADS=1 python -m benchmarks.scoring --n 200
    python -m benchmarks.scoring --n 200 --device cuda

FID, CLIP score, TIFA and three rewards. The Inception is the published one; the transformers are of the published
classes with random weights (no package holds CLIP or BLIP weights): on a GPU of the published size, on a CPU, which
would need a minute an image, at about a twentieth of the cost. Both sides read the same PNG files and start from loaded
models and from reference statistics on disk. On a CPU the seconds are those of one thread, which other load on the
machine disturbs least; on a GPU they are the wall's.

Each side keeps its own precision: on a GPU ours reads in whole float32, and the peers' convolutions take torch's
default there, TF32.

Peers' ways:

- FID as pytorch-fid computes it: PIL, batches of 50, the plain network (batch norm on its own), SciPy's ``sqrtm``;
- CLIP score as torchmetrics' ``CLIPScore`` computes it: transformers' processor and both towers for every image;
- PickScore, CLIP-H and the aesthetic score as their repositories' snippets do: processor and model, image by image;
- TIFA as its package does: the VQA model's ``generate`` for every question of every image.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

SIDE = 256
N_QUESTIONS = 6
CLIPS: Mapping[str, tuple[str, dict[str, int], dict[str, int]]] = {
    # vision, text: B/32's sizes for L/14, a wider one for the two of H/14
    "clip-l14": ("clip-vit-large-patch14", {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
                 {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8}),
    "clip-h14": ("CLIP-ViT-H-14-laion2B-s32B-b79K",
                 {"hidden_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 16},
                 {"hidden_size": 768, "num_hidden_layers": 6, "num_attention_heads": 12}),
    "pickscore": ("PickScore_v1", {"hidden_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 16},
                  {"hidden_size": 768, "num_hidden_layers": 6, "num_attention_heads": 12}),
}  # fmt: skip
FULL: Mapping[str, tuple[dict[str, int], dict[str, int], int]] = {
    "clip-l14": ({"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
                 {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}, 768),
    "clip-h14": ({"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16},
                 {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}, 1024),
}  # fmt: skip
"""Published sizes, with patches of 14; PickScore's are H/14's."""
ASSETS = "clip-l14,clip-h14,clip-h14-processor,pickscore,aesthetic-v2,blip-vqa-base"
WORDS = ("red", "blue", "green", "large", "small", "cat", "dog", "car", "tree", "house", "on", "under", "beside", "a",
         "the", "is", "there", "what", "color", "how", "many", "are", "?", "yes", "no", "two", "three")  # fmt: skip


# ----------------------------------------------------------------------------------------------------- what both share


def make_models(root: Path, device: str) -> None:
    """Of the published size on a GPU, where drawing them takes seconds."""
    full = device != "cpu"
    from transformers import (
        BlipConfig,
        BlipForQuestionAnswering,
        BlipImageProcessorPil,
        CLIPConfig,
        CLIPImageProcessorPil,
        CLIPModel,
    )

    torch.manual_seed(0)
    for name, (repo, *small) in CLIPS.items():
        vision, text, n_joint = FULL["clip-h14" if name == "pickscore" else name] if full else (*small, 768)
        folder = root / repo
        tokens = _tokenizer(folder, 77)
        crop = {"height": 224, "width": 224}
        CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size=crop).save_pretrained(folder)
        config = CLIPConfig(
            text_config={**text, "intermediate_size": 4 * text["hidden_size"], "vocab_size": len(tokens),
                         "max_position_embeddings": 77, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
            vision_config={**vision, "intermediate_size": 4 * vision["hidden_size"], "image_size": 224,
                           "patch_size": 14 if full else 32},
            projection_dim=n_joint,
        )  # fmt: skip
        with torch.device(device):
            model = CLIPModel(config)
        model.save_pretrained(folder)
    folder = root / "blip-vqa-base"
    tokens = _tokenizer(folder, 64)
    width, side = (768, 384) if full else (384, 224)
    BlipImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
    size = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 12,
            "num_attention_heads": width // 64}  # fmt: skip
    text = {**size, "vocab_size": len(tokens), "max_position_embeddings": 64, "encoder_hidden_size": width,
            "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2, "is_decoder": True}  # fmt: skip
    vision = {**size, "image_size": side, "patch_size": 16}
    with torch.device(device):
        asked = BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=vision))
    asked.save_pretrained(folder)
    (root / "laion-aesthetic-v2").mkdir()
    state, width = {}, 768
    for i, out in zip((0, 2, 4, 6, 7), (1024, 128, 64, 16, 1), strict=True):
        state[f"layers.{i}.weight"], state[f"layers.{i}.bias"] = torch.randn(out, width) / width**0.5, torch.zeros(out)
        width = out
    torch.save(state, root / "laion-aesthetic-v2" / "sac+logos+ava1-l14-linearMSE.pth")


def _tokenizer(folder: Path, max_tokens: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True)
    names = ["<pad>", "<s>", "</s>", "<unk>", *WORDS]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(names)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    made = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
                                   unk_token="<unk>", model_max_length=max_tokens)  # fmt: skip
    made.save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):  # what the catalogue lists of the real repository
        (folder / name).write_text("{}" if name.endswith("json") else "#version: 0.2\n")
    return names


def make_scene(root: Path, n: int, reference: Path, device: str) -> Any:
    """A suite of n prompts with six questions each, and n PNG files of smooth shapes and noise."""
    from bench.core.budget import Budget
    from bench.core.contract import ImageRef, Scene
    from bench.core.judging import Judging
    from bench.core.types import Prompt, Question, SamplerSpec, Suite, SuiteSpec
    from bench.metrics.images import ImagesOnDisk, write_index

    rng = np.random.default_rng(0)
    prompts, questions, refs = [], [], []
    (root / "images").mkdir(parents=True)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    for i in range(n):
        prompts.append(Prompt(f"p{i}", " ".join(rng.choice(WORDS[:14], 10))))
        for k in range(N_QUESTIONS):
            asked = " ".join(rng.choice(WORDS[:14], int(rng.integers(2, 8))))
            questions.append(Question(f"p{i}", f"is there {asked} {k} ?", ("yes", "no"), "yes", "object"))
        waves = [np.sin(x / rng.uniform(3, 40)) * np.cos(y / rng.uniform(3, 40)) for _ in range(3)]
        pixels = np.clip(128 + 90 * np.stack(waves, -1) + rng.normal(0, 12, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        (root / "images" / f"{i:06d}.png").write_bytes(file.getvalue())
        refs.append(ImageRef(f"p{i}", 0, f"images/{i:06d}.png", hashlib.sha256(file.getvalue()).hexdigest()))
    spec = SuiteSpec(
        name="scoring", edition="full", version=1, variant="", title="", source="", licence="", n_prompts=n,
        n_train_prompts=0, prompt_hash="0" * 64, train_prompt_hash="", sampler=SamplerSpec(),
        train_sampler=SamplerSpec(), global_batch=1, budget=Budget(denoiser_u=1.0), eval_seeds=(0,),
        fractions=(0.0, 1.0), metrics=(), reward="pickscore", model="sd15",
    )  # fmt: skip
    images = ImagesOnDisk(write_index(root, refs), root / "cache")
    judging = Judging("published", ("pickscore", "clip-h14", "aesthetic"), references=(str(reference),))
    return Scene(Suite(spec, tuple(prompts), (), tuple(questions)), images, images, "pickscore", device, root / "cache",
                 judging=judging)  # fmt: skip


def make_reference(path: Path) -> None:
    """Statistics as of many pictures: a full-rank Gaussian, so that roots cost what they cost."""
    from bench.metrics.gaussian import Gaussian
    from bench.metrics.inception import SHA256
    from bench.metrics.references import Reference, write_reference

    rng = np.random.default_rng(1)
    factor = rng.normal(size=(2048, 2048)) / 2048**0.5
    gaussian = Gaussian(rng.random(2048), factor @ factor.T * 0.05)
    write_reference(path, Reference("many", "pytorch-fid", "0" * 64, 30_000, SHA256, None, gaussian))


# ---------------------------------------------------------------------------------------------------------- both sides


def ours(scene: Any) -> dict[str, Callable[[], Any]]:
    from bench.metrics.clipscore import CLIPScoreL14
    from bench.metrics.fid import FID
    from bench.metrics.rewards import Rewards
    from bench.metrics.tifa import TIFA

    return {"FID": lambda: FID().score(scene), "CLIP score": lambda: CLIPScoreL14().score(scene),
            "three rewards": lambda: Rewards().score(scene), "TIFA": lambda: TIFA().score(scene)}  # fmt: skip


class Plain(torch.nn.Module):
    """The published Inception as it is distributed: batch norm apart, memory contiguous."""

    def __init__(self, device: str) -> None:
        import warnings

        from bench.metrics.requirements import inception_file

        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.script = torch.jit.load(str(inception_file()), device).eval()  # type: ignore[no-untyped-call]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.script(x)
        return found


def peers(scene: Any, models: Path, parts: dict[str, float]) -> dict[str, Callable[[], Any]]:
    from scipy import linalg
    from transformers import AutoTokenizer, BlipForQuestionAnswering, BlipImageProcessorPil, CLIPImageProcessorPil
    from transformers import CLIPModel as Clip

    folder = scene.tuned.folder
    paths = [folder.root / ref.path for ref in folder.refs]
    texts = [p.text for p in scene.suite.prompts]
    device = scene.device
    clips = {name: (Clip.from_pretrained(models / repo).eval().to(device), AutoTokenizer.from_pretrained(models / repo),
                    CLIPImageProcessorPil.from_pretrained(models / repo))
             for name, (repo, *_) in CLIPS.items()}  # fmt: skip
    blip = BlipForQuestionAnswering.from_pretrained(models / "blip-vqa-base").eval().to(device)
    words = AutoTokenizer.from_pretrained(models / "blip-vqa-base")
    square = BlipImageProcessorPil.from_pretrained(models / "blip-vqa-base")
    inception = Plain(device)
    weights = models / "laion-aesthetic-v2" / "sac+logos+ava1-l14-linearMSE.pth"
    head = torch.load(weights, device, weights_only=True)

    def fid() -> float:
        features = []
        for start in range(0, len(paths), 50):
            arrays = [np.asarray(Image.open(p).convert("RGB"), np.float32) / 255 for p in paths[start : start + 50]]
            x = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous().to(device)
            x = 2 * F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False) - 1
            features.append(inception(x).cpu().numpy().astype(np.float64))
        found = np.concatenate(features)
        start_s = clock(device)
        with np.load(scene.judging.references[0]) as kept:
            mu, sigma = kept["mu"], kept["sigma"]
        cov = np.cov(found, rowvar=False)
        root = linalg.sqrtm(cov @ sigma)
        shift = found.mean(0) - mu
        value = float(shift @ shift + np.trace(cov) + np.trace(sigma) - 2 * np.trace(root.real))
        parts["FID's distance"] = clock(device) - start_s
        return value

    def image_of(name: str, path: Path) -> torch.Tensor:
        model, _, processor = clips[name]
        pixels = processor([Image.open(path).convert("RGB")], return_tensors="pt")["pixel_values"].to(device)
        out: Any = model.get_image_features(pixel_values=pixels)
        return F.normalize(out.pooler_output, dim=-1)

    def text_of(name: str, text: str) -> torch.Tensor:
        model, tokenizer, _ = clips[name]
        tokens = tokenizer([text], padding="max_length", truncation=True, max_length=77, return_tensors="pt").to(device)
        out: Any = model.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return F.normalize(out.pooler_output, dim=-1)

    def cosines(name: str) -> list[float]:
        return [(image_of(name, p) * text_of(name, t)).sum().item() for p, t in zip(paths, texts, strict=True)]

    def aesthetic() -> list[float]:
        values = []
        for path in paths:
            x = image_of("clip-l14", path)
            for i in (0, 2, 4, 6, 7):
                x = F.linear(x, head[f"layers.{i}.weight"], head[f"layers.{i}.bias"])
            values.append(x.item())
        return values

    def tifa() -> list[str]:
        said = []
        for i, path in enumerate(paths):
            for q in scene.suite.questions[N_QUESTIONS * i : N_QUESTIONS * (i + 1)]:
                pixels = square([Image.open(path).convert("RGB")], return_tensors="pt")["pixel_values"].to(device)
                tokens = words([q.question], return_tensors="pt").to(device)
                ids = blip.generate(pixel_values=pixels, input_ids=tokens.input_ids, do_sample=False,
                                    attention_mask=tokens.attention_mask, max_new_tokens=10)  # fmt: skip
                said.append(words.decode(ids[0], skip_special_tokens=True))
        return said

    return {"FID": fid, "CLIP score": lambda: cosines("clip-l14"),
            "three rewards": lambda: (cosines("pickscore"), cosines("clip-h14"), aesthetic()),
            "TIFA": tifa}  # fmt: skip


def clock(device: str) -> float:
    """CPU seconds of this process, or the wall's after the GPU has done what it was given."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def measured(work: dict[str, Callable[[], Any]], device: str) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds of each part, and what they answered."""
    seconds, answers = {}, {}
    for name, run in work.items():
        start = clock(device)
        with torch.no_grad():
            answers[name] = run()
        seconds[name] = clock(device) - start
    return seconds, answers


def warm(device: str) -> None:
    """Loads our models, as the peers' are loaded before their clock: rewards load with their first image."""
    from bench.assets import need
    from bench.metrics.inception import load_inception
    from bench.metrics.judges import judge
    from bench.metrics.vqa import load_vqa

    load_inception(device)
    load_vqa(need("blip-vqa-base"), "blip-vqa-base", device)
    for name in ("clip-l14", "pickscore", "clip-h14", "aesthetic"):
        judge(name, device).prepare()


def one_side(side: str, root: Path, n: int, device: str) -> dict[str, Any]:
    """Scores in this process, which holds that side's models only."""
    scene = make_scene(root / f"scene-{side}", n, root / "reference.npz", device)
    parts: dict[str, float] = {}
    if side == "peers":
        seconds, said = measured(peers(scene, root / "models", parts), device)
        values = {"FID": said["FID"], "CLIP score": 100 * float(np.clip(said["CLIP score"], 0, None).mean())}
    else:
        warm(device)
        seconds, own = measured(ours(scene), device)
        values = {"FID": own["FID"][0].value, "CLIP score": own["CLIP score"][0].value}
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    gpu_mb = 0.0 if device == "cpu" else torch.cuda.max_memory_allocated(device) / 1e6
    return {"seconds": seconds, "values": values, "peak_mb": peak_mb, "gpu_mb": gpu_mb, "parts": parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200, help="images")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--side", choices=("ours", "peers"), help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    n: int = given.n
    device: str = given.device
    if device == "cpu":
        torch.set_num_threads(1)
    if given.side:
        print(json.dumps(one_side(given.side, given.root, n, device)))
        return
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        make_models(root / "models", device)
        make_reference(root / "reference.npz")
        environment = {**os.environ, "TUNEBENCH_MODELS": str(root / "models"), "TUNEBENCH_OTHER_WEIGHTS": ASSETS,
                       "XDG_CACHE_HOME": str(root / "home")}  # fmt: skip
        found = {}
        for side in ("ours", "peers"):
            command = [sys.executable, "-m", "benchmarks.scoring", "--side", side, "--root", place, "--n", str(n),
                       "--device", device]  # fmt: skip
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            found[side] = json.loads(done.stdout.splitlines()[-1])
    own, peer = found["ours"], found["peers"]
    where = "one thread" if device == "cpu" else torch.cuda.get_device_name(device)
    print(f"{n} images of {SIDE} px, {N_QUESTIONS} questions each, {where}, torch {torch.__version__}; "
          + ", ".join(f"{name} {own['values'][name]:.6g} here and {peer['values'][name]:.6g} there"
                      for name in own["values"]))  # fmt: skip
    print(f"\n| | peers, {'CPU' if device == 'cpu' else 'wall'} ms an image | here | ratio |\n|---|---|---|---|")
    for name, b in own["seconds"].items():
        a = peer["seconds"][name]
        print(f"| {name} | {1000 * a / n:.0f} | {1000 * b / n:.0f} | {a / b:.1f} |")
    a, b, once = sum(peer["seconds"].values()), sum(own["seconds"].values()), peer["parts"]["FID's distance"]
    print(f"| all | {1000 * a / n:.0f} | {1000 * b / n:.0f} | {a / b:.1f} |")
    print(f"| all without SciPy's root of FID ({once:.0f} s once) | {1000 * (a - once) / n:.0f} | {1000 * b / n:.0f} | "
          f"{(a - once) / b:.1f} |")  # fmt: skip
    print(f"| images/s | {n / a:.2f} | {n / b:.2f} | {a / b:.1f} |")
    for name, key in (("resident", "peak_mb"), ("GPU", "gpu_mb")):
        a, b = peer[key], own[key]
        if b:
            print(f"| peak {name} MB | {a:.0f} | {b:.0f} | {a / b:.1f} |")


if __name__ == "__main__":
    main()
