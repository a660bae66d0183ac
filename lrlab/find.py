# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""``python -m lrlab.find``: the learning rate range test, next to a test of constant lrs.

The usual test trains once while lr rises exponentially, and reads an lr off the curve. It is cheap,
but it misleads: at each lr it profits from the progress made at smaller ones. Constant lrs cost
hardly more when they train together. So both tests train at once, from the same weights on the same
mini-batches. Held-out samples judge both, because the training loss would favour an lr that
memorises the mini-batches.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lrlab._version import __version__
from lrlab.config.words import flags
from lrlab.errors import UserError
from lrlab.process import only_json, verbs
from lrlab.range_test import command
from lrlab.range_test.found import Found, Options
from lrlab.range_test.words import sweep_command, told, with_left_out

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

USAGE = """\
usage: python -m lrlab.find [option=value ...]

Find a learning rate in less than an epoch. Two tests start from the same
weights and train on the same mini-batches: a ramp, whose lr rises exponentially
from step to step, and constant learning rates across the same range. The result
says which constant lr did best, what the ramp would have suggested (steepest,
valley, minimum/10), and where the ramp misleads.

  lr=1e-5..10       the range of learning rates
  points=32         how many constant lrs, log-spaced
  steps=300         steps of each constant lr; its loss is the mean over the
                    last fifth of them
  ramp_steps=300    steps of the ramp; by default as many as steps
  smoothing=0.03    width of the ramp's smoothing window, as a share of the ramp
  budget=null       time for all of it: 30s, 5m; fewer steps or points are tried
                    if not all fit

  Network, data, optimizer, ...: the options of `python -m lrlab.sweep --help`,
  with one value each:
  network=cnn  optimizer=adam  data=fashion_mnist  seed=1  device=cuda  name=my

  --json            print the result as one JSON object on stdout, and nothing
                    else there

Examples:  python -m lrlab.find
           python -m lrlab.find network=cnn optimizer=adam lr=1e-6..1
           python -m lrlab.find optimizer=momentum points=64 steps=500

The loss of up to 500 held-out samples judges the learning rates. If the
training loss would choose another one, a line says so. The files ramp.csv
(step, lr, loss, smooth), constant.csv (lr, step, loss), held_out.csv,
suggestions.json, config.yaml and find.png are written into
outputs/find_<date_time>. The last lines name the sweep to run next.

Exit code: 0 an lr was found, 1 no lr was found or the plot failed, 2 bad input,
130 interrupted.
"""

__all__ = ["Found", "Options", "find", "main", "sweep_command", "told"]


