"""What is given to lrlab.run_sweep, as the words of a command."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

from lrlab.config.words import keywords
from lrlab.errors import UserError
from lrlab.range_test.figure import range_test

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": [0.001, 1e-7, 3]}, ["lr=0.001,1e-07,3"]),
        ({"lr": np.float32(0.1)}, [f"lr={float(np.float32(0.1))!r}"]),
        ({"lr": torch.tensor([0.5, 2.0])}, ["lr=0.5,2.0"]),
        ({"seed": range(3)}, ["seed=0,1,2"]),
        ({"lr": "1e-4..1", "n_trials": None}, ["lr=1e-4..1", "n_trials=null"]),
        ({"save_model": True}, ["save_model=true"]),
        ({"output": Path("my out, put")}, ['output="my out, put"']),
        ({"name": "it's"}, ['name="it\'s"']),
        ({"network__hidden": (64, 32)}, ["network.hidden=[64,32]"]),
        ({"network__hidden": [(64, 32), ()]}, ["network.hidden=[64,32],[]"]),
        ({"network": {"hidden": [64, 32]}}, ["network.hidden=[64,32]"]),
        ({"schedule": ["step", "fixed"]}, ["schedule=step,fixed"]),
        ({"optimizer.momentum": [0.5, 0.9]}, ["optimizer.momentum=0.5,0.9"]),
        ({"config_dir": Path("conf"), "network": "x"}, ["--config-dir", "conf", "network=x"]),
        ({"experiments": "lr_search"}, ["+experiments=lr_search"]),
        (
            {"optimizer": torch.optim.NAdam, "optimizer__momentum_decay": 0.1},
            [
                "optimizer=sgd",
                "optimizer._target_=torch.optim.NAdam",
                "+optimizer.momentum_decay=0.1",
            ],
        ),
        (
            {"optimizer": [torch.optim.NAdam, torch.optim.RAdam], "optimizer__weight_decay": 0.0},
            [
                "optimizer=sgd",
                "optimizer._target_=torch.optim.NAdam,torch.optim.RAdam",
                "optimizer.weight_decay=0.0",
            ],
        ),
        (
            {"network": torch.nn.Bilinear, "network__in1_features": 3},
            ["network=custom", "network._target_=torch.nn.Bilinear", "+network.in1_features=3"],
        ),
    ],
)
def test_the_words_that_say_the_same(options: dict[str, Any], words: list[str]) -> None:
    assert keywords.words(options) == words


@pytest.mark.parametrize(
    "text", ["a b", " a", "", "it's", 'say "x"', "a=b", "{x}", "C:\\x\\", "${lr}", "é,ü"]
)
def test_a_text_in_a_list_reads_back(text: str) -> None:
    (word,) = keywords.words({"name": [text, "b"]})
    found: Any = OverridesParser.create().parse_override(word).value()
    assert [getattr(each, "text", each) for each in found.list] == [text, "b"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"loss": mock.Mock(spec=[])}, "is no number, text, list, class or function"),
        ({"schedule": torch.optim.SGD([torch.zeros(1)])}, "give its class"),
        ({"data": (torch.zeros(1), torch.zeros(1))}, "give a function"),
        ({"network": ["mlp", torch.nn.Linear]}, "only names, or only classes"),
        ({"lr": []}, "has no value"),
        ({"hydra__mode": "RUN"}, "no such option"),
    ],
)
def test_what_no_command_could_say_is_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as error:
        keywords.words(options)
    told = str(error.value)
    assert line in told and "\n" not in told and len(told) < 200


def test_code_that_is_another_object_now_is_refused() -> None:
    old = type(
        "range_test",
        (),
        {"__module__": "lrlab.range_test.figure", "__qualname__": "range_test"},
    )
    with pytest.raises(
        UserError, match=r"^loss=range_test: lrlab.range_test.figure.range_test is another"
    ):
        keywords.words({"loss": old})
    assert keywords.import_path("loss", range_test) == "lrlab.range_test.figure.range_test"
