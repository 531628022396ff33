"""``bench show tuner``: all there is to know about one tuner, on a page of 100 columns."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.core.contract import Tuner
    from bench.engine.choosing import ChosenTuner

WIDTH = 100
NEEDS: Mapping[str, str] = {
    "differentiable-reward": "a reward with a gradient",
    "black-box-reward": "any reward, with or without a gradient",
    "pairs": "preference pairs, which it makes",
    "images": "images, which it makes",
    "reference": "the base model beside the tuned one",
    "attention": "access to the attention layers",
}


def facts(chosen: ChosenTuner) -> dict[str, Any]:
    """Everything as plain data; ``changed`` marks settings that differ from the default."""
    cls = chosen.cls
    return {
        "name": cls.name, "shown": chosen.label, "version": cls.version, "summary": _summary(cls), "paper": cls.paper,
        "equations": cls.equations, "deviations": list(cls.deviations), "needs": sorted(cls.needs_of(chosen.config)),
        "settings": {f.name: _setting(cls, f, getattr(chosen.config, f.name)) for f in _own_first(cls)},
        "presets": {name: dict(values) for name, values in cls.presets.items()},
    }  # fmt: skip


def _summary(cls: type[Tuner]) -> str:
    return (cls.__doc__ or "").strip().split("\n")[0]


def _setting(cls: type[Tuner], f: dataclasses.Field[Any], value: Any) -> dict[str, Any]:
    return {
        "value": value, "default": f.default, "changed": value != f.default, "type": type(f.default).__name__,
        **{key: f.metadata.get(key) for key in ("unit", "help", "source", "low", "high")},
        "choices": list(f.metadata.get("choices", ())), "group": _group(cls, f.name),
    }  # fmt: skip


def _own_first(cls: type[Tuner]) -> list[dataclasses.Field[Any]]:
    """Fields with those of the tuner's own class before what it shares with others."""
    depth = {c: i for i, c in enumerate(cls.Config.__mro__)}
    return sorted(dataclasses.fields(cls.Config), key=lambda f: depth[_declares(cls, f.name)])


def _declares(cls: type[Tuner], name: str) -> type:
    return next(c for c in cls.Config.__mro__ if name in inspect.get_annotations(c))


def _group(cls: type[Tuner], name: str) -> str:
    return (_declares(cls, name).__doc__ or "").strip().split("\n")[0].rstrip(".")


def text(page: Mapping[str, Any]) -> str:
    """The page of ``facts`` for people."""
    return "\n".join(_lines(page))


def _lines(page: Mapping[str, Any]) -> Iterator[str]:
    shown = f", preset {page['shown']}" if page["shown"] != page["name"] else ""
    yield f"{page['name']}{shown} (version {page['version']})"
    yield from _wrap(page["summary"])
    yield ""
    for label in ("paper", "equations"):
        if page[label]:
            yield from _wrap(page[label], f"{label:<11}")
    yield from _wrap("; ".join(f"{n} ({NEEDS.get(n, '')})" for n in page["needs"]) or "nothing", f"{'needs':<11}")
    if page["deviations"]:
        yield "\ndifferent from the paper:"
        for deviation in page["deviations"]:
            yield from _wrap(deviation, "  - ")
    if page["presets"]:
        yield "\npresets (bench run --tuner PRESET):"
        width = max(map(len, page["presets"])) + 2
        for name, values in page["presets"].items():
            changes = ", ".join(f"{key}={_number(value)}" for key, value in values.items())
            yield from _wrap(changes or "the defaults", f"  {name:<{width}}")
    yield "\nsettings (--set NAME=VALUE; * differs from the default):"
    yield from _settings(page["settings"])


def _settings(settings: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    group = None
    width = max(map(len, settings)) + 2
    for name, s in settings.items():
        if s["group"] != group:
            group = s["group"]
            yield ""
            yield from _wrap(f"{group}:", "  ")
        value = _number(s["value"]) + (f" (default {_number(s['default'])})" if s["changed"] else "")
        yield "  " + f"{'*' if s['changed'] else ' '} {name:<{width}}{value} {s['unit'] or ''}".rstrip()
        valid = _valid(s)
        yield from _wrap(s["help"] + (f"; valid: {valid}" if valid else "") + f"  [{s['source']}]", "        ")


def _valid(s: Mapping[str, Any]) -> str:
    if s["choices"]:
        return ", ".join(map(str, s["choices"]))
    if s["type"] == "bool":
        return "true, false"
    low, high = (None if s[key] is None else _number(s[key]) for key in ("low", "high"))
    if low is not None and high is not None:
        return f"{low} to {high}"
    return f"at least {low}" if low is not None else f"at most {high}" if high is not None else ""


def _number(value: Any) -> str:
    """Without what only Python writes: 2500 for 2500.0, true for True."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


def _wrap(words: str, start: str = "") -> list[str]:
    return textwrap.wrap(words, WIDTH, initial_indent=start, subsequent_indent=" " * len(start), break_on_hyphens=False)
