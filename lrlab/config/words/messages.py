"""Explain in one line what an error of Hydra or OmegaConf means to the user."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from omegaconf.errors import InterpolationResolutionError

from lrlab.config.schema import (
    GROUPS,
    INTERVAL,
    SWEEP_GROUPS,
    choices_with,
    known_keys,
    nearest,
)

FULL_KEY = r"full_key: (\S+)"

# An example for each numeric option, for when its value is no word at all.
NUMBERS = {"lr": 0.1, "epochs": 3, "batch_size": 64, "seed": 0, "points": 13, "n_trials": 20}
WANTED = {
    "Float": "a number, for example 0.1",
    "Integer": "a whole number, for example 3",
    "Boolean": "true or false",
}


def one_line(error: Exception, chosen: Mapping[str, str] | None = None) -> str:
    """Return the meaning of a Hydra or OmegaConf error for the user, in one line.

    Args:
        error: a ``HydraException`` or ``OmegaConfBaseException``.
        chosen: the choices in the groups, if known.
    """
    parts = [str(error)]
    cause = error.__cause__
    while cause is not None:
        parts.append(str(cause))
        cause = cause.__cause__
    text = "\n".join(parts)

    if isinstance(error, InterpolationResolutionError) and error.child_node is not None:
        return _wrong_reference(error, text)
    if match := re.search(r"Error resolving interpolation '(.*)', possible .*keys: (.*)", text):
        return (
            f"{match[1]}: can refer only to another group where a group's choice is expected "
            f"({match[2]}); write the choice's name"
        )
    if (override := getattr(error, "override", None)) is not None:
        return _not_understood(str(override))
    if match := re.search(r"Value '(.*)' of type '.*' could not be converted to (\w+)", text):
        value, kind = match.groups()
        key = _search(FULL_KEY, text)
        if INTERVAL.fullmatch(value):
            return misplaced_interval(key, value)
        return f"{key}={value}: must be {WANTED.get(kind, kind.lower())}"
    if match := re.search(r"Error merging override (\S+)\s+field '(\w+)' is not Optional", text):
        return f"{match[1]}: {match[2]} needs a value"
    if (override := _search(r"input_line='(\S*)'", text)) != "?":
        return f"{override}: not understood; write option=value, or ~option to leave one out"
    if match := re.search(r"Error merging override (\S+)\s+Cannot convert '\w+' to string", text):
        return f"{match[1]}: must be a text"
    if "to string: " in text and re.search(r"Cannot convert '\w+' to string", text):
        return f"{_search(FULL_KEY, text)}: must be a text"
    if match := re.search(r"Error merging override (.*)\s+Cannot merge \w+ with (List|Dict)", text):
        wanted = "a list, like [1,2]" if match[2] == "List" else "settings by their names"
        return f"{match[1]}: must be {wanted}"
    if match := re.search(r"Could not delete from config\. '(.+)' does not exist", text):
        return f"~{match[1]}: there is no such option that could be left out"
    if match := re.search(r"Could not delete '(.*)'\. No match", text):
        return f"~{match[1]}: there is no such group or choice that could be left out"
    if match := re.search(r"The value of '(\S+)' is (.*) and not (.*)\.", text):
        return f"~{match[1]}={match[3]}: is {match[2]}; ~{match[1]} leaves it out"
    if match := re.search(r"Override (\S+) looks .* config group '(.*)' does not exist", text):
        near = nearest(match[2], (*GROUPS, *SWEEP_GROUPS))
        return f"{match[1]}: there is no group {match[2]}{near}"
    if match := re.search(r"force-add of config groups is not supported: '([^=]*)=", text):
        group = match[1].lstrip("+")
        return f"{match[1]}: is a group; choose from it without signs, as {group}=…"
    if "Config group override must be a string" in text:
        return "a group takes the name of a choice, like data=mnist or network=cnn"
    if match := re.search(r"(?s)Error in call to target '([\w.]+)'.*TypeError", text):
        name = match[1].rpartition(".")[2]
        part = "sweeper" if "sweep" in name.lower() else "launcher"
        wrong = re.search(r"unexpected keyword argument '(\w+)'", text)
        key = f"hydra.{part}.{wrong[1]}" if wrong else f"hydra.{part}"
        none = f"{name} has no such setting" if wrong else f"{name} has no settings"
        return f"{key}: {none}; leave it out"
    if match := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '(.*)'", text):
        return f"{match[1]}: several values, where one run is trained or shown; give one value"
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1]
        known = known_keys()
        if key in known:
            group, _, setting = key.partition(".")
            having = ", ".join(choices_with(group, setting))
            this = f"{group}={chosen[group]}" if chosen and group in chosen else f"this {group}"
            return f"{key}: not a setting of {this}; {group}={having} has it"
        from lrlab.config.words import wishes

        return wishes.no_such(key)
    if match := re.search(r"(?:Could not find|Could not load) '([^']+)/([^'/]*)'", text):
        group, choice = match.groups()
        listing = text.partition("Available options in")[2].partition("Config search path")[0]
        choices = [line.strip() for line in listing.splitlines() if line.startswith("\t")]
        listed = f"; choose from {', '.join(choices)}" if choices else ""
        if group.partition("/")[0] == "data" and "." in choice:
            choice, group = f"{group}/{choice}".removeprefix("data/"), "data"
            listed = f"; a file is read by data=csv data.path={choice} data.label=…, or data=arrays"
            return f"{group}={choice}: no such choice{listed}"
        return f"{group}={choice}: no such choice{nearest(choice, choices)}{listed}"
    if match := re.search(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"+{match[1]}: is there already; write {match[1]}=… without the +"
    if "Missing mandatory value" in text:
        key = _search(r"(?:Missing mandatory value: |full_key: )(\S+)", text)
        return f"{key}: needs a value, give it as {key}=…"
    if match := re.search(r"Value '(.*)' is not a valid bool", text):
        return f"{_search(FULL_KEY, text)}={match[1]}: must be true or false"
    if match := re.search(r"In '(.*)': .* raised while composing config:\s+Key '(\w+)'", text):
        return _unknown_in_file(match[1], _search(FULL_KEY, text))
    if match := re.search(r"(?:Missing key |Key ')(\w+)", text):
        return f"~{match[1]}: cannot be left out"
    inner = re.compile(r"\s*(full_key|object_type|reference_type)\b")  # Hydra's own
    lines = [line.strip() for line in text.splitlines() if not inner.match(line)]
    return " ".join(dict.fromkeys(line for line in lines if line))


def _unknown_in_file(file: str, key: str) -> str:
    """Return the line for a key that the schema does not have, in the user's own config."""
    if file.partition("/")[0] == key:  # a group of the user's own
        return (
            f"{key}={file.partition('/')[2]}: nothing reads what it sets; the file {file}.yaml "
            "must begin with the line `# @package _global_`"
        )
    from lrlab.config.words import wishes

    return f"{file}.yaml: {wishes.no_such(key)}"


