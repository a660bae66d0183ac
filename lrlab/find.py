# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""``python -m lrlab.find``: the learning rate range test, beside a test of constant lrs.

The usual test trains once while lr rises exponentially, and reads an lr off the curve. It is cheap,
and it misleads: at each lr it stands on what smaller ones have won. As lanes, constant lrs cost
hardly more, so both are trained at once, from the same weights on the same mini-batches. Held-out
samples judge both, for by the loss of its mini-batches a rate that memorises would win.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrlab._version import __version__
from lrlab.config import flags
from lrlab.errors import NotWritten, UserError
from lrlab.process import broken_pipe, fitting, verbs
from lrlab.range_test.found import Found, Options
from lrlab.range_test.words import sweep_command, told

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from lrlab.engine.lanes import Samples
    from lrlab.plan.spec import RunSpec
    from lrlab.range_test.curves import Constants, Ramp
    from lrlab.training.first_steps import Batches

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

It judges by the loss of up to 500 held-out samples, and says where the training loss would not.
It writes ramp.csv (step, lr, loss, smooth), constant.csv (lr, step, loss), held_out.csv,
suggestions.json, config.yaml and find.png into outputs/find_<date_time>, and prints the sweep to
run next.

Exit code: 0 an lr was found, 1 none was or the plot failed, 2 bad input, 130 interrupted.
"""

__all__ = ["Found", "Options", "find", "main", "read_options", "sweep_command", "told"]

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})|interval\(({_NUMBER}),\s*({_NUMBER})\)")
_MEMORY_SHARE = 0.6  # of the free memory; the rest is for the data, and for others
_LEAST_LOOKS, _MOST_LOOKS = 16, 61  # evaluations of the ramp, of one lane each
_EARLY_LOOKS, _LAST_LOOKS = 2, 5  # of the constant lrs: before their last steps, and among these


def find(
    network: nn.Module,
    data: Any,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: Callable[..., torch.optim.Optimizer] | Mapping[str, Any] | str | None = None,
    *,
    val: Any = None,
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
            `lrlab.data.Dataset`, of which it trains on the training part; or anything that gives
            mini-batches as pairs of tensors, such as a DataLoader, of which it keeps as many as it
            needs in memory.
        loss: (outputs, targets) to the mean over the batch.
        optimizer: a name as for ``lrlab.sweep``, such as adam; a torch class, or a
            ``functools.partial`` of one, or a config with ``_target_``; None: plain SGD.
        val: held-out samples and targets, in any form that data may have. At most 500 of them,
            evenly spaced, judge the learning rates. None: those that a `lrlab.data.Dataset` holds
            out; of other data the training loss judges, also a rate that memorises.
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

    from lrlab.range_test import inputs

    options = Options(*_range(lr), points, steps, ramp_steps or steps, smoothing)
    inputs.check_network(network)
    config = inputs.optimizer_config(optimizer)
    parameters = list(network.parameters())
    where = str(parameters[0].device if device is None else torch.device(device))
    with inputs.randomness_kept(where, data):
        batch = inputs.batches(data, batch_size, seed, where)
        first = batch(0)
        own = inputs.ready(network, first, loss, seed)
        most = inputs.most_samples(len(first[1]), steps)
        with inputs.randomness_kept(where, val):
            parts, no_val = inputs.held_out(val, data, own, loss, most, where)
        batch, loss, parts = inputs.indexed(batch, loss, parts)
        return _both(own, loss, config, options, batch, parts, seed, where, no_val=no_val)


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
    parts: Sequence[Samples],
    seed: int,
    device: str,
    width: int | None = None,
    tell: Callable[[float], None] = lambda share: None,
    unit: float = 1.0,
    no_val: str = "",
) -> Found:
    """Train the ramp and the constant lrs as lanes, and read them.

    Args:
        network: is trained; give a copy.
        parts: held-out samples in parts of equal length, which judge; none: the training loss does.
        width: the most lanes at once; None: as many as memory holds.
        tell: hears what share of the training is done.
        unit: what losses are multiplied by where they are told.
        no_val: why there are no parts.
    """
    import copy

    import numpy as np
    import torch

    from lrlab import schedules
    from lrlab.engine import devices, lanes
    from lrlab.range_test import curves
    from lrlab.training import first_steps

    longest = max(options.steps, options.ramp_steps)
    rise = {
        "_target_": "lrlab.schedules.RangeTestLR",
        "min_lr": options.low,
        "max_lr": options.high,
        "total_steps": "auto",
    }
    schedule = schedules.build(rise, {"lr": options.high}, options.ramp_steps, longest)
    ramp_lr = schedule.values(0, options.ramp_steps)["lr"].copy()
    grid = curves.lr_grid(options.low, options.high, options.points)
    lrs = np.full((longest, 1 + options.points), np.nan)
    lrs[: options.ramp_steps, 0] = ramp_lr
    lrs[: options.steps, 1:] = grid
    ramp_steps = _ramp_looks(options.ramp_steps)
    steps = _constant_looks(options.steps)
    at_ramp, at_constants = np.zeros((2, *lrs.shape), bool)
    at_ramp[ramp_steps, 0] = True
    at_constants[steps, 1:] = True
    looks = []
    if parts:
        whole = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
        looks = [first_steps.Looks([whole], at_ramp), first_steps.Looks(parts, at_constants)]

    total = options.ramp_steps + options.points * options.steps
    made = 0

    def count(steps: int) -> None:
        nonlocal made
        made += steps
        tell(min(made / total, 1.0))

    if width is None:
        x, y = batch(0)
        cost = lanes.bytes_a_lane(copy.deepcopy(network).cpu(), loss, x.cpu(), y.cpu())
        width = int(devices.free_memory(device) * _MEMORY_SHARE / max(cost, 1))
    losses, seen = first_steps.train(
        network,
        loss,
        optimizer,
        lrs,
        batch,
        seed=seed,
        device=device,
        width=max(1, min(width, lrs.shape[1])),
        looks=looks,
        tell=count,
    )
    losses = unit * losses
    ramp_loss, constant_losses = losses[: options.ramp_steps, 0], losses[: options.steps, 1:]
    trained = ramp_lr, ramp_loss, grid, constant_losses
    ramp = curves.read_ramp(ramp_lr, ramp_loss, options.smoothing)
    constants = curves.read_constants(grid, constant_losses)
    if not parts:
        return Found(options, *trained, *_read(ramp, constants, None), no_val=no_val)
    ramp_val, by_part = unit * seen[0][ramp_steps, 0, 0], unit * seen[1][steps][:, :, 1:]
    constant_val = by_part.mean(axis=1)
    last = int((steps >= options.steps - curves.window(options.steps)).sum())
    return Found(
        options,
        *trained,
        *_read(
            curves.read_ramp(ramp_lr[ramp_steps], ramp_val, options.smoothing),
            curves.read_constants(grid, constant_val, last, by_part),
            constants,
        ),
        val_samples=sum(len(y) for _, y in parts),
        val_steps=steps,
        constant_val=constant_val,
        ramp_val_steps=ramp_steps,
        ramp_val=ramp_val,
        train_ramp=ramp,
        train_constants=constants,
    )


def _read(
    ramp: Ramp, constants: Constants, train: Constants | None
) -> tuple[Ramp, Constants, tuple[str, ...], tuple[float, float] | None]:
    from lrlab.range_test import curves

    overfit = curves.overfits(constants, train)
    misleads = tuple(curves.where_the_ramp_misleads(ramp, constants, overfit))
    return ramp, constants, misleads, curves.sweep_range(constants)


def _ramp_looks(steps: int) -> np.ndarray:
    """Before which steps the ramp is evaluated: not more than each third, where steps are many."""
    from lrlab.range_test import curves

    return curves.evenly(0, steps - 1, min(max(steps // 3, _LEAST_LOOKS), _MOST_LOOKS))


def _constant_looks(steps: int) -> np.ndarray:
    """Before which steps a constant lr is evaluated: a few, and more among the last ones."""
    import numpy as np

    from lrlab.range_test import curves

    last = steps - curves.window(steps)
    early = curves.evenly(0, last, _EARLY_LOOKS + 1)
    return np.unique(np.append(early, curves.evenly(last, steps - 1, _LAST_LOOKS)))


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


def _run(typed: Sequence[str]) -> int:
    """Compose, test, record, print; returns the exit code."""
    from lrlab.config import passwords

    with passwords.kept_apart(typed) as words:
        return _compose(words)


def _compose(words: Sequence[str]) -> int:
    from lrlab.config import arguments, spelling

    arguments.judge(words)
    options, rest = read_options(words)
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig, open_dict

    from lrlab import config as configs
    from lrlab.config import hydra_store

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
    marks, settings = flags.split(rest)
    if "--multirun" in marks:
        raise UserError("--multirun: find trains one network; python -m lrlab.sweep trains many")
    sys.argv = ["lrlab.find", *marks, *own, *spelling.spelled(settings)]
    try:
        conf = str(configs.folder("conf"))
        with hydra_store.ready():
            hydra.main(**hydra_store.BASE, config_path=conf, config_name="config")(task)()
    finally:
        sys.argv = before
        GlobalHydra.instance().clear()
    # with --cfg job and the like Hydra shows something, and runs nothing
    return _test(composed[0], options, words, rest) if composed else 0


def _test(config: Any, options: Options, typed: Sequence[str], rest: Sequence[str]) -> int:
    """Test a composed config.

    Args:
        typed: the command's words, of which ``rest`` are those that a sweep takes too.
    """
    from lrlab import config as configs
    from lrlab import records
    from lrlab.config import wishes
    from lrlab.engine import devices
    from lrlab.plan import build, checks, compose, references
    from lrlab.range_test import files, inputs
    from lrlab.training import first_steps

    devices.make_deterministic()
    wishes.refuse_unknown(config, rest)
    configs.check_folder(config)
    spec = compose.spec(config)
    checks.check_runs([spec])
    named = any(word.startswith("name=") for word in rest)
    folder = Path(config.output) / (config.name if named else f"find_{config.name}")
    folder = records.free_folder(folder.absolute(), may_rename=not named)

    devices.prepare(spec.device, spec["threads"])
    _announce(spec, options)
    data = build.load_data(spec).to(spec.device)
    loss = build.loss_function(spec)
    most = inputs.most_samples(spec["batch_size"], options.steps)
    found = _both(
        build.build_network(spec, data),
        loss,
        spec["optimizer"],
        options,
        first_steps.batches(data, spec["seed"], spec["batch_size"]),
        inputs.in_parts(data.val_x, data.val_y, most),
        spec["seed"],
        spec.device,
        width=None if spec["lanes"] == "auto" else int(spec["lanes"]),
        tell=_share_on_a_terminal,
        unit=references.loss_unit(loss, data),
    )
    if not records.create_sweep(folder):
        folder = records.free_folder(folder, may_rename=True)
        records.create_sweep(folder)
    command = sweep_command(found, rest)
    files.write(folder, found, spec, data, config, typed, command)
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
    from lrlab.plan import build
    from lrlab.sweeping import launch

    steps = f"{options.steps:,} steps"
    if options.ramp_steps != options.steps:
        steps += f", the ramp {options.ramp_steps:,}"
    launch.announce(spec, f"{options.points} constant learning rates and the ramp, {steps}")
    for line in build.load_data(spec).notices:
        print(f"lrlab: {line}", file=sys.stderr)


def _share_on_a_terminal(share: float) -> None:
    if sys.stderr.isatty():
        end = "\r" if share < 1 else "\r\033[K"
        line = f"lrlab: {share:4.0%} trained" if share < 1 else ""
        print(line, end=end, file=broken_pipe.ungated(sys.stderr))


def _title(spec: RunSpec, options: Options) -> str:
    names = [spec.choices[group] for group in ("network", "data", "optimizer")]
    return ", ".join([*names, f"batch {spec['batch_size']}", f"{options.steps} steps"])


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
    from lrlab.sweeping import sweep

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
