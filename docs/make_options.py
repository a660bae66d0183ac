"""Fill the tables of docs/options.md from conf/, whose YAML files are the source of each default.

    python docs/make_options.py

A choice is in the table whose marker names it, so the name of a new file in conf/ goes into one.

The text between ``<!-- made: ... -->`` and ``<!-- end -->`` is generated, all other text is written
by hand. A marker says what its table contains:

    made: options lr epochs         these options of conf/config.yaml
    made: data all                  the settings that all choices of the group data have
    made: data mnist kmnist         these choices, and the settings that they have besides

Meaning and default come from the YAML, the values that work from the code that checks them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lrlab import schedules
from lrlab.config import schema
from lrlab.engine.optimizers import known
from lrlab.plan.schedules import reading
from lrlab.study import sampler_checks

PAGE = Path(__file__).parent / "options.md"
MARKED = re.compile(r"(<!-- made: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)

_COUNT = "a whole number from 1"
_SWITCH = "true, false"

# The values that work, where no table of lrlab has them.
VALUES = {
    "lr": "a number above 0; a list; an interval",
    "epochs": _COUNT,
    "batch_size": "from 1 to the training samples",
    "seed": "a whole number from 0 to 2**53 − 1",
    "accumulate": _COUNT,
    "ema": "between 0 and 1, null",
    "clip_grad_norm": "a number above 0, null",
    "device": "auto, cpu, cuda, cuda:N, mps",
    "threads": f"{_COUNT}, null",
    "lanes": f"auto, {_COUNT}",
    "memory_limit": "auto, an amount in B, kB, MB, GB, TB, or kiB, MiB, GiB, TiB",
    "precision": ", ".join(schema.PRECISIONS),
    "capture": _SWITCH,
    "lane_dropout": _SWITCH,
    "pad": f"auto, {_COUNT}, null",
    "save_model": _SWITCH,
    "plots": _SWITCH,
    "output": "a folder",
    "name": "a folder's name",
    "objective": ", ".join(schema.OBJECTIVES),
    "target": "a loss above 0, null",
    "n_trials": f"{_COUNT}, null",
    "timeout": "seconds above 0, null",
    "budget": "a time in s, m, h, null",
    "points": "a whole number from 2, null",
    "storage": "journal, a database's URL",
    "workers": f"auto, {_COUNT}",
    "lease": "seconds above 0",
    "checkpoint_every": f"auto, {_COUNT}, null",
    "diagnostics": ", ".join(schema.DIAGNOSTICS),
    "profile": _SWITCH,
    "source": "a run's folder, null",
    "data.path": "a file",
    "data.label": "a column's name, a list of names",
    "data.test_path": "a file, null",
    "data.drop": "a list of names",
    "data.sep": "a character, semicolon, tab, pipe, space, blanks",
    "data.decimal": "point, comma",
    "data.header": _SWITCH,
    "data.check": _SWITCH,
    "data.task": "auto, classification, regression",
    "data.root": "a folder, null",
    "data.test_root": "a folder, null",
    "data.size": "[height,width], null",
    "data.dataset": "a class's name",
    "data.arguments": "a mapping, null",
    "data.mean": "a number",
    "data.std": "a number above 0",
    "data.train_size": f"{_COUNT}, null",
    "data.val_size": "a count from 1, a share below 1",
    "data.split_seed": "a whole number from 0",
    "data.stratify": _SWITCH,
    "data.standardise_targets": _SWITCH,
    "data.integers": "auto, keep, float",
    "loss.ignore_index": "a whole number, null",
    "loss.class_axis": "1, -1, null",
    "network.hidden": "a list of whole numbers from 1",
    "network.channels": "two whole numbers from 1",
    "network.activation": "relu, sigmoid, tanh, gelu, leaky_relu, step",
    "network.parametrisation": "standard, mup_sgd, mup_adam",
    "network.base_width": _COUNT,
    "network.init": "torch, or a name of `torch.nn.init`",
    "loss.label_smoothing": "a number from 0, below 1",
    "optimizer.groups": "names with settings, null",
    "optimizer.betas": "two numbers from 0, below 1",
    "optimizer.match_rms": _SWITCH,
    "schedule.interval": ", ".join(reading.INTERVALS),
    "schedule.warmup_steps": "from 0, below the run's steps; a share below 1",
    "schedule.warmup_start_factor": "above 0, at most 1",
    "schedule.total_iters": "auto, a whole number from 0",
    "schedule.T_max": f"auto, {_COUNT}",
    "schedule.T_0": f"auto, {_COUNT}, a share below 1",
    "schedule.decay_steps": f"{_COUNT}, a share below 1",
    "schedule.total_steps": "auto, the run's ticks",
    "schedule.anneal_strategy": "cos, linear",
    "schedule.base_momentum": "from 0, below 1",
    "schedule.max_momentum": "from 0, below 1",
    "schedule.mode": "min",
    "schedule.threshold_mode": "rel, abs",
    "schedule.eps": "a number from 0",
    "sampler.sigma0": "a number, null",
    "sampler.popsize": "a whole number from 2, null",
    "sampler.qmc_type": "sobol, halton",
    "pruner.min_resource": f"auto, {_COUNT}",
    "pruner.max_resource": f"auto, {_COUNT}",
    "pruner.lower": "a number, null",
    "pruner.upper": "a number, null",
    "tracking.every": _COUNT,
    "tracking.uri": "a URL or folder, null",
    "tracking.experiment": "a name",
}

# One meaning for all choices of a group, used instead of the YAML comment of each choice. A key
# with a choice is for the table that begins with that choice.
MEANINGS = {
    "data.root of mnist": "a folder in torchvision's layout (root/MNIST/raw/..., "
    "root/FashionMNIST/raw/...); null: for MNIST the copy that ships with lrlab, for the others "
    "lrlab's cache folder",
    "data.train_size": "train on only this many samples, drawn at random from those not held "
    "out; null: all",
    "data.val_size": "samples held out of the training part, for `val_loss` and `val_acc`; a "
    "count, or with your own data a share; ignored if your data have a validation part",
    "data.standardise": "true: subtract the training part's mean from each feature, or each "
    "channel of images, and divide by its std",
    "network.activation": "the activation after each hidden layer and each convolution",
    "network.bias": "whether neurons and convolutions add a bias",
    "optimizer.dampening": "the share 1 − dampening of the gradient enters the momentum; "
    "nesterov needs 0",
    "optimizer.nesterov": "true: look ahead along the momentum",
    "optimizer.eps": "added to the root by which the step is divided",
    "schedule.warmup_steps": "steps of linear warm-up; below 1: a share of the run's steps",
    "schedule.warmup_start_factor": "warm-up starts at this share of the lr at which it ends",
    "schedule.factor": "lr is multiplied by this factor",
    "schedule.total_iters": "number of ticks until the schedule's end; 0: the end from the first "
    "tick on; auto: the run without its warm-up",
    "schedule.total_steps": "ticks of the whole schedule; auto: the run without its warm-up",
    "sampler.n_startup_trials": "number of random runs before the first draw from the model",
    "sampler.warn_independent_sampling": "true: print a warning when a value is not drawn from "
    "the model",
    "network.init": "start values: torch (each layer's own); or kaiming_uniform, kaiming_normal, "
    "xavier_uniform, xavier_normal, orthogonal, uniform, normal, trunc_normal, zeros or ones for "
    "the weights, and 0 for every bias; seeded by the run's seed",
    "schedule.interval": "when the schedule ticks: after every step, or after every epoch",
}


@dataclass(frozen=True)
class Setting:
    """One line of a YAML file.

    Attributes:
        default: the value as it is written there.
        value: the same, parsed.
        meaning: the comment.
    """

    name: str
    default: str
    value: Any
    meaning: str


def read(file: Path) -> tuple[str, list[Setting]]:
    """Return the comment at the head of a YAML file of conf/, and its settings, not nested ones."""
    head: list[str] = []
    above: list[str] = []  # comment lines directly above a key
    found: list[Setting] = []
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            (above if found else head).append(line.removeprefix("#")[1:])
        elif match := re.fullmatch(r"(\w+): +(\S.*?)(?: +# (.*))?", line):
            name, default, meaning = match.groups()
            found.append(Setting(name, default, values[name], meaning or " ".join(above)))
            above = []
    code = (f"`{line.strip()}`." if line.startswith("  ") else line for line in head)
    return " ".join(code), found


def settings(group: str, choice: str) -> dict[str, Setting]:
    """Return the settings of a choice by name, without Hydra's own keys."""
    _, found = read(schema.folder("conf") / group / f"{choice}.yaml")
    return {each.name: each for each in found if not each.name.startswith("_")}


