"""Read what is swept: lists of values make a grid, intervals are searched or made into a grid.

``lr=0.1,0.1,1e-1`` is one value, ``lr=1e-4..1`` and ``lr=interval(1e-4,1)`` are one interval.
"""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lrlab.config import checks
from lrlab.config.schema import GROUPS, INTERVAL, NOT_SWEPT, SWEEP_GROUPS, Config, no_such
from lrlab.config.words import messages, spelling
from lrlab.config.words.spelling import quoted
from lrlab.errors import UserError

RATES = (  # searched in their logarithm
    *("lr", "weight_decay", "max_lr", "base_lr", "adamw_lr", "adamw_weight_decay"),
    "clip_grad_norm",
)
TAGS = ("log", "linear", "int")
_MOST = f"more than {checks.MOST_RUNS:,} runs; sweep fewer values, or search an interval"
DIGITS = 6  # significant digits of a grid's inner values


@dataclass(frozen=True)
class Interval:
    """All numbers from low to high, both included.

    Attributes:
        log: searched evenly in the logarithm.
        whole: whole numbers only.
    """

    low: float
    high: float
    log: bool
    whole: bool


@dataclass(frozen=True)
class Space:
    """The swept part of a command.

    Attributes:
        fixed: the overrides of all runs, as typed.
        lists: each swept key with its distinct values as typed, in the order of the command line.
        intervals: each key that is searched.
    """

    fixed: list[str]
    lists: dict[str, list[str]]
    intervals: dict[str, Interval]

    @property
    def searched(self) -> bool:
        """Whether settings are drawn; otherwise all of the grid's points are trained."""
        return bool(self.intervals)


def read(
    overrides: Sequence[Override],
    params: Mapping[str, Any] | None,
    config: DictConfig,
    loader: Any = None,
) -> Space:
    """Read and check what is swept.

    If a key is given twice, the last one counts. The command line takes precedence over params.

    Args:
        overrides: the command line's.
        params: ``hydra.sweeper.params``: key to list, interval or value, as a YAML file has it.
        config: the composed config: the types of the options, points, n_trials and the sampler.
        loader: Hydra's config loader, for ``glob`` in params.

    Raises:
        UserError: something cannot be swept, or not in this way.
        HydraException: params that Hydra's grammar does not take.
    """
    checks.check_sweep(config)
    found: dict[str, Override] = {}
    for override in [*_parsed(params or {}, loader), *overrides]:
        key = override.get_key_element()
        name = key.lstrip("+")
        found.pop(name, None)
        found[name] = override

    fixed: list[str] = []
    lists: dict[str, list[str]] = {}
    intervals: dict[str, Interval] = {}
    for override in found.values():
        key, ends = override.get_key_element(), _ends(override)
        if override.is_hydra_override() or not (override.is_sweep_override() or ends):
            fixed.append(override.input_line or f"{key}={override.get_value_element_as_str()}")
        elif key.lstrip("+").partition(".")[0] in NOT_SWEPT:
            raise UserError(
                f"{_typed(override)}: takes one value, for the sweep as a whole"
                f"{_as_a_text(key, override)}"
            )
        elif ends is not None:
            intervals[key] = _interval(override, ends, config)
        else:
            lists[key] = _distinct(override)
    _refuse_intervals_in(config, found)

    points = config.get("points")
    if points is not None and not intervals:
        raise UserError(
            f"points={points}: makes a grid of a swept interval, and there is none; "
            f"for example lr=1e-4..1 points={points}"
        )
    if points is not None:
        grids = {key: grid(interval, points) for key, interval in intervals.items()}
        swept = {**lists, **grids}
        names = [override.get_key_element() for override in found.values()]
        lists, intervals = {key: swept[key] for key in names if key in swept}, {}
    if intervals and _never_draws(config):
        key = next(iter(intervals))
        raise UserError(
            f"sampler=grid: trains listed values, and {key} is an interval; "
            "points=13 makes it a list of 13"
        )
    if config.get("n_trials") is not None and not intervals:
        raise UserError(
            f"n_trials={config.n_trials}: the listed points are all trained; "
            "give an interval to search, for example lr=1e-4..1"
        )
    if math.prod(map(len, lists.values())) > checks.MOST_RUNS:
        what = " ".join(f"{key.lstrip('+')} ({len(texts)} values)" for key, texts in lists.items())
        raise UserError(f"{what}: {_MOST}")
    return Space(fixed, lists, intervals)


def points(space: Space) -> list[dict[str, str]]:
    """Return the whole grid with its seeds, in Hydra's order; for lists only."""
    product = itertools.product(*space.lists.values())
    return [dict(zip(space.lists, point, strict=True)) for point in product]


