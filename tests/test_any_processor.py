"""The numbers of other processors: tests that rest on arithmetic, under older instructions.

A processor decides which instructions torch, MKL and oneDNN use, and so how products and sums are
rounded. These variables make this one compute as others do. No bound and no verdict may change by
it, and lanes have the bits of runs alone under each.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.full

ROOT = Path(__file__).parent.parent
# As a processor without AVX, on one thread.
OLDEST = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Prescott",
    "OMP_NUM_THREADS": "1",
}
OWN, POOL, LANES = (f"tests/test_{name}.py" for name in ("own_data_training", "pool", "lanes"))
VERDICTS = "tests/test_verdicts_quadratics.py"
TESTS = (
    "tests/test_golden.py",
    # the others are of made-up tables, in which nothing is multiplied by matrices
    f"{VERDICTS}::test_a_tanh_network_settles_at_the_edge_of_stability",
    f"{VERDICTS}::test_a_tanh_network_with_small_steps_is_far_from_the_edge",
    "tests/test_verdicts.py::test_the_verdicts_agree_with_the_labels_of_a_hand",
    f"{OWN}::test_standardised_targets_train_as_in_torch_and_losses_have_their_units[mse-1]",
    f"{POOL}::test_a_run_in_a_refilled_place_has_the_bits_that_it_has_alone"
    "[network=cnn network.channels=[3,4] network.hidden=[8]-together or one at a time]",
    f"{LANES}::test_a_lane_has_the_bits_that_it_has_alone[network.hidden=[37,53]-together]",
    f"{LANES}::test_a_stack_that_would_change_bits_trains_one_at_a_time",
)


def test_no_bound_and_no_bit_rests_on_one_processor() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **OLDEST}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
