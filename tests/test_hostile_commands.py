"""Words that no command can use, or hardly: a result or one line and 2, and nothing half-written.

Hydra composes a config once, and each case gives its words to what comes behind it: Hydra itself
takes half a second a command.
"""

from __future__ import annotations

import contextlib
import copy
import io
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from helpers.commands import sweep
from helpers.hostile import NUMBERS, WORDS, cases, is_line, no_hang, told, words
from hypothesis import example, given
from hypothesis import strategies as st

from lrlab import __main__ as verbs
from lrlab import bench
from lrlab.config import hydra_store, schema
from lrlab.config.words import arguments
from lrlab.range_test import command
from lrlab.sweeping import ending, sweeper, working
from lrlab.sweeping import sweep as sweep_command

pytestmark = pytest.mark.full

KEYS = [*schema.known_keys(), *schema.GROUPS, *schema.SWEEP_GROUPS]
OFTEN = ["lr", "epochs", "batch_size", "seed", "points", "n_trials", "lanes", "network.hidden"]
OFTEN += ["optimizer.momentum", "threads", "memory_limit", "timeout", "objective", "name"]
CHOICES = sorted({file.stem for file in schema.folder("conf").rglob("*.yaml")})
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
    st.one_of(
        st.sampled_from(KEYS), st.sampled_from(["lrr", "hydra.job.name", "lr.x", "a@b"]), words
    ),
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

    def noting(config: Any, loader: Any, launcher: Any, *_: Any) -> None:
        seen.append((config, loader, launcher))

    with mock.patch.object(sweeper, "sweep", noting):
        ended = sweep("output=outputs", cwd=here)
    assert (ended.code, ended.err) == (0, "")
    config, loader, launcher = seen[0]

    def judge(typed: list[str]) -> None:
        typed = list(arguments.read(typed).for_hydra)
        with contextlib.chdir(here):
            run = partial(sweeper.sweep, copy.deepcopy(config), loader, launcher, typed)
            with hydra_store.ready():
                sweep_command.told(run)

    judge.outputs = here / "outputs"  # type: ignore[attr-defined]
    with mock.patch.object(working, "work"), mock.patch.object(ending, "finish"):
        yield judge


# What once was a traceback, a hang, or a line of Hydra's inner workings.
ONCE = ["~=1.", "=1+1", "++network=+1", "~lr=3", "~nothing", "a@b=1", f"{300 * 'a'}=1"]
ONCE += ["pruner=shuffle(-inf)", "pruner=[1]", "network=[1],[2]", "network.hidden={a: 1}"]
ONCE += ["epochs=1000000000", "epochs=9223372036854775808", "threads=100000", "workers=1000000"]
ONCE += ["seed=range(0,1000000000)", "seed=shuffle(range(0,1000000000))", "lr=range(0.1,1,1e-17)"]
ONCE += ["lr=range(0,inf)", "lease=1e308", "timeout=1e308", "n_trials=1000000000"]
ONCE += ["points=1000000000"]


@pytest.mark.parametrize("word", ONCE, ids=lambda word: word[:30])
def test_words_that_once_were_not_refused_in_one_line(word: str, composed: Any) -> None:
    interval = ["lr=1e-3..1"] if word.partition("=")[0] in ("points", "n_trials") else []
    assert told(lambda: composed([*interval, word]))


@cases(60)
@given(typed=lines)
def test_the_words_of_a_sweep(typed: list[str], composed: Any) -> None:
    shutil.rmtree(composed.outputs, ignore_errors=True)
    line = told(lambda: composed([word for word in typed if not word.startswith("-")]))
    if line is not None:
        assert not composed.outputs.exists(), line


# --- the other commands ---------------------------------------------------------------------------

flags = st.sampled_from(
    [
        *("--output", "--target", "--only", "--format", "--tolerance", "--device", "--json"),
        *("--lanes", "--repeats", "--steps", "--threads", "--no-files", "--evidence", "--nonsense"),
        *("-x", "--", "trust=true", "trust=maybe", "--output=", "--tolerance=nan", "--target=inf"),
    ]
)
typed_words = st.lists(st.one_of(flags, words, numbers, st.just("nowhere")), max_size=4).filter(
    # which --help and --version of any length would answer
    lambda typed: not any(word.startswith(("-h", "--h", "--v")) for word in typed)
)


def other(verb: str, typed: list[str]) -> Callable[[], None]:
    module, _ = verbs.VERBS[verb]
    return lambda: with_words(import_module(module).main, typed)


def with_words(entry: Callable[[], None], typed: list[str]) -> None:
    with mock.patch.object(sys, "argv", ["lrlab", *typed]):
        entry()


OTHERS = ["analysis", "compare", "plots", "report", "reproduce", "resume", "completion"]


@cases(150)
@example(verb="reproduce", typed=["nowhere", "--tolerance", "x"])
@example(verb="analysis", typed=["--nonsense"])
@given(verb=st.sampled_from(OTHERS), typed=typed_words)
def test_the_words_of_the_other_commands(verb: str, typed: list[str], empty: Path) -> None:
    with contextlib.chdir(empty):
        refused(other(verb, typed))
    assert not any(empty.iterdir())


@cases(90)
@given(typed=typed_words)
def test_the_words_of_a_bench(typed: list[str]) -> None:
    told(lambda: bench.read_options(typed))


@cases(90)
@given(
    typed=st.lists(
        st.builds(
            "{}={}".format,
            st.sampled_from(["lr", "points", "steps", "ramp_steps", "smoothing", "schedule"]),
            st.one_of(numbers, swept, words),
        ),
        max_size=3,
    )
)
def test_the_words_of_find(typed: list[str]) -> None:
    told(lambda: command.read_options(typed))


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("empty")


def refused(entry: Callable[[], None]) -> None:
    """That a command ends with 2 and one line, or with its usage."""
    out, err = io.StringIO(), io.StringIO()
    with (
        no_hang(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        entry()
        raise SystemExit(0)
    lines = err.getvalue().splitlines()
    if out.getvalue():
        assert not lines and ("usage: " in out.getvalue() or "lrlab" in out.getvalue())
    else:
        assert ended.value.code == 2 and len(lines) == 1 and lines[0].startswith("lrlab: ")
        is_line(lines[0])