def seeds(space: Space) -> list[str]:
    """Return the swept seeds; none if seed is not swept."""
    return space.lists.get("seed", [])


def corners(space: Space) -> list[dict[str, str]]:
    """Return points that show whether all of the space can work.

    Every interval at its low and at its high end, and each value of each list once.
    """
    low = {key: text(_end(i, i.low)) for key, i in space.intervals.items()}
    high = {key: text(_end(i, i.high)) for key, i in space.intervals.items()}
    first = {key: texts[0] for key, texts in space.lists.items()}
    found = [{**first, **low}, {**first, **high}]
    found += [
        {**first, key: other, **low} for key, texts in space.lists.items() for other in texts[1:]
    ]
    return [point for number, point in enumerate(found) if point not in found[:number]]


def grid(interval: Interval, points: int) -> list[str]:
    """Return so many evenly spaced values, in the logarithm if the interval is logarithmic.

    The ends are exact, the others rounded to six significant digits. Whole numbers may give fewer.
    """
    low, high = interval.low, interval.high
    shares = [number / (points - 1) for number in range(1, points - 1)]
    if interval.log:
        inner = [math.exp((1 - t) * math.log(low) + t * math.log(high)) for t in shares]
    else:
        inner = [(1 - t) * low + t * high for t in shares]
    if interval.whole:
        return list(dict.fromkeys(text(round(value)) for value in (low, *inner, high)))
    rounded = [low, *(float(f"{value:.{DIGITS}g}") for value in inner), high]
    increasing = all(a < b for a, b in itertools.pairwise(rounded))
    return list(dict.fromkeys(map(text, rounded if increasing else [low, *inner, high])))


def text(value: float | int) -> str:
    """Return a number as an override's value, from which the same number is read."""
    return repr(value)


def value(text: str) -> float | int | str:
    """Return a value for Optuna: a number where it is one, else the text."""
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if math.isfinite(number) else text
    return text


def canonical(text: str) -> str:
    """Return a key that is equal for texts of one value: ``0.1`` and ``1e-1``."""
    number = value(text)
    return text if isinstance(number, str) else repr(float(number))


def _as_a_text(key: str, override: Override) -> str:
    """Return how to type a text with a comma, for the end of a line."""
    text = (override.input_line or "").partition("=")[2]
    if key not in ("name", "output") or not text:
        return ""
    return f"; as a text with a comma write {shlex.quote(f'{key}={quoted(text)}')}"


def _typed(override: Override) -> str:
    return override.input_line or override.get_key_element()


def _distinct(override: Override) -> list[str]:
    if _in_range(override) > checks.MOST_RUNS:
        raise UserError(f"{_typed(override)}: {_MOST}")
    texts = dict.fromkeys(override.sweep_string_iterator())
    for one in texts:
        if INTERVAL.fullmatch(one):
            key = override.get_key_element()
            raise UserError(
                f"{_typed(override)}: a list holds values, not intervals; "
                f"{key}={one} searches the interval alone"
            )
    if not texts:
        raise UserError(f"{_typed(override)}: there is no such value, so nothing is swept")
    distinct = {canonical(one): one for one in reversed(list(texts))}
    return list(reversed(distinct.values()))


def _in_range(override: Override) -> float:
    """Return how many values a range has, which Hydra would count one by one; 0: no range."""
    sweep = override.value()
    if not isinstance(sweep, RangeSweep) or sweep.start is None or sweep.stop is None:
        return 0
    way = sweep.stop - sweep.start
    if not (math.isfinite(way) and math.isfinite(sweep.step) and sweep.step):
        raise UserError(f"{_typed(override)}: a range needs finite numbers and a nonzero step")
    return way / sweep.step if abs(way) < checks.MOST_RUNS * abs(sweep.step) else math.inf * way


# --- a YAML file's search space -------------------------------------------------------------------


def _parsed(params: Mapping[str, Any], loader: Any) -> list[Override]:
    if isinstance(params, DictConfig):
        plain = OmegaConf.to_container(params, resolve=True)
        assert isinstance(plain, dict)
        params = {str(key): given for key, given in plain.items()}
    lines = [f"{key}={_line(key, given)}" for key, given in params.items()]
    return OverridesParser.create(config_loader=loader).parse_overrides(lines)


def _line(key: str, given: Any) -> str:
    if isinstance(given, list):
        return ",".join(_element(key, one) for one in given)
    return _element(key, given)


