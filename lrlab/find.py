# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""``python -m lrlab.find``: the learning rate range test, beside a test of constant lrs.

The usual test trains once while lr rises exponentially, and reads an lr off the curve. It is cheap,
and it misleads: at each lr it stands on what smaller ones have won. As lanes, constant lrs cost
hardly more, so both are trained at once, from the same weights on the same mini-batches.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrlab import __version__, fitting, flags, readers, verbs
from lrlab.errors import NotWritten, UserError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from lrlab.data import Dataset
    from lrlab.first_steps import Batches
    from lrlab.plan import RunSpec
    from lrlab.range_test import Constants, Ramp

USAGE = """\
usage: python -m lrlab.find [option=value ...]

Find a learning rate in a part of an epoch. At once, from the same weights on the same mini-batches,
it trains the range test's ramp (lr rises exponentially from step to step) and constant learning
rates across the same range; then it says which constant lr did best, what the ramp would have
suggested (steepest, valley, minimum/10), and where the ramp misleads.

  lr=1e-5..10       the range of learning rates
  points=32         how many constant lrs, log-spaced
  steps=300         steps of each constant lr; its loss is the mean over the last fifth of them
  ramp_steps=300    steps of the ramp; the same as steps unless given
  smoothing=0.03    width of the ramp's smoothing window, as a share of its steps

  Which network, data, optimizer, ...: the options of `python -m lrlab.sweep --help`, one value each
  network=cnn  optimizer=adam  data=fashion_mnist  batch_size=128  seed=1  device=cuda  name=my_test

Examples:  python -m lrlab.find
           python -m lrlab.find network=cnn optimizer=adam lr=1e-6..1
           python -m lrlab.find optimizer=momentum optimizer.momentum=0.95 points=64 steps=500

It writes ramp.csv (step, lr, loss, smooth), constant.csv (lr, step, loss), suggestions.json,
config.yaml and find.png into outputs/find_<date_time>, and prints the sweep to run next.

Exit code: 0 an lr was found, 1 none was or the plot failed, 2 bad input, 130 interrupted.
"""

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})|interval\(({_NUMBER}),\s*({_NUMBER})\)")
_LOWEST, _HIGHEST = 1e-150, 1e150  # whose ratio is a number still, and what lies beyond them too
_MEMORY_SHARE = 0.6  # of the free memory; the rest is for the data, and for others


