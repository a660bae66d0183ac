"""Parse the command line, and put it into a form for Hydra, which accepts less than lrlab.

Before a sweep starts, Hydra composes the config with all options that are not swept. So it would
read ``lr=1e-4..1`` as one value, and check ``optimizer=adam,adamw optimizer.eps=1e-6`` against the
default optimizer. Hydra leaves swept options to the sweeper. So such words are put into Hydra's own
notation: ``lr=interval(1e-4,1)``, and ``optimizer.eps=choice(1e-6)``, a list of one. The sweeper
and all records see the words as typed, with the quotes that `lrlab.config.words.spelling` adds
where Hydra would read another text.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, Override
from omegaconf import DictConfig, OmegaConf, read_write

from lrlab.config.schema import GROUPS, INTERVAL, SWEEP_GROUPS, nearest
from lrlab.config.words import spelling
from lrlab.errors import UserError

# With these flags Hydra composes one run, or none; it refuses its own notation of sweeps there.
OTHER_COMMANDS = (
    *("--help", "-h", "--hydra-help", "--version", "--run", "-r", "--cfg", "-c", "--info", "-i"),
    *("--shell-completion", "-sc", "--experimental-rerun"),
)

# Options for which several values make runs, apart from the settings of the groups.
_SWEPT = ("lr", "epochs", "batch_size", "seed", "precision", *GROUPS)

# Words for Hydra itself that keep its mode; another may name files that change it.
_OF_HYDRA = ("hydra/launcher=", "hydra.launcher.", "hydra.sweeper.", "hydra.sweep.")

# A command line that goes on with a sweep, as `lrlab.resume` makes it.
RESUMED = "hydra.sweeper.resume=true"


clock = time.monotonic  # of ``budget``, which begins with the command


@dataclass(frozen=True)
class Command:
    """A command line, parsed once and passed on unchanged.

    Attributes:
        for_hydra: its words as Hydra reads them: texts in quotes where it needs them; intervals,
            and values that only a swept choice allows, as sweeps.
        typed: those of these words that were typed differently, and how.
        carried: the folder with files that the sweep copies into its own.
        began: where the sweep began with which this command goes on.
        opened: called with the sweep's folder once it is open.
        started: when it was parsed, as time.monotonic().
    """

    for_hydra: tuple[str, ...] = ()
    typed: Mapping[str, str] = field(default_factory=dict)
    carried: Path | None = None
    began: Path | None = None
    opened: Callable[[Path], object] = lambda folder: None
    started: float = field(default_factory=lambda: clock())


def read(
    arguments: Sequence[str],
    deferred: Sequence[str] = (),
    *,
    carried: Path | None = None,
    began: Path | None = None,
    opened: Callable[[Path], object] = lambda folder: None,
) -> Command:
    """Parse a command line.

    Args:
        arguments: without the program's name.
        deferred: groups that are swept, but not on the command line.
        carried, began, opened: of the ``Command``.

    Raises:
        UserError: a word sets something without a value; or two set the same.
    """
    for word in arguments:
        key, equals, _ = word.partition("=")
        try:
            word.encode()
        except UnicodeEncodeError:  # no record could hold it
            raise UserError(f"{word}: is no text in UTF-8") from None
        if equals and not key.strip("+~"):
            raise UserError(f"{word}: names no option and no group; write option=value")
    if RESUMED not in arguments:  # its words were checked and spelled when the sweep began
        judge(arguments)
        arguments = spelling.spelled(arguments)
    if not is_sweep(arguments):
        return Command(tuple(arguments), {}, carried, began, opened)
    parsed = {word: override for word in arguments if (override := _parse(word))}
    for word, override in parsed.items():
        _refuse_lists_of_choices(word, override)
    groups = {o.key_or_group for o in parsed.values() if o.is_sweep_override()} | set(deferred)
    words, typed = [], {}
    for word in arguments:
        override = parsed.get(word)
        new = word if override is None else _rewritten(word, override, groups)
        if new != word:
            typed[new] = word
        words.append(new)
    return Command(tuple(words), typed, carried, began, opened)


def judge(words: Sequence[str]) -> None:
    """Refuse words that Hydra would accept and silently ignore.

    Raises:
        UserError: an option is set twice, or is a new one of Hydra's own part.
    """
    _refuse_twice(words)
    for word in words:
        key = word.partition("=")[0]
        if key.startswith("+") and key.lstrip("+").startswith("hydra."):
            _refuse_unknown_of_hydra(key.lstrip("+"), word)


def _refuse_unknown_of_hydra(key: str, word: str) -> None:
    from hydra.conf import HydraConf

    node: Any = HydraConf()
    for part in key.split(".")[1:]:
        if not is_dataclass(node):  # a mapping, which takes any key
            return
        known = [field.name for field in fields(node)]
        if part not in known:
            raise UserError(f"{word}: Hydra has no such option{nearest(part, known)}; leave it out")
        node = getattr(node, part)


def _refuse_twice(words: Sequence[str]) -> None:
    """Refuse a command line that sets one option twice; the first value would be ignored."""
    typed: dict[str, list[str]] = {}
    for word in words:
        if not word.startswith("-"):
            typed.setdefault(word.partition("=")[0].lstrip("+~").strip(), []).append(word)
    for key, given in typed.items():
        if len(given) < 2:
            continue
        often = "twice" if len(given) == 2 else f"{len(given)} times"
        listed = " and ".join(map(shlex.quote, given))
        raise UserError(f"{key}: is given {often}, as {listed}; keep one{_as_a_list(key, given)}")


def _as_a_list(key: str, given: Sequence[str]) -> str:
    """Return how to sweep several values of an option; "" if that is impossible."""
    is_setting = "." in key and key.partition(".")[0] in GROUPS
    if key not in _SWEPT and not is_setting:
        return ""
    texts = [word.partition("=")[2] for word in given]
    values = list(dict.fromkeys(value for text in texts for value in text.split(",")))
    if len(values) < 2 or not all(re.fullmatch(r"[\w.+-]+", value) for value in values):
        return ""
    if any(".." in value for value in values):
        return ""
    sign = next((word[0] for word in given if word.startswith("+")), "") if is_setting else ""
    return f", or sweep them all by {sign}{key}={','.join(values)}"


def _refuse_lists_of_choices(word: str, override: Override) -> None:
    if override.key_or_group not in (*GROUPS, *SWEEP_GROUPS):
        return
    value = override.value()
    named = value.list if isinstance(value, ChoiceSweep) else [value]
    if any(isinstance(one, list) for one in named):
        raise UserError(
            f"{word}: a group takes the name of a choice, like network=cnn, and to sweep it "
            "several with a comma, like network=mlp,cnn"
        )


def is_sweep(arguments: Sequence[str]) -> bool:
    """Return whether the command trains, and not in Hydra's mode of one run."""
    names = [word.partition("=")[0] for word in arguments]
    return not set(names) & set(OTHER_COMMANDS) and "hydra.mode=RUN" not in arguments


