"""Reference statistics: what samples are compared with, in one file that says under which protocol it was made.

A file is an ``.npz`` with ``mu`` and ``sigma`` (the names that pytorch-fid uses, so its tools read it too), the
symmetric ``root`` of sigma, the ``features`` of up to 20,000 pictures (KID and CMMD need them), and a ``passport``.
Reading needs no torch.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.core.errors import UserError
from bench.core.identity import canonical_json
from bench.metrics.gaussian import Gaussian, moments
from bench.metrics.precision import whole_float32
from bench.metrics.requirements import PROTOCOL_OF
from bench.store import atomic

if TYPE_CHECKING:
    import torch

    from bench.metrics.extractors import FeatureNetwork

FORMAT = "tunebench-reference/1"
N_WITH_FEATURES = 20_000
"""Up to here features are kept beside the sums: 164 MB for Inception's."""

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
_SHOWN = 10
_BATCH = 32


@dataclass(frozen=True)
class Reference:
    """Pictures that samples are compared with, as a network saw them."""

    name: str
    protocol: str
    content_hash: str
    """Over the sorted digests of the pictures' files: their names and order play no part."""
    n: int | None
    """Pictures; None where a file does not say."""
    extractor: str
    """Digest of the network's weights; "" where a file does not say."""
    features: NDArray[np.float32] | None
    kept: Gaussian | None = None
    """Mean and covariance where a file has them; else they are made of the features."""

    @cached_property
    def gaussian(self) -> Gaussian:
        if self.kept is not None:
            return self.kept
        assert self.features is not None
        return Gaussian.of(self.features)

    @property
    def passport(self) -> dict[str, Any]:
        return {"format": FORMAT, "name": self.name, "protocol": self.protocol, "pictures": self.content_hash,
                "n": self.n, "extractor": self.extractor, "dtype": "float32 network, float64 statistics"}  # fmt: skip


def write_reference(path: Path, reference: Reference) -> None:
    """Writes the file whole or not at all."""
    g = reference.gaussian
    arrays: dict[str, Any] = {"mu": g.mu, "sigma": g.sigma, "root": g.root}
    if reference.features is not None:
        arrays["features"] = reference.features
    file = io.BytesIO()
    np.savez(file, passport=np.array(canonical_json(reference.passport)), **arrays)
    atomic.write_bytes(path, file.getvalue())


def read_reference(path: Path, protocol: str | None = None) -> Reference:
    """The reference in a file of ``bench refs build``, or of pytorch-fid (``mu`` and ``sigma``, nothing else).

    Args:
        protocol: the only one that will do; None takes any.

    Raises:
        UserError: no such file, damaged, not a file of statistics, or made under another protocol.
    """
    valid = "a file of 'bench refs build', or an .npz with mu and sigma as pytorch-fid writes it"
    try:
        if path.is_file() and not zipfile.is_zipfile(path):
            raise UserError(f"{path} cannot be read as reference statistics: it is no .npz, or is cut off", valid=valid)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            arrays = {key: kept[key] for key in kept.files}
        if not {"mu", "sigma"} <= arrays.keys():
            holds = ", ".join(sorted(arrays)) or "nothing"
            raise UserError(f"{path} holds no reference statistics: {holds}", valid=valid)
        mu, sigma = np.asarray(arrays["mu"], np.float64), np.asarray(arrays["sigma"], np.float64)
    except OSError as err:
        raise UserError(f"{path} cannot be read as reference statistics: {err.strerror or err}", valid=valid) from err
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as err:
        # NumPy's own words advise to load pickles, which run what is in them
        raise UserError(f"{path} cannot be read as reference statistics: an array in it is damaged or not of numbers",
                        valid=valid) from err  # fmt: skip
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)) or not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UserError(f"{path}: mu {mu.shape} and sigma {sigma.shape} are no finite mean and covariance", valid=valid)
    found = _ours(path, mu, sigma, arrays) if "passport" in arrays else _pytorch_fid(path, mu, sigma)
    if protocol is not None and found.protocol != protocol:
        raise UserError(f"{path} was made under the protocol {found.protocol!r}, and {protocol!r} is needed: the same "
                        "pictures under two protocols differ by up to 4 %", valid=f"a reference of {protocol!r}",
                        hint=f"bench refs build FOLDER --protocol {protocol} --out FILE")  # fmt: skip
    return found


def _ours(path: Path, mu: NDArray[np.float64], sigma: NDArray[np.float64], arrays: Mapping[str, Any]) -> Reference:
    try:
        passport = json.loads(str(arrays["passport"]))
        if passport["format"] != FORMAT:
            raise ValueError(f"format {passport['format']!r}")
        return Reference(
            passport["name"], passport["protocol"], passport["pictures"], passport["n"], passport["extractor"],
            np.asarray(arrays["features"], np.float32) if "features" in arrays else None,
            Gaussian.with_root(mu, sigma, np.asarray(arrays["root"], np.float64)),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as err:
        raise UserError(f"{path}: its passport cannot be read: {type(err).__name__}: {err}",
                        valid=f"a file in the format {FORMAT}", hint="bench refs build") from err  # fmt: skip


def _pytorch_fid(path: Path, mu: NDArray[np.float64], sigma: NDArray[np.float64]) -> Reference:
    """Its files say neither how many pictures there were nor which network it was: the content is the numbers."""
    content = hashlib.sha256(mu.tobytes() + sigma.tobytes()).hexdigest()
    gaussian = Gaussian(mu, (sigma + sigma.T) / 2)
    return Reference(f"{path.name} (pytorch-fid)", "pytorch-fid", content, None, "", None, gaussian)


# ------------------------------------------------------------------------------------------------- a folder of pictures


def pictures_of(folder: Path) -> list[Path]:
    """All pictures below a folder. Raises UserError where there is no folder or no picture."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
    if not paths:
        what = "there are no pictures in" if folder.is_dir() else "there is no folder"
        raise UserError(f"{what} {folder}", valid="a folder with " + ", ".join(sorted(PICTURES)))
    return paths


def check_pictures(paths: Sequence[Path]) -> str:
    """Decodes every picture before any network runs, and gives the digest over their sorted file digests.

    Raises:
        UserError: names the files that cannot be decoded whole.
    """
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(_digest_of, paths))
    broken = [str(path) for path, sha in zip(paths, found, strict=True) if not sha]
    if broken:
        more = f" and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        raise UserError(f"{len(broken)} of {len(paths)} pictures cannot be decoded: {', '.join(broken[:_SHOWN])}{more}",
                        valid="whole picture files; none is left out")  # fmt: skip
    return hashlib.sha256("".join(sorted(found)).encode()).hexdigest()


def _digest_of(path: Path) -> str:
    """SHA-256 of the file, "" where it is no whole picture."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return ""
    return hashlib.sha256(data).hexdigest()


def build(
    folder: Path, network: FeatureNetwork, *, keep_features: bool | None = None,
    advance: Callable[[int], object] = lambda n: None,
) -> Reference:  # fmt: skip
    """The reference of all pictures of a folder; their sizes may differ.

    Args:
        network: of ``extractors.load_extractor``.
        keep_features: None keeps them for up to ``N_WITH_FEATURES`` pictures.
        advance: told how many pictures were done, batch by batch.

    Raises:
        UserError: no pictures, fewer than two, or some that cannot be decoded: named before anything is computed.
    """
    paths = pictures_of(folder)
    content = check_pictures(paths)
    if len(paths) < 2:
        raise UserError(f"{folder} holds one picture: a covariance needs two")
    if keep_features is None:
        keep_features = len(paths) <= N_WITH_FEATURES
    kept: list[NDArray[np.float32]] = []

    def batches() -> Iterator[NDArray[np.float32]]:
        for features in _features(paths, network):
            if keep_features:
                kept.append(features)
            advance(len(features))
            yield features

    gaussian = moments(batches()).gaussian()
    return Reference(
        folder.resolve().name, network.protocol, content, len(paths), network.sha256,
        np.concatenate(kept) if keep_features else None, gaussian,
    )  # fmt: skip


def _features(paths: Sequence[Path], network: FeatureNetwork) -> Iterator[NDArray[np.float32]]:
    """(B, D) batch by batch: pictures are decoded ahead of the network and prepared one by one, as sizes differ."""
    import torch

    with ThreadPoolExecutor(4) as pool, torch.no_grad(), whole_float32():
        groups = [paths[i : i + _BATCH] for i in range(0, len(paths), _BATCH)]
        ahead = [pool.submit(lambda g: [_decode(p) for p in g], group) for group in groups[:2]]
        for i in range(len(groups)):
            decoded = ahead.pop(0).result()
            if i + 2 < len(groups):
                ahead.append(pool.submit(lambda g: [_decode(p) for p in g], groups[i + 2]))
            prepared = torch.cat([network.prepare(pixels) for pixels in decoded])
            yield network.embed(prepared).float().cpu().numpy()


def _decode(path: Path) -> torch.Tensor:
    """(1, 3, H, W) uint8."""
    import torch

    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]


# ---------------------------------------------------------------------------------------------------------- for a suite


def references_in(data: Path | None, suite_name: str, variant: str, protocols: Collection[str]) -> list[Path]:
    """Files in ``<data>/references/<suite>[.<variant>]/`` that were made under these protocols; a variant has its own.

    Raises:
        UserError: a file there that is none.
    """
    if data is None:
        return []
    name = f"{suite_name}.{variant}" if variant else suite_name
    return [path for path in sorted((data / "references" / name).glob("*.npz")) if protocol_of(path) in protocols]


def protocol_of(path: Path) -> str:
    """The protocol a file was made under, without reading its matrices. Raises UserError as ``read_reference``."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            if "passport" in kept.files:
                return str(json.loads(str(kept["passport"]))["protocol"])
            if {"mu", "sigma"} <= set(kept.files):
                return "pytorch-fid"
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        pass
    return read_reference(path).protocol  # says what is wrong


def pick(paths: Sequence[str], protocol: str) -> Path | None:
    """The file of that protocol, the first one named; None where there is none."""
    return next((Path(path) for path in paths if protocol_of(Path(path)) == protocol), None)


def _state(path: Path) -> tuple[int, int]:
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else (0, 0)


@functools.lru_cache(maxsize=8)
def _read_whole(path: str, size: int, mtime_ns: int) -> str:
    """The protocol of a file that was read to its end, once a process while it stays as it is."""
    return read_reference(Path(path)).protocol


def unused(paths: Sequence[str], protocols: Mapping[str, str]) -> list[str]:
    """Problems with references that none of these metrics (metric → protocol) can use, and with unreadable ones."""
    problems = []
    for path in paths:
        try:
            found = _read_whole(path, *_state(Path(path)))
        except UserError as err:
            problems.append(str(err))
            continue
        if found not in protocols.values():
            needs = ", ".join(f"{metric} needs {protocol}" for metric, protocol in protocols.items()) or "none is used"
            add = [metric for metric, protocol in PROTOCOL_OF.items() if protocol == found]
            more = f" (--metrics +{add[0]} compares with it)" if add else ""
            problems.append(f"the reference {path} was made under the protocol {found!r}: {needs}{more}")
    return problems


