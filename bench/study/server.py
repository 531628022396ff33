"""``bench study serve``: the study's page for raters on one network. Standard library and SQLite, nothing else.

GET  /r/<token>        the page; the first browser that opens a link keeps it
POST /r/<token>/votes  {"study", "rater", "votes": [...]} -> {"stored": [ids]}, once they are on the disk
GET  /images/<name>    an image by its blinded name
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.core.errors import UserError
from bench.study.ballot import Refused, parse_vote
from bench.study.database import Votes
from bench.study.page import render

MAX_BODY_BYTES = 256 << 10
MAX_VOTES = 100
REQUEST_TIMEOUT_S = 30.0
_PAGE = re.compile(r"/r/([0-9a-f]{16})")
_POST = re.compile(r"/r/([0-9a-f]{16})/votes")
_IMAGE = re.compile(r"/images/([0-9a-f]{16})\.png")
LOOPBACK = ("127.0.0.1", "localhost")


class StudyServer(ThreadingHTTPServer):
    """Serves one study folder."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], folder: Path, study: Mapping[str, Any]) -> None:
        self.folder = folder
        self.study = study
        self.votes = Votes(folder, study)
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A rater who closes the page in the middle of an answer is no error; anything else is told."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def open_server(folder: Path, study: Mapping[str, Any], host: str, port: int) -> StudyServer:
    """Raises UserError where the address cannot be had."""
    try:
        return StudyServer((host, port), folder, study)
    except OSError as err:
        raise UserError(f"cannot listen on {host} port {port}: {err.strerror}", hint="--port 0 for a free one") from err


class _Handler(BaseHTTPRequestHandler):
    server: StudyServer
    protocol_version = "HTTP/1.1"
    server_version = "TuneBench"
    sys_version = ""
    timeout = REQUEST_TIMEOUT_S

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if found := _PAGE.fullmatch(path):
            self._page(found[1])
        elif found := _IMAGE.fullmatch(path):
            self._image(found[1])
        else:
            self._say(HTTPStatus.NOT_FOUND, "There is nothing here: open the link that you were given.")

    def do_POST(self) -> None:
        found = _POST.fullmatch(urlsplit(self.path).path)
        body = self._body()
        if body is None:
            return
        if not found or not self.server.votes.holds(found[1], self._session(found[1])):
            self._say(HTTPStatus.FORBIDDEN, "this link was not opened by this browser")
            return
        try:
            stored = self.server.votes.store(found[1], self._votes(found[1], body))
        except (Refused, ValueError, RecursionError) as err:
            self._say(HTTPStatus.BAD_REQUEST, str(err))
            return
        self._send(HTTPStatus.OK, json.dumps({"stored": stored}).encode(), "application/json")

    def _votes(self, token: str, body: bytes) -> list[Any]:
        content = json.loads(body)
        if not isinstance(content, dict) or set(content) != {"study", "rater", "votes"}:
            raise Refused("expected study, rater and votes")
        if content["study"] != self.server.study["id"] or content["rater"] != token:
            raise Refused("these votes belong to another study or rater")
        if not isinstance(content["votes"], list) or not 0 < len(content["votes"]) <= MAX_VOTES:
            raise Refused(f"expected 1 to {MAX_VOTES} votes")
        return [parse_vote(vote) for vote in content["votes"]]

    def _page(self, token: str) -> None:
        session = self.server.votes.claim(token, self._session(token))
        if session is None:
            self._say(HTTPStatus.GONE, "This link is unknown, or it was opened in another browser: links work once.")
            return
        config = {
            "server": True, "rater": token, "post": f"/r/{token}/votes",
            "votes": [vote.to_json(token) for vote in self.server.votes.of(token)],
        }  # fmt: skip
        page = render(self.server.study, lambda name: f"/images/{name}.png", config)
        cookie = f"study_{token}={session}; Path=/r/{token}; HttpOnly; SameSite=Strict; Max-Age=31536000"
        self._send(HTTPStatus.OK, page.encode(), "text/html; charset=utf-8", {"Set-Cookie": cookie})

    def _image(self, name: str) -> None:
        if name not in self.server.study["images"]:
            self._say(HTTPStatus.NOT_FOUND, "There is no such image.")
            return
        data = (self.server.folder / "images" / f"{name}.png").read_bytes()
        self._send(HTTPStatus.OK, data, "image/png", {"Cache-Control": "private, max-age=86400, immutable"})

    def _session(self, token: str) -> str | None:
        try:
            morsel = SimpleCookie(self.headers.get("Cookie", "")).get(f"study_{token}")
        except CookieError:
            return None
        return morsel.value if morsel else None

    def _body(self) -> bytes | None:
        """The request's body, or None after saying why it is not taken; then the connection ends."""
        length = self.headers.get("Content-Length", "")
        problem = None
        if self.headers.get_content_type() != "application/json":
            problem = HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "votes come as application/json"
        elif not length.isascii() or not length.isdigit():
            problem = HTTPStatus.LENGTH_REQUIRED, "the request does not say how long it is"
        elif int(length) > MAX_BODY_BYTES:
            problem = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {MAX_BODY_BYTES >> 10} KiB"
        if problem:
            self.close_connection = True
            self._say(*problem)
            return None
        return self.rfile.read(int(length))

    def _say(self, status: HTTPStatus, text: str) -> None:
        self._send(status, text.encode(), "text/plain; charset=utf-8")

    def _send(self, status: HTTPStatus, body: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        common = {
            "Content-Type": kind, "Content-Length": str(len(body)), "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY", "Cache-Control": "no-store",
        }  # fmt: skip
        for name, value in {**common, **(headers or {})}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing about raters is written down but their votes."""
