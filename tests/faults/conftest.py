"""What several of these tests compare with."""

from __future__ import annotations

from typing import Any

import pytest
from interrupted import MEASURED, found, go_on
from warm import Done, Server, server

__all__ = ["server"]  # a fixture


@pytest.fixture(scope="session")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, dict[str, Any]]:
    """A sweep of ``MEASURED`` that nothing interrupted, and what it came to."""
    folder = tmp_path_factory.mktemp("whole")
    done = go_on(server, folder, MEASURED)
    assert (done.code, done.err) == (0, "")
    return done, found(folder / "outputs" / "x")
