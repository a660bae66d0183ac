"""Suggest names for options that lrlab does not have: its own name, or the nearest.

It imports neither torch nor Hydra.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from lrlab.config import schema
from lrlab.errors import UserError

# Other programs' names of lrlab's options.
_OTHER_NAMES = {
    "lr": "learning_rate init_lr initial_lr base_lr start_lr lr0 learn_rate lrs step_length eta",
    "epochs": "n_epochs num_epochs max_epochs num_train_epochs nepochs epoch_count ep",
    "batch_size": "bs batch train_batch_size per_device_train_batch_size mini_batch_size "
    "minibatch_size n_batch",
    "seed": "seeds random_seed random_state manual_seed rng seed_everything",
    "device": "gpu gpus cuda use_cuda use_gpu accelerator devices",
    "threads": "num_threads n_threads cpu_threads cpus cores",
    "workers": "n_workers n_jobs jobs processes num_processes n_processes",
    "n_trials": "trials num_trials max_trials n_runs",
    "output": "out out_dir output_dir outdir save_dir log_dir logdir results_dir",
    "name": "run_name exp_name experiment_name sweep_name id",
    "objective": "metric monitor criterion_metric best_metric goal",
    "timeout": "max_time max_seconds time_limit",
    "save_model": "save save_checkpoint save_weights",
    "network": "model net arch architecture backbone",
    "data": "dataset data_set",
    "optimizer": "optim opt optimiser",
    "schedule": "scheduler lr_scheduler lr_schedule sched decay lr_decay",
    "loss": "criterion loss_fn loss_function",
    "sampler": "search algo algorithm",
    "tracking": "logger logging log_to wandb track tracker use_wandb",
    "accumulate": "accumulation accum grad_accum accumulate_grad_batches accumulation_steps "
    "grad_accumulation gradient_accumulation gradient_accumulation_steps grad_accum_steps",
    "clip_grad_norm": "clip clipping clip_grad grad_clip clip_norm max_norm max_grad_norm clipnorm "
    "gradient_clip gradient_clip_val gradient_clipping grad_norm_clip",
    "ema": "use_ema ema_decay model_ema ema_rate",
    "optimizer.weight_decay": "wd l2 l2_reg weightdecay",
    "optimizer.betas": "beta1 beta2 adam_betas beta",
    "optimizer.eps": "epsilon adam_epsilon",
    "loss.label_smoothing": "label_smoothing smoothing_factor",
    "network.hidden": "hidden_size hidden_sizes hidden_dim layers n_layers depth width units",
    "data.val_size": "val_split validation_split val_fraction val_ratio valid_size test_size",
    "data.train_size": "n_samples num_samples subset train_fraction",
    "data.standardise": "normalize normalise standardize",
    "data.label": "target_column label_column labels y_column",
    "data.path": "csv file data_path data_file",
    "data.root": "data_dir root_dir data_root datadir",
}

# Features that lrlab has under no name, and an alternative; each command in it can be typed so.
_WISHES = (
    (
        "clip_value clip_grad_value clipvalue",
        "gradients are clipped by their norm, for example clip_grad_norm=1; an optimizer of your "
        "own can do otherwise in its step(), like optimizer._target_=parts.Clipped in "
        "docs/your-own.md",
    ),
    (
        "early_stopping early_stop earlystopping patience stop_early min_delta es_patience",
        "lrlab stops no run by its own curve; pruner=median ends runs that do worse than others, "
        "and epochs=3 sets the length",
    ),
    (
        "amp bf16 autocast mixed_precision mixed use_amp bfloat16 dtype",
        "mixed precision is precision=bf16",
    ),
    (
        "fp16 half float16 use_fp16 fp8",
        "lrlab does not train in float16; its mixed precision is precision=bf16",
    ),
    (
        "swa polyak average averaging weight_averaging",
        "an exponential average of the weights is ema=0.999; its length is about 1/(1 − ema) steps",
    ),
    (
        "warmup warm_up warmup_epochs warmup_ratio warmup_iters num_warmup_steps lr_warmup "
        "use_warmup warmup_lr",
        "a warm-up is part of the schedule; set its steps by schedule.warmup_steps=100",
    ),
    (
        "dropout drop dropout_rate p_dropout drop_rate droprate drop_path",
        "lrlab's networks have no dropout; a network of your own may have it, like nets.Small in "
        "docs/your-own.md",
    ),
    (
        "batch_norm batchnorm layer_norm layernorm norm bn",
        "lrlab's networks do not normalise; a network of your own may, like nets.Small in "
        "docs/your-own.md",
    ),
    (
        "num_workers dataloader_workers loader_workers pin_memory prefetch persistent_workers",
        "the data lie in memory and need no loaders; leave it out (workers=2 trains by 2 "
        "processes)",
    ),
    (
        "augment augmentation augmentations transform transforms data_augmentation mixup cutmix",
        "lrlab does not change samples while it trains; data of your own can hold changed ones, "
        "see docs/your-own.md",
    ),
    (
        "steps max_steps num_steps n_steps iterations max_iter iters n_iter num_iterations "
        "total_steps train_steps",
        "a run's length is set by epochs=3; data.train_size=1000 makes an epoch shorter",
    ),
    (
        "resume resume_from checkpoint ckpt resume_from_checkpoint load_checkpoint restart",
        "`python -m lrlab.resume SWEEP` goes on with a sweep, SWEEP being its folder",
    ),
    (
        "shuffle",
        "each epoch's order is drawn anew, by seed=0; leave it out",
    ),
    (
        "compile torch_compile jit",
        "lrlab captures its steps by itself, which capture=true or capture=false sets",
    ),
)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


_OPTION = {_plain(other): ours for ours, names in _OTHER_NAMES.items() for other in names.split()}
_INSTEAD = {_plain(name): instead for names, instead in _WISHES for name in names.split()}


def instead(setting: str) -> str:
    """Return an alternative to a setting that nothing in lrlab has; "" if none is known."""
    return _INSTEAD.get(_plain(setting), "")


def no_such(key: str, typed: str = "") -> str:
    """Return the line for an option that nothing reads.

    Args:
        key: its dotted name, without signs.
        typed: the word with which it was typed, if known; else the key begins the line.
    """
    start = f"{typed or key}: no such option"
    group, dot, _ = key.partition(".")
    last = key.rpartition(".")[2]
    known = schema.known_keys()
    if told := instead(last):
        return f"{start}; {told}"
    meant = _meant(key, last, known)
    hint = f" (did you mean {meant}?)" if meant else ""
    if not hint and not key.startswith("hydra."):
        hint = schema.nearest(key, [word for word in known if ("." in word) == bool(dot)])
    tail = "; `python -m lrlab.sweep --help` lists them"
    if dot and group in (*schema.GROUPS, *schema.SWEEP_GROUPS) and key not in known:
        tail += f"; a class of your own takes it as +{key}=…"
    return f"{start}{hint}{tail}"


def _meant(key: str, last: str, known: Sequence[str]) -> str:
    """Return the option that has this name in other programs, or elsewhere; "": none."""
    top = [each for each in known if "." not in each]
    if "." in key and last in top:  # optimizer.lr
        return last
    near = [each for each in top if _plain(each) == _plain(last) and each != key]
    if near and "." not in key:
        return near[0]
    ours = _OPTION.get(_plain(last), "")
    if ours and ours != key:
        return _with_its_choice(ours)
    if "." not in key and key not in top:  # momentum
        inside = [each for each in known if each.rpartition(".")[2] == last]
        groups = {each.partition(".")[0] for each in inside}
        return _with_its_choice(inside[0]) if len(groups) == 1 else ""
    return ""


def _with_its_choice(option: str) -> str:
    """Return a setting with a choice of its group that has it, if the default has not."""
    group, dot, setting = option.partition(".")
    having = schema.choices_with(group, setting) if dot else []
    has_it = not having or schema.default_choices().get(group) in having
    return option if has_it else f"{group}={having[0]} {option}"


def refuse_unknown(
    config: Mapping[Any, Any], typed: Sequence[str] = (), swept: Iterable[str] = ()
) -> None:
    """Refuse options at the top of a config, or swept there, that nothing reads.

    A word with ``+`` adds any key and the settings below it, which would be recorded but not used.

    Args:
        config: as it was composed, with Hydra's part or without.
        typed: the overrides of the composition.
        swept: the swept keys, with their signs.

    Raises:
        UserError: names it as typed, and the nearest option.
    """
    known = {field.name for field in fields(schema.Config)} | {"hydra"}
    for key in [*map(str, config), *swept]:
        top = key.lstrip("+").partition(".")[0]
        if top in known:
            continue
        words = [word for word in typed if _top(word) == top]
        name = words[0].partition("=")[0].lstrip("+") if words else key.lstrip("+")
        if words and not words[0].startswith("+") and "/" not in name:
            words = []
        raise UserError(no_such(name, words[0] if words else ""))


def _top(word: str) -> str:
    return word.partition("=")[0].lstrip("+").partition(".")[0]
