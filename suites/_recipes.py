"""Recipes: the settings of a paper's run as ``bench run --recipe`` takes them, each with where it is stated."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.errors import UserError, unknown_name

FOLDER = Path(__file__).parent / "recipes"

PLAIN = ("suite", "edition", "model", "reward", "train_list", "tuner", "seeds", "fractions", "hard_limit_s")
"""Options that a recipe may fill, by the names of ``bench.engine.options.Options``."""

SCOPES = {"set": "settings", "protocol": "protocol", "budget": "budget"}
"""Prefix of a key to the repeatable option that its ``key=value`` goes to."""


@dataclass(frozen=True)
class Setting:
    """One setting and its source."""

    key: str
    value: Any
    source: str

    @property
    def pair(self) -> str:
        """``K=5`` of ``set.K``."""
        return f"{self.key.partition('.')[2]}={_plain(self.value)}"


@dataclass(frozen=True)
class Recipe:
    """A paper's run."""

    name: str
    title: str
    paper: str
    settings: tuple[Setting, ...]
    beyond: tuple[str, ...] = ()
    """What the paper states and no setting here says, each with what to do about it."""

    def options(self) -> dict[str, Any]:
        """The settings as options, by the names of ``bench.engine.options.Options``."""
        found: dict[str, Any] = dict.fromkeys(SCOPES.values(), ())
        for setting in self.settings:
            scope = SCOPES.get(setting.key.partition(".")[0])
            if scope is None:
                found[setting.key] = float(setting.value) if setting.key == "hard_limit_s" else str(setting.value)
            else:
                found[scope] = (*found[scope], setting.pair)
        return found


def names() -> list[str]:
    """Every recipe."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def recipe(name: str) -> Recipe:
    """The recipe of that name, or of a user's own file ``….toml``.

    Raises:
        UserError: unknown name, with the closest; a file that is not there or no recipe.
    """
    if not name.endswith(".toml") and ("/" in name or Path(name).is_file()):
        raise UserError(f"the recipe file {name} does not end in .toml", valid=_FORM,
                        hint=f"--recipe {Path(name).with_suffix('.toml')}")  # fmt: skip
    if not name.endswith(".toml") and name not in names():
        raise unknown_name("recipe", name, names(), "bench list recipes")
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        return parse(name, tomllib.loads(path.read_text("utf-8")))
    except OSError as err:
        raise UserError(f"{path} cannot be read: {err.strerror}", valid=_FORM, hint="bench list recipes") from err
    except ValueError as err:  # of TOML, or not UTF-8
        raise UserError(f"{path} is no TOML: {err}", valid=_FORM, hint="bench show recipe drtune-sd15") from err


_FORM = 'a TOML file with title, paper and a table [settings] of KEY = { is = VALUE, source = "§…" }'


def parse(name: str, table: Mapping[str, Any]) -> Recipe:
    """A recipe's TOML. Raises UserError for what is missing, a setting that is none, or one that has no source."""
    for part, kind in (("title", str), ("paper", str), ("settings", dict)):
        if not isinstance(table.get(part), kind):
            raise UserError(f"recipe {name}: there is no {part}", valid=_FORM)
    settings = []
    for key, entry in table["settings"].items():
        if key not in PLAIN and not (key.partition(".")[0] in SCOPES and key.partition(".")[2]):
            raise UserError(f"recipe {name}: there is no setting {key!r}",
                            valid=", ".join((*PLAIN, *(f"{scope}.KEY" for scope in SCOPES))))  # fmt: skip
        if not isinstance(entry, dict) or set(entry) != {"is", "source"} or not entry["source"]:
            raise UserError(f"recipe {name}: {key} needs a value and its source", valid='{ is = VALUE, source = "§…" }')
        if not isinstance(entry["is"], (int, float) if key == "hard_limit_s" else (str, int, float)):
            raise UserError(f"recipe {name}: {key} = {entry['is']!r}", valid="a number or a text")
        settings.append(Setting(key, entry["is"], entry["source"]))
    return Recipe(name, table["title"], table["paper"], tuple(settings), tuple(table.get("beyond", ())))


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
