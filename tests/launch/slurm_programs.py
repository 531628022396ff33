"""Where Slurm's programs come from: installed, or Debian's packages unpacked into a cache folder without root."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

SYSTEM_PATH = os.pathsep.join(("/usr/sbin", "/sbin"))
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
ACCOUNTING_PROGRAMS = ("slurmdbd", "sacct", "sacctmgr", "mariadbd")
INSTALL = (
    "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge slurmdbd mariadb-server-core "
    "(with a policy-rc.d that keeps daemons from starting; .ci/run does it)"
)
# what Debian 12 needs beside its base system; slurm-client brings the commands, the plug-ins are a package of their own
DEBS = ("slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "munge", "libmunge2", "libhwloc15",
        "liblua5.1-0", "libfreeipmi17", "libipmimonitoring6", "libpmix2")  # fmt: skip


class NoSlurm(Exception):
    """Slurm is not here and could not be unpacked; says how to get it."""


@dataclass(frozen=True)
class Programs:
    """Where the programs are, and what the environment and slurm.conf need to find the rest."""

    root: Path | None = None
    """Folder of the unpacked packages; None: installed."""
    path: str = ""
    """In front of PATH."""
    env: dict[str, str] = field(default_factory=dict)

    @property
    def conf_lines(self) -> list[str]:
        return [f"PluginDir={_libraries(self.root)}/slurm-wlm"] if self.root else []

    @property
    def slurmd_args(self) -> list[str]:
        return ["-d", str(self.root / "usr/sbin/slurmstepd-wlm")] if self.root else []

    def which(self, name: str) -> str:
        found = shutil.which(name, path=os.pathsep.join(filter(None, (self.path, os.environ["PATH"], SYSTEM_PATH))))
        if found is None:
            raise NoSlurm(f"there is no {name} on this machine: {INSTALL}")
        return found


def find(*, accounting: bool = False) -> Programs:
    """Installed programs, else unpacked ones.

    Raises:
        NoSlurm: neither; the accounting variant needs installed ones.
    """
    installed = Programs()
    try:
        for name in (*PROGRAMS, *(ACCOUNTING_PROGRAMS if accounting else ())):
            installed.which(name)
    except NoSlurm:
        if accounting:
            raise
        return unpacked(Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tunebench" / "slurm-debs")
    return installed


def unpacked(root: Path) -> Programs:
    """Debian's packages in ``root``, fetched and unpacked there where they are not yet; no root rights needed.

    Raises:
        NoSlurm: no apt-get, or it cannot fetch.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    with (root.parent / f"{root.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "bin/slurmctld").exists():
            _unpack(root)
    libraries = _libraries(root)
    path = os.pathsep.join(str(root / p) for p in ("bin", "usr/bin", "usr/sbin"))
    known = os.environ.get("LD_LIBRARY_PATH", "")
    return Programs(root, path, {
        "PATH": os.pathsep.join((path, os.environ["PATH"])),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, (f"{libraries}/slurm-wlm", str(libraries), known))),
    })  # fmt: skip


def _unpack(root: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise NoSlurm(f"Slurm is not installed and this is no Debian to unpack it from; on Debian: {INSTALL}")
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        making = Path(folder) / "root"
        fetch = subprocess.run(["apt-get", "download", "-q", *_existing(DEBS)], cwd=folder, capture_output=True,
                               text=True, check=False)  # fmt: skip
        if fetch.returncode:
            raise NoSlurm(f"Slurm is not installed and apt-get download failed: {fetch.stderr.strip()}\n{INSTALL}")
        for deb in sorted(Path(folder).glob("*.deb")):
            subprocess.run(["dpkg", "-x", str(deb), str(making)], check=True)
        # Debian's names of the daemons are links that its maintainer scripts make
        (making / "bin").mkdir()
        for name in ("slurmctld", "slurmd", "slurmstepd"):
            if (making / f"usr/sbin/{name}-wlm").exists():
                (making / "bin" / name).symlink_to(root / f"usr/sbin/{name}-wlm")
        shutil.rmtree(root, ignore_errors=True)
        making.rename(root)


def _existing(names: tuple[str, ...]) -> list[str]:
    """Those that this release of Debian has."""
    known = subprocess.run(["apt-cache", "pkgnames"], capture_output=True, text=True, check=False).stdout.split()
    return sorted(set(names) & set(known))


def _libraries(root: Path | None) -> Path:
    assert root is not None
    (found,) = root.glob("usr/lib/*-linux-gnu")
    return found


def main() -> int:
    """Says what would be used: ``python -m tests.launch.slurm_programs``."""
    try:
        print(find())
    except NoSlurm as err:
        print(err, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
