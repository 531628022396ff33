"""``bench report`` of thousands of records: time, memory, page weight. ``python -m benchmarks.report --records 5000``

A first build, then a second one with one new record. Memory is the peak of all processes together, sampled; CPU seconds
are user's and system's of all of them, which say more than the clock where a machine has other work.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.records import write_records


def memory_mib(pid: int) -> float:
    """Private and shared pages of a process and its children, shared ones counted in each, in MiB."""
    total = 0.0
    for task in [pid, *_children(pid)]:
        try:
            lines = Path(f"/proc/{task}/status").read_text("utf-8").splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))
    return total


def _children(pid: int) -> list[int]:
    try:
        found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()]
    except OSError:
        return []
    return [task for child in found for task in (child, *_children(child))]


def build(runs: Path) -> dict[str, Any]:
    """One ``bench report`` in a process of its own."""
    command = [sys.executable, "-m", "bench", "report", "--runs", str(runs), "--json"]
    before, start = _cpu_s(), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak, over = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.05):
            peak = max(peak, memory_mib(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    said, _ = process.communicate()
    wall_s = time.perf_counter() - start
    over.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"bench report ended with {process.returncode}")
    built = json.loads(said)
    return {"wall_s": round(wall_s, 2), "cpu_s": round(_cpu_s() - before, 2), "peak_mib": round(peak),
            "n_checked": built["n_checked"], "n_pages": built["n_pages"], "n_made": built["n_made"]}  # fmt: skip


def _cpu_s() -> float:
    """Of all processes that were waited for, and theirs."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def measure(runs: Path, n: int) -> dict[str, Any]:
    """Figures of both builds of ``n`` records, and the front page's weight."""
    write_records(runs, n)
    first = build(runs)
    write_records(runs, 1, first=n)
    second = build(runs)
    site = runs / "leaderboard"
    files = [path for path in site.rglob("*") if path.is_file()]
    return {
        "n_records": n, "record_bytes": sum(p.stat().st_size for p in runs.glob("*/*/*/record.json")) // (n + 1),
        "first": first, "second": second, "index_bytes": (site / "index.html").stat().st_size,
        "largest_page_bytes": max(p.stat().st_size for p in files if p.suffix == ".html"),
        "site_mib": round(sum(p.stat().st_size for p in files) / 2**20),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=5000)
    parser.add_argument("--runs", type=Path, help="A new folder that is kept; a temporary one otherwise.")
    options = parser.parse_args()
    if options.runs is not None:
        found = measure(options.runs, options.records)
    else:
        with tempfile.TemporaryDirectory(prefix="tb-") as folder:
            found = measure(Path(folder), options.records)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