def _not_understood(word: str) -> str:
    """Return the line for a word that Hydra's grammar does not take."""
    key, equals, text = word.partition("=")
    line = f"{word}: not understood; write option=value"
    if not (equals and text and re.fullmatch(r"\+{0,2}[A-Za-z_][\w.]*", key, re.ASCII)):
        return line
    if key.lstrip("+") in NUMBERS:
        return f"{line}, for example {key}={NUMBERS[key.lstrip('+')]}"
    from lrlab.config.words.spelling import quoted

    return (
        f"{line}, and where the value is a text, quote it: {shlex.quote(f'{key}={quoted(text)}')}"
    )


def _wrong_reference(error: InterpolationResolutionError, text: str) -> str:
    """Return the line for a reference such as ``${lr}`` that leads to no value."""
    key, node = str(error.full_key), error.child_node
    assert node is not None
    value = node._value()
    wanted = WANTED.get(type(node).__name__.removesuffix("Node"), "a value")
    instead = f"give {wanted}, or refer to another option that has one"
    if "Recursive interpolation" in text or "Interpolation to parent node" in text:
        return f"{key}={value}: refers to itself; {instead}"
    if match := re.search(r"Interpolation key '(.*)' not found", text):
        near = "" if match[1].startswith("hydra.") else nearest(match[1], known_keys())
        return f"{key}={value}: there is no option {match[1]}{near}; {instead}"
    if match := re.search(r"Unsupported interpolation type (\S+)", text):
        return f"{key}={value}: there is no resolver {match[1]}; {instead}"
    if match := re.search(r"Value '(.*)' of type '.*' could not be converted", text):
        return f"{key}={value}: stands for {match[1]}; {instead}"
    reason = text.splitlines()[0].rpartition("resolving interpolation: ")[2]
    return f"{key}={value}: leads nowhere ({reason}); {instead}"


def group_of_unknown_setting(error: Exception) -> str | None:
    """Return the group named in a Hydra error whose choice lacks a setting, or None."""
    match = re.search(r"Could not override '([^'.]+)\.", str(error))
    return match[1] if match else None


def misplaced_interval(key: str, interval: str) -> str:
    """Return the line for an interval in place of a single value."""
    return (
        f"{key}={interval}: is an interval, where one value is needed; "
        f"in a YAML file it belongs in hydra.sweeper.params: {{{key}: {interval}}}"
    )


def _search(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else "?"
