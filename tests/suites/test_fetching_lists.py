"""Downloads against a server on this machine: cut, resumed, changed in between, wrong, archived, refused."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.store import download
from bench.store.lock import exclusive
from suites import _card
from suites._fetch import FOLDER, Fetched, fetch
from suites._files import Published

TEXT = b"".join(b"a photo of %d cats\n" % n for n in range(20_000))


@dataclass
class Server:
    """Serves ``files`` by path with ranges, and misbehaves as told."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)
    """For the next answers: so many bytes of the body, then the connection is closed."""
    ranges: bool = True
    etag: str = '"v1"'
    status: list[int] = field(default_factory=list)
    """For the next answers: this status and nothing else."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(path, Range) of every request."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "CHUNK", 4096)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            it.asked.append((self.path, wanted))
            body = it.files.get(self.path)
            status = it.status.pop(0) if it.status else 200 if body is not None else 404
            if status != 200 or body is None:
                self.send_error(status)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and it.ranges else 0
            if wanted and self.headers.get("If-Range", it.etag) != it.etag:
                start = 0
            if start >= len(body) and start:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            if it.etag:
                self.send_header("ETag", it.etag)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.end_headers()
            n = it.cut_after.pop(0) if it.cut_after else len(body)
            self.wfile.write(body[start : start + n])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    it = Server(f"http://127.0.0.1:{httpd.server_address[1]}")
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield it
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def _file(server: Server, **changes: Any) -> Published:
    file = Published("there/list.txt", "lines", 20_000, f"{server.url}/list.txt", "CC0",
                     sha256=hashlib.sha256(TEXT).hexdigest())  # fmt: skip
    return replace(file, **changes)


def _fetch_one(file: Published, root: Path, said: list[str] | None = None) -> Fetched:
    (found,) = fetch([file], root, (said if said is not None else []).append, pause_s=0.0)
    return found


def _left(root: Path) -> list[str]:
    return sorted(p.name for p in root.rglob("*") if p.is_file())


def test_a_file_gets_its_name_and_nothing_else_stays(server: Server, tmp_path: Path) -> None:
    server.files["/list.txt"] = TEXT
    said: list[str] = []
    found = _fetch_one(_file(server), tmp_path, said)
    assert found.error is None
    assert (tmp_path / "there" / "list.txt").read_bytes() == TEXT
    assert _left(tmp_path) == ["list.txt"]
    assert not (tmp_path / FOLDER).exists()
    # the licence comes before anything is asked of the server
    assert said[0] == f"there/list.txt: licence CC0, from {server.url}/list.txt"
    assert len(server.asked) == 1


def test_a_cut_connection_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.files["/list.txt"] = TEXT
    server.cut_after = [100_000, 50_000]
    found = _fetch_one(_file(server), tmp_path)
    assert found.error is None
    assert (tmp_path / "there" / "list.txt").read_bytes() == TEXT
    assert [wanted for _, wanted in server.asked] == ["", "bytes=100000-", "bytes=150000-"]


def test_the_same_command_again_goes_on_in_another_process(server: Server, tmp_path: Path) -> None:
    server.files["/list.txt"] = TEXT
    server.cut_after = [100_000, *[0] * download.N_TRIES]
    found = _fetch_one(_file(server), tmp_path)
    assert found.error is not None
    assert "the connection was cut; 100,000 bytes are here" in str(found.error)
    assert "the same command again goes on" in found.error.hint
    assert not (tmp_path / "there").exists()
    server.asked.clear()
    assert _fetch_one(_file(server), tmp_path).error is None
    assert [wanted for _, wanted in server.asked] == ["bytes=100000-"]
    assert (tmp_path / "there" / "list.txt").read_bytes() == TEXT
    assert _left(tmp_path) == ["list.txt"]


def test_a_file_that_changed_on_the_server_is_not_stitched(server: Server, tmp_path: Path) -> None:
    server.files["/list.txt"] = b"x" * len(TEXT)
    server.cut_after = [100_000, *[0] * download.N_TRIES]
    _fetch_one(_file(server), tmp_path)
    server.files["/list.txt"], server.etag = TEXT, '"v2"'
    assert _fetch_one(_file(server), tmp_path).error is None
    assert (tmp_path / "there" / "list.txt").read_bytes() == TEXT


def test_without_a_validator_two_halves_that_do_not_fit_are_fetched_again(server: Server, tmp_path: Path) -> None:
    server.files["/list.txt"], server.etag = b"x" * len(TEXT), ""
    server.cut_after = [100_000, *[0] * download.N_TRIES]
    _fetch_one(_file(server), tmp_path)
    server.files["/list.txt"] = TEXT
    server.asked.clear()
    assert _fetch_one(_file(server), tmp_path).error is None
    assert [wanted for _, wanted in server.asked] == ["bytes=100000-", ""]


def test_a_server_without_ranges_begins_again(server: Server, tmp_path: Path) -> None:
    server.files["/list.txt"], server.ranges = TEXT, False
    server.cut_after = [100_000]
    assert _fetch_one(_file(server), tmp_path).error is None
    assert (tmp_path / "there" / "list.txt").read_bytes() == TEXT


def test_a_whole_part_whose_check_was_interrupted_is_not_asked_for_forever(server: Server, tmp_path: Path) -> None:
    server.files["/list.txt"] = TEXT
    server.cut_after = [100_000, *[0] * download.N_TRIES]
    _fetch_one(_file(server), tmp_path)
    (part,) = (p for p in (tmp_path / FOLDER).iterdir() if p.name.endswith("list.txt"))
    part.write_bytes(TEXT)  # as if the process had ended between download and check
    server.asked.clear()
    assert _fetch_one(_file(server), tmp_path).error is None
    assert (tmp_path / "there" / "list.txt").read_bytes() == TEXT
    assert not server.asked


@pytest.mark.parametrize(("body", "says"), [
    (TEXT.replace(b"17 cats", b"17 dogs"), "all 20,000 rows are there, but its text"),
    (TEXT.replace(b"\n", b"\r\n"), "its line ends were converted"),
    (TEXT[:-1000], "good rows instead of 20,000"),
    (b"<!DOCTYPE html><html>sign in</html>", "it is a web page"),
])  # fmt: skip
def test_what_is_not_as_published_gets_no_name(server: Server, tmp_path: Path, body: bytes, says: str) -> None:
    server.files["/list.txt"] = body
    found = _fetch_one(_file(server), tmp_path)
    assert found.error is not None
    assert says in str(found.error)
    assert "nothing was put at" in str(found.error)
    assert _left(tmp_path) == []


def test_a_wrong_download_leaves_the_old_file_and_a_right_one_replaces_it(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "there" / "list.txt"
    path.parent.mkdir()
    path.write_text("half a list")
    server.files["/list.txt"] = b"something else\n"
    assert _fetch_one(_file(server), tmp_path).error is not None
    assert path.read_text() == "half a list"
    server.files["/list.txt"] = TEXT
    assert _fetch_one(_file(server), tmp_path).error is None
    assert path.read_bytes() == TEXT


def test_a_member_of_an_archive(server: Server, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations/list.txt", TEXT)
        archive.writestr("annotations/other.txt", b"a\n")
    server.files["/all.zip"] = packed.getvalue()
    server.cut_after = [len(packed.getvalue()) // 2]
    first = _file(server, url=f"{server.url}/all.zip", member="annotations/list.txt")
    other = replace(first, path="there/other.txt", member="annotations/other.txt", n_rows=1, sha256="")
    absent = replace(other, path="there/absent.txt", member="annotations/absent.txt")
    found = fetch([first, other, absent], tmp_path, [].append, pause_s=0.0)
    assert [f.error is None for f in found] == [True, True, False]
    assert "the archive holds no annotations/absent.txt" in str(found[2].error)
    assert (tmp_path / "there" / "list.txt").read_bytes() == TEXT
    # one archive is downloaded once, however many files are in it
    assert [path for path, _ in server.asked] == ["/all.zip", "/all.zip"]
    assert _left(tmp_path) == ["list.txt", "other.txt"]
    server.files["/all.zip"] = packed.getvalue()[:-200]
    assert "the archive is damaged" in str(_fetch_one(replace(first, path="there/x.txt"), tmp_path).error)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_told_at_once(server: Server, tmp_path: Path, status: int) -> None:
    server.status = [status]
    server.files["/list.txt"] = TEXT
    found = _fetch_one(_file(server), tmp_path)
    assert found.error is not None
    assert f"the server answers {status}" in str(found.error)
    assert len(server.asked) == 1


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.status = [503, 429]
    server.files["/list.txt"] = TEXT
    assert _fetch_one(_file(server), tmp_path).error is None


def test_no_connection(tmp_path: Path, server: Server) -> None:
    # port 9 of this machine: nobody listens
    found = _fetch_one(_file(server, url="http://127.0.0.1:9/list.txt"), tmp_path)
    assert found.error is not None
    assert "refused" in str(found.error)
    assert "by hand" in found.error.hint


def test_no_room(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/list.txt"] = TEXT
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    assert f"no room for {len(TEXT):,} bytes" in str(_fetch_one(_file(server), tmp_path).error)


def test_two_at_once_do_not_write_one_file(tmp_path: Path, server: Server) -> None:
    server.files["/list.txt"] = TEXT
    name = f"{hashlib.sha256(f'{server.url}/list.txt'.encode()).hexdigest()[:12]}-list.txt.lock"
    with exclusive(tmp_path / FOLDER / name, "x"):
        error = _fetch_one(_file(server), tmp_path).error
    assert error is not None
    assert "is being worked on by another process" in str(error)
    assert not server.asked


def test_one_failure_keeps_no_other_file_from_being_fetched(server: Server, tmp_path: Path) -> None:
    server.files["/list.txt"] = TEXT
    absent = _file(server, path="there/absent.txt", url=f"{server.url}/absent.txt")
    found = fetch([absent, _file(server)], tmp_path, [].append, pause_s=0.0)
    assert [f.error is None for f in found] == [False, True]


# ---------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def parti_here(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The card of PartiPrompts and ReFL's list, with this server as their origin."""
    rows = "Prompt\tCategory\tChallenge\tNote\n" + "a cat\tAnimals\tBasic\t\n" * 4
    card = dict(_card.card("parti"))
    card["files"] = {"parti": {**card["files"]["parti"], "n_rows": 4, "sha256": "", "url": f"{server.url}/p.tsv"}}
    monkeypatch.setattr("suites.data.files", lambda name: {"parti": _card.published(card["files"]["parti"])})
    from suites import _train

    refl = Published("refl.json", "json-objects", 1, f"{server.url}/refl.json", "CC0", ("text",))
    found = _train.TrainList("refl", "ReFL's list", "", "text", (refl,))
    monkeypatch.setattr("suites._train.lists", lambda: {"refl": found})
    monkeypatch.setattr("suites.data.lists", lambda: {"refl": found})
    server.files["/p.tsv"] = rows.encode()
    server.files["/refl.json"] = b'[{"text": "a dog"}]'
    return server


