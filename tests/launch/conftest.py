"""One private Slurm for all tests of the launcher; see ``tests/launch/cluster.py``."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.engine.conftest import World, random_model
from tests.launch.cluster import Cluster
from tests.launch.slurm_programs import NoSlurm

__all__ = ["random_model"]

SKIPPED: list[str] = []


def without_slurm(err: NoSlurm) -> None:
    """Fails where continuous integration runs, else skips and says at the end how to get Slurm."""
    if os.environ.get("TUNEBENCH_CI") or os.environ.get("CI"):
        pytest.fail(f"Slurm's tests never skip here: {err}")
    SKIPPED.append(str(err))
    pytest.skip(f"no Slurm: {err}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if SKIPPED:
        terminalreporter.section("Slurm tests did not run", red=True)
        terminalreporter.line(f"{len(SKIPPED)} test(s) that need a real Slurm did not run. {SKIPPED[0]}")


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[Cluster | NoSlurm]:
    """Up once a session, without accounting."""
    try:
        with Cluster.up() as cluster:
            yield cluster
    except NoSlurm as err:
        yield err


@pytest.fixture
def slurm(shared_cluster: Cluster | NoSlurm) -> Iterator[Cluster]:
    """The private cluster; a test that leaves a job behind fails."""
    if isinstance(shared_cluster, NoSlurm):
        without_slurm(shared_cluster)
    assert isinstance(shared_cluster, Cluster)
    yield shared_cluster
    left = shared_cluster.active()
    if left:
        shared_cluster.run("scancel", *left)
        shared_cluster.wait_idle()
        pytest.fail(f"jobs left behind: {left}")


@pytest.fixture
def world(random_model: object, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A micro suite and a random pipeline (tests/engine), with a run folder of its own."""
    return World(random_model, tmp_path_factory.mktemp("runs"))  # type: ignore[arg-type]


@pytest.fixture
def on_slurm(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """This process talks to the private cluster."""
    use(slurm, monkeypatch)
    return slurm


def use(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets this process, and what it starts, talk to ``cluster``."""
    for key in [k for k in os.environ if k.startswith(("SLURM_", "SBATCH_"))]:
        monkeypatch.delenv(key)
    for key, value in cluster.exports.items():
        monkeypatch.setenv(key, value)
    # nobody's own settings
    monkeypatch.setenv("XDG_CONFIG_HOME", str(cluster.base / "tmp"))
