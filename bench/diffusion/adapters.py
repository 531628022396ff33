"""LoRA (Hu et al., arXiv 2106.09685) on the denoiser's attention: W + (alpha / r) B A on to_q, to_k, to_v and to_out,
in a transformer that reads text beside the image on the text's own projections too, and where asked for on the
feed-forward layers.

B = 0 at the start, so a fresh adapter equals the base exactly. The file layout is the one that diffusers'
``pipe.load_lora_weights`` reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench.core.errors import UserError
from bench.diffusion.families import of_network

ATTENTION = "attention"
TARGETS = (ATTENTION, "attention+feed-forward")
"""What an adapter may go on."""

_NAME = "default"


def attach(
    unet: Any, *, rank: int, alpha: float, generator: torch.Generator, dtype: torch.dtype = torch.float32,
    targets: str = ATTENTION,
) -> list[torch.nn.Parameter]:  # fmt: skip
    """Puts a fresh adapter on ``unet``, in place of any other, and returns its parameters.

    A is Kaiming-uniform, U(-1/sqrt(n_in), 1/sqrt(n_in)), from ``generator``; B is 0.

    Args:
        targets: one of ``TARGETS``.
    """
    from peft import LoraConfig

    detach(unet)
    family = of_network(unet)
    layers = [*family.targets, *(() if targets == ATTENTION else family.feed_forward)]
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers, lora_dropout=0.0, bias="none")
    with torch.random.fork_rng(devices=[]):  # nn.Linear draws its own start from the global generator
        unet.add_adapter(config, adapter_name=_NAME)
    for name, parameter in unet.named_parameters():
        if "lora_" in name:
            # half-precision adapters cannot be unscaled nor hold small updates (diffusers #6363)
            parameter.data = parameter.data.to(dtype)
            if "lora_A" in name:
                bound = 1 / math.sqrt(parameter.shape[1])
                start = torch.rand(parameter.shape, generator=generator) * 2 * bound - bound
                parameter.data.copy_(start)
            else:
                parameter.data.zero_()
    return parameters(unet)


def detach(unet: Any) -> None:
    """Takes the adapter off, if there is one."""
    if attached(unet):
        unet.unload_lora()


def attached(unet: Any) -> bool:
    return any("lora_" in name for name, _ in unet.named_parameters())


def parameters(unet: Any) -> list[torch.nn.Parameter]:
    """The adapter's parameters, in the U-Net's order."""
    return [p for name, p in unet.named_parameters() if "lora_" in name]


def adapter_state(unet: Any) -> dict[str, torch.Tensor]:
    """A copy of the adapter's tensors on the CPU, by parameter name."""
    return {name: p.detach().cpu().clone() for name, p in unet.named_parameters() if "lora_" in name}


def load_adapter_state(unet: Any, state: Mapping[str, torch.Tensor]) -> None:
    """Writes the tensors of ``adapter_state`` back into the attached adapter.

    Raises:
        UserError: names or shapes that are not the attached adapter's.
    """
    own = {name: p for name, p in unet.named_parameters() if "lora_" in name}
    if own.keys() != state.keys() or any(own[k].shape != state[k].shape for k in own):
        raise UserError("the adapter in this checkpoint is not the one of these settings (other rank or other layers)")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])


def save_adapter(unet: Any, folder: Path) -> None:
    """Writes ``pytorch_lora_weights.safetensors``, which plain diffusers opens with ``pipe.load_lora_weights``."""
    import diffusers
    from peft.utils import get_peft_model_state_dict

    # diffusers takes alpha = rank unless the metadata says otherwise
    config = unet.peft_config[_NAME].to_dict()
    config["target_modules"] = sorted(config["target_modules"])
    family = of_network(unet)
    getattr(diffusers, family.pipeline).save_lora_weights(str(folder), **{
        f"{family.denoiser}_lora_layers": get_peft_model_state_dict(unet, adapter_name=_NAME),
        f"{family.denoiser}_lora_adapter_metadata": config,
    })  # fmt: skip


def load_adapter(unet: Any, folder: Path) -> None:
    """Puts a saved adapter on ``unet``, in place of any other.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    import json

    from peft import set_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    path = folder / "pytorch_lora_weights.safetensors"
    part = of_network(unet).denoiser
    try:
        with safe_open(str(path), framework="pt") as opened:
            tensors = {key.removeprefix(f"{part}."): opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            config = json.loads(opened.metadata()["lora_adapter_metadata"])
        rank, alpha = int(config[f"{part}.r"]), float(config[f"{part}.lora_alpha"])
        more = not set(config[f"{part}.target_modules"]).isdisjoint(of_network(unet).feed_forward)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as err:
        raise UserError(f"the adapter {path} cannot be read: {err}", valid="a file written by save_adapter") from err
    attach(unet, rank=rank, alpha=alpha, generator=torch.Generator(), targets=TARGETS[more])
    set_peft_model_state_dict(unet, tensors, adapter_name=_NAME)


def _layers(unet: Any) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [m for m in unet.modules() if isinstance(m, BaseTunerLayer)]


@contextmanager
def disabled(unet: Any) -> Iterator[None]:
    """Inside, the U-Net is the base model exactly; without an adapter nothing changes."""
    layers = _layers(unet)
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@contextmanager
def scaled(unet: Any, scale: float) -> Iterator[None]:
    """Inside, the adapter's part is multiplied by ``scale``."""
    layers = _layers(unet)
    for layer in layers:
        layer.set_scale(_NAME, scale)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_scale(_NAME, 1.0)