def test_the_command_brings_what_a_suite_needs_and_says_what_is_there(
    parti_here: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(tmp_path / "data")]
    assert main(["data", "status", "parti", *data]) == 1
    assert main(["data", "fetch", "parti", *data]) == 0
    out = capsys.readouterr().out
    assert "licence Apache-2.0" in out
    assert (tmp_path / "data" / "parti" / "PartiPrompts.tsv").exists()
    assert main(["data", "status", "parti.People", *data]) == 0
    n = len(parti_here.asked)
    assert main(["data", "fetch", "parti-people", *data]) == 0
    assert capsys.readouterr().out.count("already there") == 2
    assert len(parti_here.asked) == n


def test_the_command_fails_when_a_file_is_not_what_was_published(
    parti_here: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parti_here.files["/p.tsv"] = b"Prompt\tCategory\tChallenge\tNote\na cat\tAnimals\tBasic\t\n"
    assert main(["data", "fetch", "parti", "--data", str(tmp_path), "--json"]) == 1
    printed = capsys.readouterr()
    files = {Path(f["path"]).name: f["error"] for f in json.loads(printed.out)["files"]}
    assert files["refl.json"] is None
    assert "1 good rows instead of 4" in files["PartiPrompts.tsv"]
    assert "licence" in printed.err
    assert not (tmp_path / "parti" / "PartiPrompts.tsv").exists()


def test_unknown_names_and_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.delenv("TUNEBENCH_DATA", raising=False)
    assert main(["data", "fetch", "cocoo", "--data", str(tmp_path)]) == 2
    assert "'coco'" in capsys.readouterr().err
    assert main(["data", "fetch", "coco"]) == 2
    assert "--data DIR" in capsys.readouterr().err
    assert main(["data", "fetch", "coco.val2071", "--data", str(tmp_path)]) == 2
    assert "'val2017'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
