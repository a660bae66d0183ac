"""Write ``<sweep>/best.yaml``: the best run's config, as one that can be run itself."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yaml import YAMLError

from lrlab import records
from lrlab.config import schema, trust, yaml_text
from lrlab.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Options that belong to the sweep and say nothing about a run; a rerun has a name of its own.
NOT_OF_A_RUN = (
    *("name", "output", "source", "n_trials", "timeout", "points", "storage", "workers", "lease"),
    *("sampler", "pruner", "budget"),
)
ALWAYS = ("lr", "epochs", "batch_size", "seed")  # written even at their defaults


def text(run: Path, comment: str) -> str:
    """Return a config that trains that run again: ``--config-dir <sweep> --config-name best``.

    It consists of lrlab's own config, the run's choices of groups, and the other differences.

    Args:
        run: the folder of the best run.
        comment: names what it is the best of, in the head of the file.

    Raises:
        UserError: the run has no config, or a damaged one.
    """
    try:
        config = records.options(records.read_config(run))
    except (YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{run}: its config is damaged: {reason}") from None
    if before := lacking(config):
        config["data"].update(before)
    try:
        runtime = _runtime(yaml_text.record(records.read_texts(run)[0]))
    except YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{run}: its hydra.yaml is damaged: {reason}") from None
    choices, sources = runtime.get("choices") or {}, runtime.get("config_sources") or []
    default = yaml_text.load(schema.folder("conf") / "config.yaml")
    groups = schema.default_choices()
    base = {key: value for key, value in default.items() if key not in ("defaults", "hydra")}
    folders, overrides = [], []
    for group, choice in groups.items():
        if group in NOT_OF_A_RUN or group not in config:
            continue
        chosen = str(choices.get(group, choice))
        if chosen != choice:
            overrides.append({f"override {group}": chosen})
        base[group], elsewhere = _choice(group, chosen, sources)
        folders += [elsewhere] if elsewhere else []

    values, extra = _difference(config, base, known=set(base) | set(groups))
    values |= {key: config[key] for key in ALWAYS if key in config}
    values = {key: values[key] for key in config if key in values and key not in NOT_OF_A_RUN}
    if isinstance(data := values.get("data"), dict) and isinstance(name := data.get("path"), str):
        own = run.parent / name  # from run_sweep, in the sweep's folder
        data["path"] = _path(own).replace("${", "\\${") if own.is_file() else name
    # Relative, so that a sweep's folder can be used elsewhere; "${" would be a reference.
    values["source"] = _path(run).replace("${", "\\${")
    if folders:
        values["hydra"] = {"searchpath": list(dict.fromkeys(folders))}
    node = {"defaults": ["config", *overrides, "_self_"], **values}
    body = yaml_text.write(node)
    if trust.in_best(body):  # a class, or a choice, of the user's own
        extra.append(trust.TRUST)
    return f"{_head(run, comment, extra)}\n{body}"


def lacking(config: Mapping[str, Any]) -> dict[str, bool]:
    """Return the settings of data that an older config lacks, with the values of that time.

    When its choice of data is composed again, they would get today's defaults. A held-out part
    would be stratified, and not every column of a table taken.
    """
    data = config.get("data")
    if not isinstance(data, Mapping) or not {"standardise", "split_seed"} <= data.keys():
        return {}  # none of the user's own
    before = {"stratify": False}
    if data.get("_target_") == "lrlab.own_data.table":
        before["check"] = False
    return {key: value for key, value in before.items() if key not in data}


@functools.cache
def _lacked(source: str) -> dict[str, bool]:
    """Return the settings that a best.yaml's run lacked; lrlab did not always write them there."""
    try:
        saved = records.options(records.read_config(Path(source)))
        found = {f"data.{key}": value for key, value in lacking(saved).items()}
        return found | ({} if "lane_dropout" in saved else {"lane_dropout": False})
    except Exception:  # gone or damaged; then nothing is known about it
        return {}


