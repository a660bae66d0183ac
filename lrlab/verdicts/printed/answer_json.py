# pyright: strict
"""Put the answer into one JSON object, for programs; docs/files.md explains each of its keys."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from lrlab import records
from lrlab._version import __version__
from lrlab.process.only_json import SCHEMA
from lrlab.tables import sweep_settings
from lrlab.verdicts.answer import Answer
from lrlab.verdicts.printed.answer_words import FAR, how_sure
from lrlab.verdicts.recommend import comparable

POINTS = 7  # lrs to try next, if the sweep's command does not say how many
_SEEDS = "0,1,2"  # what the answer in words suggests


def of_sweep(
    answers: Sequence[Answer],
    sweep: Path | None = None,
    budget: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the answer of a sweep, or of runs from several, as ``answer.json`` holds it.

    Args:
        answers: as from `recommend.recommend`, the best first.
        sweep: its folder, whose command the next one is made from; None: of no single sweep.
        budget: what its ``budget`` left out; None: as its answer.json says.
    """
    command = [] if sweep is None else sweep_settings.command(sweep)
    if budget is None and sweep is not None:
        kept: Any = (records.read_answer(sweep) or {}).get("budget")
        budget = cast("dict[str, Any]", kept) if isinstance(kept, dict) else None
    one = bool(answers) and comparable(answers)
    return {
        "schema": SCHEMA,
        "lrlab": __version__,
        "command": _typed(command),
        "comparable": one,
        "lr": answers[0].best_lr if one else None,
        "budget": None if budget is None else dict(budget),
        "answers": [of_answer(each, command) for each in answers],
    }


def of_answer(a: Answer, command: Sequence[str] = ()) -> dict[str, Any]:
    """Return the answer for one combination of settings."""
    overfit = {"epoch": a.overfit_epoch, "loss": a.overfit_from} if a.overfits else None
    return {
        "settings": dict(a.settings),
        "lr": a.best_lr,
        "range": a.as_good,
        "refusal": a.refusal or None,
        "alone": a.is_alone,
        "edge": a.edge or None,
        "try_next": a.try_next,
        "next": next_step(a, command),
        "loss": a.best_loss,
        "judged_by": a.judged_by or None,
        "run": a.best_run,
        "confidence": _confidence(a),
        "decay_gain": a.decay_gain,
        "at_end": a.at_end or None,
        "overfit": overfit,
        "steps": a.step_words or None,
        "too_small": a.too_small,
        "too_large": a.too_large,
        "fails_from": a.fails_from,
        "lrs": a.lrs,
        "runs": a.runs,
        "not_judged": a.not_judged,
        "counts": {name: count for name, count in (a.counts or {}).items() if count},
        "length": {"count": a.steps, "unit": a.unit},
        "target_loss": a.target_loss,
        "to_target": [asdict(each) for each in a.to_target],
        "search": None if a.search is None else asdict(a.search),
    }


def confidence_word(a: Answer) -> str:
    """Return in a word how sure it is that the best lr leads.

    It is one of: none (no lr is recommended), alone (there was no other lr), unknown (how much is
    chance was not measured), chance (the lead is within its noise), likely (beyond it), sure (with
    several seeds, or far beyond it).
    """
    if a.best_lr is None:
        return "none"
    if a.is_alone:
        return "alone"
    if a.rival is None or math.isnan(a.rival.error):
        return "unknown"
    if abs(a.rival.higher) <= a.rival.error:
        return "chance"
    if a.rival.fails:  # it ended lower, so that failures alone decide
        return "likely"
    return "sure" if a.seeds > 1 or a.rival.higher > FAR * a.rival.error else "likely"


def _confidence(a: Answer) -> dict[str, Any]:
    found = a.rival
    rival = None
    if found is not None:
        rival = {
            "lr": found.lr,
            "difference": found.higher,
            "noise": found.error,
            "noise_of": found.of,
            "fewer_failures_decide": found.fails,
            "not_told_apart": found.held_out,
        }
    return {
        "word": confidence_word(a),
        "seeds": a.seeds,
        "failed_seeds": a.failed_seeds,
        "seed_noise": a.noise,
        "rival": rival,
        "sentence": None if a.best_lr is None else how_sure(a),
    }


# --- the command to run next ----------------------------------------------------------------------


def next_step(a: Answer, command: Sequence[str]) -> dict[str, Any] | None:
    """Return why another sweep would say more, and its command; None: nothing, or not known.

    Args:
        command: the words that began the sweep.
    """
    if words := next_words(a, command):
        return {"why": "range", **(_typed(words) or {})}
    if a.best_lr is None or a.seeds > 1 or confidence_word(a) == "sure":
        return None
    given = {_key(word): word for word in command}
    if not command or is_swept(given.get("seed", "").partition("=")[2]):
        return None
    words = [*_kept(command, ("seed",)), f"seed={_SEEDS}"]
    return {"why": "seeds", **(_typed(words) or {})}


def next_words(a: Answer, command: Sequence[str]) -> list[str]:
    """Return the words of the sweep over the range to try next; [] if either is not known.

    Other swept settings get their value in the answer. The sweep's name and folder are left out.
    """
    given = {_key(word) for word in command}
    hidden = any(word.startswith("-") or "experiment" in word for word in command[3:])
    if a.try_next is None or not command or ("lr" not in given and hidden):
        return []  # what a file sets is not among the words
    low, high = a.try_next
    words: list[str] = []
    if "lr" not in given:  # the default's
        command = [*command, "lr="]
    for word in _kept(command):
        key, _, value = word.partition("=")
        if key == "lr":
            words.append(f"lr={low:.3g}..{high:.3g}")
        elif key in a.settings and is_swept(value):
            words.append(f"{key}={_one_value(_text(a.settings[key]))}")
        else:
            words.append(word)
    return words if a.search is not None or "points" in given else [*words, f"points={POINTS}"]


def is_swept(value: str) -> bool:
    """Return whether the text of an option stands for several values."""
    return "," in value or ".." in value or value.startswith(("interval(", "range(", "choice("))


def _typed(words: Sequence[str]) -> dict[str, Any] | None:
    return {"words": list(words), "text": shlex.join(words)} if words else None


def _kept(command: Sequence[str], but: Sequence[str] = ()) -> list[str]:
    left = ("name", "output", "hydra.sweep.dir", *but)
    return [word for word in command if word.partition("=")[0] not in left]


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+")


def _text(value: Any) -> str:
    """Return a setting's value as one would type it."""
    if value is None or value != value:
        return "null"
    if not isinstance(value, float):
        return str(value)
    short = f"{value:.6g}"
    return short if float(short) == value else repr(float(value))


def _one_value(text: str) -> str:
    """Quote a setting's value with a comma, which the command line would take for a list."""
    if "," not in text or text.startswith("["):
        return text
    from lrlab.config.words.spelling import quoted

    return quoted(text)
