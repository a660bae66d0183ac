"""Words that no command can use, or hardly: a result or one line and 2, and nothing half-written.

Hydra composes a config once, and each case gives its words to what comes behind it: Hydra itself
takes half a second a command.
"""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
from hostile import NUMBERS, WORDS, cases, told, words
from hypothesis import given
from hypothesis import strategies as st
from test_sweep import sweep

from lrlab import arguments, search
from lrlab import config as configs
from lrlab import sweep as sweeps

KEYS = [*configs.known_keys(), *configs.GROUPS, *configs.SWEEP_GROUPS]
OFTEN = ["lr", "epochs", "batch_size", "seed", "points", "n_trials", "lanes", "network.hidden"]
OFTEN += ["optimizer.momentum", "threads", "memory_limit", "timeout", "objective", "name"]
CHOICES = sorted({file.stem for file in configs.folder("conf").rglob("*.yaml")})
FUNCTIONS = ["choice", "range", "interval", "shuffle", "sort", "glob", "tag", "int", "str"]
SANE = ["lr=0.1", "lr=1e-3..1", "optimizer=adam", "seed=0,1", "schedule=step", "network.hidden=[3]"]
SANE += ["points=3", "n_trials=2", "lr=0.1,0.2", "network=perceptron", "optimizer=sgd,adam"]

numbers = st.sampled_from([n for n in NUMBERS if "," not in n])
plain = st.one_of(st.sampled_from(CHOICES), st.sampled_from(WORDS), numbers, numbers, words)
swept = st.one_of(
    st.lists(st.one_of(numbers, plain), min_size=2, max_size=3).map(",".join),
    st.tuples(numbers, numbers).map("..".join),
    st.builds("{}({})".format, st.sampled_from(FUNCTIONS), st.lists(numbers).map(",".join)),
    st.builds("[{}]".format, st.lists(numbers, max_size=3).map(",".join)),
)
options = st.builds(
    "{}={}".format,
    st.one_of(st.sampled_from(OFTEN), st.sampled_from(KEYS)),
    st.one_of(plain, swept),
)
# with a sign of Hydra's, of no option, or no option at all
stranger = st.builds(
    "{}{}={}".format,
    st.sampled_from(["", "+", "++", "~"]),
    st.one_of(st.sampled_from(KEYS), st.sampled_from(["lrr", "hydra.job.name", "lr.x", "a@b"]), words),
    plain,
)
lines = st.builds(
    lambda one, others, after: [*others, one, *after],
    st.one_of(options, options, options, options, stranger, words),
    st.lists(st.sampled_from(SANE), max_size=2),
    st.lists(options, max_size=1),
)


# --- sweep ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[list[str]], Any]]:
    """What judges a sweep's words, once Hydra has composed the config; nothing is trained."""
    here = tmp_path_factory.mktemp("commands")
    seen: list[Any] = []

    def noting(config: Any, loader: Any, launcher: Any, typed: Any) -> None:
        seen.append((config, loader, launcher))

    with mock.patch.object(search, "sweep", noting):
        ended = sweep("output=outputs", cwd=here)
    assert (ended.code, ended.err) == (0, "")
    config, loader, launcher = seen[0]

    def judge(typed: list[str]) -> None:
        typed = arguments.for_hydra(typed)
        with contextlib.chdir(here):
            sweeps.told(lambda: search.sweep(copy.deepcopy(config), loader, launcher, typed))

    judge.outputs = here / "outputs"  # type: ignore[attr-defined]
    with mock.patch.object(search, "_work"), mock.patch.object(search, "_finish"):
        yield judge


@cases(300)
@given(typed=lines)
def test_the_words_of_a_sweep(typed: list[str], composed: Any) -> None:
    shutil.rmtree(composed.outputs, ignore_errors=True)
    line = told(lambda: composed([word for word in typed if not word.startswith("-")]))
    if line is not None:
        assert not composed.outputs.exists(), line
