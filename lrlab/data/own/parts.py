"""Check and standardise the parts of a user's own data set: arrays of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrlab.config.schema import nearest
from lrlab.data import inputs
from lrlab.data.inputs import Inputs
from lrlab.data.own import float32
from lrlab.errors import UserError

IGNORED = -100  # torch's index of targets that do not count
PARTS = ("x", "y", "val_x", "val_y", "test_x", "test_y")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def parts_of(made: Any, option: str, exact: bool = False) -> dict[str, Any]:
    """Return the parts as tensors of agreeing shapes; of x also several, see `lrlab.data.inputs`.

    Targets are (N,) or (N, positions, ...) int64, or (N, width) or (N, ...) float32; float64 if
    float32 would lose their differences, or if they shall stay exact.
    """
    if isinstance(made, tuple | list) and len(made) == 2:
        made = {"x": made[0], "y": made[1]}
    if isinstance(made, Mapping):
        made = _gathered(made)
    if not isinstance(made, Mapping) or not {"x", "y"} <= set(made):
        has = f"; it has {', '.join(map(str, list(made)[:9]))}" if isinstance(made, Mapping) else ""
        raise UserError(
            f"{option}: must be a pair (x, y) or a dict with x and y, and if there are any "
            f"{', '.join(PARTS[2:])}{has}"
        )
    if unknown := [str(key) for key in made if key not in PARTS]:
        raise UserError(
            f"{option}: has a part {unknown[0]}{nearest(unknown[0], PARTS)}; "
            f"the parts are {', '.join(PARTS)}"
        )
    parts: dict[str, Any] = {
        key: _part(made[key], key, option) for key in PARTS if made.get(key) is not None
    }
    for prefix in ("", "val_", "test_"):
        x, y = parts.get(f"{prefix}x"), parts.get(f"{prefix}y")
        if x is None and y is None:
            continue
        if x is None or y is None:
            here, lacking = ("y", "x") if x is None else ("x", "y")
            raise UserError(f"{option}: has {prefix}{here} but no {prefix}{lacking}")
        for name, tensor in named_tensors(x, f"{prefix}x"):
            if tensor.ndim == 0 or y.ndim == 0 or len(tensor) != len(y):
                raise UserError(
                    f"{option}: {name} has shape {tuple(tensor.shape)}, {prefix}y "
                    f"{tuple(y.shape)}; both need one entry a sample"
                )
            if not len(tensor) and not prefix:
                raise UserError(f"{option}: holds no samples")
            if 0 in tensor.shape[1:]:
                raise UserError(
                    f"{option}: {name} has shape {tuple(tensor.shape)}, and so no features"
                )
        if isinstance(x, Tensor):
            parts[f"{prefix}x"] = x.unsqueeze(1) if x.ndim == 1 else x
        parts[f"{prefix}y"] = _targets(y, f"{prefix}y", option, exact)
    targets = [key for key in parts if key.endswith("y")]
    if any(parts[key].dtype == torch.float64 for key in targets):
        parts |= {key: parts[key].double() for key in targets if parts[key].is_floating_point()}
    for key in (f"{prefix}{k}" for prefix in ("val_", "test_") for k in ("x", "y")):
        if key in parts:
            _check_alike(parts[key[-1]], parts[key], key, option)
    return parts


def _gathered(made: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the parts with inputs by their names: ``x.tokens`` of an .npz is ``tokens`` of x."""
    found: dict[Any, Any] = {}
    for key, value in made.items():
        part, dot, name = str(key).partition(".")
        if dot and part in PARTS and part.endswith("x") and isinstance(found.get(part, {}), dict):
            found.setdefault(part, {})[name] = value
        else:
            found[key] = value
    return found


