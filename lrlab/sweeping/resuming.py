"""Turn a sweep's folder into the command line that goes on with it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrlab import records
from lrlab.config import trust
from lrlab.config.words import arguments, spelling, wishes
from lrlab.errors import UserError
from lrlab.plan import best
from lrlab.process import cores
from lrlab.process.paths import typed_path


@dataclass(frozen=True)
class Resumed:
    """How to go on with a sweep.

    Attributes:
        words: the command line.
        hydra: Hydra's part of the config that the sweep began with.
        trusted: whether everything that its records name may be called.
    """

    words: list[str]
    hydra: Mapping[str, Any]
    trusted: bool


def command_line(folder: Path, given: list[str]) -> Resumed:
    """Return the command line that began a sweep, with the new overrides.

    Args:
        given: overrides; each replaces the one with its key.

    Raises:
        UserError: the folder is no sweep's, or its records name something that
            `lrlab.config.trust` does not know and the user has not trusted.
    """
    given, trusted = trust.without_trust(given)
    arguments.judge(given)
    typed, given = given, spelling.spelled(given)
    if not os.path.lexists(folder / "multirun.yaml"):
        records.read_sweep_config(folder)  # it says what it is not
    records.check_contained(folder)
    saved = _saved(folder)
    for override in given:
        if "=" not in override:
            raise UserError(f"{override}: after the sweep's folder come options, as option=value")
        if override.lstrip("+~").startswith(records.RESUMING):
            raise UserError(f"{override}: resume sets it itself; leave it out")
        if _key(override) in ("name", "output"):
            raise UserError(f"{override}: the sweep goes on in its own folder; leave it out")
        if "/" not in (key := _key(override)):
            wishes.refuse_unknown({} if key.startswith("experiments") else {key: None}, given)
    new = {_key(o) for o in given}
    given += [word for word in saved.lacking if _key(word) not in new]
    given = _one_of_a_list(given, saved.task)
    kept = [o for o in saved.task if _key(o) not in new]
    kept += [
        o
        for o in saved.of_hydra
        if _key(o) not in new and not o.startswith((*records.RESUMING, "hydra.mode="))
    ]
    folders = saved.config_folders
    flags = [f"--config-dir={path}" for path in folders]
    if (name := saved.config_name) not in (None, "config"):
        flags.append(f"--config-name={name}")
    if not trusted:
        found = [f"the configs in {path}" for path in folders]
        found += [f"the config {name}"] if len(flags) > len(folders) else []
        secret = {"storage", "tracking.uri"} & new  # their passwords are kept out of messages
        words = "" if secret else "".join(f" {shlex.quote(word)}" for word in typed)
        again = f"python -m lrlab.resume {typed_path(folder)}{words} {trust.TRUST}"
        trust.refuse(found + trust.in_words(kept), str(folder), again)
    if wrong := [word for word in kept if word.startswith("-")]:
        raise UserError(f"{folder}: its multirun.yaml is damaged, {wrong[0]} is no option")
    where = spelling.quoted(spelling.literal(str(folder.absolute())))
    resuming = [f"hydra.sweep.dir={where}", "hydra.sweeper.resume=true"]
    words = [*flags, *kept, *given, *resuming, f"hydra.sweeper.trust={str(trusted).lower()}"]
    return Resumed(words, saved.hydra, trusted)


def bounded(words: list[str], given: list[str]) -> list[str]:
    """Return the words with at most as many workers as cores, even if a record asks for more."""
    most, found = cores.cores(), []
    for word in words:
        count = word.partition("=")[2].strip("'\"")
        asked = int(count) if _key(word) == "workers" and count.isdecimal() else 0
        if word not in given and asked > most:
            print(
                f"lrlab: {word}: the record asks for more processes than this machine has cores; "
                f"workers={most}. To start them all, add {word}",
                file=sys.stderr,
            )
            word = f"workers={most}"
        found.append(word)
    return found


def resume_command(folder: Path) -> str:
    """Return the command that goes on with a sweep of one's own, as one would type it here."""
    typed = f"python -m lrlab.resume {typed_path(folder)}"
    try:
        command_line(folder, [])
    except UserError as error:
        return f"{typed} {trust.TRUST}" if trust.TRUST in str(error) else typed
    return typed


@dataclass(frozen=True)
class _Saved:
    """The part of multirun.yaml about how a sweep was begun.

    Attributes:
        hydra: Hydra's part, as it is.
        task, of_hydra: the overrides of the options, and of Hydra's own.
        config_folders: those of --config-dir.
        config_name: that of --config-name.
        lacking: words for the settings that lrlab did not have yet when it was begun.
    """

    hydra: dict[str, Any]
    task: list[str]
    of_hydra: list[str]
    config_folders: list[str]
    config_name: str | None
    lacking: tuple[str, ...]


def _saved(folder: Path) -> _Saved:
    import yaml

    found: Any
    damaged = UserError(f"{folder}: its multirun.yaml is damaged")
    try:
        config: Any = records.plain_yaml(records.read_sweep_config(folder))
        hydra: Any = config["hydra"]
        overrides, sources = hydra["overrides"], hydra["runtime"]["config_sources"]
        typed = [source["path"] for source in sources if source["provider"] == "command-line"]
        name = hydra["job"]["config_name"]
        lacking = tuple(f"++data.{key}=false" for key in best.lacking(config))
        if "lane_dropout" not in config:  # together, such runs would have other bits
            lacking += ("lane_dropout=false",)
        found = _Saved(hydra, overrides["task"], overrides["hydra"], typed, name, lacking)
    except (yaml.YAMLError, LookupError, TypeError, ValueError, RecursionError):
        raise damaged from None
    lists: list[Any] = [found.task, found.of_hydra, found.config_folders]
    texts = [each for one in lists if isinstance(one, list) for each in one]
    all_lists = isinstance(hydra, dict) and all(isinstance(one, list) for one in lists)
    name_is_text = isinstance(found.config_name, str | None)
    if not (all_lists and name_is_text and all(isinstance(each, str) for each in texts)):
        raise damaged
    return found


def _one_of_a_list(given: list[str], before: list[str]) -> list[str]:
    """Return the options; one value, where the sweep has a list, becomes a list of one."""
    swept = {_key(word) for word in before if arguments.as_list(word) == word}
    return [arguments.as_list(word) or word if _key(word) in swept else word for word in given]


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
