"""Make every stored weight from nothing: `python -m bench.tiny.train`.

Stages; two processes can share them, `--stage sd` beside `--stage vae,vqa,clip,pick,judge`, then `--stage export`:

    vae     autoencoder, decoder and encoder of a fixed code
    sd      U-Net and text encoder; needs the code, not the autoencoder
    clip    contrastive scorer
    vqa     scene parser; needs vae
    pick    preference scorer; needs clip and vae
    judge   second preference scorer; needs vae
    export  rounds to float16 and writes the folders

Every stage continues from its checkpoint in `--work`, so a killed run is simply started again. Wall times of the
shipped weights are in `weights/measured.json`; all of it takes less than three hours on two CPU cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import nn
from transformers import CLIPModel

from bench.tiny import scorers, sd, vae, vqa, weights_dir
from bench.tiny.loop import Plan, spent_s
from bench.tiny.scorers import MEAN, STD
from bench.tiny.tokens import tokenizer

PLANS: dict[str, Plan] = {
    "vae": vae.PLAN, "sd": sd.PLAN, "clip": scorers.CLIP_PLAN, "vqa": vqa.PLAN,
    "pick": scorers.PICK_PLAN, "judge": scorers.JUDGE_PLAN,
}  # fmt: skip
_TRAIN: dict[str, Callable[[Path], nn.Module]] = {
    "vae": vae.train, "sd": sd.train, "clip": scorers.train_clip, "vqa": vqa.train,
    "pick": scorers.train_pick, "judge": scorers.train_judge,
}  # fmt: skip
STAGES = (*PLANS, "export")


def export(work: Path, out: Path) -> None:
    """Round every trained model to float16 once and write it under `out`; unfinished stages are finished first."""
    out.mkdir(parents=True, exist_ok=True)
    _export_pipeline(vae.train(work), sd.train(work), out / "tiny-sd")
    for name, train in (("clip", scorers.train_clip), ("pick", scorers.train_pick), ("judge", scorers.train_judge)):
        _export_scorer(train(work), out / f"tiny-{name}")
    reader = vqa.train(work)
    reader.to(torch.float16).save_pretrained(_fresh(out / "tiny-vqa"))
    trained = {name: {"steps": plan.steps, "batch": plan.batch, "lr": plan.lr, "wall_s": round(spent_s(name, work))}
               for name, plan in PLANS.items()}  # fmt: skip
    (out / "training.json").write_text(json.dumps(trained, indent=1, sort_keys=True) + "\n")


def _export_pipeline(autoencoder: AutoencoderKL, model: sd.Denoiser, folder: Path) -> None:
    contiguous = torch.contiguous_format
    pipe = StableDiffusionPipeline(
        vae=autoencoder.to(torch.float16, memory_format=contiguous),
        text_encoder=model.text_encoder.to(torch.float16),
        tokenizer=tokenizer(),
        unet=model.unet.to(torch.float16, memory_format=contiguous),
        scheduler=sd.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(_fresh(folder))
    index = folder / "model_index.json"
    listed: dict[str, Any] = json.loads(index.read_text())
    listed["tokenizer"] = ["transformers", "PreTrainedTokenizerFast"]  # the name that every transformers version has
    index.write_text(json.dumps(listed, indent=2) + "\n")


def _export_scorer(model: CLIPModel, folder: Path) -> None:
    model.to(torch.float16).save_pretrained(_fresh(folder))
    tokenizer().save_pretrained(folder)
    processor = {
        "image_processor_type": "CLIPImageProcessor", "do_convert_rgb": True, "do_resize": True,
        "size": {"shortest_edge": 64}, "resample": 3, "do_center_crop": True, "crop_size": {"height": 64, "width": 64},
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": MEAN, "image_std": STD,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.tiny.train", description="Make the tiny world's weights.")
    parser.add_argument("--stage", default=",".join(STAGES), help="comma-separated; default: all, in order")
    parser.add_argument("--out", type=Path, default=weights_dir(), help="folder of the weights")
    parser.add_argument("--work", type=Path, default=Path("tiny-work"), help="folder of the checkpoints")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; more than one hardly helps at this size")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    for stage in args.stage.split(","):
        if stage not in STAGES:
            parser.error(f"unknown stage {stage!r}; valid: {', '.join(STAGES)}")
    for stage in args.stage.split(","):
        if stage == "export":
            export(args.work, args.out)
        else:
            _TRAIN[stage](args.work)


if __name__ == "__main__":
    main()
