"""For all tests: one thread each, as pytest-xdist and the machine's other users share the cores."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    # the CLI's tests must be able to see that torch was not imported, so only what uses torch pays for it
    import sys

    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
