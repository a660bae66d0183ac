"""Sweeps that somebody sent and that go on: no word, study, state or best.yaml calls anything."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from helpers.commands import command
from helpers.sent import LITTLE, Touch, ran, refused, reproduce, resume

from lrlab import records
from lrlab.config import trust
from lrlab.config.words import flags
from lrlab.errors import UserError
from lrlab.study import cmaes_state
from lrlab.study.points import Points
from lrlab.sweep import main
from lrlab.sweeping import resuming
from lrlab.sweeping.judged import Sweep

# --- a sweep that goes on -------------------------------------------------------------------------


def add_word(sweep: Path, word: str, kind: str = "task") -> None:
    file = sweep / "multirun.yaml"
    saved = yaml.safe_load(file.read_text("utf-8"))
    saved["hydra"]["overrides"][kind].append(word)
    file.write_text(yaml.safe_dump(saved), "utf-8")


WORDS = {
    "a target": "network._target_=evil.Net",
    "a mapping": "+network.extra={_target_:evil.touch}",
    "a list of targets": "network._target_=lrlab.networks.MLP,evil.Net",
    "a callback": "+hydra.callbacks.x._target_=evil.touch",
    "a callback in a package": "+data@hydra.callbacks.x=custom",
    "a handler": "+hydra.job_logging.handlers.x.()=evil.touch",
    "params": "hydra.sweeper.params={network._target_:evil.Net}",
    "a search path": "hydra.searchpath=[file:///tmp/theirs]",
    "a module's configs": "hydra.searchpath=[pkg://evil]",
    "an environment": "+hydra.job.env_set.LD_PRELOAD=/tmp/theirs.so",
    "another sweeper": "hydra/sweeper=basic",
    "one run": "hydra.mode=RUN",
    "trust itself": "hydra.sweeper.trust=true",
    "trust with a plus": "++hydra.sweeper.trust=true",
    "a launcher": "hydra/launcher=submitit_slurm",
    "a file elsewhere": "network=../../../../tmp/theirs",
    "a group elsewhere": "+../../tmp/theirs=x",
    "a secret": "network.activation=${oc.env:SECRET}",
    "a server": "storage=postgresql://theirs.example/db",
    "a tracker": "tracking._target_=evil.touch",
    "a tracking server": "tracking.uri=http://theirs.example",
    "a sampler": "sampler._target_=evil.touch",
    "a flag": "--config-dir=/tmp/theirs",
    "a pickle": "--experimental-rerun=theirs.pickle",
}


@pytest.mark.full(after=1)
@pytest.mark.parametrize("kind", ["task", "hydra"])
def test_resume_takes_no_word_that_could_call_something(kind: str, here: Path) -> None:
    multirun = here / "s" / "multirun.yaml"
    before = multirun.read_text("utf-8")
    assert "hydra.sweeper.trust=false" in resuming.command_line(Path("s"), []).words
    for name, word in WORDS.items():
        multirun.write_text(before, "utf-8")
        add_word(here / "s", word, kind)
        if kind == "hydra" and word.startswith((*records.RESUMING, "hydra.mode=")):
            assert word not in resuming.command_line(Path("s"), []).words, name  # it is left out
            continue
        with pytest.raises(UserError, match=r"python -m lrlab\.resume s trust=true"):
            resuming.command_line(Path("s"), [])
    assert not ran(here)


def test_a_words_payload_would_run(here: Path) -> None:
    add_word(here / "s", "network._target_=evil.Net")
    refused(resume(cwd=here), "evil.Net (network)")
    assert not ran(here)
    resume("trust=true", cwd=here)
    assert ran(here)


def test_the_line_repeats_what_was_typed(here: Path) -> None:
    add_word(here / "s", "network._target_=evil.Net")
    typed = ["lr=0.1,0.2,0.4", "seed=0, 1"]
    line = r"resume s lr=0\.1,0\.2,0\.4 'seed=0, 1' trust=true$"
    with pytest.raises(UserError, match=line):
        resuming.command_line(Path("s"), typed)
    with pytest.raises(UserError, match=r"resume s trust=true$"):  # none of its password
        resuming.command_line(Path("s"), ["storage=postgresql://me:secret@db/lrlab"])


def test_a_pickle_among_the_words_is_no_flag(here: Path) -> None:
    """Hydra's --experimental-rerun unpickles the file that it is given."""
    (here / "theirs.pickle").write_bytes(pickle.dumps(Touch()))
    add_word(here / "s", "--experimental-rerun=theirs.pickle")
    refused(resume(cwd=here), "--experimental-rerun")
    refused(resume("trust=true", cwd=here), "is no option")  # not even then
    assert not ran(here)
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        command(main, ["lr=0.1", "--experimental-rerun=theirs.pickle"], here)
    assert ran(here)


