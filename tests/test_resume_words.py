"""What resume sets itself is refused behind the folder, rather than not heeded."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrlab import records
from lrlab.errors import UserError
from lrlab.sweeping import resuming

pytestmark = pytest.mark.unit

SAVED = """\
hydra:
  overrides: {task: [lr=0.1], hydra: []}
  runtime: {config_sources: []}
  job: {config_name: config}
"""


@pytest.mark.parametrize("word", ["hydra.sweep.dir=/tmp/x", "++hydra.sweeper.resume=false"])
def test_words_that_resume_sets_itself(word: str, tmp_path: Path) -> None:
    records.write_sweep_config(tmp_path, SAVED)
    with pytest.raises(UserError, match="resume sets it itself; leave it out"):
        resuming.command_line(tmp_path, [word])
