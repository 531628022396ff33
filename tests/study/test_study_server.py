"""The server: one-time links, nothing lost by kill -9 or by sending twice, nothing taken that does not belong."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import UserError
from bench.study.ballot import assigned
from bench.study.database import Votes
from bench.study.importing import import_votes
from bench.study.server import MAX_BODY_BYTES, StudyServer, open_server
from tests.study.test_votes import RUN_WINS
from tests.study.world import new_study, read, vote_all


class Client:
    """One browser: keeps its cookies."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookies: dict[str, str] = {}

    def ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json", **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            sent = {**({"Content-Type": kind} if body is not None else {}), **headers}
            if self.cookies:
                sent["Cookie"] = "; ".join(f"{k}={v}" for k, v in self.cookies.items())
            connection.request(method, path, body, sent)
            reply = connection.getresponse()
            data = reply.read()
            if cookie := reply.getheader("Set-Cookie"):
                name, _, value = cookie.partition(";")[0].partition("=")
                self.cookies[name] = value
            return reply.status, data, dict(reply.getheaders())
        finally:
            connection.close()

    def vote(self, study: Any, token: str, votes: list[Any], /, **changes: Any) -> tuple[int, Any]:
        content = {"study": study["id"], "rater": token, "votes": [v.to_json(token) for v in votes], **changes}
        status, data, _ = self.ask("POST", f"/r/{token}/votes", json.dumps(content).encode())
        return status, json.loads(data) if status == 200 else data.decode()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[StudyServer, dict[str, Any], dict[str, Any]]]:
    out = new_study(tmp_path, "pairwise")
    study = read(out, "study")
    server = open_server(out, study, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server, study, read(out, "key")
    server.shutdown()
    server.server_close()
    thread.join()


def port_of(server: StudyServer) -> int:
    return int(server.server_address[1])


def test_a_link_works_in_the_browser_that_opens_it_first_and_in_no_other(served: Any) -> None:
    server, study, key = served
    (token,) = server.votes.add_links(1)
    first, second = Client(port_of(server)), Client(port_of(server))
    status, page, headers = first.ask("GET", f"/r/{token}")
    assert (status, b"Image study" in page) == (200, True)
    assert "HttpOnly" in headers["Set-Cookie"] and "SameSite=Strict" in headers["Set-Cookie"]
    assert headers["Cache-Control"] == "no-store"
    assert first.ask("GET", f"/r/{token}")[0] == 200
    assert second.ask("GET", f"/r/{token}")[0] == 410
    votes = vote_all(study, key, token, RUN_WINS)
    assert second.vote(study, token, votes[:1])[0] == 403
    assert first.vote(study, token, votes[:1])[0] == 200
    assert first.ask("GET", "/r/" + "0" * 16)[0] == 410
    assert [c["name"] for c in key["contestants"] if c["name"].encode() in page and c["name"] != "base"] == []


def test_the_page_knows_what_arrived_before(served: Any) -> None:
    server, study, key = served
    (token,) = server.votes.add_links(1)
    client = Client(port_of(server))
    client.ask("GET", f"/r/{token}")
    votes = vote_all(study, key, token, RUN_WINS)
    client.vote(study, token, votes[:3])
    _, page, _ = client.ask("GET", f"/r/{token}")
    config = json.loads(page.decode().partition('id="config">')[2].partition("</script>")[0])
    assert config["votes"] == sorted((v.to_json(token) for v in votes[:3]), key=lambda v: v["id"])


def test_sending_twice_is_voting_once_and_two_stories_are_refused(served: Any) -> None:
    server, study, key = served
    (token,) = server.votes.add_links(1)
    client = Client(port_of(server))
    client.ask("GET", f"/r/{token}")
    votes = vote_all(study, key, token, RUN_WINS)
    assert client.vote(study, token, votes) == client.vote(study, token, votes)
    assert len(server.votes.of(token)) == len(votes) == 13
    other = votes[0].__class__(votes[0].trial, 0, {"preference": "tie"}, 5)
    status, why = client.vote(study, token, [votes[1], other])
    assert (status, "is there with other answers" in why) == (400, True)
    assert client.vote(study, token, [votes[0].__class__(votes[0].trial, 1, {"preference": "tie"}, 5)])[0] == 200
    (ballot,) = server.votes.ballots()
    assert {v.trial: v.answers["preference"] for v in ballot.votes}[votes[0].trial] == "tie"


def test_what_does_not_belong_is_refused_and_nothing_of_it_stored(served: Any) -> None:
    server, study, key = served
    a, b = server.votes.add_links(2)
    client = Client(port_of(server))
    for token in (a, b):
        client.ask("GET", f"/r/{token}")
    mine, others = vote_all(study, key, a, RUN_WINS), vote_all(study, key, b, RUN_WINS)
    assert len(study["variants"]) == 2
    assert client.vote(study, a, [mine[0], others[0]])[0] == 400  # b was dealt the other variant
    assert client.vote(study, a, mine, study="000000000000")[0] == 400
    assert client.vote(study, a, mine, rater=b)[0] == 400
    assert client.vote(study, a, mine, more=1)[0] == 400
    assert client.vote(study, a, mine, votes=[])[0] == 400
    assert client.vote(study, a, mine * 20)[0] == 400
    path = f"/r/{a}/votes"
    assert client.ask("POST", path, b"{", "application/json")[0] == 400
    assert client.ask("POST", path, b"[" * 50_000, "application/json")[0] == 400
    assert client.ask("POST", path, b"\xff\xfe", "application/json")[0] == 400
    assert client.ask("POST", path, b"{}", "text/plain")[0] == 415
    assert client.ask("POST", path, b"x" * (MAX_BODY_BYTES + 1), "application/json")[0] == 413
    assert client.ask("POST", f"/r/{a}", b"{}")[0] == 403
    assert server.votes.of(a) == server.votes.of(b) == []
    assert client.vote(study, a, mine[:1])[0] == 200


def test_nothing_else_of_the_folder_is_served(served: Any) -> None:
    server, _, _ = served
    absent = "/images/" + "0" * 16 + ".png"
    for path in ("/", "/key.json", "/study.json", "/votes.db", "/images/../key.json", "/images/%2e%2e/key.json", absent,
                 "/r/", "//etc/passwd", "/r/x'--"):  # fmt: skip
        status, data, _ = Client(port_of(server)).ask("GET", path)
        assert (status, b"secret" in data) == (404, False), path


def test_images_are_served_by_their_blinded_names(served: Any) -> None:
    server, study, _ = served
    name = next(iter(study["images"]))
    status, data, headers = Client(port_of(server)).ask("GET", f"/images/{name}.png")
    assert (status, headers["Content-Type"], data[:4]) == (200, "image/png", b"\x89PNG")


def test_links_deal_out_the_variants_in_turn(served: Any) -> None:
    server, study, _ = served
    tokens = [*server.votes.add_links(3), *server.votes.add_links(5)]
    firsts = [{t["id"] for t in assigned(study, token)} for token in tokens]
    assert firsts[0] == firsts[2] == firsts[4] == firsts[6] != firsts[1] == firsts[3] == firsts[5] == firsts[7]
    assert [row[0] for row in server.votes.links()] == tokens


def test_many_raters_at_once(served: Any) -> None:
    server, study, key = served
    tokens = server.votes.add_links(12)
    failed: list[Any] = []

    def rate(token: str) -> None:
        client = Client(port_of(server))
        client.ask("GET", f"/r/{token}")
        for vote in vote_all(study, key, token, RUN_WINS):
            status, reply = client.vote(study, token, [vote])
            if status != 200:
                failed.append(reply)

    threads = [threading.Thread(target=rate, args=(token,)) for token in tokens]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert [len(b.votes) for b in server.votes.ballots()] == [13] * 12


def test_a_damaged_database_and_a_taken_port_are_one_sentence(tmp_path: Path) -> None:
    out = new_study(tmp_path, "pairwise")
    study = read(out, "study")
    server = open_server(out, study, "127.0.0.1", 0)
    with pytest.raises(UserError, match="cannot listen"):
        open_server(out, study, "127.0.0.1", port_of(server))
    server.server_close()
    (out / "votes.db").write_bytes(b"no database at all, but long enough to be looked at" * 40)
    with pytest.raises(UserError, match=r"votes\.db cannot be used"):
        Votes(out, study)


class Served:
    """``bench study serve`` as a process."""

    def __init__(self, out: Path, port: int = 0) -> None:
        command = [sys.executable, "-m", "bench", "study", "serve", str(out), "--port", str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        self.port = int(self.said.partition("127.0.0.1:")[2].partition(";")[0])

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def test_kill_9_between_any_two_votes_loses_none_that_was_acknowledged(tmp_path: Path) -> None:
    out = new_study(tmp_path, "pairwise")
    study, key = read(out, "study"), read(out, "key")
    (token,) = Votes(out, study).add_links(1)
    votes = vote_all(study, key, token, RUN_WINS)
    client = Client(0)
    acknowledged: set[str] = set()
    for start in range(0, len(votes), 5):
        server = Served(out)
        client.port = server.port
        assert client.ask("GET", f"/r/{token}")[0] == 200  # the same session goes on after the restart
        for vote in votes[max(0, start - 1) : start + 5]:
            status, reply = client.vote(study, token, [vote])
            assert status == 200
            acknowledged |= set(reply["stored"])
        server.kill()
    stored = {v.to_json(token)["id"] for v in Votes(out, study).of(token)}
    assert stored == acknowledged
    assert len(stored) == len(votes)
    found = import_votes(out, [])
    assert (found.taken, found.tally.meetings[0].rate.losses) == ((token,), 10)
    assert import_votes(out, []).known == (token,)


def test_it_listens_on_this_machine_alone_and_says_how_to_open_it(tmp_path: Path) -> None:
    out = new_study(tmp_path, "pairwise")
    server = Served(out)
    assert server.process.stdout is not None
    told = server.process.stdout.readline() + server.process.stdout.readline()
    server.kill()
    assert "no links yet: bench study links" in told
    assert "--host 0.0.0.0" in told
