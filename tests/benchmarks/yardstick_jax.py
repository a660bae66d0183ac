"""The same training step in JAX, in a process of its own: its threads must not meet torch's.

``Jax`` is the side that ``yardsticks.py`` holds and imports no JAX; as a script this file is the
other side. It reads a request a line and answers each by a line, both in JSON:

    {"do": "prepare", "file": ".../work.npz"}  compile, and make the steps once
    {"do": "run"}                              make the steps again; answered when they are made
    {"do": "losses"}                           the losses of the latest run, (steps, lanes)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Jax:
    """A process that trains lanes of the default MLP by SGD, with jit, vmap and lax.scan.

    Attributes:
        version: JAX's.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, device: str, threads: int) -> None:
        """Start it, and give it the data.

        Args:
            x: (samples, inputs) float32. y: (samples,) the classes.
            device: ``cpu``, or else one of JAX's GPUs is asked for.
            threads: on the CPU.

        Raises:
            RuntimeError: JAX is not there, does not work, or has no such device.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="lrlab-bench-")
        folder = Path(self._folder.name)
        own = {"NPROC": str(threads), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        own |= {"JAX_PLATFORMS": "cpu"} if device == "cpu" else {}
        np.save(folder / "x.npy", x)
        np.save(folder / "y.npy", y.astype(np.int32))
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(folder)],
            env={**os.environ, **own},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started = self._answer()
        if (started["backend"] == "cpu") != (device == "cpu"):
            self.close()
            raise RuntimeError(f"the jax that is installed has {started['backend']} only")
        self.version: str = started["version"]

    def prepare(
        self, params: Sequence[np.ndarray], lrs: Sequence[float], order: np.ndarray
    ) -> None:
        """Compile the work that ``run`` does, and do it once.

        Args:
            params: weight (lanes, out, in) and bias (lanes, out) of each layer in turn, from which
                each run starts.
            lrs: (lanes,).
            order: (steps, batch) the samples of each step.
        """
        file = Path(self._folder.name, "work.npz")
        arrays: dict[str, Any] = {f"{number:03}": array for number, array in enumerate(params)}
        np.savez(file, lrs=np.array(lrs, np.float32), order=order.astype(np.int32), **arrays)
        self._ask({"do": "prepare", "file": str(file)})

    def run(self, count: int) -> None:
        """Make the steps, as many as ``prepare`` was given."""
        self._ask({"do": "run"})

    def losses(self) -> np.ndarray:
        """(steps, lanes) of the latest run."""
        return np.array(self._ask({"do": "losses"})["losses"])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def __enter__(self) -> Jax:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("JAX's process has ended; its last words are above")
        return json.loads(line)


# --- the other side -------------------------------------------------------------------------------


def _serve(folder: Path) -> None:
    import jax
    import jax.numpy as jnp

    # GPUs would round products to TF32, and lrlab does not by default
    jax.config.update("jax_default_matmul_precision", "highest")

    def answer(**values: Any) -> None:
        print(json.dumps(values), flush=True)

    def loss(params: Any, x: Any, y: Any) -> Any:
        for weight, bias in params[:-1]:
            x = jax.nn.relu(x @ weight.T + bias)
        weight, bias = params[-1]
        log_probabilities = jax.nn.log_softmax(x @ weight.T + bias)
        return -jnp.take_along_axis(log_probabilities, y[:, None], axis=1).mean()

    lanes = jax.vmap(jax.value_and_grad(loss), in_axes=(0, None, None))

    @jax.jit
    def epoch(params: Any, lrs: Any, order: Any, x: Any, y: Any) -> Any:
        def step(params: Any, index: Any) -> Any:
            losses, gradients = lanes(params, x[index], y[index])

            def moved(p: Any, g: Any) -> Any:
                return p - lrs.reshape(-1, *(1,) * (p.ndim - 1)) * g

            return jax.tree.map(moved, params, gradients), losses

        return jax.lax.scan(step, params, order)

    x, y = (jnp.asarray(np.load(folder / name, mmap_mode="r")) for name in ("x.npy", "y.npy"))
    work: tuple[Any, ...] = ()
    losses: Any = None
    answer(version=jax.__version__, backend=jax.default_backend())
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "losses":
            answer(losses=np.asarray(losses).tolist())
            continue
        if request["do"] == "prepare":
            with np.load(request["file"]) as file:
                arrays = {name: jnp.asarray(file[name]) for name in file.files}
            lrs, order = arrays.pop("lrs"), arrays.pop("order")
            flat = [arrays[name] for name in sorted(arrays)]
            work = list(zip(flat[::2], flat[1::2], strict=True)), lrs, order
        _, losses = jax.block_until_ready(epoch(*work, x, y))
        answer()


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _serve(Path(sys.argv[1]))