def choose_again(job: DictConfig, loader: Any, overrides: Sequence[str]) -> None:
    """Drop a best run's settings of a group for which another choice was made.

    ``--config-name best network=cnn`` means lrlab's own cnn, without the settings that best.yaml
    holds for the mlp.

    Args:
        job: a composed config; its groups are replaced in place.
        loader: Hydra's config loader.
        overrides: those of the job.
    """
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from lrlab.config.words.spelling import quoted

    if not job.get("source"):
        return
    folders = OmegaConf.select(job, "hydra.searchpath") or []
    path = [f"hydra.searchpath=[{','.join(map(quoted, folders))}]"] if folders else []
    keys = set(map(_key, overrides))
    for key, value in _lacked(str(job["source"])).items():
        if key not in keys and not (key.startswith("data.") and "data" in keys):
            OmegaConf.update(job, key, value)
    for group in schema.GROUPS:
        mine = [o for o in overrides if _key(o) == group or _key(o).startswith(f"{group}.")]
        if any(_key(override) == group for override in mine):
            fresh = loader.load_configuration("config", [*mine, *path], RunMode.RUN)
            job[group] = fresh[group]


def _key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")


def _runtime(saved: Any) -> Mapping[str, Any]:
    """Return Hydra's notes on the run, {} if there are none."""
    for key in ("hydra", "runtime"):
        saved = saved.get(key) if isinstance(saved, Mapping) else None
    return saved if isinstance(saved, Mapping) else {}


def _choice(
    group: str, choice: str, sources: Sequence[Mapping[str, str]]
) -> tuple[dict[str, Any], str | None]:
    """Return a choice's settings, {} if they cannot be seen; and its folder, if outside lrlab."""
    for source in sources:
        is_file = source.get("schema") == "file"
        folder = schema.folder("conf") if source.get("provider") == "main" else None
        folder = folder or (Path(source["path"]) if is_file else None)
        if folder is None or not (folder / group / f"{choice}.yaml").is_file():
            continue
        node = yaml_text.load(folder / group / f"{choice}.yaml") or {}
        # A choice that builds on others sets more than its own file says.
        node = {} if "defaults" in node else node
        return node, None if folder == schema.folder("conf") else f"file://{folder.absolute()}"
    others = [s for s in sources if s.get("schema") == "pkg" and s.get("path") != "hydra.conf"]
    return {}, f"pkg://{others[0]['path']}" if others else None


def _difference(
    config: Mapping[str, Any], base: Mapping[str, Any], known: set[str]
) -> tuple[dict[str, Any], list[str]]:
    """Return the part of config that base lacks, and the overrides that YAML cannot express.

    An unknown key was added with a plus before that was refused, and was never read.
    """
    extra = []

    def differing(here: Mapping[str, Any], there: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        found = {}
        for key, value in here.items():
            old = there.get(key, _MISSING)
            if isinstance(value, Mapping) and isinstance(old, Mapping):
                if inner := differing(value, old, f"{prefix}{key}."):
                    found[key] = inner
            elif old is _MISSING or type(old) is not type(value) or old != value:
                found[key] = value
        missing = [f"{prefix}{key}" for key in there if key not in here]
        known_before = (*schema.NEUTRAL, "lane_dropout")  # by ``choose_again``
        extra.extend(f"~{key}" for key in missing if key not in known_before)
        return found

    values = differing({k: v for k, v in config.items() if k in known}, base, "")
    extra = [override for override in extra if override[1:] not in NOT_OF_A_RUN]
    return values, extra


_MISSING = object()


def _head(run: Path, comment: str, extra: Sequence[str]) -> str:
    sweep = shlex.quote(_path(run.parent))
    command = f"python -m lrlab.sweep --config-dir {sweep} --config-name best"
    lines = [
        *comment.splitlines(),
        "Train it again:     " + " ".join([command, *map(shlex.quote, extra)]),
        "or something else:  any option may follow, like lr=0.05 or network=cnn",
    ]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _path(folder: Path) -> str:
    from lrlab.process.paths import display_path

    return display_path(folder)
