"""The direction of imports (DESIGN section 3), parsed from the source, and the promise that listing needs no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.core import registry

ROOT = Path(__file__).resolve().parents[2]
OURS = ("bench", "tuners", "rewards", "suites", "leaderboard")

# package -> what it must never import, at any depth of its own source
NEVER = {
    "bench.core": ("torch", "bench.store", "bench.diffusion", "bench.metrics", "bench.engine", "bench.launch",
                   "bench.cli", "bench.tiny", "tuners", "rewards", "suites", "leaderboard"),
    "bench.assets": ("torch", "bench.diffusion", "bench.metrics", "bench.engine", "bench.launch",
                     "bench.cli", "bench.tiny", "tuners", "rewards", "suites", "leaderboard"),
    "bench.store": ("torch", "bench.engine", "bench.diffusion", "tuners", "rewards", "suites", "leaderboard"),
    "bench.diffusion": ("tuners", "rewards", "suites", "leaderboard", "bench.cli"),
    "bench.metrics": ("tuners", "leaderboard", "bench.engine", "bench.cli"),
    "bench.launch": ("torch", "bench.engine", "bench.diffusion", "tuners", "rewards", "suites", "leaderboard"),
    "bench.study": ("torch", "bench.engine", "bench.diffusion", "bench.cli", "tuners", "rewards", "suites"),
    "bench.tiny": ("bench.engine", "bench.store", "tuners", "rewards", "suites", "leaderboard"),
    "bench.trees": ("tuners", "rewards", "suites", "leaderboard", "bench.engine", "bench.metrics", "bench.cli"),
    "tuners": ("rewards", "bench.metrics", "leaderboard", "suites", "bench.engine"),
    "rewards": ("tuners", "leaderboard", "bench.engine"),
    "suites": ("torch", "tuners", "rewards", "leaderboard", "bench.diffusion", "bench.engine"),
    "leaderboard": ("torch", "tuners", "rewards", "bench.diffusion", "bench.engine", "bench.cli"),
}  # fmt: skip


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package.replace(".", "/")).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module name that ``path`` imports when it runs (TYPE_CHECKING blocks do not run)."""
    tree = ast.parse(path.read_text("utf-8"))
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped |= {id(inner) for statement in node.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", sorted(NEVER))
def test_direction_of_imports(package: str) -> None:
    files = sources(package)
    assert files
    for path in files:
        for name in imports(path):
            for banned in NEVER[package]:
                assert name != banned and not name.startswith(banned + "."), f"{path.relative_to(ROOT)} imports {name}"


def test_the_engine_knows_no_concrete_plugin() -> None:
    """It asks the registry: no module that an entry point names is imported by name, the models' sources apart."""
    groups = ("suites", "tuners", "rewards", "metrics")
    plugins = {entry.target.partition(":")[0] for group in groups for entry in registry.entries(group).values()}
    for path in sources("bench.engine"):
        for name in imports(path):
            assert name not in plugins, f"{path.name} imports {name}"


@pytest.mark.parametrize("args", [["--help"], ["list"], ["run", "--help"], ["nonsense"]])
def test_the_command_lines_front_door_never_imports_torch(args: list[str]) -> None:
    code = (
        "import sys; from bench.cli import main; main(sys.argv[1:]); "
        "heavy = {'torch', 'numpy', 'pydantic', 'transformers', 'diffusers', 'pandas'} & set(sys.modules); "
        "print('HEAVY', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    assert "HEAVY []" in done.stdout, done.stdout + done.stderr


def test_help_and_list_answer_at_once() -> None:
    """Median of five under 0.3 s; a shared machine may be slow, so the bound is relative to a bare interpreter too."""
    import time

    def median_s(*command: str) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], capture_output=True, check=True)
            times.append(time.perf_counter() - start)
        return sorted(times)[2]

    bare = median_s("-c", "pass")
    for args in (["--help"], ["list"]):
        took = median_s("-m", "bench", *args)
        assert took < max(0.3, 8 * bare), f"bench {args[0]}: {took:.3f} s, bare python {bare:.3f} s"
