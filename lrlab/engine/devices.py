"""Choose the device, make it deterministic, and describe the machine for the records."""

from __future__ import annotations

import functools
import os
import platform
import sys
from typing import Any

from lrlab.errors import UserError


def make_deterministic() -> None:
    """Ask the numerical libraries for the same bits whatever the position of data in memory.

    Call it before the first matrix product: MKL reads its variable once. With STRICT its products
    depend neither on the alignment of their operands nor on the number of threads. (Measured:
    otherwise lanes of width 37 or 53 differ in the last bit from the same run alone.) A choice by
    the user stays.
    """
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def choose_device(name: str) -> str:
    """Return the device to train on: ``cpu``, ``cuda:0``, ``mps``.

    Args:
        name: auto (CUDA, then MPS, then CPU) or a device.

    Raises:
        UserError: the device does not exist.
    """
    import torch

    kind, _, number = name.partition(":")
    if kind == "auto":
        if torch.cuda.is_available():
            return "cuda:0"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cuda":
        count = device_count()
        if count == 0:
            raise UserError(f"device={name}: no CUDA device here; use device=auto or device=cpu")
        if number and not (number.isdecimal() and int(number) < count):
            raise UserError(f"device={name}: no such device, they are cuda:0 to cuda:{count - 1}")
        return f"cuda:{number or 0}"
    if number not in ("", "0"):
        raise UserError(f"device={name}: no such device; use device={kind}")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("device=mps: no MPS device here; use device=auto or device=cpu")
    return kind


def device_count() -> int:
    """Return how many CUDA devices there are."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def prepare(device: str, threads: int | None, precision: str = "float32") -> None:
    """Set threads, determinism and, on a GPU, whether products may round to TF32."""
    import torch

    # also if null follows a number: the stacks of one sweep take turns
    torch.set_num_threads(_own_threads() if threads is None else threads)
    if device.startswith("cuda"):
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True


@functools.cache
def _own_threads() -> int:
    """Return torch's own number of threads; the first to ask is the first to set any."""
    import torch

    return torch.get_num_threads()


@functools.cache
def device_name(device: str) -> str:
    """Return the usual name of the device: the GPU's or the processor's."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return processor_name()


def processor_name() -> str:
    """Return the processor's model name, if the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            for line in info:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe(device: str) -> dict[str, Any]:
    """Return everything that may change a bit of a result: versions, device, threads."""
    import torch

    return {
        **_versions(),
        "device": device,
        "device_name": device_name(device),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "mkl_cbwr": os.environ.get("MKL_CBWR"),
        "byteorder": sys.byteorder,
    }


@functools.cache  # looking them up takes as long as a whole tiny run
def _versions() -> dict[str, str]:
    from importlib.metadata import version

    from lrlab._version import __version__

    names = ("torch", "numpy", "hydra-core", "omegaconf", "optuna", "pandas")
    return {
        "lrlab": __version__,
        "python": platform.python_version(),
        **{name.replace("-", "_"): version(name) for name in names},
        "platform": platform.platform(),
    }


def out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out: torch has a class for that on a GPU, only words on the CPU."""
    import torch

    words = ("DefaultCPUAllocator: can't allocate memory", "MPS backend out of memory")
    found = any(word in str(error) for word in words)
    return found or isinstance(error, MemoryError | torch.OutOfMemoryError)


def free_memory(device: str) -> int:
    """Return the bytes that training may still take on the device."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="utf-8") as info:
            for line in info:
                if line.startswith("MemAvailable"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (ValueError, OSError, AttributeError):
        return 4 * 2**30  # the system does not say; a machine that runs torch has this
