"""A hub on 127.0.0.1: the listing of a revision, files with ranges, a redirect to storage, connections that are cut."""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """Serves ``repos``: name → {path: bytes}. Large files (``.pt``, ``.safetensors``) are behind a redirect, as LFS is.

    Args:
        pieces: bytes of a large file that each connection in turn brings before it breaks; when there are no more,
            they hold.
    """

    def __init__(self, repos: dict[str, dict[str, bytes]], pieces: Iterable[int] = ()) -> None:
        self.repos = repos
        self.pieces = iter(pieces)
        self.states_digests = True
        """Whether the listing has them, as the hub's does."""
        self.wrong_bytes = False
        self.forbidden = False
        self.requests: list[tuple[str, str, str]] = []
        """(path, Range, Authorization) of each."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.requests.append((self.path, self.headers.get("Range", ""), self.headers.get("Authorization", "")))
                hub.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        path = urllib.parse.unquote(to.path.partition("?")[0]).strip("/")
        kind, *rest = path.split("/")
        if self.forbidden:
            to.send_error(403)
        elif kind == "api":
            self._listing(to, "/".join(rest[1:3]))
        elif kind == "storage":
            self._file(to, self._found("/".join(rest[:2]), "/".join(rest[2:])), large=True)
        else:
            repo, file = "/".join((kind, rest[0])), "/".join(rest[3:])
            if not self._found(repo, file):
                to.send_error(404)
            elif file.endswith((".pt", ".safetensors")):
                to.send_response(302)
                to.send_header("Location", f"{self.url.replace('127.0.0.1', 'localhost')}/storage/{repo}/{file}")
                to.send_header("Content-Length", "0")
                to.end_headers()
            else:
                self._file(to, self._found(repo, file), large=False)

    def _found(self, repo: str, file: str) -> bytes:
        return self.repos.get(repo, {}).get(file, b"")

    def _listing(self, to: BaseHTTPRequestHandler, repo: str) -> None:
        if repo not in self.repos:
            to.send_error(404)
            return
        siblings = []
        for path, content in self.repos[repo].items():
            entry: dict[str, Any] = {"rfilename": path, "size": len(content)}
            entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            if path.endswith((".pt", ".safetensors")) and self.states_digests:
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
                entry["blobId"] = "0" * 40
            if not self.states_digests:
                del entry["blobId"]
            siblings.append(entry)
        body = json.dumps({"sha": "c" * 40, "siblings": siblings}).encode()
        to.send_response(200)
        to.send_header("Content-Length", str(len(body)))
        to.end_headers()
        to.wfile.write(body)

    def _file(self, to: BaseHTTPRequestHandler, content: bytes, *, large: bool) -> None:
        if self.wrong_bytes:
            content = content[:-1] + bytes([content[-1] ^ 1])
        ranged = to.headers.get("Range")
        start = int(ranged.removeprefix("bytes=").rstrip("-")) if ranged else 0
        to.send_response(206 if ranged else 200)
        to.send_header("Content-Length", str(len(content) - start))
        if ranged:
            to.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        to.end_headers()
        part = content[start:]
        # a connection that closes before Content-Length is one that broke
        to.wfile.write(part[: next(self.pieces, None)] if large else part)
