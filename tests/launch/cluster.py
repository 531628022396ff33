"""A private real Slurm: two virtual nodes with fake GPUs, loopback only, no root, in a short temporary folder.

Slurm finds everything through ``SLURM_CONF``; nothing of the system's own Slurm is touched. The folder is
short because a socket's path holds 108 bytes. Every daemon runs in the foreground and dies with this process.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.launch import slurm_programs
from tests.launch.slurm_conf import Settings, gres_conf, slurm_conf, slurmdbd_conf

READY_S = 30.0
SYSTEM_TABLES = Path("/usr/share/mysql/mysql_system_tables.sql")


class ClusterFailed(Exception):
    """The cluster did not come up, or left something behind."""


@dataclass(frozen=True)
class Daemon:
    """One process we started; the start time tells it from a later process of the same pid."""

    name: str
    pid: int
    start_time: str

    def alive(self) -> bool:
        """Whether it runs; a zombie does not."""
        state, start = _stat(self.pid)
        return state not in ("", "Z") and start == self.start_time


class Cluster:
    """A running Slurm; end it with ``down``. ``with Cluster.up() as cluster: ...`` does both."""

    def __init__(self, settings: Settings, programs: slurm_programs.Programs) -> None:
        self.settings = settings
        self.base = settings.base
        self.programs = programs
        self.exports: dict[str, str] = {"SLURM_CONF": str(self.base / "slurm.conf"), **programs.env}
        """What a process needs in its environment to talk to this cluster."""
        self.daemons: list[Daemon] = []
        self.up_s = self.down_s = 0.0

    @classmethod
    @contextlib.contextmanager
    def up(cls, **options: object) -> Iterator[Cluster]:
        """A cluster for the block.

        Args:
            options: fields of ``Settings``, such as ``accounting=True`` or ``extra=("MaxArraySize=5",)``.

        Raises:
            slurm_programs.NoSlurm: its programs are not here.
            ClusterFailed: it did not come up (its logs are in the message), or a process was left over.
        """
        programs = slurm_programs.find(accounting=bool(options.get("accounting")))
        base = Path(tempfile.mkdtemp(prefix="tbslurm-", dir="/tmp"))
        cluster = cls(Settings(base=base, user=getpass.getuser(), port=_free_ports(8), **options), programs)  # type: ignore[arg-type]
        try:
            start = time.monotonic()
            cluster._start_all()
            cluster.up_s = time.monotonic() - start
            yield cluster
        finally:
            start = time.monotonic()
            strays = cluster.down()
            cluster.down_s = time.monotonic() - start
        if strays:
            raise ClusterFailed(f"processes outlived their cluster and were killed: {strays}")

    # --- for tests ---

    @property
    def env(self) -> dict[str, str]:
        """This process's environment with the cluster's exports; nothing of a job that we may run in."""
        return {**{k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}, **self.exports}

    def run(self, *command: str, check: bool = True, timeout_s: float = 60.0) -> str:
        """Standard output of a Slurm command; CalledProcessError with its standard error where it fails."""
        done = subprocess.run([self.programs.which(command[0]), *command[1:]], capture_output=True, text=True,
                              env=self.env, check=False, timeout=timeout_s)  # fmt: skip
        if check and done.returncode:
            raise ClusterFailed(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def queue(self) -> dict[str, str]:
        """Job id (``12`` or ``12_3``) to state of every job that Slurm still knows, finished ones included."""
        lines = self.run("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T").split()
        return dict(line.split("|") for line in lines)

    def active(self) -> dict[str, str]:
        """Jobs that are not over."""
        lines = self.run("squeue", "-h", "-r", "-o", "%i|%T").split()
        return dict(line.split("|") for line in lines)

    def wait(self, ready: Callable[[], object], timeout_s: float = 60.0, poll_s: float = 0.1) -> None:
        """Until ``ready()`` is true. Raises ClusterFailed with the queue after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if time.monotonic() > deadline:
                raise ClusterFailed(f"not so after {timeout_s:.0f} s; the queue: {self.queue()}")
            time.sleep(poll_s)

    def wait_idle(self, timeout_s: float = 120.0) -> None:
        """Until no job waits or runs."""
        self.wait(lambda: not self.active(), timeout_s)

    def daemon(self, name: str) -> Daemon:
        """The running daemon ``slurmctld``, ``slurmd-n1``, ``munged``..."""
        return next(d for d in reversed(self.daemons) if d.name == name)

    def signal(self, name: str, sign: signal.Signals = signal.SIGKILL) -> None:
        """Signals one of our daemons; SIGKILL of ``slurmd-n1`` is a node failure whose jobs run on."""
        os.kill(self.daemon(name).pid, sign)

    def start(self, name: str, *options: str) -> None:
        """Starts ``slurmctld`` or ``slurmd-n1`` again."""
        command = ["slurmctld", "-D"] if name == "slurmctld" else self._slurmd(name.removeprefix("slurmd-"))
        self._start(name, [*command, *options])

    def idle_nodes(self) -> int:
        lines = self.run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N", check=False, timeout_s=20.0)
        return len(set(lines.split()))

    # --- bring-up ---

    def _start_all(self) -> None:
        s = self.settings
        for folder in ("munge", "state", "log", "run", "tmp", *(f"spool/{node}" for node in s.nodes)):
            (self.base / folder).mkdir(parents=True)
        self.base.chmod(0o755)
        (self.base / "munge").chmod(0o711)
        key = self.base / "munge/key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self._start("munged", [
            "munged", "--foreground", f"--key-file={key}", f"--socket={self.base}/munge/sock", "--num-threads=2",
            f"--pid-file={self.base}/munge/pid", f"--log-file={self.base}/munge/log",
            f"--seed-file={self.base}/munge/seed",
        ])  # fmt: skip
        self._until("munged", (self.base / "munge/sock").exists, 5.0)
        (self.base / "gres.conf").write_text(gres_conf(s))
        (self.base / "slurm.conf").write_text(slurm_conf(s, self.programs.conf_lines))
        if s.accounting:
            self._start_accounting()
        self._start("slurmctld", ["slurmctld", "-D"])
        for node in s.nodes:
            self._start(f"slurmd-{node}", self._slurmd(node))
        self._until("slurmctld", lambda: self.idle_nodes() == len(s.nodes), READY_S)

    def _slurmd(self, node: str) -> list[str]:
        return ["slurmd", "-D", "-N", node, *self.programs.slurmd_args]

    def _start_accounting(self) -> None:
        """A database on a socket only, with neither password nor TCP; libmariadb takes it for localhost."""
        data = self.base / "db"
        if os.access("/dev/shm", os.W_OK):
            # laying out the system tables takes 0.4 s there and 4 s on disk
            data.symlink_to(tempfile.mkdtemp(prefix="tbslurm-db-", dir="/dev/shm"))
        data.mkdir(exist_ok=True)
        common = ["--no-defaults", f"--user={self.settings.user}", f"--datadir={data}", "--skip-log-bin",
                  "--innodb-log-file-size=4M"]  # fmt: skip
        # what mariadb-install-db does, without the client programs that it wants
        tables = "create database mysql;\nuse mysql;\n" + SYSTEM_TABLES.read_text("utf-8")
        with (self.base / "log/install-db.out").open("w") as log:
            subprocess.run([self.programs.which("mariadbd"), *common, "--bootstrap"], input=tables, text=True,
                           stdout=log, stderr=subprocess.STDOUT, check=True)  # fmt: skip
        self._start("mariadbd", [
            "mariadbd", *common, f"--socket={self.base}/db.sock", "--skip-networking", "--skip-grant-tables",
            f"--pid-file={self.base}/run/mariadbd.pid", "--innodb-buffer-pool-size=64M",
            "--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900", "--performance-schema=OFF",
        ])  # fmt: skip
        self._until("mariadbd", (self.base / "db.sock").exists, 20.0)
        conf = self.base / "slurmdbd.conf"
        conf.write_text(slurmdbd_conf(self.settings))
        conf.chmod(0o600)
        self._start("slurmdbd", ["slurmdbd", "-D"], MYSQL_UNIX_PORT=str(self.base / "db.sock"))
        log_file = self.base / "log/slurmdbd.log"
        self._until("slurmdbd", lambda: log_file.exists() and " started" in log_file.read_text("utf-8"), 20.0)
        user = f"add user {self.settings.user} account=default adminlevel=Admin"
        for command in (f"add cluster {self.settings.name}", "add account default", user, *self.settings.accounts):
            self.run("sacctmgr", "-i", *command.split())

    def _start(self, name: str, command: Sequence[str], **env: str) -> None:
        """In the daemon's foreground mode and a session of its own; it dies with this process."""
        with (self.base / "log" / f"{name}.out").open("a") as out:
            child = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", self.programs.which(command[0]), *command[1:]],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                env={**self.env, **env},
            )  # fmt: skip
        self.daemons.append(Daemon(name, child.pid, _stat(child.pid)[1]))
        # _end waits for it; Popen would warn about a child that still runs
        child.returncode = 0

    def _until(self, name: str, ready: Callable[[], object], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not ready():
            if time.monotonic() > deadline or not self.daemon(name).alive():
                logs = [p for p in sorted((self.base / "log").iterdir()) if p.stat().st_size]
                tails = "\n".join(f"--- {p.name}\n{p.read_text('utf-8', errors='replace')[-2000:]}" for p in logs)
                raise ClusterFailed(f"{name} did not come up in {timeout_s:.0f} s\n{tails}")
            time.sleep(0.02)

    # --- tear-down ---

    def down(self) -> list[str]:
        """Cancels all jobs and ends what we started, one pid at a time.

        Returns:
            Command lines of job processes that outlived Slurm; they were killed.
        """
        with contextlib.suppress(Exception):
            self._cancel_all()
        for prefix in ("slurmd-", "slurmctld", "slurmdbd", "mariadbd", "munged"):
            _end([d for d in self.daemons if d.name.startswith(prefix)], 20.0 if prefix == "mariadbd" else 10.0)
        strays = []
        for pid in self._processes(steps_only=False):
            strays.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip())
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        data = self.base / "db"
        if data.is_symlink():
            shutil.rmtree(data.resolve())
        shutil.rmtree(self.base)
        return strays

    def _cancel_all(self) -> None:
        if not (self.daemons and self.daemon("slurmctld").alive()):
            return
        ids = self.run("squeue", "-h", "-o", "%A", timeout_s=20.0).split()
        if ids:
            self.run("scancel", *sorted(set(ids)), timeout_s=20.0)
        deadline = time.monotonic() + self.settings.kill_wait_s + 3.0
        while self._processes(steps_only=True) and time.monotonic() < deadline:
            time.sleep(0.05)

    def _processes(self, *, steps_only: bool) -> list[int]:
        """What this cluster's daemons started: their slurmstepd, and processes of jobs."""
        conf, name = (f"{k}={v}".encode() for k, v in (
            ("SLURM_CONF", self.exports["SLURM_CONF"]), ("SLURM_CLUSTER_NAME", self.settings.name)
        ))  # fmt: skip
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                env = set((entry / "environ").read_bytes().split(b"\0"))
                step = (entry / "cmdline").read_bytes().startswith(b"slurmstepd")
            except OSError:
                continue
            if (
                conf in env
                and (step or (not steps_only and name in env))
                and _stat(int(entry.name))[0] not in ("", "Z")
            ):
                found.append(int(entry.name))
        return found


def _end(daemons: Sequence[Daemon], timeout_s: float) -> None:
    """SIGTERM, and SIGKILL for those that are still there after ``timeout_s``."""
    for sign, wait_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 5.0)):
        for daemon in daemons:
            if daemon.alive():
                os.kill(daemon.pid, sign)
        deadline = time.monotonic() + wait_s
        while any(d.alive() for d in daemons) and time.monotonic() < deadline:
            time.sleep(0.02)
    for daemon in daemons:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(daemon.pid, os.WNOHANG)


def _stat(pid: int) -> tuple[str, str]:
    """(state, start time) of a process; empty when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]


def _free_ports(n: int) -> int:
    """The first of ``n`` consecutive free TCP ports below the ephemeral range."""
    for _ in range(200):
        first = random.SystemRandom().randrange(20000, 32000)
        with contextlib.ExitStack() as held:
            try:
                for port in range(first, first + n):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise ClusterFailed("no free ports between 20000 and 32000")
