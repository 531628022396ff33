"""What stands in the private cluster's configuration files, and why."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

# any character devices do: without cgroups they are never opened
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")


@dataclass(frozen=True)
class Settings:
    """A cluster to be; the defaults make tests quick."""

    base: Path
    user: str
    port: int
    """The first of consecutive free ports: slurmctld, slurmdbd, then one a node."""
    n_nodes: int = 2
    cpus: int = 4
    """Claimed by each node, whatever the machine has."""
    memory_mb: int = 4000
    gpus: int = 2
    accounting: bool = False
    """With slurmdbd and MariaDB, so that sacct works."""
    accounts: tuple[str, ...] = ()
    """Further sacctmgr commands before the controller starts, such as limits."""
    cred_expire_s: int = 5
    """Also what a requeued job waits before it starts again; 1 acts as 120."""
    kill_wait_s: int = 5
    grace_s: int = 0
    """Between the preemption signal and the end, in partition main."""
    user_signal: bool = False
    """Preemption sends the job the signal that it asked for (``preempt_send_user_signal``)."""
    min_job_age_s: int = 300
    """How long a finished job stays known to squeue."""
    partitions: tuple[str, ...] = ()
    """Further lines ``PartitionName=...``."""
    extra: tuple[str, ...] = ()
    """Further lines of slurm.conf."""

    @property
    def name(self) -> str:
        """The cluster's name: unique, since jobs carry it and strays are found by it."""
        return f"tb{self.port}"

    @property
    def nodes(self) -> list[str]:
        return [f"n{i}" for i in range(1, self.n_nodes + 1)]


def slurm_conf(s: Settings, more: list[str]) -> str:
    """slurm.conf of Slurm 22.05; one unknown key stops every daemon and every command."""
    base, port = s.base, s.port
    database = [
        "AccountingStorageType=accounting_storage/slurmdbd", "AccountingStorageHost=127.0.0.1",
        f"AccountingStoragePort={port + 1}", "AccountingStorageTRES=gres/gpu",
        "AccountingStorageEnforce=associations,limits,qos", f"AccountingStoragePass={base}/munge/sock",
    ]  # fmt: skip
    lines = [
        f"ClusterName={s.name}",
        # the name must be this machine's, the address need not resolve
        f"SlurmctldHost={socket.gethostname()}(127.0.0.1)", f"SlurmctldPort={port}",
        f"SlurmUser={s.user}", f"SlurmdUser={s.user}",
        "AuthType=auth/munge", "CredType=cred/munge",
        f"AuthInfo=socket={base}/munge/sock,cred_expire={s.cred_expire_s}",
        f"StateSaveLocation={base}/state", f"SlurmdSpoolDir={base}/spool/%n",
        f"SlurmctldPidFile={base}/run/slurmctld.pid", f"SlurmdPidFile={base}/run/slurmd-%n.pid",
        f"SlurmctldLogFile={base}/log/slurmctld.log", f"SlurmdLogFile={base}/log/slurmd-%n.log",
        # follows parent pids: a job ends at once, but an orphan escapes; teardown looks for those
        "ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none", "JobAcctGatherType=jobacct_gather/none",
        "SelectType=select/cons_tres", "SelectTypeParameters=CR_Core_Memory" if s.memory_mb else "",
        "SchedulerType=sched/backfill", "SchedulerParameters=sched_min_interval=10000,bf_interval=1",
        "MpiDefault=none", "SlurmdParameters=config_overrides", "ReturnToService=2",
        # else the daemons listen on every address
        "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny",
        "SlurmctldParameters=preempt_send_user_signal" if s.user_signal else "",
        "JobRequeue=1", f"KillWait={s.kill_wait_s}", f"MinJobAge={s.min_job_age_s}", "SlurmctldTimeout=10",
        "SlurmdTimeout=15", "PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE",
        "JobCompType=jobcomp/filetxt", f"JobCompLoc={base}/log/jobcomp.log",
        *(database if s.accounting else ["AccountingStorageType=accounting_storage/none"]),
        "GresTypes=gpu" if s.gpus else "",
        f"NodeName=n[1-{s.n_nodes}] NodeHostname=localhost NodeAddr=127.0.0.1 "
        f"Port=[{port + 2}-{port + 1 + s.n_nodes}] CPUs={s.cpus} RealMemory={s.memory_mb} "
        f"{f'Gres=gpu:{s.gpus} ' if s.gpus else ''}State=UNKNOWN",
        "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE "
        f"GraceTime={s.grace_s} DefMemPerCPU=100",
        "PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF DefMemPerCPU=100",
        *s.partitions, *s.extra, *more,
    ]  # fmt: skip
    return "".join(f"{line}\n" for line in lines if line)


def gres_conf(s: Settings) -> str:
    """One line a fake GPU; the flag makes Slurm hand out CUDA_VISIBLE_DEVICES."""
    return "".join(
        f"NodeName=n[1-{s.n_nodes}] Name=gpu File={device} Flags=nvidia_gpu_env\n" for device in DEVICES[: s.gpus]
    )


def slurmdbd_conf(s: Settings) -> str:
    """slurmdbd.conf: the database is found by MYSQL_UNIX_PORT in slurmdbd's environment."""
    lines = [
        "AuthType=auth/munge", f"AuthInfo={s.base}/munge/sock", "DbdHost=localhost", "DbdAddr=127.0.0.1",
        f"DbdPort={s.port + 1}", f"SlurmUser={s.user}", f"LogFile={s.base}/log/slurmdbd.log",
        f"PidFile={s.base}/run/slurmdbd.pid", "StorageType=accounting_storage/mysql", "StorageHost=localhost",
        "StorageUser=root", "StorageLoc=slurm_acct",
    ]  # fmt: skip
    return "".join(f"{line}\n" for line in lines)