@pytest.mark.parametrize(
    "where",
    [{"config_sources": [{"path": "/tmp/theirs", "provider": "command-line", "schema": "file"}]}],
)
def test_resume_reads_no_configs_elsewhere(where: dict[str, Any], here: Path) -> None:
    file = here / "s" / "multirun.yaml"
    saved = yaml.safe_load(file.read_text("utf-8"))
    saved["hydra"]["runtime"] |= where
    file.write_text(yaml.safe_dump(saved), "utf-8")
    refused(resume(cwd=here), "the configs in /tmp/theirs")
    assert "--config-dir=/tmp/theirs" in resuming.command_line(Path("s"), ["trust=true"]).words
    saved["hydra"]["runtime"]["config_sources"] = []
    saved["hydra"]["job"]["config_name"] = "theirs"
    file.write_text(yaml.safe_dump(saved), "utf-8")
    refused(resume(cwd=here), "the config theirs")


def journal_with(sweep: Path, overrides: dict[str, str]) -> None:
    """The study as it was before it began, where its second run overrides that instead."""
    file = records.journal_file(sweep)
    begun = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    kept = [log for log in begun if log["op_code"] in (0, 2, 3, 4)]
    (_, second) = (log for log in kept if log["op_code"] == 4)
    second["user_attrs"]["overrides"] |= overrides
    file.write_text("".join(json.dumps(log) + "\n" for log in kept), "utf-8")
    for run in "01":
        shutil.rmtree(sweep / run)


@pytest.mark.full
@pytest.mark.parametrize("overrides", [{"network._target_": "evil.Net"}])
def test_a_study_sets_nothing_that_the_command_does_not_sweep(
    overrides: dict[str, str], here: Path
) -> None:
    journal_with(here / "s", overrides)
    shutil.copytree(here / "s", here / "copy")
    ended = resume("trust=true", cwd=here)  # the command is trusted, not the study
    assert ended.code == 0 and not ran(here)
    assert "is left out of what was asked for before" in ended.err
    # were it asked for, its point would be refused ...
    with mock.patch.object(Points, "asked_points", _all_points):
        ended, failed = begin_again(here)
        assert ended.code == 1 and ended.err == "" and not ran(here)
        assert "is in the study, but not swept by this command" in failed
        # ... and without that guard the class would be called
        with mock.patch.object(Sweep, "_check_point", lambda self, point: None):
            begin_again(here)
    assert ran(here)


def _all_points(points: Points) -> Any:
    return [(points.point_of(run), run.number) for run in points._study.runs()]


def begin_again(here: Path) -> tuple[Any, str]:
    """Resume the sweep of the copy; how it ended, and the error of its second run."""
    shutil.rmtree(here / "s")
    shutil.copytree(here / "copy", here / "s")
    ended = resume("trust=true", cwd=here)
    summary = here / "s" / "1"
    return ended, str(records.read_summary(summary).get("error", "")) if summary.is_dir() else ""


def test_a_state_of_cma_es_is_read_only_if_it_calls_nothing(here: Path) -> None:
    import cmaes
    import numpy as np
    from optuna.distributions import FloatDistribution
    from optuna.samplers import CmaEsSampler
    from optuna.storages import InMemoryStorage
    from optuna.study import StudyDirection
    from optuna.trial import TrialState, create_trial

    from lrlab.study import sampling

    space = {"a": FloatDistribution(0, 1), "b": FloatDistribution(0, 1)}
    genuine = [cmaes.CMA(mean=np.zeros(2), sigma=1.0, seed=0), cmaes.SepCMA(np.zeros(2), 1.0)]
    for each in genuine:
        state = CmaEsSampler()._split_optimizer_str(pickle.dumps(each).hex())
        cmaes_state.check(state)

    theirs = CmaEsSampler()._split_optimizer_str(pickle.dumps(Touch()).hex())
    storage = InMemoryStorage()
    study = storage.create_new_study([StudyDirection.MINIMIZE], "x")
    for number in range(3):
        done = create_trial(
            params={"a": 0.1 * number, "b": 0.5},
            distributions=dict(space),
            value=1.0 + number,
            system_attrs=theirs,
        )
        storage.create_new_trial(study, done)
    waiting = storage.create_new_trial(study, create_trial(state=TrialState.WAITING))
    view = sampling.View(storage, "x", "minimize", study)
    view.shown = storage.get_all_trials(study)
    node = {"_target_": "optuna.samplers.CmaEsSampler", "n_startup_trials": 1}

    def draw() -> None:
        sampling.draw(view, storage.get_trial(waiting), node, 0, 3, dict(space))

    with pytest.raises(UserError, match=r"would call (posix|nt)\.system"):
        draw()
    assert not ran(here)
    unguarded = mock.patch.object(cmaes_state, "check", lambda attrs: None)
    with unguarded, contextlib.suppress(Exception):
        draw()
    assert ran(here)
    with pytest.raises(UserError, match="damaged"):
        cmaes_state.check({"cma:optimizer:0": "zz"})


# --- best.yaml ------------------------------------------------------------------------------------


