"""The run folder: where everything of a run lies, and how it is read back.

<runs>/<suite id>/<tuner>/<run id>/
    spec.json         what was asked, written first
    request.json      how to run it: data folder, device; changes no answer
    prompts.jsonl     the evaluation prompts, questions.jsonl their questions
    fence.json        the newest attempt: who may change what is shared
    jobs/<id>.json    cluster jobs that were submitted for it
    attempts/NNN/     env.json, log.txt, events.jsonl, pulse.json, exit.json
    ledger.json       what was spent so far
    checkpoints/N/    state.pt, meta.json
    snapshots/fNNN/   adapter/, images/, snapshot.json
    kept.pt           what the tuner fitted for itself, where it did (Tuner.kept)
    scores/           per image, per metric and snapshot
    record.json       the result, written last: a run is done when it exists
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.budget import Budget
from bench.core.errors import UserError, unknown_name
from bench.core.identity import plain
from bench.core.types import RunSpec, SamplerSpec
from bench.store import atomic

if TYPE_CHECKING:
    from bench.core.record import Record

N_CHECKPOINTS_KEPT = 2


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run."""

    root: Path

    @property
    def spec_path(self) -> Path:
        return self.root / "spec.json"

    @property
    def request_path(self) -> Path:
        return self.root / "request.json"

    @property
    def record_path(self) -> Path:
        return self.root / "record.json"

    @property
    def ledger_path(self) -> Path:
        return self.root / "ledger.json"

    @property
    def lock_path(self) -> Path:
        return self.root / "lock"

    @property
    def kept_path(self) -> Path:
        return self.root / "kept.pt"

    @property
    def attempts(self) -> Path:
        return self.root / "attempts"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def snapshots(self) -> Path:
        return self.root / "snapshots"

    @property
    def scores(self) -> Path:
        return self.root / "scores"

    def write_spec(self, spec: RunSpec) -> None:
        """Writes ``spec.json``; of one that is there, and is of the same run, only the metrics."""
        if self.spec_path.exists() and (before := self.read_spec()).run_id == spec.run_id:
            if before.metrics == spec.metrics:
                return
            spec = dataclasses.replace(before, metrics=spec.metrics)  # in no id: what is measured may change
        atomic.write_json(self.spec_path, {"schema": "tunebench/spec", "schema_version": 1, **plain(spec)})

    def read_spec(self) -> RunSpec:
        return spec_from_json(atomic.read_json(self.spec_path))

    def read_record(self) -> Record:
        """Raises UserError when the record is damaged or newer than this program."""
        from pydantic import ValidationError

        from bench.core.record import upgrade

        try:
            return upgrade(atomic.read_json(self.record_path))
        except ValidationError as err:
            raise UserError(f"{self.record_path} does not fit its schema: {err.errors()[0]['msg']}",
                            hint=f"bench score {self.root}") from err  # fmt: skip

    # --- checkpoints: a directory renamed into place, the newest whole one wins ---

    def save_checkpoint(self, unit: int, state: bytes, meta: Mapping[str, Any]) -> Path:
        """Keeps ``state`` (opaque here) as checkpoint ``unit`` and drops all but the newest ones."""
        target = self.checkpoints / f"{unit:08d}"
        with atomic.new_folder(target) as making:
            atomic.write_bytes(making / "state.pt", state)
            atomic.write_json(making / "meta.json", {**meta, "unit": unit, "sha256": hashlib.sha256(state).hexdigest()})
        for old in self._checkpoint_folders()[:-N_CHECKPOINTS_KEPT]:
            atomic.remove(old)
        return target

    def load_checkpoint(self) -> tuple[bytes | None, dict[str, Any], list[str]]:
        """The newest readable checkpoint: (state, meta, warnings). State is None when there is none.

        A damaged one is passed over with a warning that names it: the one before holds, and lost work is done again.
        """
        warnings = []
        for folder in reversed(self._checkpoint_folders()):
            try:
                meta = atomic.read_json(folder / "meta.json")
                state = (folder / "state.pt").read_bytes()
                if hashlib.sha256(state).hexdigest() != meta["sha256"]:
                    raise UserError("its bytes are not those that were written")
            except (UserError, OSError, KeyError) as err:
                warnings.append(f"checkpoint {folder} is unreadable ({err}); going on from the one before it")
                continue
            return state, meta, warnings
        return None, {}, warnings

    def sweep(self) -> None:
        """Removes what killed processes left half made; attempts look after their own (``bench.store.fence``)."""
        for path in self.root.iterdir():
            if path != self.attempts and path.is_dir():
                atomic.sweep(path)
            elif path.name.startswith(atomic.TEMPORARY):
                atomic.remove(path)

    def drop_checkpoints(self) -> None:
        atomic.remove(self.checkpoints)

    def _checkpoint_folders(self) -> list[Path]:
        if not self.checkpoints.is_dir():
            return []
        return sorted(p for p in self.checkpoints.iterdir() if p.is_dir() and p.name.isdigit())


def run_folder(runs: Path, spec: RunSpec) -> RunFolder:
    """Where ``spec`` lives under ``runs``."""
    return RunFolder(runs / spec.suite / spec.label / spec.run_id)


def spec_from_json(data: Mapping[str, Any]) -> RunSpec:
    """Raises UserError on unknown fields, which mean a newer writer."""
    known = {f.name for f in dataclasses.fields(RunSpec)}
    values = {k: v for k, v in data.items() if k not in ("schema", "schema_version")}
    if set(values) - known:
        raise UserError(
            f"spec.json holds unknown fields {sorted(set(values) - known)}", hint="pip install --upgrade tunebench"
        )
    for key in ("sampler", "train_sampler"):
        values[key] = SamplerSpec(**values[key])
    for key in ("eval_seeds", "fractions", "metrics"):
        values[key] = tuple(values[key])
    values["budget"] = Budget.from_json(values["budget"])
    return RunSpec(**values)


def iter_run_folders(runs: Path) -> Iterator[RunFolder]:
    """Every run under ``runs``, done or not, in order of path."""
    for path in sorted(runs.glob("*/*/*/spec.json")):
        yield RunFolder(path.parent)


def iter_records(runs: Path) -> Iterator[tuple[Path, Record]]:
    """(run folder, record) of every finished run, in order of path. Raises UserError on the first damaged one."""
    for folder in iter_run_folders(runs):
        if folder.record_path.exists():
            yield folder.root, folder.read_record()


def find_run(runs: Path, name: str) -> RunFolder:
    """A run by id, by the start of its id, or by path.

    Raises:
        UserError: none, or several, of that name.
    """
    path = Path(name)
    if (path / "spec.json").is_file():
        return RunFolder(path)
    folders = {f.root.name: f for f in iter_run_folders(runs)}
    hits = [f for run_id, f in folders.items() if run_id.startswith(name)]
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise UserError(
            f"{name!r} fits {len(hits)} runs", valid=", ".join(h.root.name for h in hits), hint="type more of it"
        )
    raise unknown_name("run", name, folders, f"bench status --runs {runs}")
