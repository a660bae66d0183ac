"""Plain values: which are numbers, and what of them JSON has."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from lrlab.process.plain import is_number, is_real, is_whole, to_json


@pytest.mark.parametrize(
    ("value", "whole", "real", "number"),
    [
        (3, True, True, True),
        (-1, True, True, True),
        (0.5, False, True, True),
        (np.float64(2.0), False, True, True),
        (math.inf, False, True, False),
        (math.nan, False, True, False),
        (True, False, False, False),
        ("3", False, False, False),
        (None, False, False, False),
        (1j, False, False, False),
    ],
)
def test_which_values_are_numbers(value: object, whole: bool, real: bool, number: bool) -> None:
    assert (is_whole(value), is_real(value), is_number(value)) == (whole, real, number)


def test_a_whole_number_may_have_to_reach_a_least_one() -> None:
    assert is_whole(1, 1) and not is_whole(0, 1) and not is_whole(True, 1)


def test_json_has_null_for_what_is_not_finite_and_all_bits_of_the_rest() -> None:
    value = {"a": [math.nan, -math.inf, (0.1, 1e-320)], 3: {"é": np.float64(1 / 3)}, "b": True}
    text = to_json(value)
    again = json.loads(text, parse_constant=pytest.fail)
    assert again == {"a": [None, None, [0.1, 1e-320]], "3": {"é": 1 / 3}, "b": True}
    assert "é" in text and "é" not in to_json(value, ensure_ascii=True)
