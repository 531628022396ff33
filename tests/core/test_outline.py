"""What files say of themselves: read without importing, remembered only as long as they stay as they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.core.outline import Memory, outlines

SOURCE = '''"""The module.

More."""
import os as system
from typing import Any

PLAIN: Any = {"a": 1}

class First:
    """The first.

    More."""
    presets = {"x": {}, "y": {}}
    typed: Any = {"z": 1, 2: 3}
    other = 3

def second():
    raise SystemExit("imported")
'''


def test_definitions_docstrings_and_keys() -> None:
    found = outlines(SOURCE)
    assert set(found) == {"system", "Any", "PLAIN", "First", "second"}
    assert found["First"].summary == "The first."
    assert found["First"].keys == {"presets": ["x", "y"], "typed": ["z"]}
    assert found["second"].summary == "The module."
    assert found["PLAIN"].keys == {}


def test_another_command_reads_the_memory_and_a_changed_file_anew(tmp_path: Path) -> None:
    file, kept = tmp_path / "m.py", tmp_path / "cache" / "outlines.json"
    file.write_text(SOURCE)
    first = Memory(kept)
    read = first.of_file(file)
    first.write()
    stamp = file.stat().st_mtime_ns
    # the same size and time: what is remembered is believed, as Python believes its compiled files
    file.write_text(SOURCE.replace("The first", "The fifth"))
    os.utime(file, ns=(stamp, stamp))
    assert Memory(kept).of_file(file) == read
    os.utime(file, ns=(stamp + 1, stamp + 1))
    assert Memory(kept).of_file(file)["First"].summary == "The fifth."


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"a": 1}'])
def test_a_damaged_memory_is_made_anew(tmp_path: Path, damage: str) -> None:
    file, kept = tmp_path / "m.py", tmp_path / "outlines.json"
    file.write_text(SOURCE)
    kept.write_text(damage)
    memory = Memory(kept)
    assert memory.of_file(file)["First"].summary == "The first."
    memory.write()
    assert Memory(kept).of_file(file) == memory.of_file(file)


def test_where_nothing_can_be_kept_files_are_read_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / "m.py"
    file.write_text(SOURCE)
    (tmp_path / "in_the_way").write_text("")
    memory = Memory(tmp_path / "in_the_way" / "outlines.json")
    assert "First" in memory.of_file(file)
    memory.write()


def test_a_file_that_does_not_parse_says_so_each_time(tmp_path: Path) -> None:
    file = tmp_path / "m.py"
    file.write_text("class :")
    memory = Memory(tmp_path / "outlines.json")
    for _ in range(2):
        with pytest.raises(SyntaxError):
            memory.of_file(file)