def names(group: str) -> list[str]:
    """Return the choices of a group."""
    return sorted(file.stem for file in (schema.folder("conf") / group).glob("*.yaml"))


def common(group: str) -> list[str]:
    """Return the settings that all choices have; choices without settings do not count."""
    tables = [table for choice in names(group) if (table := settings(group, choice))]
    if len(tables) < 2:
        return []
    return [name for name in tables[0] if all(name in table for table in tables)]


def _of_schedules() -> dict[str, tuple[str, float]]:
    """Return which numbers work, by the argument of a scheduler of lrlab or of torch."""
    classes = [each for each in vars(schedules).values() if isinstance(each, type)]
    own = {k: number for each in classes for k, number in getattr(each, "numbers", {}).items()}
    return {**own, **reading.ARGUMENTS}


def _works(group: str, choices_: Sequence[str], setting: Setting) -> str:
    key = f"{group}.{setting.name}"
    if (group, setting.name) == ("schedule", "factor") and "plateau" in choices_:
        return "between 0 and 1"
    if (group, setting.name) == ("schedule", "min_lr") and "range_test" in choices_:
        return "a number above 0"
    if key in VALUES:
        return VALUES[key]
    if isinstance(setting.value, bool):
        return _SWITCH
    judged = {"optimizer": known.numbers(), "schedule": _of_schedules()}.get(group, {})
    if setting.name in judged:
        return judged[setting.name][0]
    if group in ("sampler", "pruner") and isinstance(setting.value, int):
        return f"a whole number of at least {sampler_checks._LEAST.get(setting.name, 0)}"
    raise KeyError(f"{key}: no values; add them to VALUES of docs/make_options.py")


