"""Compose a run's overrides into its config, its spec and the text of its ``.hydra`` files.

Hydra takes a tenth of a second to compose a config. The runs of a sweep differ in a few values. So
Hydra composes one of them, and the others are copies with other values, set by Hydra's own function
and noted in the same places.
"""

from __future__ import annotations

import copy
import functools
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, Node, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from lrlab.config import schema
from lrlab.config.words import arguments, messages
from lrlab.config.words.spelling import literal, quoted, unquoted
from lrlab.errors import UserError
from lrlab.plan import best
from lrlab.plan.hydra_text import (
    DIRNAME,
    JOB_ID,
    JOB_NUM,
    OUTPUT_DIR,
    TASK,
    contents,
    item,
    lines,
    parts,
)
from lrlab.plan.spec import RunSpec, run_spec

SUBDIR = "${hydra.job.num}"  # a run's folder is its number

OWN_KEYS = ("hydra.sweep.dir", "hydra.sweep.subdir")  # set by own_overrides, in addition to name
_SET_LAST = (*OWN_KEYS, "name")  # may be typed, too; own_overrides follow it

# Options that say where and how a run trains, and are no settings of it.
_OWN = {"device", "threads", "save_model", *schema.NOT_SWEPT}

_KEPT = 32  # compositions kept for the next runs
_kept: dict[tuple[Any, ...], _Composition] = {}


@dataclass(frozen=True)
class Job:
    """A run before it starts.

    Attributes:
        number: the run's number.
        folder: where its files go.
        overrides: the overrides of its config, as typed.
        spec: what it trains.
        texts: of .hydra/config.yaml, hydra.yaml and overrides.yaml.
    """

    number: int
    folder: Path
    overrides: list[str]
    spec: RunSpec
    texts: tuple[str, str, str]
    _composition: _Composition
    _values: Mapping[str, Any]

    def config(self) -> DictConfig:
        """Return the composed config with Hydra's part, as Hydra composes it; a copy."""
        filled = self._composition.fill(self.number, self.overrides, self._values)
        return copy.deepcopy(filled)


def own_overrides(folder: Path) -> list[str]:
    """Return the sweep's own overrides for each of its runs: where its folder is.

    They come last, so that nothing else moves a run. Its folder is the sweep's and its number.
    """
    return [
        f"name={quoted(literal(folder.name))}",
        f"hydra.sweep.dir={quoted(literal(str(folder)))}",
        f"hydra.sweep.subdir={SUBDIR}",
    ]


def compose(config: DictConfig, loader: Any, overrides: Sequence[str], number: int) -> Job:
    """Compose a run's config, and check it; return it with the texts of its files.

    Args:
        config: the sweep's config, with Hydra's part.
        loader: Hydra's config loader.
        overrides: the run's, as typed.
        number: the run's.

    Raises:
        UserError: a value that cannot work.
        HydraException, OmegaConfBaseException: overrides that do not fit.
    """
    parsed = [_parse(override) for override in overrides]
    values = _plain_values(parsed, config.hydra.runtime.choices.keys())
    composition = _composition(config, loader, parsed, values)
    if not composition.choices.keys().isdisjoint(values):  # groups that only this run's config has
        values = {key: value for key, value in values.items() if key not in composition.choices}
        composition = _composition(config, loader, parsed, values)
    try:
        return composition.job(number, overrides, values)
    except OmegaConfBaseException:
        _kept.clear()  # some values may be set
        _load(config, loader, overrides)  # Hydra names the override in its error
        raise


def forget() -> None:
    """Drop everything kept for the runs of a finished sweep: no other sweep has its loader."""
    _kept.clear()


def spec(job: DictConfig | Job) -> RunSpec:
    """Turn a config that Hydra composed into a run spec."""
    if isinstance(job, Job):
        return job.spec
    return _spec(
        number=int(OmegaConf.select(job, "hydra.job.num", default=0) or 0),
        folder=Path(job.hydra.runtime.output_dir),
        config=without_hydra(job),
        choices=job.hydra.runtime.choices,
        overrides=arguments.noted(job, "task"),
    )


def without_hydra(config: DictConfig) -> DictConfig:
    """Return a copy of a config in the form that a task gets."""
    plain = copy.deepcopy(config)
    with read_write(plain), open_dict(plain):
        del plain["hydra"]
    return plain