BEST: dict[str, dict[str, Any]] = {
    "a target": {"network": {"_target_": "evil.Net"}},
    "nested": {"network": {"activation": {"_target_": "evil.touch"}}},
    "a callback": {"hydra": {"callbacks": {"x": {"_target_": "evil.touch"}}}},
    "a search path": {"hydra": {"searchpath": ["file:///tmp/theirs"]}},
    "a module": {"hydra": {"searchpath": ["pkg://evil"]}},
    "a choice of theirs": {"defaults": ["config", {"override network": "theirs"}, "_self_"]},
    "a choice elsewhere": {"defaults": ["config", {"override network": "../theirs"}, "_self_"]},
    "a group of theirs": {"defaults": ["config", {"theirs@hydra": "x"}, "_self_"]},
    "a secret": {"network": {"activation": "${oc.env:SECRET}"}},
    "a secret, twice": {"network": {"activation": "\\${oc.env:SECRET}"}},
    "a database": {"storage": "postgresql://theirs.example/db"},
    "a tracker": {"tracking": {"_target_": "lrlab.tracking.MLflow", "uri": "http://theirs"}},
    "a name": {"name": "mine"},
    "a folder": {"output": "/tmp/theirs"},
    "a folder above": {"output": "x/../../theirs"},
    "a folder by a reference": {"output": "${source}"},
    "a list of choices": {"defaults": ["config", {"network": ["mlp", "cnn"]}, "_self_"]},
    "a choice of a number": {"defaults": ["config", {"network": 5}, "_self_"]},
    "a choice of nothing": {"defaults": ["config", {"network": None}, "_self_"]},
}


@pytest.mark.parametrize("name", list(BEST))
def test_a_best_yaml_from_elsewhere_calls_nothing(name: str, here: Path) -> None:
    node = {"defaults": ["config", "_self_"], "lr": 0.1, "source": "s/0", **BEST[name]}
    (here / "s" / "best.yaml").write_text(yaml.safe_dump(node), "utf-8")
    for typed in (
        ["--config-dir", "s", "--config-name", "best"],
        ["--config-dir=s", "--config-name=best.yaml"],
        ["-cd", "s", "-cn", "best"],
        ["--config-d", ".", "--config-n=s/best"],
    ):
        refused(command(main, [*typed, *LITTLE], here), "the same command with trust=true")
    assert not ran(here) and not (here / "outputs").exists()


def test_a_best_yaml_may_say_where_it_lies_beneath(sent: Path) -> None:
    own = (sent / "best.yaml").read_text("utf-8")
    assert trust.in_best(own) == [] and "output" not in yaml.safe_load(own)
    defaults = "defaults: [config, _self_]\n"
    for harmless in ("output: outputs", "storage: journal", "tracking: {uri: null}"):
        assert trust.in_best(defaults + harmless) == []
    for other in ("C:\\theirs", "\\theirs", "..\\theirs", "~/theirs", "..", "/"):
        assert trust.in_best(f"{defaults}output: '{other}'"), other
    assert trust.in_best(defaults + "tracking.uri: http://theirs")


def test_a_best_yaml_is_found_however_it_is_named(here: Path) -> None:
    (here / "s" / "best.yaml").touch()
    file = Path("s/best.yaml")
    for words in (
        "--config-dir s --config-name best",
        "--config-d=s --config-na best.yaml",
        "--config-di . --config-n s/best",
        f"--config-path={here}/s -cn=best",
    ):
        found = trust.saved_config(flags.first(words.split()))
        assert found is not None and found.samefile(file), words
    for words in ("--config-name best", "--config-dir s --config-name mine", "-cd s"):
        assert trust.saved_config(flags.first(words.split())) is None, words


@pytest.mark.parametrize(
    "values",
    [{"environment": 5}, {"environment": [1]}, {"run": -5}, {"run": "x"}, {"lanes": 3}],
    ids=str,
)
def test_a_damaged_summary_is_told_in_one_line(values: dict[str, Any], here: Path) -> None:
    file = here / "s" / "0" / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | values), "utf-8")
    refused(reproduce(cwd=here), "summary.json: is damaged", *values)


def test_a_trusted_best_yaml_that_is_damaged_is_told_in_one_line(here: Path) -> None:
    node = {"defaults": ["config", {"network": 5}, "_self_"], "source": "s/0"}
    (here / "s" / "best.yaml").write_text(yaml.safe_dump(node), "utf-8")
    typed = ["--config-dir=s", "--config-name=best", "trust=true", *LITTLE]
    refused(command(main, typed, here), "defaults")


def test_a_best_yamls_payload_would_run(here: Path) -> None:
    callback = {"hydra": {"callbacks": {"x": {"_target_": "evil.Callback"}}}}
    node = {"defaults": ["config", "_self_"], "source": "s/0", **callback}
    (here / "s" / "best.yaml").write_text(yaml.safe_dump(node), "utf-8")
    command(main, ["--config-dir=s", "--config-name=best", "trust=true", *LITTLE], here)
    assert ran(here)