def _code(text: str) -> str:
    """Return the prose with words to be typed as code, so that none of them is taken for markup."""
    return re.sub(
        r"`[^`]*`|\S*(?:_target_|__init__)[\w=.]*|\+?[\w.]+=[^\s,;:)]+",
        lambda found: found[0] if found[0].startswith("`") else f"`{found[0]}`",
        text,
    )


def _default(text: str) -> str:
    return "needed" if text == "???" else f"`{text}`"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _options(wanted: Sequence[str]) -> str:
    _, found = read(schema.folder("conf") / "config.yaml")
    by_name = {each.name: each for each in found}
    rows = []
    for name in wanted:
        each = by_name[name]
        default = "date_time" if name == "name" else _default(each.default)
        rows.append([f"`{name}`", default, VALUES[name], _code(each.meaning)])
    return _table(["option", "default", "values", "meaning"], rows)


def _merged(group: str, chosen: Sequence[str], wanted: Sequence[str]) -> str:
    """Return one table of the settings of several choices.

    It says which choices have a setting, and for which of them default or meaning differ.
    """
    tables = {choice: settings(group, choice) for choice in chosen}
    having = {name: [c for c in chosen if name in tables[c]] for name in wanted}
    tell = any(
        len(choices_) < len([c for c in chosen if tables[c]]) for choices_ in having.values()
    )
    rows = []
    for name, choices_ in having.items():
        key = f"{group}.{name}"
        found = {choice: tables[choice][name] for choice in choices_}
        usual = Counter(each.default for each in found.values()).most_common(1)[0][0]
        first = next(each for each in found.values() if each.default == usual)
        default = _differing({c: _default(each.default) for c, each in found.items()}, "; ")
        meaning = _differing({c: each.meaning for c, each in found.items()}, "<br>")
        cells = [f"`{key}`", default, _works(group, choices_, first)]
        cells.append(_code(MEANINGS.get(f"{key} of {choices_[0]}", MEANINGS.get(key, meaning))))
        if tell:
            cells.insert(1, ", ".join(choices_))
        rows.append(cells)
    of = ["of"] if tell else []
    return _table(["setting", *of, "default", "values", "meaning"], rows)


def _differing(texts: Mapping[str, str], between: str) -> str:
    """Return the commonest text of the choices, then the others with their choices' names."""
    usual = Counter(texts.values()).most_common(1)[0][0]
    others = dict.fromkeys(text for text in texts.values() if text != usual)
    told = (
        f"{', '.join(choice for choice, each in texts.items() if each == text)}: {text}"
        for text in others
    )
    return between.join([usual, *told])


def _choices(group: str, chosen: Sequence[str]) -> str:
    lines = []
    for choice in chosen:
        head, found = read(schema.folder("conf") / group / f"{choice}.yaml")
        target = next(each.value for each in found if each.name == "_target_")
        of = f" (`{target}`)" if target and not target.startswith("?") else ""
        lines.append(f"- `{group}={choice}`{of}: {_code(head)}")
    shared = common(group)
    own = dict.fromkeys(name for c in chosen for name in settings(group, c) if name not in shared)
    text = "\n".join(lines)
    return f"{text}\n\n{_merged(group, chosen, list(own))}" if own else text


def made(wanted: str) -> str:
    """Return the text of a marker."""
    kind, *words = wanted.split()
    if kind == "options":
        return _options(words)
    if words == ["all"]:
        return _merged(kind, names(kind), common(kind))
    return _choices(kind, words)


def filled(page: str) -> str:
    """Return the page with each marked part generated again."""
    return MARKED.sub(lambda m: f"{m[1]}\n{made(m[2])}\n\n{m[3]}", page)


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
