"""What sbatch says when it refuses a job, as one sentence: what is valid, and what to type."""

from __future__ import annotations

import difflib
import getpass
import re
import subprocess

from bench.core.errors import UserError
from bench.launch.slurm_cluster import ClusterFacts, away, unknown_partition
from bench.launch.slurm_settings import KEYS, SlurmSettings

LATER = "the same command again, later or with fewer --seeds: it submits what is missing"


def refusal(text: str, s: SlurmSettings, facts: ClusterFacts, n_tasks: int) -> UserError:
    """The error for sbatch's standard error ``text``.

    Args:
        n_tasks: of the array that was refused.
    """
    lines = [line.removeprefix("sbatch: error: ") for line in text.splitlines() if "error:" in line]
    said = "; ".join(dict.fromkeys(lines)) or (text.strip().splitlines() or ["no reason"])[-1]

    def has(*parts: str) -> bool:
        return any(part in text for part in parts)

    if has("Invalid partition name"):
        return unknown_partition(s.partition, facts)
    if has("Invalid account"):
        named = f"account {s.account!r}" if s.account else "your default account"
        return UserError(f"cluster {facts.name} refuses {named}: {said}",
                         valid=_associations("account"), hint="--set slurm.account=NAME")  # fmt: skip
    if has("Invalid qos"):
        return UserError(f"cluster {facts.name} refuses the quality of service {s.qos!r}: {said}",
                         valid=_associations("qos"), hint="--set slurm.qos=NAME")  # fmt: skip
    if has("violates accounting/QOS policy", "QOSMax", "AssocMax"):
        return UserError(f"an array of {n_tasks} job(s) is more than your limits on {facts.name} allow: {said}",
                         valid=_limits(), hint=LATER)  # fmt: skip
    if has("Resource temporarily unavailable"):
        return UserError(f"cluster {facts.name} holds no more jobs (MaxJobCount {facts.max_jobs}): {said}",
                         valid="as many as others leave room for", hint=LATER)  # fmt: skip
    if has("Unable to contact slurm controller", "Socket timed out", "Connection refused"):
        return away(said)
    if has("Invalid job array specification"):
        return UserError(f"an array of {n_tasks} is too large for {facts.name}: {said}",
                         valid=f"{facts.max_array} tasks (MaxArraySize)", hint=LATER)  # fmt: skip
    if has("Requested time limit is invalid"):
        return UserError(f"the walltime is too long for partition {s.partition or 'the default one'}: {said}",
                         valid="see: sinfo -o '%P %l'", hint="--set slurm.time_min=MINUTES")  # fmt: skip
    unknown = re.search(r"unrecognized option '--([^'=]+)", text)
    if unknown:
        return _unknown_option(unknown.group(1))
    return UserError(f"Slurm refused the job: {said}", valid="what 'sbatch' takes in this partition",
                     hint="the same command with --dry-run shows what is asked for")  # fmt: skip


def _unknown_option(name: str) -> UserError:
    """A key that is neither a setting of ours nor an option of sbatch."""
    text = subprocess.run(["sbatch", "--help"], capture_output=True, text=True, check=False).stdout
    known = [*KEYS, *dict.fromkeys(re.findall(r"--([a-z][a-z-]+)", text))]
    close = difflib.get_close_matches(name, known, n=1)
    return UserError(
        f"--set slurm.{name}: neither a setting of the slurm launcher nor an option of sbatch",
        valid=f"{', '.join(KEYS)}, or an option of 'sbatch --help'",
        hint=f"--set slurm.{close[0]}=..." if close else "sbatch --help",
    )


def _associations(column: str) -> str:
    """What the user may name, where the cluster keeps accounts."""
    return _sacctmgr("show", "assoc", f"user={getpass.getuser()}", f"format={column}") or "see: sacctmgr show assoc"


def _limits() -> str:
    found = _sacctmgr("show", "qos", "format=name,maxsubmitjobsperuser,maxjobsperuser")
    return f"name|jobs submitted|jobs running a user: {found}" if found else "see: sacctmgr show qos"


def _sacctmgr(*command: str) -> str:
    try:
        done = subprocess.run(["sacctmgr", "-n", "-P", *command], capture_output=True, text=True, check=False,
                              timeout=20.0)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ", ".join(dict.fromkeys(filter(None, done.stdout.split()))) if done.returncode == 0 else ""