def _part(value: Any, key: str, option: str) -> Inputs:
    """Return a part as a tensor, or as several where x is a dict, or a tuple of arrays."""
    if key.endswith("x") and isinstance(value, Mapping):
        if not value or not all(isinstance(name, str) and name.isidentifier() for name in value):
            raise UserError(
                f"{option}: {key} is a dict with the keys {', '.join(map(str, value)) or 'none'}; "
                "they must be the names of the parameters of the network's forward"
            )
        return {str(k): _tensor(each, f"{key}.{k}", option) for k, each in value.items()}
    several = key.endswith("x") and isinstance(value, tuple) and bool(value)
    if several and all(isinstance(each, Tensor | np.ndarray) for each in value):
        return tuple(_tensor(each, f"{key}[{i}]", option) for i, each in enumerate(value))
    return _tensor(value, key, option)


def named_tensors(x: Inputs, key: str) -> list[tuple[str, Tensor]]:
    """Return each tensor of a part with its name in messages."""
    if isinstance(x, Tensor):
        return [(key, x)]
    if isinstance(x, dict):
        return [(f"{key}.{name}", tensor) for name, tensor in x.items()]
    return [(f"{key}[{place}]", tensor) for place, tensor in enumerate(x)]


def _check_alike(own: Inputs, other: Inputs, key: str, option: str) -> None:
    """Refuse a part whose samples have another form than those of the training part."""

    def form(x: Inputs) -> Any:
        return inputs.mapped(lambda tensor: f"{tuple(tensor.shape[1:])} {tensor.dtype}", x)

    if form(own) == form(other):
        return
    if isinstance(own, Tensor) and isinstance(other, Tensor):
        one, another = form(own), form(other)
    else:
        one, another = (_in_words(form(each)) for each in (own, other))
    raise UserError(
        f"{option}: a sample of {key[-1]} is {one}, of {key} {another}; they must be alike"
    )


def _in_words(form: Any) -> str:
    if isinstance(form, dict):
        return ", ".join(f"{name} {each}" for name, each in form.items())
    return form if isinstance(form, str) else ", ".join(form)


def _tensor(value: Any, key: str, option: str) -> Tensor:
    if isinstance(value, tuple | list) and key.endswith("y"):
        raise UserError(f"{option}: {key} is a {type(value).__name__}; give numpy.array({key})")
    if isinstance(value, np.ndarray) and value.dtype.kind in "OUS" and key.endswith("y"):
        raise UserError(
            f"{option}: {key} must be a tensor or an array of real numbers; number classes from 0, "
            f"like numpy.unique({key}, return_inverse=True)[1]"
        )
    if isinstance(value, tuple | list | Mapping):
        raise UserError(
            f"{option}: {key} is a {type(value).__name__}; give one array, or several inputs as a "
            "tuple or a dict of arrays"
        )
    if isinstance(value, np.ma.MaskedArray):
        raise UserError(
            f"{option}: {key} is a masked array, and training would ignore the mask; give the "
            "samples without one, or fill it: x.filled(0)"
        )
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.dtype.itemsize > 8:
        value = value.astype(np.float64)  # torch has none longer
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        # a copy of its own, in the machine's byte order and of a type that torch has
        value = torch.tensor(np.ascontiguousarray(value, value.dtype.newbyteorder("=")))
    if not isinstance(value, Tensor) or value.is_complex():
        raise UserError(f"{option}: {key} must be a tensor or an array of real numbers")
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise UserError(
            f"{option}: {key} is a sparse, quantized or meta tensor; give a dense one of numbers"
        )
    return value.detach().cpu().contiguous()


def _targets(y: Tensor, key: str, option: str, exact: bool) -> Tensor:
    if 0 in y.shape[1:]:
        raise UserError(f"{option}: {key} has shape {tuple(y.shape)}, and so no targets")
    if y.is_floating_point():
        y = y.unsqueeze(1) if y.ndim == 1 else y
        return y.double() if exact and y.dtype == torch.float64 else float32.narrowed(y)
    y = y.long()
    # whether the loss ignores negative ones is checked where it is known
    if y.ndim == 1 and bool(((y < 0) & (y != IGNORED)).any()):
        raise UserError(
            f"{option}: {key} holds the class {int(y.min())}; classes count from 0, and targets of "
            "a regression are floats"
        )
    return y