@dataclass(frozen=True)
class Options:
    """What is tried, and how long.

    Attributes:
        low, high: the range of learning rates.
        points: how many constant lrs.
        steps: of each of them.
        ramp_steps: of the ramp.
        smoothing: of the ramp, as a share of its steps.
    """

    low: float = 1e-5
    high: float = 10.0
    points: int = 32
    steps: int = 300
    ramp_steps: int = 300
    smoothing: float = 0.03

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < float("inf"):
            raise UserError(
                f"lr={self.low:g}..{self.high:g}: must rise from a number above 0, "
                "for example lr=1e-5..10"
            )
        if self.low < _LOWEST or self.high > _HIGHEST:
            raise UserError(
                f"lr={self.low:g}..{self.high:g}: must lie between {_LOWEST:g} and {_HIGHEST:g}, "
                "for example lr=1e-5..10"
            )
        for name, least, example in (
            ("points", 2, 32),
            ("steps", 10, 300),
            ("ramp_steps", 10, 300),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UserError(
                    f"{name}={value}: must be a whole number of at least {least}, "
                    f"for example {name}={example}"
                )
        if not 0 <= self.smoothing <= 0.5:
            raise UserError(
                f"smoothing={self.smoothing:g}: must be from 0 to 0.5, for example smoothing=0.03"
            )


@dataclass(frozen=True, eq=False)
class Found:
    """Both tests and how they read.

    Attributes:
        options: what was tried.
        ramp_lr, ramp_loss: (ramp_steps,) lr at each step, mini-batch loss before its update; NaN
            behind the first loss that is not finite.
        constant_lr: (points,); constant_losses: (steps, points) likewise.
        ramp, constants: what they say, as in `lrlab.range_test`.
        misleads: where the ramp misleads, a sentence each.
        sweep: the range that a sweep should try next, or None.
    """

    options: Options
    ramp_lr: np.ndarray
    ramp_loss: np.ndarray
    constant_lr: np.ndarray
    constant_losses: np.ndarray
    ramp: Ramp
    constants: Constants
    misleads: tuple[str, ...]
    sweep: tuple[float, float] | None

    def __repr__(self) -> str:
        """The answer, as the command prints it, in lines of a screen."""
        import textwrap

        lines = [textwrap.wrap(line, 79, subsequent_indent="      ") for line in _words(self)]
        return "\n".join(part for line in lines for part in line[:3])

    @property
    def best(self) -> float | None:
        """The best constant lr; None: nothing was learned, ``constants.why_none`` says why."""
        return self.constants.best


def find(
    network: nn.Module,
    data: Any,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: Callable[..., torch.optim.Optimizer] | Mapping[str, Any] | str | None = None,
    *,
    lr: tuple[float, float] | str = (1e-5, 10.0),
    points: int = 32,
    steps: int = 300,
    ramp_steps: int | None = None,
    smoothing: float = 0.03,
    batch_size: int = 64,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Found:
    """Run both tests on copies of a network of yours.

    The network, its gradients and its mode, the data, and the states of all random number
    generators are afterwards what they were before, to the bit.

    Args:
        network: (batch, ...) to outputs (batch, classes or values), one tensor. Lazy layers are
            drawn with the seed.
        data: two tensors or arrays, samples (samples, ...) and targets (samples, ...); or a
            TensorDataset, or another data set of pairs, which is read whole; or a
            `lrlab.data.Dataset`, of which it takes the training part; or anything that gives
            mini-batches as pairs of tensors, such as a DataLoader, of which it keeps as many as it
            needs in memory.
        loss: (outputs, targets) to the mean over the batch.
        optimizer: a name as for ``lrlab.sweep``, such as adam; a torch class, or a
            ``functools.partial`` of one, or a config with ``_target_``; None: plain SGD.
        lr: the range, two numbers or a text like 1e-5..10.
        points, steps, ramp_steps, smoothing: as in ``Options``; ramp_steps None: as many as steps.
        batch_size, seed: for two tensors: the order of ``lrlab.sweep`` with this seed.
        device: where to train; None: where the network is.

    Returns:
        What was found; ``told(found, None)`` says it in words, ``find_plot.range_test(found)``
        draws it.

    Raises:
        UserError: an argument that cannot work; it says what would.
    """
    import torch

    from lrlab import find_inputs

    options = Options(*_range(lr), points, steps, ramp_steps or steps, smoothing)
    find_inputs.check_network(network)
    config = find_inputs.optimizer_config(optimizer)
    parameters = list(network.parameters())
    where = str(parameters[0].device if device is None else torch.device(device))
    with _randomness_kept(where, data):
        batch = find_inputs.batches(data, batch_size, seed, where)
        own = find_inputs.ready(network, batch(0), loss, seed)
        indexed_batch, indexed_loss = _indexed(batch, loss)
        return _both(
            own, indexed_loss, config, options, indexed_batch, seed, where, indexed_batch(0)
        )


def _range(lr: Any) -> tuple[float, float]:
    """The ends of a range of learning rates, of two numbers or a text like 1e-5..10."""
    if isinstance(lr, str) and (match := _RANGE.fullmatch(lr.strip())):
        lr = [text for text in match.groups() if text is not None]
    try:
        low, high = map(float, lr)
    except (TypeError, ValueError):
        raise UserError(
            f"lr={lr}: must be two numbers, the range of learning rates, for example (1e-5, 10)"
        ) from None
    return low, high


# --- both tests -----------------------------------------------------------------------------------


def _both(
    network: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: Mapping[str, Any],
    options: Options,
    batch: Batches,
    seed: int,
    device: str,
    held_out: tuple[Tensor, Tensor],
    width: int | None = None,
    tell: Callable[[float], None] = lambda share: None,
    unit: float = 1.0,
) -> Found:
    """Train the ramp and the constant lrs as lanes, and read them.

    Args:
        network: is trained; give a copy.
        held_out: as for ``Lanes.settle``.
        width: the most lanes at once; None: as many as memory holds.
        tell: hears what share of the training is done.
        unit: what losses are multiplied by where they are told.
    """
    import copy

    import numpy as np

    from lrlab import environment, first_steps, lanes, range_test, schedules

    longest = max(options.steps, options.ramp_steps)
    rise = {
        "_target_": "lrlab.schedules.RangeTestLR",
        "min_lr": options.low,
        "max_lr": options.high,
        "total_steps": "auto",
    }
    schedule = schedules.build(rise, {"lr": options.high}, options.ramp_steps, longest)
    ramp_lr = schedule.values(0, options.ramp_steps)["lr"].copy()
    grid = range_test.lr_grid(options.low, options.high, options.points)
    lrs = np.full((longest, 1 + options.points), np.nan)
    lrs[: options.ramp_steps, 0] = ramp_lr
    lrs[: options.steps, 1:] = grid

    total = options.ramp_steps + options.points * options.steps
    made = 0

    def count(steps: int) -> None:
        nonlocal made
        made += steps
        tell(min(made / total, 1.0))

    if width is None:
        x, y = batch(0)
        cost = lanes.bytes_a_lane(copy.deepcopy(network).cpu(), loss, x.cpu(), y.cpu())
        width = int(environment.free_memory(device) * _MEMORY_SHARE / max(cost, 1))
    losses = unit * first_steps.train(
        network,
        loss,
        optimizer,
        lrs,
        batch,
        seed=seed,
        device=device,
        held_out=held_out,
        width=max(1, min(width, lrs.shape[1])),
        tell=count,
    )
    ramp_loss, constant_losses = losses[: options.ramp_steps, 0], losses[: options.steps, 1:]
    ramp = range_test.read_ramp(ramp_lr, ramp_loss, options.smoothing)
    constants = range_test.read_constants(grid, constant_losses)
    return Found(
        options,
        ramp_lr,
        ramp_loss,
        grid,
        constant_losses,
        ramp,
        constants,
        misleads=tuple(range_test.where_the_ramp_misleads(ramp, constants)),
        sweep=range_test.sweep_range(constants),
    )


# --- what others give -----------------------------------------------------------------------------


@contextmanager
def _randomness_kept(device: str, data: Any) -> Generator[None, None, None]:
    """Afterwards all random number generators are where they were, a data loader's own as well."""
    import random

    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    cuda = [torch.device(device)] if device.startswith("cuda") else []
    parts = [data, *(getattr(data, name, None) for name in ("sampler", "batch_sampler"))]
    own = [getattr(part, "generator", None) for part in parts]
    states = [(g, g.get_state()) for g in own if isinstance(g, torch.Generator)]
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for generator, state in states:
            generator.set_state(state)


def _indexed(
    batch: Batches, loss: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Batches, Callable[[Tensor, Tensor], Tensor]]:
    """Mini-batches whose targets are (batch,) numbers, and a loss that looks up what they are.

    Lanes take targets with more dimensions for those of several lanes.
    """
    import torch

    targets: Tensor | None = None

    def indexed_batch(step: int) -> tuple[Tensor, Tensor]:
        nonlocal targets
        x, targets = batch(step)
        return x, torch.arange(len(targets), device=targets.device)

    def indexed_loss(outputs: Tensor, index: Tensor) -> Tensor:
        assert targets is not None
        return loss(outputs, targets.to(outputs.device)[index])

    return indexed_batch, indexed_loss


# --- the command ----------------------------------------------------------------------------------


def read_options(words: Sequence[str]) -> tuple[Options, list[str]]:
    """The options of this command, and the words that are left for Hydra.

    Raises:
        UserError: an option that cannot work.
    """
    own: dict[str, str] = {}
    rest: list[str] = []
    for word in words:
        key, equals, text = word.partition("=")
        if equals and key in ("lr", "points", "steps", "ramp_steps", "smoothing"):
            own[key] = text
        elif equals and key.partition(".")[0] == "schedule":
            raise UserError(
                f"{word}: the range test has its own schedules; leave it out, and try schedules by "
                "python -m lrlab.sweep at the lr that is found"
            )
        else:
            rest.append(word)
    given: dict[str, Any] = {}
    if "lr" in own:
        match = _RANGE.fullmatch(own.pop("lr").strip("'\""))
        if match is None:
            word = next(w for w in words if w.startswith("lr="))
            raise UserError(f"{word}: must be a range of learning rates, for example lr=1e-5..10")
        low, high = (float(text) for text in match.groups() if text is not None)
        given |= {"low": low, "high": high}
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


def _run(words: Sequence[str]) -> int:
    """Compose, test, record, print; returns the exit code."""
    from lrlab import arguments, spelling

    arguments.judge(words)
    options, rest = read_options(words)
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig, open_dict

    from lrlab import config as configs
    from lrlab.sweep import BASE  # and it registers the schema

    composed: list[DictConfig] = []

    def task(config: DictConfig) -> None:
        # no more than this, for Hydra adds lines of its own to what is raised here
        with open_dict(config):
            config.hydra = HydraConfig.get()
        composed.append(config)

    # As one run of Hydra's, but without its folder: this command writes none of its own before
    # the end.
    own = ["hydra.mode=RUN", "hydra.run.dir=.", "hydra.output_subdir=null", f"lr={options.low!r}"]
    before = sys.argv
    marks, words = flags.split(rest)
    if "--multirun" in marks:
        raise UserError("--multirun: find trains one network; python -m lrlab.sweep trains many")
    sys.argv = ["lrlab.find", *marks, *own, *spelling.spelled(words)]
    try:
        conf = str(configs.folder("conf"))
        hydra.main(**BASE, config_path=conf, config_name="config")(task)()
    finally:
        sys.argv = before
        GlobalHydra.instance().clear()
    # with --cfg job and the like Hydra shows something, and runs nothing
    return _test(composed[0], options, rest) if composed else 0


def _test(config: Any, options: Options, rest: Sequence[str]) -> int:
    from lrlab import config as configs
    from lrlab import environment, first_steps, jobs, plan, records, wishes

    environment.make_deterministic()
    wishes.refuse_unknown(config, rest)
    configs.check_folder(config)
    spec = jobs.spec(config)
    plan.check_runs([spec])
    named = any(word.startswith("name=") for word in rest)
    folder = Path(config.output) / (config.name if named else f"find_{config.name}")
    folder = records.free_folder(folder.absolute(), may_rename=not named)

    environment.prepare(spec.device, spec["threads"])
    _announce(spec, options)
    data = plan.load_data(spec).to(spec.device)
    loss = plan.loss_function(spec)
    found = _both(
        plan.build_network(spec, data),
        loss,
        spec["optimizer"],
        options,
        first_steps.batches(data, spec["seed"], spec["batch_size"]),
        spec["seed"],
        spec.device,
        (data.val_x, data.val_y),
        width=None if spec["lanes"] == "auto" else int(spec["lanes"]),
        tell=_share_on_a_terminal,
        unit=plan.loss_unit(loss, data),
    )
    if not records.create_sweep(folder):
        folder = records.free_folder(folder, may_rename=True)
        records.create_sweep(folder)
    command = sweep_command(found, rest)
    _write(folder, found, spec, data, config, command)
    failed = _draw(found, _title(spec, options), folder) if config.plots else ""
    print(told(found, command, folder, fitting.terminal_width()), flush=True)
    if failed:
        print(f"lrlab: the plot was not drawn: {failed}; the records are whole", file=sys.stderr)
    return 0 if found.best is not None and not failed else 1


def _draw(found: Found, title: str, folder: Path) -> str:
    """Draw the test; returns why that failed, or nothing.

    Raises:
        NotWritten: the picture cannot be written.
    """
    from lrlab import find_plot
    from lrlab.plots import drawing, writing

    try:
        writing.written("find", find_plot.range_test(found, title), folder, ["png"])
    except NotWritten:
        raise
    except Exception as error:
        return drawing.described(error)
    return ""


def _announce(spec: RunSpec, options: Options) -> None:
    from lrlab import launch, plan

    steps = f"{options.steps:,} steps"
    if options.ramp_steps != options.steps:
        steps += f", the ramp {options.ramp_steps:,}"
    launch.announce(spec, f"{options.points} constant learning rates and the ramp, {steps}")
    for line in plan.load_data(spec).notices:
        print(f"lrlab: {line}", file=sys.stderr)


def _share_on_a_terminal(share: float) -> None:
    if sys.stderr.isatty():
        end = "\r" if share < 1 else "\r\033[K"
        line = f"lrlab: {share:4.0%} trained" if share < 1 else ""
        print(line, end=end, file=readers.ungated(sys.stderr))


def _title(spec: RunSpec, options: Options) -> str:
    names = [spec.choices[group] for group in ("network", "data", "optimizer")]
    return ", ".join([*names, f"batch {spec['batch_size']}", f"{options.steps} steps"])


def sweep_command(found: Found, words: Sequence[str] = ()) -> str | None:
    """The sweep that should be run next, as one would type it; None: nothing was learned.

    Args:
        words: the settings of the test, which the sweep takes over.
    """
    import shlex

    if found.sweep is None:
        return None
    # What it sweeps is a grid, which has no number of trials.
    kept = [word for word in words if word.partition("=")[0] not in ("name", "n_trials")]
    low, high = found.sweep
    return shlex.join(["python", "-m", "lrlab.sweep", *kept, f"lr={low:g}..{high:g}", "points=7"])


def _words(found: Found) -> list[str]:
    from lrlab.range_test import plain

    constants, steps = found.constants, found.options.steps
    lines = []
    if constants.best is None:
        lines.append(f"find: no learning rate to suggest: {constants.why_none}")
    elif constants.as_good is not None:
        low, high = constants.as_good
        line = f"find: constant lr {plain(constants.best)} did best in {steps} steps"
        line += f", {plain(low)} to {plain(high)} as well" if low < high else ""
        lines.append(f"{line} (loss {min(constants.end):.3g}, from {constants.start:.3g})")
        if constants.edge:
            other = f"begin lower than {plain(low)}" if constants.edge == "low" else "go higher"
            lines.append(f"find: that is the edge of the range; {other}")
    if constants.fails_from is not None:
        lines.append(f"find: constant lrs fail from {plain(constants.fails_from)} on")
    for suggestion in found.ramp.suggestions:
        what = f"lr {plain(suggestion.lr)}" if suggestion.lr else f"none, {suggestion.why_not}"
        lines.append(f"find: the ramp's {suggestion.rule:10} {what}")
    lines += [f"find: misleading: {sentence}" for sentence in found.misleads]
    if not found.misleads:
        if found.ramp.minimum is None and not any(each.lr for each in found.ramp.suggestions):
            lines.append("find: the ramp found nothing")
        elif constants.best is not None:
            lines.append("find: the ramp does not mislead here")
    return lines


def told(
    found: Found, command: str | None, folder: Path | None = None, width: int | None = None
) -> str:
    """The answer in a few lines, without a newline at its end.

    width: columns of the terminal; None: each sentence in one line.
    """
    from lrlab.table import display_path

    lines = fitting.sentences(_words(found), width, len("find: "))
    if command is not None:
        lines.append(f"next   {command}")
    if folder is not None:
        lines.append(f"find   {display_path(folder)}")
        lines += [f"plot   {display_path(path)}" for path in sorted(folder.glob("*.png"))]
    return "\n".join(lines)


def _write(
    folder: Path, found: Found, spec: RunSpec, data: Dataset, config: Any, command: str | None
) -> None:
    """The records of the test, each file whole."""
    import json

    import numpy as np
    from omegaconf import OmegaConf

    from lrlab import environment, jobs, range_test, records

    ramp, constants, options = found.ramp, found.constants, found.options
    smooth = np.full(len(found.ramp_lr), np.nan)
    if len(ramp.smooth):
        read = found.ramp_lr <= ramp.lr[-1]
        smooth[read] = np.interp(np.log(found.ramp_lr[read]), np.log(ramp.lr), ramp.smooth)
    step = np.arange(len(found.ramp_lr))
    columns = [step, found.ramp_lr, found.ramp_loss, smooth]
    text = range_test.rows(("step", "lr", "loss", "smooth"), columns)
    records.write_whole(folder / "ramp.csv", text)
    columns = [
        np.repeat(found.constant_lr, options.steps),
        np.tile(np.arange(options.steps), options.points),
        found.constant_losses.T.ravel(),
    ]
    records.write_whole(folder / "constant.csv", range_test.rows(("lr", "step", "loss"), columns))
    answer = {
        "best_lr": constants.best,
        "as_good": constants.as_good,
        "fails_from": constants.fails_from,
        "edge": constants.edge,
        "why_none": constants.why_none,
        "start_loss": constants.start,
        "end_losses": [[lr, end] for lr, end in zip(constants.lr, constants.end, strict=True)],
        "suggestions": [
            {
                "rule": each.rule,
                "lr": each.lr,
                "why_not": each.why_not,
                "end_loss": None if each.lr is None else constants.loss_at(each.lr),
            }
            for each in ramp.suggestions
        ],
        "ramp_minimum": ramp.minimum,
        "ramp_blow_up": ramp.blow_up,
        "misleads": list(found.misleads),
        "next": command,
        "options": vars(options),
        "command": ["python", "-m", "lrlab.find", *sys.argv[1:]],
        "data_sha256": data.sha256,
        "environment": environment.describe(spec.device),
    }
    text = json.dumps(_json(answer), indent=2, ensure_ascii=False, allow_nan=False)
    records.write_whole(folder / "suggestions.json", text + "\n")
    records.write_whole(folder / "config.yaml", OmegaConf.to_yaml(jobs.without_hydra(config)))


def _json(value: Any) -> Any:
    """Plain numbers; those that JSON does not have become null."""
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    if isinstance(value, float):
        return float(value) if abs(value) < float("inf") else None
    return value


def main() -> None:
    """Command line entry."""
    verbs.begin()
    words = sys.argv[1:]
    if "--help" in words or "-h" in words:
        print(USAGE, end="")
        return
    if "--version" in words:
        print(f"lrlab {__version__}")
        return
    from lrlab import sweep

    interrupted = "\nlrlab: interrupted, nothing was written"
    sweep.guarded(lambda: sys.exit(_run(flags.first(words))), interrupted)


class _Module(types.ModuleType):
    """This module, which can be called: ``lrlab.find(...)`` is ``lrlab.find.find(...)``."""

    def __call__(self, *arguments: Any, **options: Any) -> Found:
        return find(*arguments, **options)


if __name__ == "__main__":
    main()
else:
    sys.modules[__name__].__class__ = _Module
