"""Every registered tuner and preset keeps every promise of the contract, and starts on every suite."""

from collections.abc import Iterator

import pytest

from bench.core import registry
from bench.core.contract import changed_settings, make_config
from bench.diffusion.check import check_tuner
from bench.engine.options import Options
from bench.engine.plan import make_plan

pytestmark = pytest.mark.slow

SUITES = ("coco", "vilg300", "abc6k", "cc500", "parti", "hpsv2")


def presets() -> Iterator[tuple[str, str]]:
    """(tuner, preset) of the registry; "" is the defaults where no preset has them. A tuner that does not load is one
    case, which then says why."""
    for entry in registry.entries("tuners").values():
        named = {} if entry.error else entry.load().presets
        if all(named.values()):
            yield entry.name, ""
        yield from ((entry.name, preset) for preset in named)


@pytest.mark.parametrize(("name", "preset"), list(presets()))
def test_every_promise_is_kept(name: str, preset: str) -> None:
    tuner = registry.load("tuners", name)
    results = check_tuner(tuner, make_config(tuner, tuner.presets.get(preset, {})))
    assert {r.name: r.detail for r in results if not r.ok} == {}
    assert len(results) == 12


def test_no_two_presets_share_a_name_or_their_settings() -> None:
    """A preset is found by its name alone, and a run's label by its settings alone."""
    owners: dict[str, str] = {}
    for entry in registry.entries("tuners").values():
        tuner = entry.load()
        for preset in tuner.presets:
            assert owners.setdefault(preset, entry.name) == entry.name
        settings = [changed_settings(tuner, make_config(tuner, s)) for s in tuner.presets.values()]
        assert all(s not in settings[:k] for k, s in enumerate(settings)), entry.name


@pytest.mark.parametrize("suite", SUITES)
def test_all_tuners_start_on_every_suite_out_of_the_box(suite: str) -> None:
    plan = make_plan(Options(suite=suite, tuner="all"))
    assert plan.left_out == []
    assert {run.spec.tuner for run in plan.to_start()} == set(registry.entries("tuners"))