def checked_finite(part: Inputs, key: str, option: str, rows: Tensor | None = None) -> None:
    """Refuse NaN or infinite values, and name their sample.

    Args:
        rows: the positions of the samples in the user's data; None: those here.
    """
    for name, tensor in named_tensors(part, key):
        if tensor.is_floating_point() and not (finite := tensor.isfinite()).all():
            at = int((~finite.reshape(len(tensor), -1).all(1)).nonzero()[0])
            at = at if rows is None else int(rows[at])
            kind = "float64" if tensor.dtype == torch.float64 and rows is not None else "float32"
            raise UserError(
                f"{option}: {name} has a value that is no finite {kind}, in sample {at}, counted "
                "from 0"
            )


def mean_and_std(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and std of each feature, or channel, in float64, (1, features, ...).

    A constant one has the std 1. An input with one number a sample, (N,), has (1,).
    """
    if x.ndim == 1:
        mean, std = mean_and_std(x[:, None])
        return mean[:, 0], std[:, 0]
    shape = (1, x.shape[1], *(1,) * (x.ndim - 2))
    if x.dtype == torch.uint8 and x.ndim > 2:  # few channels of many pixels: exact, by counting
        flat = x.movedim(1, 0).reshape(x.shape[1], -1).numpy()
        counts = np.stack([np.bincount(channel, minlength=256) for channel in flat])
        levels, total = np.arange(256) / 255, counts.sum(1)
        mean = counts @ levels / total
        std = np.sqrt([c @ (levels - m) ** 2 / c.sum() for c, m in zip(counts, mean, strict=True)])
    else:  # by numpy, because torch's sums depend on the number of threads
        values, axes = to_numpy(x), (0, *range(2, x.ndim))
        if x.dtype == torch.uint8:
            values = values / 255
        with np.errstate(over="ignore", invalid="ignore"):  # non-finite values are refused later
            mean = np.mean(values, axes, dtype=np.float64)
            std = np.std(values, axes, dtype=np.float64)
    std = np.where(std > 1e-12 * np.abs(mean), std, 1.0)  # a spread from rounding does not count
    return torch.from_numpy(mean).view(shape), torch.from_numpy(std).view(shape)


def to_numpy(x: Tensor) -> np.ndarray:
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()  # NumPy lacks it


def standardise_targets(
    parts: dict[str, Any], option: str, dtype: torch.dtype = torch.float32
) -> tuple[tuple[float, ...], float]:
    """Standardise the targets of all parts; return the subtracted means and the divisor.

    There is one divisor for all columns, so that a squared error in their own units is this one's
    times its square.
    """
    if not parts["y"].is_floating_point():
        raise UserError(
            f"data.standardise_targets=true: the targets of {option} are classes; use false, or "
            "give the targets of a regression as floats"
        )
    if parts["y"].ndim > 2:
        raise UserError(
            f"data.standardise_targets=true: the targets of {option} have shape "
            f"{tuple(parts['y'].shape)}; it works with (samples, width)"
        )
    values = parts["y"].numpy().astype(np.float64)
    mean, std = values.mean(axis=0), float(np.sqrt(values.var(axis=0).mean()))
    std = std if std > 1e-12 * np.abs(mean).max() else 1.0  # a spread from rounding does not count
    for key in ("y", "val_y", "test_y"):
        copy = parts[key].to(torch.float64, copy=True)  # a copy, as it may be the caller's own
        parts[key] = copy.sub_(torch.from_numpy(mean)).div_(std).to(dtype)
    return tuple(mean.tolist()), std


def scaled(
    x: Tensor, shift: tuple[Tensor, Tensor] | None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return floats of the type, rounded once from standardised float64, except for pixels."""
    if x.dtype == torch.uint8:
        x = x.to(dtype).div_(255)
        return x if shift is None else x.sub_(shift[0].to(dtype)).div_(shift[1].to(dtype))
    if shift is None:
        return x.to(dtype)
    copy = x.to(torch.float64, copy=True)  # a copy, as it may be the caller's own
    return copy.sub_(shift[0]).div_(shift[1]).to(dtype)
