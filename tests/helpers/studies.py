"""Queues of runs, opened on a journal, and workers that draw from them."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrlab.config.space import Interval, Space
from lrlab.study.claims import Trial
from lrlab.study.points import Request
from lrlab.study.queue import Queue, open_queue

RATE = Interval(1e-4, 1.0, log=True, whole=False)


FOREVER = 3600.0  # a lease whose heart does not beat while a test runs


SAMPLERS: dict[str, dict[str, Any]] = {
    "tpe": {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 4, "multivariate": True},
    "random": {"_target_": "optuna.samplers.RandomSampler"},
    "qmc": {"_target_": "optuna.samplers.QMCSampler", "scramble": True},
    "cmaes": {"_target_": "optuna.samplers.CmaEsSampler", "n_startup_trials": 2},
    "gp": {"_target_": "optuna.samplers.GPSampler", "n_startup_trials": 4},
}


PRUNERS: dict[str, dict[str, Any]] = {
    "none": {"_target_": "optuna.pruners.NopPruner"},
    "median": {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 2},
    "asha": {
        "_target_": "optuna.pruners.SuccessiveHalvingPruner",
        "min_resource": 1,
        "reduction_factor": 2,
    },
    "hyperband": {
        "_target_": "optuna.pruners.HyperbandPruner",
        "min_resource": 1,
        "max_resource": 4,
        "reduction_factor": 2,
    },
    "threshold": {"_target_": "optuna.pruners.ThresholdPruner", "upper": 2.0},
}


def grid(**lists: str) -> Space:
    return Space([], {key: texts.split(",") for key, texts in lists.items()}, {})


def search(seeds: str = "", **lists: str) -> Space:
    listed = {key: texts.split(",") for key, texts in lists.items()}
    return Space([], listed | ({"seed": seeds.split(",")} if seeds else {}), {"lr": RATE})


class Opener:
    """Opens queues and closes them all at the end."""

    def __init__(self, folder: Path) -> None:
        self.journal = folder / "study.journal"
        self.opened: list[Queue] = []

    def __call__(self, space: Space, create: str = "join", **given: Any) -> Queue:
        options: dict[str, Any] = {
            "name": "sweep",
            "storage": "journal",
            "journal": self.journal,
            "place": None,
        }
        asked: dict[str, Any] = {
            "direction": "minimize",
            "sampler": SAMPLERS["random"],
            "pruner": PRUNERS["none"],
            "seed": 0,
            "n_trials": 6 if space.searched else None,
            "settings": {"objective": "val_loss", "epochs": 3},
            "lease": FOREVER,
        }
        options |= {key: given.pop(key) for key in options if key in given}
        request = Request(space=space, **{**asked, **given})
        queue = open_queue(request=request, create=create, **options)
        self.opened.append(queue)
        return queue

    def close(self, queue: Queue) -> None:
        self.opened.remove(queue)
        queue.close()

    def abandon(self, queue: Queue) -> None:
        """Leave the queue as a killed worker does: nothing is written, its locks are free."""
        self.opened.remove(queue)
        assert queue._claims.heart is not None
        queue._claims.heart.stop()
        queue._store.close()


def loss(overrides: Mapping[str, str], epoch: int) -> float:
    """Falls with the epochs, best at lr=0.03; too large a rate diverges."""
    lr = float(overrides["lr"])
    if lr > 0.5:
        return math.inf
    noise = 0.01 * float(overrides.get("seed", "0"))
    bonus = {"cnn": -0.05}.get(overrides.get("network", ""), 0.0)
    return (math.log10(lr) + 1.5) ** 2 + 1 / epoch + noise + bonus


def take(queue: Queue, tick: int = 0) -> Trial:
    trial = queue.take(tick)
    assert trial is not None
    return trial


def finish(queue: Queue, value: float = 1.0) -> list[int]:
    """Take and end all that can be taken."""
    trials = []
    while (trial := queue.take(0)) is not None:
        assert queue.tell(trial.number, "finished", value)
        trials.append(trial.number)
    return trials


def states(queue: Queue) -> dict[int, str]:
    return {run.number: run.state for run in queue.trials()}


WORKER = textwrap.dedent(
    """
    import json, sys
    from pathlib import Path
    from lrlab.config.space import Space
    from lrlab.study.points import Request
    from lrlab.study.queue import open_queue

    options = json.loads(sys.argv[1])
    request = Request(
        space=Space([], options["lists"], {}), direction="minimize", sampler={},
        pruner={"_target_": "optuna.pruners.NopPruner"}, seed=0, n_trials=None, settings={},
        lease=3600,
    )
    queue = open_queue(
        name="sweep", journal=Path(options["journal"]), storage=options["storage"],
        place=None, request=request, create="join",
    )
    for line in sys.stdin:  # one command a line, so that the test decides who does what and when
        if line == "take\\n":
            trial = queue.take(0)
            print(-1 if trial is None else trial.number, flush=True)
        elif line == "work\\n":
            told = []
            while True:
                while (trial := queue.take(0)) is not None:
                    queue.report({trial.number: (1, 0.5)})
                    if queue.tell(trial.number, "finished", 0.5):
                        told.append(trial.number)
                if not queue.wait():
                    break
            print(json.dumps(told), flush=True)
    queue.close()
    """
)


class Worker:
    """A process that works on a queue as it is told."""

    def __init__(self, storage: str, journal: Path, lists: Mapping[str, list[str]]) -> None:
        options = {"storage": storage, "journal": str(journal), "lists": lists}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WORKER, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def say(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def end(self) -> int:
        self.process.communicate()
        return self.process.returncode

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.end()


def pool(queue: Queue, width: int = 4, epochs: int = 4) -> None:
    """Train to the end in lanes that go in step, as lrlab.training.train does."""
    tick = queue.start_tick()
    lanes: dict[int, tuple[Trial, int]] = {}
    while True:
        while len(lanes) < width and (trial := queue.take(tick)) is not None:
            lanes[trial.number] = trial, trial.epochs_reported
        if not lanes:
            if queue.wait():
                continue
            return
        tick += 1
        # one that had reported all its epochs before an interruption only has to end
        lanes = {n: (trial, min(done + 1, epochs)) for n, (trial, done) in lanes.items()}
        values = {n: (done, loss(trial.overrides, done)) for n, (trial, done) in lanes.items()}
        for number, (done, value) in list(values.items()):  # these end before the others report
            if not math.isfinite(value):
                queue.tell(number, "diverged", None)
            elif done == epochs:
                queue.tell(number, "finished", value)
            else:
                continue
            del lanes[number], values[number]
        for number in queue.report(values):
            queue.tell(number, "pruned", None)
            del lanes[number]


def take_all(queue: Queue) -> list[Trial]:
    return list(iter(lambda: queue.take(0), None))
