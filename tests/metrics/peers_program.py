"""Features and Fréchet distances by the peers' own packages, in a process of its own: they want torchvision, which our
environment must not have. ``python peers_program.py WEIGHTS OUT FOLDER FOLDER [--whole]`` writes OUT, an .npz.

Their network is the one of ``default_1.pt``, which is TensorFlow's graph: its parameters go under the names that
pytorch-fid and torch-fidelity gave them. clean-fid's own file is that graph too, so it gets it as it is.
"""

from __future__ import annotations

import io
import sys
import types
from pathlib import Path

import numpy as np
import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:
    # beside a torch that is no CUDA build its compiled operators do not load; nobody here calls one
    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[name]
    sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")

STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
BLOCKS = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
N_DIMS = 4
"""Features that the peers' distances are taken of, so that their roots cost nothing."""


def towers(block: str) -> dict[str, str]:
    """A block's branches: TensorFlow's name to PyTorch's."""
    def chain(tower: str, branch: str, n: int) -> dict[str, str]:
        return {f"{tower}.conv" + (f"_{i}" if i else ""): f"{branch}_{i + 1}" for i in range(n)}

    ends = {"conv": "branch1x1", "tower_2.conv": "branch_pool"}
    if block in ("5b", "5c", "5d"):
        return {**ends, **chain("tower", "branch5x5", 2), **chain("tower_1", "branch3x3dbl", 3)}
    if block == "6a":
        return {"conv": "branch3x3", **chain("tower", "branch3x3dbl", 3)}
    if block.startswith("6"):
        return {**ends, **chain("tower", "branch7x7", 3), **chain("tower_1", "branch7x7dbl", 5)}
    if block == "7a":
        return {**chain("tower", "branch3x3", 2), **chain("tower_1", "branch7x7x3", 4)}
    return {
        "conv": "branch1x1", "tower_2_conv": "branch_pool", "tower_conv": "branch3x3_1",
        "tower_mixed_conv": "branch3x3_2a", "tower_mixed_conv_1": "branch3x3_2b",
        "tower_1_conv": "branch3x3dbl_1", "tower_1_conv_1": "branch3x3dbl_2",
        "tower_1_mixed_conv": "branch3x3dbl_3a", "tower_1_mixed_conv_1": "branch3x3dbl_3b",
    }  # fmt: skip


def state_dict(script: torch.jit.ScriptModule) -> dict[str, torch.Tensor]:
    """Under the peers' names. The classifier is not in the file, and no feature reads it."""
    names = {"conv" + (f"_{i}" if i else ""): there for i, there in enumerate(STEM)}
    for i, block in enumerate(BLOCKS):
        here = "mixed" + (f"_{i}" if i else "")
        names |= {f"{here}.{inside}": f"Mixed_{block}.{branch}" for inside, branch in towers(block).items()}
    state = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    parts = {"weight": "conv.weight", "beta": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}
    for key, value in script.state_dict().items():
        layer, _, kind = key.removeprefix("net.layers.").rpartition(".")
        state[f"{names[layer]}.{parts[kind]}"] = value
        if kind == "beta":
            state[f"{names[layer]}.bn.weight"] = torch.ones_like(value)
    return state


def main(weights: str, out: str, folders: list[str], whole: bool) -> None:
    script = torch.jit.load(weights, map_location="cpu").eval()
    state = state_dict(script)
    found: dict[str, np.ndarray] = {}
    paths = [sorted(Path(folder).glob("*.png")) for folder in folders]

    from pytorch_fid import fid_score, inception

    inception.load_state_dict_from_url = lambda *args, **kwargs: state  # in place of its download
    network = inception.InceptionV3([3]).eval()
    for k in (0, 1):
        found[f"pytorch-fid {k}"] = fid_score.get_activations(paths[k], network, 8, 2048, "cpu", num_workers=0)

    from PIL import Image
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    extractor = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=file)
    for k in (0, 1):
        batch = torch.stack([torch.from_numpy(np.array(Image.open(p).convert("RGB"))) for p in paths[k]])
        with torch.no_grad():
            found[f"torch-fidelity {k}"] = extractor(batch.permute(0, 3, 1, 2).contiguous())[0].numpy()

    from cleanfid import fid

    def graph(x: torch.Tensor) -> torch.Tensor:
        return script((x - 128) / 128)

    for k in (0, 1):
        found[f"clean {k}"] = fid.get_folder_features(folders[k], graph, num_workers=0, batch_size=8,
                                                      device=torch.device("cpu"), verbose=False)  # fmt: skip

    def distances(features: dict[str, np.ndarray]) -> list[float]:
        def of(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return x.mean(0), np.cov(x, rowvar=False)

        a, b = of(features["pytorch-fid 0"]), of(features["pytorch-fid 1"])
        c, d = (fid_features_to_statistics(torch.from_numpy(features[f"torch-fidelity {k}"])) for k in (0, 1))
        fidelity = fid_statistics_to_metric(c, d, verbose=False)["frechet_inception_distance"]
        return [fid_score.calculate_frechet_distance(*a, *b), fidelity,
                fid.fid_from_feats(features["clean 0"], features["clean 1"])]  # fmt: skip

    few = np.array(distances({name: x[:, :N_DIMS] for name, x in found.items()}))
    all_dims = {"whole": np.array(distances(found))} if whole else {}
    np.savez(out, **found, few=few, **all_dims)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:5], "--whole" in sys.argv)