def _element(key: str, given: Any) -> str:
    if isinstance(given, str):
        return given
    if isinstance(given, list):
        return "[" + ",".join(_element(key, one) for one in given) + "]"
    if given is None or isinstance(given, bool):
        return "null" if given is None else str(given).lower()
    if isinstance(given, int | float):
        return repr(given)
    raise UserError(
        f"hydra.sweeper.params.{key}={given}: must be a list, an interval or a value; "
        "write a nested key with a dot, like network.hidden"
    )


def _refuse_intervals_in(config: DictConfig, found: Mapping[str, Override]) -> None:
    """Refuse an interval in place of a value, in a YAML file."""
    for group in GROUPS:
        node = config.get(group)
        if not isinstance(node, DictConfig):
            continue
        for name, given in node.items_ex(resolve=False):
            key = f"{group}.{name}"
            if key not in found and isinstance(given, str) and INTERVAL.fullmatch(given):
                raise UserError(messages.misplaced_interval(key, given))


# --- intervals ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ends:
    low: float
    high: float
    tags: frozenset[str] = frozenset()
    typed_whole: bool = False


def _ends(override: Override) -> _Ends | None:
    """Return the ends of an interval, in either notation, or None if it is none."""
    if override.is_interval_sweep():
        sweep = override.value()
        assert isinstance(sweep, IntervalSweep)
        assert sweep.start is not None and sweep.end is not None
        both = sweep.start, sweep.end
        whole = all(isinstance(end, int) for end in both)
        return _Ends(float(both[0]), float(both[1]), frozenset(sweep.tags), whole)
    kinds = _schema_types(override.get_key_element())
    if override.is_sweep_override() or override.is_delete() or "str" in kinds:
        return None  # a folder may well be called 1..2
    match = INTERVAL.fullmatch((override.input_line or "").partition("=")[2])
    if match is None:
        return None
    whole = all(isinstance(value(end), int) for end in match.groups())
    return _Ends(float(match[1]), float(match[2]), typed_whole=whole)


def _interval(override: Override, ends: _Ends, config: DictConfig) -> Interval:
    typed, key = _typed(override), override.get_key_element().lstrip("+")
    low, high, tags = ends.low, ends.high, ends.tags
    if key == "seed":
        raise UserError(f"{typed}: seeds are not searched; list them, for example seed=0,1,2")
    for tag in sorted(tags - set(TAGS)):
        raise UserError(no_such(typed, f"tag {tag}", tag, TAGS))
    if {"log", "linear"} <= tags:
        raise UserError(f"{typed}: is tagged log and linear; choose one")
    if key == "lr":
        checks.check_lr_range(low, high, typed, "lr=1e-4..1")
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{typed}: both ends must be finite, for example {key}=1e-4..1")
    if low >= high:
        raise UserError(f"{typed}: the low end must come first and be below the high end")

    whole = _whole(typed, key, ends, config)
    log = "log" in tags or (key.rpartition(".")[2] in RATES and "linear" not in tags)
    if log and low <= 0:
        raise UserError(
            f"{typed}: is searched in its logarithm, so its low end must be above 0; "
            f"'{key}=tag(linear,interval({low:g},{high:g}))' searches it evenly"
        )
    if whole and not (low.is_integer() and high.is_integer()):
        raise UserError(f"{typed}: must be from one whole number to another")
    return Interval(low, high, log, whole)


def _whole(typed: str, key: str, ends: _Ends, config: DictConfig) -> bool:
    """Return whether the option takes whole numbers only."""
    if "int" in ends.tags:
        return True
    try:
        now = OmegaConf.select(config, key, throw_on_missing=False)
    except OmegaConfBaseException:  # an interpolation that leads nowhere yet
        now = None
    kinds = _schema_types(key)
    if isinstance(now, DictConfig) or key in (*GROUPS, *SWEEP_GROUPS):
        raise UserError(f"{typed}: a group takes the name of a choice, or a list of them")
    if "str" in kinds or (isinstance(now, bool | str) and now != "auto") or OmegaConf.is_list(now):
        raise UserError(f"{typed}: only an option that is a number can have an interval")
    if "int" in kinds:
        return True
    is_share = key.startswith(f"{spelling.GROUPS}.")  # no config has it
    return ends.typed_whole and not (isinstance(now, float) or "float" in kinds or is_share)


def _schema_types(key: str) -> list[str]:
    return next((str(f.type).split(" | ") for f in fields(Config) if f.name == key), [])


def _end(interval: Interval, end: float) -> float | int:
    return int(end) if interval.whole else end


def _never_draws(config: DictConfig) -> bool:
    target = str(OmegaConf.select(config, "sampler._target_", default=""))
    return target.endswith((".BruteForceSampler", ".GridSampler"))
