"""Run the range test as a command: its options, its records, its figure, its output."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrlab.errors import NotWritten, UserError
from lrlab.process import broken_pipe, fitting
from lrlab.range_test.found import Options
from lrlab.range_test.words import sweep_command, told, with_left_out

if TYPE_CHECKING:
    from lrlab.plan.spec import RunSpec
    from lrlab.range_test.found import Found
    from lrlab.range_test.training import Speed, Subject

# Of a budget.
MEASURING = 10  # of what is left, the share that measuring the speed may take: one in so many
MARGIN = 1.5  # times the measured speed: evaluations, records, other programs
AFTER = 6.0  # seconds to read the losses and to draw the figure
MEASURED = 3, 42  # how many setups and steps are timed to measure the speed
AFTER_IN_PYTHON = 1.0  # likewise without a figure
LEAST_STEPS, LEAST_POINTS = 60, 8  # with fewer the test says little

# Options of a sweep that have no effect on a range test.
_UNUSED = (
    *("epochs", "objective", "target", "n_trials", "timeout", "storage", "workers", "lease"),
    *("sampler", "pruner", "tracking", "checkpoint_every", "save_model", "diagnostics", "profile"),
    *("precision", "capture", "lane_dropout", "pad", "memory_limit"),
)


def read_options(words: Sequence[str]) -> tuple[Options, list[str]]:
    """Return the options of this command, and the words for Hydra."""
    own: dict[str, str] = {}
    rest: list[str] = []
    for word in words:
        key, equals, text = word.partition("=")
        if equals and key in ("lr", "points", "steps", "ramp_steps", "smoothing"):
            own[key] = text
        elif equals and key.partition(".")[0] == "schedule":
            raise UserError(
                f"{word}: the range test has its own schedules; leave it out, and try schedules "
                "with python -m lrlab.sweep at the lr that it finds"
            )
        else:
            rest.append(word)
    given: dict[str, Any] = {}
    if "lr" in own:
        ends = _ends(own.pop("lr").strip("'\""))
        if ends is None:
            word = next(w for w in words if w.startswith("lr="))
            raise UserError(f"{word}: must be a range of learning rates, for example lr=1e-5..10")
        given |= {"low": ends[0], "high": ends[1]}
    for key, text in own.items():
        kind = float if key == "smoothing" else int
        try:
            given[key] = kind(text)
        except ValueError:
            wanted = "a number from 0 to 0.5" if kind is float else "a whole number"
            raise UserError(
                f"{key}={text}: must be {wanted}, "
                f"for example {key}={Options.__dataclass_fields__[key].default}"
            ) from None
    given.setdefault("ramp_steps", given.get("steps", Options.ramp_steps))
    return Options(**given), rest


def _ends(text: str) -> list[float] | None:
    from lrlab.config.schema import INTERVAL, NUMBER

    as_hydra = rf"interval\({NUMBER},\s*{NUMBER}\)"
    match = INTERVAL.fullmatch(text) or re.fullmatch(as_hydra, text)
    return match and [float(end) for end in match.groups()]


def refuse_unused(words: Sequence[str]) -> None:
    """Raise a UserError if one of the words is an option that only a sweep uses."""
    for word in words:
        key = word.partition("=")[0].lstrip("+~")
        if key.partition(".")[0] in _UNUSED:
            works = "points and steps say how much it trains, and lanes how much at once"
            raise UserError(f"{word}: only a sweep uses it, find does not; leave it out: {works}")


def lr_range(lr: Any) -> tuple[float, float]:
    """Return the ends of a range of learning rates, from two numbers or a text like 1e-5..10."""
    try:
        low, high = map(float, (_ends(lr.strip()) or ()) if isinstance(lr, str) else lr)
    except (TypeError, ValueError):
        raise UserError(
            f"lr={lr}: must be two numbers, the range of learning rates, for example (1e-5, 10)"
        ) from None
    return low, high


def run(
    config: Any,
    options: Options,
    typed: Sequence[str],
    rest: Sequence[str],
    answered: Callable[[dict[str, Any]], object] = lambda answer: None,
    started: float | None = None,
) -> int:
    """Do the range test of a composed config, record it and print it; return the exit code.

    Args:
        typed: the command's words; ``rest`` are those that a sweep takes as well.
        answered: called at the end with the folder, and all that suggestions.json holds.
        started: when the command began, by ``arguments.clock``; None: now.
    """
    from lrlab import records
    from lrlab.config import checks
    from lrlab.config.words import arguments, wishes
    from lrlab.engine import devices
    from lrlab.plan import compose
    from lrlab.plan.build import build_network, load_data, loss_function, loss_unit
    from lrlab.plan.checks import check_runs
    from lrlab.range_test import files, held_out, training
    from lrlab.range_test.both import both
    from lrlab.range_test.training import Subject
    from lrlab.training.on_batches import batches

    started = arguments.clock() if started is None else started
    devices.make_deterministic()
    wishes.refuse_unknown(config, rest)
    refuse_unused(rest)
    checks.check_folder(config)
    limit = checks.budget(config)
    spec = compose.spec(config)
    check_runs([spec])
    named = any(word.startswith("name=") for word in rest)
    folder = Path(config.output) / (config.name if named else f"find_{config.name}")
    folder = records.free_folder(folder.absolute(), may_rename=not named)

    devices.prepare(spec.device, spec["threads"])
    _announce(spec, options)
    data = load_data(spec).to(spec.device)
    loss = loss_function(spec)
    subject = Subject(
        build_network(spec, data),
        loss,
        spec["optimizer"],
        batches(data, spec["seed"], spec["batch_size"]),
        spec["seed"],
        spec.device,
    )
    width = None if spec["lanes"] == "auto" else int(spec["lanes"])
    left_out: list[str] = []
    text = str(config.budget)
    if limit is not None:

        def left(end: float = started + limit) -> float:
            return end - arguments.clock()

        speed = training.measured(subject, width, left() / MEASURING, options.steps)
        options, left_out = fit(options, text, left, speed)
        what = f"left out: {' and '.join(left_out)}" if left_out else "all of it fits"
        print(f"lrlab: budget={text}: {what}", flush=True)
        typed = recorded(typed, options)
        config.budget = None  # the records have what was trained
    most = held_out.most_samples(spec["batch_size"], options.steps)
    found = both(
        subject,
        options,
        held_out.in_parts(data.val_x, data.val_y, most),
        width=width,
        tell=_share_on_a_terminal,
        unit=loss_unit(loss, data),
    )
    found = with_left_out(found, left_out)
    if not records.create_sweep(folder):
        folder = records.free_folder(folder, may_rename=True)
        records.create_sweep(folder)
    command = sweep_command(found, rest)
    used = arguments.clock() - started
    told_of = None if limit is None else {"budget": text, "seconds": limit, "used": round(used, 1)}
    answer = files.write(folder, found, spec, data, config, typed, command, told_of)
    failed = draw(found, _title(spec, options), folder) if config.plots else ""
    print(told(found, command, folder, fitting.terminal_width()), flush=True)
    used = arguments.clock() - started
    if limit is not None and used > limit:
        print(f"lrlab: budget={text}: it took {used:.0f} s, longer than that", flush=True)
    if failed:
        print(f"lrlab: the plot was not drawn: {failed}; the records are complete", file=sys.stderr)
    answered({"folder": str(folder), **answer, "plot_failed": failed or None})
    return 0 if found.best is not None and not failed else 1


def draw(found: Found, title: str, folder: Path) -> str:
    """Draw the test; return why that failed, or "".

    Raises:
        NotWritten: the picture cannot be written.
    """
    from lrlab.plots import drawing, writing
    from lrlab.range_test import figure

    try:
        writing.written("find", figure.range_test(found, title), folder, ["png"])
    except NotWritten:
        raise
    except Exception as error:
        return drawing.described(error)
    return ""


def _announce(spec: RunSpec, options: Options) -> None:
    from lrlab.plan.build import load_data
    from lrlab.sweeping import launch

    steps = f"{options.steps:,} steps"
    if options.ramp_steps != options.steps:
        steps += f", the ramp {options.ramp_steps:,}"
    launch.announce(spec, f"{options.points} constant learning rates and the ramp, {steps}")
    for line in load_data(spec).notices:
        print(f"lrlab: {line}", file=sys.stderr)


def _share_on_a_terminal(share: float) -> None:
    if sys.stderr.isatty():
        end = "\r" if share < 1 else "\r\033[K"
        line = f"lrlab: {share:4.0%} trained" if share < 1 else ""
        print(line, end=end, file=broken_pipe.ungated(sys.stderr))


def _title(spec: RunSpec, options: Options) -> str:
    names = [spec.choices[group] for group in ("network", "data", "optimizer")]
    return ", ".join([*names, f"batch {spec['batch_size']}", f"{options.steps} steps"])


# --- a budget -------------------------------------------------------------------------------------


def fit(
    options: Options, text: str, left: Callable[[], float], speed: Speed, after: float = AFTER
) -> tuple[Options, list[str]]:
    """Return the options with as many steps as fit, or fewer points; and what is left out.

    Args:
        text: the budget as given.
        left: tells how many seconds of it are left.
        speed: measures what a number of points takes.
        after: seconds to keep for what follows the training.

    Raises:
        UserError: nothing fits; names the least budget that would do.
    """
    least, few = min(LEAST_STEPS, options.steps), min(LEAST_POINTS, options.points)
    of_few = speed(few)

    def at(points: int) -> tuple[float, float]:
        """Measure only if that takes a small part of the time; more points take at most so long."""
        setup, step = (each * points / few for each in of_few)
        if points == few or MEASURED[0] * setup + MEASURED[1] * step > left() / 4:
            return setup, step
        return speed(points)

    def fitting_at(setup: float, step: float) -> int:
        return int((left() - after - MARGIN * setup) / (MARGIN * step))

    points = options.points if fitting_at(*of_few) >= least else few
    while (fitting := fitting_at(*at(points))) < least:
        if points == few:
            total = after + MARGIN * (of_few[0] + least * of_few[1]) + _used(text, left())
            raise UserError(
                f"budget={text}: too short, {least} steps at {points} learning rates take longer "
                f"here; use at least budget={int(total) + 1}s"
            )
        points = max(points // 2, few)
    steps, ramp_steps = min(options.steps, fitting), min(options.ramp_steps, fitting)
    found = []
    if steps < options.steps:
        found.append(f"{options.steps - steps} of {options.steps} steps")
    elif ramp_steps < options.ramp_steps:
        found.append(f"{options.ramp_steps - ramp_steps} steps of the ramp")
    if points < options.points:
        found.append(f"{options.points - points} of {options.points} points")
    return replace(options, steps=steps, ramp_steps=ramp_steps, points=points), found


def within(budget: Any) -> Callable[[Options, Subject], tuple[Options, list[str]]]:
    """Return what limits the options of a test in Python to a time, which begins now.

    Raises:
        UserError: it is no time.
    """
    from lrlab.config import checks
    from lrlab.config.words import arguments
    from lrlab.range_test import training

    started, limit = arguments.clock(), checks.budget({"budget": budget})

    def fitted(options: Options, subject: Subject) -> tuple[Options, list[str]]:
        if limit is None:
            return options, []

        def left(end: float = started + limit) -> float:
            return end - arguments.clock()

        speed = training.measured(subject, None, left() / MEASURING, options.steps)
        return fit(options, str(budget), left, speed, AFTER_IN_PYTHON)

    return fitted


def _used(text: str, left: float) -> float:
    from lrlab.config import checks

    return (checks.budget({"budget": text}) or left) - left


def recorded(typed: Sequence[str], options: Options) -> list[str]:
    """Return the words of the command that would train the same without a budget."""
    own = {name: str(getattr(options, name)) for name in ("steps", "ramp_steps", "points")}
    kept = [word for word in typed if word.partition("=")[0] not in (*own, "budget")]
    return [*kept, *(f"{key}={text}" for key, text in own.items())]
