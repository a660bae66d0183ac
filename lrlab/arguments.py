"""The command line as Hydra can take it, where lrlab takes more than Hydra does.

Before anything is swept, Hydra composes the config without what is swept, and with all else. So it
would judge ``lr=1e-4..1`` as one value, and ``optimizer=adam,adamw optimizer.eps=1e-6`` against the
default optimizer. Hydra leaves to the sweeper what it knows to be swept: here such words are put
into its own notation, ``lr=interval(1e-4,1)`` and ``optimizer.eps=choice(1e-6)``, a list of one.
The sweeper and all records see the words as they were typed.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, read_write

from lrlab.config import GROUPS, INTERVAL, SWEEP_GROUPS
from lrlab.errors import UserError
from lrlab.space import quoted

# With these Hydra composes one run, or none; its own words for what is swept are refused there.
OTHER_COMMANDS = (
    *("--help", "-h", "--hydra-help", "--version", "--run", "-r", "--cfg", "-c", "--info", "-i"),
    *("--shell-completion", "-sc", "--experimental-rerun"),
)

# Words for Hydra itself that leave its mode as it is; another may name files that say it.
_OF_HYDRA = ("hydra/launcher=", "hydra.launcher.", "hydra.sweeper.", "hydra.sweep.")

# Options whose values are signs, which Hydra's grammar has a meaning for.
_SIGNS = ("data.sep", "data.decimal")

_typed: dict[str, str] = {}


def for_hydra(arguments: Sequence[str], deferred: Sequence[str] = ()) -> list[str]:
    """The command line with intervals, and values that only a swept choice allows, as sweeps.

    Args:
        arguments: without the program's name.
        deferred: groups that are swept, but not on the command line.

    Raises:
        UserError: a word sets something, and does not say what.
    """
    for word in arguments:
        key, equals, _ = word.partition("=")
        try:
            word.encode()
        except UnicodeEncodeError:  # no record could hold it
            raise UserError(f"{word}: is no text in UTF-8") from None
        if equals and not key.strip("+~"):
            raise UserError(f"{word}: names no option and no group; write option=value")
    arguments = [with_quotes(word) for word in arguments]
    if not is_sweep(arguments):
        return arguments
    parsed = {word: override for word in arguments if (override := _parse(word))}
    for word, override in parsed.items():
        _refuse_lists_of_choices(word, override)
    groups = {o.key_or_group for o in parsed.values() if o.is_sweep_override()} | set(deferred)
    words = []
    for word in arguments:
        override = parsed.get(word)
        new = word if override is None else _rewritten(word, override, groups)
        if new != word:
            _typed[new] = word
        words.append(new)
    return words


def with_quotes(word: str) -> str:
    """A word whose value is a sign of Hydra's grammar, as ``data.sep=;``, so that it is a text."""
    key, equals, text = word.partition("=")
    if key.lstrip("+") not in _SIGNS or not equals or text[:1] in ("'", '"') or text.isalnum():
        return word
    if not text or "," in text[1:]:  # several are swept
        return word
    return key + equals + quoted(text)  # and so it is recorded, for all that read it again


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
    """Whether the command trains, and not in Hydra's mode of one run."""
    names = [word.partition("=")[0] for word in arguments]
    return not set(names) & set(OTHER_COMMANDS) and "hydra.mode=RUN" not in arguments


def says_no_mode(arguments: Sequence[str]) -> bool:
    """Whether Hydra's mode is certainly that of ``conf/config.yaml``: no word could change it."""
    return not any(
        word.startswith("-")
        or ("hydra" in word.partition("=")[0] and not word.startswith(_OF_HYDRA))
        for word in arguments
    )


def restore(config: DictConfig) -> None:
    """Put the words as typed back into the overrides that Hydra noted."""
    note(config, "task", [_typed.get(word, word) for word in noted(config, "task")])


def noted(config: DictConfig, kind: str) -> list[str]:
    """The overrides of a command or a run, as typed: read one by one, they would be resolved.

    Args:
        config: with Hydra's part.
        kind: ``task`` or ``hydra``: those of the options, or those of Hydra's own.
    """
    words = OmegaConf.to_container(config.hydra.overrides[kind], resolve=False)
    assert isinstance(words, list)
    return [str(word) for word in words]


def note(config: DictConfig, kind: str, words: Sequence[str]) -> None:
    """Replace what ``noted`` gives; from 1.4 on Hydra locks it."""
    with read_write(config.hydra.overrides):
        config.hydra.overrides[kind] = list(words)


def _parse(word: str) -> Override | None:
    """An override, or None: it is a flag, or Hydra will say what is wrong with it."""
    if word.startswith("-") or "=" not in word:
        return None
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None
    except ValueError:  # Python reads no whole number of more than 4,300 digits
        raise UserError(f"{word[:60]}…: a number with too many digits") from None


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