def says_no_mode(arguments: Sequence[str]) -> bool:
    """Return whether Hydra's mode is certainly that of ``conf/config.yaml``."""
    return not any(
        word.startswith("-")
        or ("hydra" in word.partition("=")[0] and not word.startswith(_OF_HYDRA))
        for word in arguments
    )


def as_list(word: str) -> str | None:
    """Return an override that sweeps a list, or one value as a list of it; None for others."""
    override = _parse(word)
    if override is None or override.is_delete() or override.is_hydra_override():
        return None
    if isinstance(override.value(), ChoiceSweep):
        return word
    key, _, text = word.partition("=")
    if override.is_sweep_override() or INTERVAL.fullmatch(text):
        return None
    new = f"{key}=choice({text})"
    return new if _parse(new) else None


def restore(config: DictConfig, typed: Mapping[str, str]) -> None:
    """Put the words as typed, those of a ``Command``, back into the overrides that Hydra noted."""
    note(config, "task", [typed.get(word, word) for word in noted(config, "task")])


def noted(config: DictConfig, kind: str) -> list[str]:
    """Return the overrides of a command or a run, as typed and without resolving them.

    Args:
        config: with Hydra's part.
        kind: ``task`` or ``hydra``: those of the options, or those of Hydra's own.
    """
    words = OmegaConf.to_container(config.hydra.overrides[kind], resolve=False)
    assert isinstance(words, list)
    return [str(word) for word in words]


def note(config: DictConfig, kind: str, words: Sequence[str]) -> None:
    """Replace the result of ``noted``; from 1.4 on Hydra locks it."""
    with read_write(config.hydra.overrides):
        config.hydra.overrides[kind] = list(words)


def _parse(word: str) -> Override | None:
    """Return an override, or None for a flag or for a word that Hydra will reject."""
    key, equals, text = word.partition("=")
    return spelling.parsed(text, key) if equals and not word.startswith("-") else None


def _rewritten(word: str, override: Override, groups: set[str]) -> str:
    if override.is_sweep_override() or override.is_delete() or override.is_hydra_override():
        return word
    key, _, text = word.partition("=")
    match = INTERVAL.fullmatch(text)
    if match is not None:
        new = f"{key}=interval({match[1]},{match[2]})"
    elif "." in key and override.key_or_group.partition(".")[0] in groups:
        new = f"{key}=choice({text})"
    else:
        return word
    return new if _parse(new) else word