def _spec(
    number: int,
    folder: Path,
    config: DictConfig,
    choices: Mapping[str, Any],
    overrides: Sequence[str],
) -> RunSpec:
    given = dict(o.lstrip("+").split("=", 1) for o in overrides if "=" in o and o[0] != "~")
    return run_spec(
        number=number,
        folder=folder,
        config=config,
        choices=choices,
        swept={k: unquoted(v) for k, v in given.items() if k.partition(".")[0] not in _OWN},
    )


# --- one composition, and its variants ------------------------------------------------------------


def _composition(
    config: DictConfig, loader: Any, parsed: Sequence[Override], values: Mapping[str, Any]
) -> _Composition:
    overrides = [override.input_line or "" for override in parsed]
    rest = tuple(o.input_line for o in parsed if o.key_or_group not in values)
    hydra = tuple(arguments.noted(config, "hydra"))
    key = (id(loader), os.getcwd(), config.hydra.job.config_name, hydra, rest, tuple(values))
    found = _kept.pop(key, None)
    if found is None or found.loader is not loader:
        full = _from_the_sweeps(config, loader, parsed, values) or _load(config, loader, overrides)
        found = _Composition(full, loader, overrides, values)
    _kept[key] = found  # the latest last
    while len(_kept) > _KEPT:
        _kept.pop(next(iter(_kept)))
    for own in (found.full, found.plain):
        OmegaConf.copy_cache(from_config=config, to_config=own)  # the value of ${now:} in the sweep
    return found


class _Composition:
    """A config composed by Hydra, and its variants with other values.

    The values are set in place. They are those of one run until the next one's are set. All runs of
    a composition set the same keys, so nothing of a run remains.
    """

    def __init__(
        self, full: DictConfig, loader: Any, overrides: Sequence[str], values: Mapping[str, Any]
    ) -> None:
        self.loader = loader  # kept alive, so that no other loader gets its id
        self.full = full
        self.plain = without_hydra(self.full)
        self.choices = dict(self.full.hydra.runtime.choices)
        hydra = self.full.hydra
        with open_dict(self.full), read_write(hydra):
            hydra.sweep.subdir = SUBDIR
        self.folder = None if OmegaConf.is_interpolation(hydra.sweep, "dir") else hydra.sweep.dir
        self.dirname_style = OmegaConf.to_container(hydra.job.config.override_dirname, resolve=True)
        # Hydra 1.4 does not note it, but derives it on request.
        noted = hydra.job._get_node("override_dirname")
        dirname = _dirname(overrides, self.dirname_style)
        self.notes_dirname = isinstance(noted, Node) and noted._value() == dirname
        tops = {(key.partition(".")[0],) for key in values}
        self.config_parts = list(parts(self.plain, tops))
        changing = {TASK, JOB_ID, JOB_NUM, OUTPUT_DIR}
        changing |= {DIRNAME} if self.notes_dirname else set()
        self.hydra_parts = list(parts(OmegaConf.masked_copy(self.full, "hydra"), changing))

    def fill(self, number: int, overrides: Sequence[str], values: Mapping[str, Any]) -> DictConfig:
        """Fill in a run's values; return the whole config, valid until the next call."""
        for key, value in values.items():
            OmegaConf.update(self.full, key, value, merge=True)
        hydra = self.full.hydra
        arguments.note(self.full, "task", _of_task(overrides))
        with open_dict(self.full), read_write(hydra):
            hydra.job.id = str(number)
            hydra.job.num = number
            if self.notes_dirname:
                hydra.job.override_dirname = _dirname(overrides, self.dirname_style)
            folder = (Path(hydra.sweep.dir) / str(number)).absolute()
            hydra.runtime.output_dir = literal(str(folder))
        return self.full

    def job(self, number: int, overrides: Sequence[str], values: Mapping[str, Any]) -> Job:
        for key, value in values.items():
            OmegaConf.update(self.plain, key, value, merge=True)
        task = _of_task(overrides)
        if self.folder is not None:
            folder = (Path(self.folder) / str(number)).absolute()
        else:
            folder = Path(self.fill(number, overrides, values).hydra.runtime.output_dir)
        return Job(
            number=number,
            folder=folder,
            overrides=list(overrides),
            spec=_spec(number, folder, self.plain, self.choices, task),
            texts=(
                self._config_text(),
                self._hydra_text(number, str(folder), overrides, task),
                "".join(item((), override) for override in task) or "[]\n",
            ),
            _composition=self,
            _values=values,
        )

    def _config_text(self) -> str:
        texts = []
        for part in self.config_parts:
            if not isinstance(part, str):
                node = self.plain._get_node(part[0])
                assert isinstance(node, Node)
                part = lines(part, contents(node))
            texts.append(part)
        return "".join(texts)

    def _hydra_text(
        self, number: int, folder: str, overrides: Sequence[str], task: Sequence[str]
    ) -> str:
        items = "".join(item(TASK, override) for override in task)
        texts = {
            TASK: f"    task:\n{items}" if items else "    task: []\n",
            JOB_ID: f"    id: '{number}'\n",  # a text, and so it is quoted
            JOB_NUM: f"    num: {number}\n",
            OUTPUT_DIR: lines(OUTPUT_DIR, literal(folder)),
        }
        if self.notes_dirname:
            texts[DIRNAME] = lines(DIRNAME, _dirname(overrides, self.dirname_style))
        return "".join(p if isinstance(p, str) else texts[p] for p in self.hydra_parts)


