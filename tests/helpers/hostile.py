"""What the hostile tests share: how many cases, what they are made of, how each must end.

`LRLAB_CASES=10 python -m pytest -n0 tests/test_hostile_data.py` tries ten times as many cases, and
others each time.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from lrlab.errors import UserError

TIMES = int(os.environ.get("LRLAB_CASES", "1"))
LONGEST = 60  # seconds for one case: only what hangs takes so long
MOST_WORDS = 2000  # characters of a line that a person reads
# Of the inner workings: what a user can do nothing with.
NOISE = ["Traceback", "full_key", "object_type", "hydra.cc", "file://", "Override(", "OverrideType"]
NOISE += ["ListConfig", "DictConfig", "defaults list", "TypeError", "AttributeError", "KeyError"]
NOISE += ["IndexError", "RecursionError", "UnicodeDecodeError", "object at 0x"]


def cases(count: int) -> settings:
    """So many cases, the same each time; more and others each time where LRLAB_CASES is above 1."""
    return settings(
        max_examples=count * TIMES,
        derandomize=TIMES == 1,
        deadline=None,
        database=None,
        # to make a case smaller takes longer than to find it
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def told(call: Callable[[], Any]) -> str | None:
    """The one line with which a call refuses what it is given; None: it came to a result.

    Any other exception, a warning among them, fails the test, and so does what takes too long.
    """
    with no_hang():
        try:
            call()
        except UserError as error:
            line = str(error)
            is_line(line)
            return line
    return None


def is_line(line: str) -> None:
    """That a person is told something, in one line, and not what Python would say."""
    assert line.strip(), "nothing is said"
    assert len(line.splitlines()) == 1, line
    assert line.isprintable(), repr(line)
    assert len(line) <= MOST_WORDS, len(line)
    for noise in NOISE:
        assert noise not in line, line


class Hang(BaseException):
    """A case took longer than any should."""


@contextlib.contextmanager
def no_hang() -> Iterator[None]:
    """End what does not end by itself."""

    def stop(number: int, frame: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- what cases are made of -----------------------------------------------------------------------

# Characters that mean something to a shell, to YAML, Hydra, CSV, HTML or a terminal, and some that
# mean nothing to anyone. A list, for hypothesis' own alphabet takes seconds to make.
CHARACTERS = [
    *"abcxyz019 ._-+=:,;/\\|~!?@#$%^&*()[]{}<>'\"`\t\n\r\0",
    *"\x1b\x7f\x85\xa0äß\u0301\u200b\u202e\u2028\ufeff\ufffd中😀\ud7ff\udc80",
]
NUMBERS = [
    *("0", "1", "-1", "0.1", "1e-12", "1e12", "1e38", "-1e38", "1e39", "1e308", "1e309", "-0.0"),
    *("inf", "-inf", "nan", "NaN", "Infinity", "1e-400", "5e-324", "0x10", "1_000", "1,5", "1."),
    *("9007199254740993", "9223372036854775808", "1" + "0" * 40, "١", "½", "1e", "--1", "+1", " 1"),
]
WORDS = [
    *("", " ", "null", "~", "true", "off", "yes", "???", "${lr}", "${nowhere}", "${oc.env:HOME}"),
    *("[1,2]", "{a: 1}", "[", "}", "../..", "/", ".", "..", "~/x", "a" * 300, "größe", "a b"),
    *("'", '"', "''", "<b>", "%s", "=1+1", "\\", "1..2", "choice(1,2)", "&a", "*a", "!!python/x"),
]

texts = st.lists(st.sampled_from(CHARACTERS), max_size=12).map("".join)
words = st.one_of(st.sampled_from(WORDS), st.sampled_from(NUMBERS), texts)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2, 3, 7, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**40, 10**400]),
    st.sampled_from([0.0, -0.0, 0.1, 0.5, 1e-12, 1e12, 1e38, -1e38, 1e308, 5e-324]),
    st.sampled_from([float("inf"), float("-inf"), float("nan")]),
    words,
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged(draw: Any, whole: bytes) -> bytes:
    """The bytes of a file to which something happened, or several things."""
    data = whole
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data)))
        other = draw(st.integers(0, len(data)))
        lines = data.split(b"\n")
        kind = draw(
            st.sampled_from(
                ["cut", "head", "junk", "word", "repeat", "gone", "shuffle", "twice", "mark"]
            )
        )
        low, high = sorted((place, other))
        if kind == "cut":
            data = data[:place]
        elif kind == "head":
            data = data[place:]
        elif kind == "junk":
            data = data[:place] + draw(st.binary(max_size=6)) + data[place:]
        elif kind == "word":
            data = data[:place] + draw(words).encode("utf-8", "replace") + data[place:]
        elif kind == "repeat":
            data = data[:place] + 3 * data[low : low + 40] + data[place:]
        elif kind == "gone":
            data = data[:low] + data[high:]
        elif kind == "shuffle":
            data = b"\n".join(draw(st.permutations(lines)) if len(lines) < 40 else lines[::-1])
        elif kind == "twice":
            data = b"\n".join(lines + lines[1:])
        else:
            marks = [b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b", b"PK\3\4"]
            data = draw(st.sampled_from(marks)) + data
    return data
