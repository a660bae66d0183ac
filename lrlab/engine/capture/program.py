"""Run a captured program: calls on fixed memory, on a GPU as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class NotCapturable(Exception):
    """The work does something that a program cannot repeat; the text says what."""


# Skip autograd's layer of each operation, which would only find that it has nothing to do.
_below_autograd = getattr(torch._C, "_AutoDispatchBelowAutograd", torch.no_grad)


@dataclass(frozen=True)
class Program:
    """Operations on fixed memory.

    Attributes:
        calls: in their order; each reads and writes tensors that it holds.
        results: of the work, as tensors that hold them after each run.
        memory: tensors that must live as long as the program, in addition to those of the calls.
    """

    calls: Sequence[Callable[[], Any]]
    results: Sequence[Tensor | None]
    memory: Any = None

    def run(self) -> None:
        """Repeat the work on the present contents of its inputs."""
        with _below_autograd():
            for call in self.calls:
                call()

    def on(self, device: torch.device) -> Program:
        """Return the same program in its fastest form there: on a GPU as one CUDA graph.

        Capturing that repeats the work several times.
        """
        if device.type != "cuda":
            return self
        # a graph knows only addresses; the tensors there belong to the calls
        return Program([_graph(self.run, device).replay], self.results, memory=self)


def _graph(work: Callable[[], None], device: torch.device) -> Any:
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):  # libraries set themselves up at their first calls
        for _ in range(2):
            work()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph
