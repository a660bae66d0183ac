"""Tell by its name what a column of another program's log holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from lrlab.errors import UserError
from lrlab.tables import tidy

TRAIN = {"train", "training", "trn"}
VAL = {"val", "valid", "validation", "eval", "evaluation", "dev", "heldout"}
TEST = {"test", "testing"}
_LOSS = {"loss", "nll", "xent", "crossentropy", "cost"}
_JOINED = re.compile(r"^(train|training|val|valid|validation|eval|test)(loss|nll)$")
# With one of these it is not the loss itself.
_NOT_THE_LOSS = {
    *("min", "max", "std", "var", "best", "lowest", "scale", "scaler", "weight", "delta", "diff"),
    *("stderr", "sem", "grad", "target", "reduction", "fn", "function", "type", "name", "count"),
}
_PLAIN = {
    "mean",
    "avg",
    "average",
    "batch",
    "metrics",
    "metric",
    "epoch",
    "step",
    "running",
    "mini",
}
_STEP = (
    *("step", "global_step", "trainer_global_step", "train_global_step", "training_step"),
    *("train_step", "iteration", "iter", "update", "num_updates", "n_iter", "batch"),
)
_PLURAL = ("steps", "iterations", "updates", "train_steps")  # also a setting: how many there were
_COUNTS = (
    *("tokens", "tokens_seen", "n_tokens", "num_tokens", "total_tokens", "consumed_tokens"),
    *("train_tokens_seen", "num_input_tokens_seen", "samples", "samples_seen", "n_samples"),
    *("num_samples", "consumed_samples", "examples", "examples_seen", "num_examples_seen"),
)
_EPOCH = ("epoch", "train_epoch", "current_epoch", "epoch_num", "ep")
_LR = (
    *("lr", "learning_rate", "learningrate", "lrate", "train_learning_rate", "train_lr"),
    *("epoch_learning_rate", "epoch_lr"),
)
_BASE_LR = (
    *("base_lr", "init_lr", "initial_lr", "max_lr", "peak_lr", "lr_max", "base_learning_rate"),
    *("initial_learning_rate", "init_learning_rate", "peak_learning_rate", "max_learning_rate"),
    *("eta", "eta0", "lr0", "config_lr", "config_learning_rate", "params_lr", "hparams_lr"),
    *("params_learning_rate", "hparams_learning_rate", "args_lr", "args_learning_rate"),
    *("optimizer_lr", "optim_lr", "optimizer_learning_rate", "optim_learning_rate"),
)
_NOT_A_RATE = {
    *("decay", "mult", "multiplier", "factor", "gamma", "scale", "scheduler", "schedule", "policy"),
    *("step", "steps", "epoch", "epochs", "patience", "warmup", "min", "power", "type", "name"),
}
_RUN = ("run", "run_id", "run_name", "trial", "experiment", "exp", "id", "name", "job", "trial_id")
_SEED = ("seed", "random_seed", "rng_seed", "config_seed", "params_seed", "hparams_seed")
_GRAD_NORM = ("grad_norm", "gradient_norm", "train_grad_norm", "gnorm", "train_gradient_norm")
_SECONDS = ("seconds", "runtime", "relative_time_process", "elapsed", "elapsed_time", "time_s")
_NO_SETTING = {
    *("name", "dir", "path", "folder", "file", "id", "uuid", "time", "date", "timestamp", "url"),
    *("version", "checkpoint", "ckpt", "device", "host", "hostname", "seed", "user", "author"),
    *("output", "uri", "created", "updated", "started", "ended", "duration", "runtime", "tags"),
    *("notes", "description", "state", "status", "lr", "start", "end", "number", "index", "row"),
}
_MEASURED = {
    *("acc", "accuracy", "top1", "top5", "f1", "auc", "error", "err", "perplexity", "ppl", "bleu"),
    *("score", "seconds", "minutes", "hours", "memory", "mem", "flops", "throughput", "loss"),
    *("nll", "rmse", "mae", "r2", "rank", "bpb", "mse", "wer", "cost", "acc1", "acc5", "iou"),
    *("miou", "dice", "psnr", "fid", "rouge", "auroc", "auprc", "recall", "mape", "elbo"),
    *("best", "stopped", "lowest", "elapsed"),
}


@dataclass(frozen=True)
class Wanted:
    """What the options ask for.

    Attributes:
        lr: as typed at --lr: "0.1", or "NAME=0.1", several of them.
        lr_column: the column that holds the lr; "" for none.
        lr_from: a pattern for names; "" for none.
        columns: (our name, the log's column) as asked for with --column.
    """

    lr: tuple[str, ...] = ()
    lr_column: str = ""
    lr_from: str = ""
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def is_asked(self) -> str:
        """Return the first option that was given, in words; "" for none."""
        told = (
            ("--lr", ", ".join(self.lr)),
            ("--lr-column", self.lr_column),
            ("--lr-from", self.lr_from),
            ("--column", ", ".join("=".join(pair) for pair in self.columns)),
        )
        return next((f"{name}={value}" for name, value in told if value), "")


def plain(name: str) -> str:
    """Return a name in small letters, its words joined by _."""
    spaced = re.sub(r"([a-z])([A-Z])", r"\1_\2", name.strip())
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


def words(name: str) -> list[str]:
    found: list[str] = []
    for word in plain(name).replace("cross_entropy", "crossentropy").split("_"):
        joined = _JOINED.match(word)
        found += [joined[1], joined[2]] if joined else [word]
    return found


def loss_of(name: str) -> str:
    """Return train, val or test for a column that holds such a loss, otherwise ""."""
    told = set(words(name))
    if not told & _LOSS or told & _NOT_THE_LOSS:
        return ""
    for part, meant in (("val", VAL), ("test", TEST)):
        if told & meant:
            return part
    return "train"


def _odd(name: str) -> tuple[int, int]:
    """Return how many words say something else, and whether it stands for steps or epochs.

    Of a train loss the steps count, of a val loss the mean over all of an evaluation.
    """
    told = words(name)
    known = TRAIN | VAL | TEST | _LOSS | _PLAIN
    suffix = 0 if "step" in told else 2 if "epoch" in told else 1
    suffix = 2 - suffix if {*told} & (VAL | TEST) else suffix
    return sum(word not in known for word in told), suffix


def add_losses(
    roles: dict[str, str], names: Iterable[str], count: Callable[[str], int], where: object
) -> None:
    """Add the columns of the train and the val loss to those named already, as `best_loss`."""
    names = list(names)
    for part in ("train", "val"):
        if f"{part}_loss" in roles:
            continue
        found = best_loss(names, part, count, where)
        if found is not None:
            roles[f"{part}_loss"] = found


def with_like_steps(
    roles: dict[str, str], names: Iterable[str], last: Callable[[str], float]
) -> list[str]:
    """Take a train loss that is counted like the val loss, if the one taken is not.

    A program may count its train loss in batches and its val loss in epochs.

    Args:
        roles: as from `add_losses`; the train loss may be changed.
        last: gives the last step of a column.

    Returns:
        A line, if there is no such train loss.
    """
    train, val = roles.get("train_loss"), roles.get("val_loss")
    if train is None or val is None:
        return []

    def is_like(name: str) -> bool:
        low, high = sorted((last(name) + 1, last(val) + 1))
        return low > 0.5 * high

    if is_like(train):
        return []
    alike = [name for name in names if loss_of(name) == "train" and is_like(name)]
    if alike:
        roles["train_loss"] = min(alike, key=_odd)
        return []
    return [
        f"{train} goes to step {last(train):g}, {val} to {last(val):g}: they may count different "
        "things"
    ]


def best_loss(
    names: Iterable[str], part: str, count: Callable[[str], int], where: object
) -> str | None:
    """Return the column of a loss: the plainest name, of train losses those of steps.

    A column with one value where another has many is the mean over all training, and not a curve.

    Args:
        part: train, val or test.
        count: gives the number of values in a column.
        where: the log, for a message.

    Raises:
        UserError: two columns may be meant alike.
    """
    found = [name for name in names if loss_of(name) == part]
    most = max(map(count, found), default=0)
    if most > 2:
        found = [name for name in found if count(name) > 1]
    else:
        found = [name for name in found if count(name)]
    if not found:
        return None
    explicit = [name for name in found if part != "train" or set(words(name)) & TRAIN]
    least = min(_odd(name) for name in found)
    alike = [name for name in found if _odd(name) == least]
    alike = [name for name in alike if name in explicit] or alike
    counts = sorted({count(name) for name in alike})
    alike = [name for name in alike if count(name) == counts[-1]]
    if len(alike) > 1:
        raise UserError(
            f"{where}: {' and '.join(alike[:3])} may each be the {part} loss; say which: "
            f"--column {part}_loss={_quoted(alike[0])}"
        )
    return alike[0]


def _quoted(name: str) -> str:
    import shlex

    return shlex.quote(name)


def first(names: Sequence[str], known: Sequence[str]) -> str | None:
    """Return the column whose plain name comes first in a list."""
    by_name: dict[str, str] = {}
    for name in names:
        by_name.setdefault(plain(name), name)
    return next((by_name[each] for each in known if each in by_name), None)


def step(names: Sequence[str]) -> str | None:
    return first(names, _STEP)


def count(names: Sequence[str]) -> str | None:
    """Return a column that counts tokens or samples."""
    return first(names, _COUNTS)


def plural(names: Sequence[str]) -> str | None:
    return first(names, _PLURAL)


def epoch(names: Sequence[str]) -> str | None:
    return first(names, _EPOCH)


def run(names: Sequence[str]) -> str | None:
    return first(names, _RUN)


def is_run(name: str) -> bool:
    """Return whether a column's name means a run, and nothing else such as a model's name."""
    return plain(name) in ("run", "run_id", "run_name", "trial", "trial_id", "job")


def seed(names: Sequence[str]) -> str | None:
    return first(names, _SEED)


def grad_norm(names: Sequence[str]) -> str | None:
    return first(names, _GRAD_NORM)


def seconds(names: Sequence[str]) -> str | None:
    return first(names, _SECONDS)


def lr(names: Sequence[str]) -> tuple[str | None, str | None]:
    """Return the column of the run's own lr, and that of the lr of each step."""
    of_step = first(names, _LR)
    if of_step is None:  # Lightning's monitor: lr-SGD, lr-Adam/pg1; others: charts/learning_rate
        of_step = next((name for name in names if _is_rate_of_group(name)), None)
    return first(names, _BASE_LR), of_step


def _is_rate_of_group(name: str) -> bool:
    return bool(re.match(r"lr[-/]\w", name)) or plain(re.split(r"[./]", name)[-1]) in _LR


def like_lr(names: Iterable[str]) -> list[str]:
    """Return the columns that may hold the learning rate of a group, such as lr_head."""
    return [
        name
        for name in names
        if _is_rate_of_group(name)
        or ("lr" in (told := words(name)) and not {*told} & _NOT_A_RATE)
        or ("learning_rate" in plain(name) and not {*told} & _NOT_A_RATE)
    ]


def other_rates(taken: str, highest: Mapping[str, float]) -> list[str]:
    """Return a line about columns of other rates than the one taken.

    Args:
        highest: by column, as from `like_lr`.
    """
    others = {
        name: rate
        for name, rate in highest.items()
        if name != taken and rate > 0 and rate != highest.get(taken, rate)
    }
    if not others:
        return []
    name, rate = next(iter(others.items()))
    also = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return [f"{name}{also} has other rates (up to {rate:g}); --lr-column NAME takes another"]


def is_lr(name: str) -> bool:
    """Return whether a hyperparameter is called like a learning rate."""
    last = plain(re.split(r"[./]", name)[-1])
    return last in (*_LR, *_BASE_LR) or plain(name) in (*_LR, *_BASE_LR)


def is_no_setting(name: str) -> bool:
    """Return whether a hyperparameter names a run, a place or a time, or is the lr or the seed."""
    told = words(name)
    is_time = len(told) > 1 and told[-2] in ("time", "duration", "runtime")
    return is_lr(name) or is_time or told[-1] in _NO_SETTING or told[0] in ("log", "save")


def is_measured(name: str) -> bool:
    """Return whether a column of a table of runs is a result and not a setting."""
    told = set(words(name))
    return bool(told & _MEASURED) or name in tidy.NUMBERS