def find(
    network: nn.Module,
    data: Any,
    loss: Callable[[Tensor, Tensor], Tensor] | Callable[[nn.Module, Any], Tensor],
    optimizer: Callable[..., torch.optim.Optimizer]
    | torch.optim.Optimizer
    | Mapping[str, Any]
    | str
    | None = None,
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
    budget: float | str | None = None,
) -> Found:
    """Run both tests on copies of your network.

    Afterwards the network, its gradients and its mode, the optimizer, all random number generators,
    and the position, the sampler and the generator of a data loader are the same to the bit, even
    if find fails or is interrupted. Only an iterator, such as a generator, is consumed.

    Args:
        network: (batch, ...) to outputs (batch, classes or values), one tensor. With a loss of
            (model, batch), any module. Lazy layers are drawn with the seed.
        data: one of

            - two tensors or arrays, samples (samples, ...) and targets (samples, ...); of a network
              with several inputs, a dict or a tuple of samples, by the names or the order of its
              forward's parameters;
            - a TensorDataset or another data set of pairs, which is read whole;
            - a `lrlab.data.Dataset`, of which the training part is used;
            - anything that gives mini-batches as pairs of tensors, such as a DataLoader. As many
              as needed are kept in memory; one smaller than the first is left out.
            - with a loss of (model, batch): anything that gives mini-batches of any kind, such as
              dicts. Each is used as it comes, except that of pairs the smaller ones are left out.
        loss: one of

            - (outputs, targets) to the mean over the batch;
            - (model, batch) to the mean over the batch, such as
              ``lambda model, batch: model(**batch).loss``. A loss is of this kind if the
              mini-batches are not pairs of tensors, or if its first parameter is called model,
              network, net or module. Of several inputs and targets, a loss is of the first kind if
              its first parameter is called outputs, input, logits or the like.
        optimizer: a name as for ``lrlab.sweep``, such as adam; a torch class; a
            ``functools.partial`` of one; a config with ``_target_``. None: plain SGD. Or an
            optimizer of this network, whose class, settings and parameter groups are read. Each
            lane begins with a new one. The learning rates found are those of its first group; the
            others keep their ratio to it.
        val: held-out samples and targets, in any form that data may have. At most 500 of them,
            evenly spaced, judge the learning rates; of mini-batches that are not pairs, whole ones,
            at least five. None: those that a `lrlab.data.Dataset` holds out; for other data the
            training loss judges, which also favours an lr that memorises.
        lr: the range, two numbers or a text like 1e-5..10.
        points, steps, ramp_steps, smoothing: as in ``Options``; ramp_steps None: as many as steps.
        batch_size, seed: of samples and targets given whole; as ``lrlab.sweep`` with this seed.
        device: where to train; None: the network's device.
        budget: time for all of it, seconds or a text like 30s or 5m: fewer steps or points are
            tried if not all fit, and the answer says what was left out. None: no limit.

    Returns:
        The result. ``told(found, None)`` puts it into words, ``figure.range_test(found)`` draws it.

    Raises:
        UserError: an argument cannot work; the message says what would.
    """
    import torch

    from lrlab.range_test import batches, given, held_out
    from lrlab.range_test.both import both
    from lrlab.range_test.loops import instance, model_batch
    from lrlab.range_test.loops.source import Source, copied_loader, untouched
    from lrlab.range_test.training import Subject

    fitted = command.within(budget)
    options = Options(*command.lr_range(lr), points, steps, ramp_steps or steps, smoothing)
    given.check_network(network)
    if isinstance(optimizer, torch.optim.Optimizer):
        config = instance.config_of(optimizer, network)
    else:
        config = given.optimizer_config(optimizer)
    parameters = list(network.parameters())
    where = str(parameters[0].device if device is None else torch.device(device))
    with untouched(where, network, data, loss, val) as ends:
        whole = batches.of_whole(data, batch_size, seed, where)
        source = whole or ends.enter_context(Source(data, "data"))
        first = source(0) if callable(source) else source.peek()
        judge: Any = loss  # of one kind or the other
        if model_batch.is_meant(loss, first):
            subject, chosen = model_batch.subject(network, judge, config, source, seed, where)
            own = subject.network
            found, parts, no_val = model_batch.held_out_batches(
                val, data, own, first, steps, where, ends
            )
            chosen += found
            samples = model_batch.samples(chosen, parts) if parts else None
            options, left_out = fitted(options, subject)
            result = both(subject, options, parts, no_val=no_val, samples=samples)
            return with_left_out(result, left_out)
        batch = source if callable(source) else batches.of_pairs(source, where)
        first = batch(0)
        own = given.ready(network, first, judge, seed)
        most = held_out.most_samples(len(first[1]), steps)
        val_read = copied_loader(val, "val")
        parts, no_val = held_out.held_out(val_read, data, own, judge, most, where)
        batch, judge, parts = batches.indexed(batch, judge, parts)
        subject = Subject(own, judge, config, batch, seed, where)
        options, left_out = fitted(options, subject)
        return with_left_out(both(subject, options, parts, no_val=no_val), left_out)


def _run(typed: Sequence[str]) -> int:
    """Compose, test, record, print; return the exit code."""
    from lrlab.config import passwords
    from lrlab.sweeping import as_json

    typed, wanted = only_json.asked(typed)
    with passwords.kept_apart(flags.first(typed)) as words:
        if not wanted:
            return _compose(words)
        as_json.refuse_others(words)
        found: dict[str, Any] = {}
        with only_json.stdout_free():
            code = _compose(words, found.update)
        only_json.show({**only_json.head("find"), **found})
        return code


def _compose(
    words: Sequence[str], answered: Callable[[dict[str, Any]], object] = lambda answer: None
) -> int:
    from lrlab.config.words import arguments, spelling

    started = arguments.clock()
    arguments.judge(words)
    options, rest = command.read_options(words)
    from lrlab.config import hydra_store

    marks, settings = flags.split(rest)
    if "--multirun" in marks:
        raise UserError("--multirun: find trains one network; python -m lrlab.sweep trains many")
    # As a run of Hydra, but without its folder: this command writes its folder at the end.
    chosen = [f"lr={options.low!r}", *spelling.spelled(settings)]
    config = hydra_store.composed_for_run("lrlab.find", marks, chosen)
    # with --cfg job and similar flags, Hydra only prints
    return command.run(config, options, words, rest, answered, started) if config else 0


def main() -> None:
    """Run the command."""
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
    sweep.guarded(lambda: sys.exit(_run(words)), interrupted)


class _Module(types.ModuleType):
    """Make this module callable: ``lrlab.find(...)`` is ``lrlab.find.find(...)``."""

    def __call__(self, *arguments: Any, **options: Any) -> Found:
        return find(*arguments, **options)


if __name__ == "__main__":
    main()
else:
    sys.modules[__name__].__class__ = _Module
