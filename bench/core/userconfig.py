"""The user's own settings: ``~/.config/tunebench/config.toml``, or the file that ``--config`` names."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.errors import UserError, unknown_name

TABLES = ("slurm",)


def default_path() -> Path:
    """Where the file is when ``--config`` does not say."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "tunebench" / "config.toml"


def read(path: Path | None = None) -> Mapping[str, Any]:
    """The settings in ``path``; without one, those of the default file, which need not exist.

    Raises:
        UserError: no such file, no TOML, or a table that nobody reads.
    """
    found = path or default_path()
    if path is None and not found.exists():
        return {}
    try:
        data = tomllib.loads(found.read_text("utf-8"))
    except OSError as err:
        raise UserError(f"cannot read {found}: {err.strerror}", hint="--config FILE") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise UserError(f"{found} is no TOML: {err}", valid="see docs/cluster.md for one that works") from err
    for name, table in data.items():
        if name not in TABLES:
            raise unknown_name(f"table in {found}", name, TABLES, "docs/cluster.md")
        if not isinstance(table, dict):
            raise UserError(f"{found}: {name} is no table", valid=f"[{name}]")
    return data