def _load(config: DictConfig, loader: Any, overrides: Sequence[str]) -> DictConfig:
    try:
        job = loader.load_sweep_config(config, list(overrides))
        best.choose_again(job, loader, overrides)
        return job
    except ConfigCompositionException as error:
        group = messages.group_of_unknown_setting(error)
        chosen = [o.partition("=")[2] for o in overrides if o.startswith(f"{group}=")]
        if group is None or not chosen:
            raise
        raise UserError(messages.one_line(error, {group: chosen[-1]})) from error


def _from_the_sweeps(
    config: DictConfig, loader: Any, parsed: Sequence[Override], values: Mapping[str, Any]
) -> DictConfig | None:
    """Derive a run's config from its sweep's if only values differ; None if that is not certain.

    Hydra composed the sweep's command without the swept options, so that need not be repeated. The
    caller sets this run's values.
    """
    chosen = config.hydra.runtime.choices
    for one in parsed:
        plain = one.type is OverrideType.CHANGE and one.package is None
        key = one.key_or_group
        same = key in values or key in _SET_LAST or (key in chosen and one.value() == chosen[key])
        if not (plain and same) or one.is_sweep_override():
            return None
    # A value that was given to the sweep, but not to the run, is in the sweep's config.
    given = {one.key_or_group for one in parsed}
    began = arguments.noted(config, "task")
    if any(word[0] in "+~" or word.partition("=")[0] not in given for word in began):
        return None
    began_in = config.hydra.runtime._get_node("cwd")  # Hydra notes a folder's name as it is
    if not isinstance(began_in, Node) or began_in._value() != os.getcwd():
        return None
    full = copy.deepcopy(config)
    hydra = full.hydra
    with read_write(hydra):  # Hydra 1.4 locks it
        for one in parsed:
            if one.key_or_group in _SET_LAST:
                OmegaConf.update(full, one.key_or_group, one.value(), merge=True)
    own = [one.input_line or "" for one in parsed if one.is_hydra_override()]
    arguments.note(full, "hydra", arguments.noted(config, "hydra") + own)
    words = [one.input_line or "" for one in parsed]
    dirname = "override_dirname"  # Hydra 1.3 notes it
    if dirname in hydra.job and not OmegaConf.is_interpolation(hydra.job, dirname):
        style = OmegaConf.to_container(hydra.job.config.override_dirname, resolve=True)
        with open_dict(full), read_write(hydra):
            hydra.job.override_dirname = _dirname(words, style)
    best.choose_again(full, loader, words)
    return full


@functools.lru_cache(maxsize=4096)
def _parse(override: str) -> Override:
    return _parser().parse_overrides([override])[0]


@functools.cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def _of_task(overrides: Sequence[str]) -> list[str]:
    return [override for override in overrides if not _parse(override).is_hydra_override()]


def _dirname(overrides: Sequence[str], style: Any) -> str:
    """Return the overrides as one word, as Hydra does for names of folders."""
    parsed = [_parse(override) for override in _of_task(overrides)]
    words = [o.input_line or "" for o in parsed if o.key_or_group not in style["exclude_keys"]]
    return re.sub("=", lambda _: style["kv_sep"], style["item_sep"].join(sorted(words)))


def _plain_values(parsed: Sequence[Override], groups: Collection[Any]) -> dict[str, Any]:
    """Return the overrides that only set one value, with a key that no other touches."""
    return {
        one.key_or_group: one.value()
        for one in parsed
        if one.type is OverrideType.CHANGE
        and one.package is None
        and not one.is_hydra_override()
        and not one.is_sweep_override()
        and not isinstance(one.value(), dict)
        and "/" not in one.key_or_group
        and one.key_or_group not in groups
        and sum(_related(one.key_or_group, other.key_or_group) for other in parsed) == 1
    }


def _related(key: str, other: str) -> bool:
    """Return whether they are the same, or one is inside the other."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")
