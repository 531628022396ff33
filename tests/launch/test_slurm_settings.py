"""What a user says about clusters: profiles in the TOML file, --set over them, and what neither may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cli._options import split_settings
from bench.core import userconfig
from bench.core.errors import UserError
from bench.launch.slurm_settings import SlurmSettings, resolve

TOML = """
[slurm]
profile = "small"
cpus = 2

[slurm.profiles.small]
partition = "main"

[slurm.profiles.jz]
partition = "gpu_p13"
account = "abc@v100"
setup = ["module purge", "module load python/3.11"]
sbatch = { hint = "nomultithread" }
"""


@pytest.fixture
def user(tmp_path: Path) -> dict[str, object]:
    path = tmp_path / "config.toml"
    path.write_text(TOML)
    return dict(userconfig.read(path))


def test_the_named_profile_wins_over_the_table_and_the_command_line_over_both(user: dict[str, object]) -> None:
    default = resolve(user, {})
    assert (default.partition, default.cpus, default.account) == ("main", 2, "")
    jz = resolve(user, {"profile": "jz", "partition": "gpu_p2", "mem-gb": "32", "hold": "true"})
    assert (jz.partition, jz.account, jz.cpus, jz.mem_gb) == ("gpu_p2", "abc@v100", 2, 32.0)
    assert jz.setup == ("module purge", "module load python/3.11")
    assert jz.sbatch == {"hint": "nomultithread", "hold": "true"}


def test_without_a_file_there_are_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert userconfig.default_path() == tmp_path / "tunebench" / "config.toml"
    assert resolve(userconfig.read(), {}) == SlurmSettings()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"profile": "jx"}, "'jz'"),
        ({"cpus": "two"}, "a whole number"),
        ({"cpus": "0"}, "1 or more"),
        ({"report": "perhaps"}, "true or false"),
        ({"stages": "three"}, "split"),
    ],
)
def test_bad_values_say_what_is_valid(user: dict[str, object], given: dict[str, str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        resolve(user, given)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[slurm]\npartitoin = 'x'", "'partition'"),
        ("[slurm\n", "is no TOML"),
        ("[slrum]\n", "'slurm'"),
        ("slurm = 3", "is no table"),
        ("[slurm.profiles.a]\nsbatch = 'x'", "a table"),
    ],
)
def test_a_wrong_file_says_so(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        resolve(userconfig.read(path), {"profile": "a"} if "profiles" in text else {})
    with pytest.raises(UserError, match="cannot read"):
        userconfig.read(tmp_path / "none.toml")


def test_a_launchers_settings_never_reach_the_tuner() -> None:
    tuners, launchers = split_settings(["K=3", "drtune.K=4", "slurm.partition=gpu", "slurm.comment=a=b"])
    assert tuners == ("K=3", "drtune.K=4")
    assert launchers == {"slurm": {"partition": "gpu", "comment": "a=b"}}
    with pytest.raises(UserError, match="KEY=VALUE"):
        split_settings(["slurm.partition"])
