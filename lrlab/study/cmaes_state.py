"""Check the one pickle that lrlab needs: Optuna's state of CMA-ES, kept in the study.

A study may come from elsewhere, and a pickle can call anything. So a restricted reader, which finds
only the parts of such a state, reads each pickle first. Then Optuna reads the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from typing import Any

from lrlab.errors import UserError

_KEYS = ("cma:optimizer", "sepcma:optimizer", "cmawm:optimizer")
_ARRAYS = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.random._pickle")
_KNOWN = {
    ("cmaes._cma", "CMA"),
    ("cmaes._sepcma", "SepCMA"),
    ("cmaes._cmawm", "CMAwM"),
    ("numpy.random._mt19937", "MT19937"),
    ("numpy.random.mtrand", "RandomState"),
    *(("numpy", name) for name in ("ndarray", "dtype")),
    *((module, name) for module in _ARRAYS for name in ("_reconstruct", "scalar")),
    *(("numpy.random._pickle", f"__{name}_ctor") for name in ("randomstate", "bit_generator")),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
    ("copyreg", "_reconstructor"),
    ("builtins", "object"),
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise UserError(
                f"sampler: the study's state of CMA-ES would call {module}.{name}, so it is not "
                "read; nothing was called"
            )
        return super().find_class(module, name)


def check(attrs: Mapping[str, Any]) -> None:
    """Check that a trial's state of CMA-ES, if it has one, holds only numbers, and no calls.

    Args:
        attrs: the trial's system attributes.

    Raises:
        UserError: it holds something else.
    """
    for key in _KEYS:
        pieces = {name: value for name, value in attrs.items() if name.startswith(key)}
        if not pieces:
            continue
        try:  # put together as Optuna does it
            state = bytes.fromhex("".join(pieces[f"{key}:{i}"] for i in range(len(pieces))))
            digest = hashlib.sha256(state).digest()
            if digest not in _checked:
                _Reader(io.BytesIO(state)).load()
                _checked.add(digest)
        except UserError:
            raise
        except Exception as error:  # any error that a damaged pickle raises
            raise UserError("sampler: the study's state of CMA-ES is damaged") from error


_checked: set[bytes] = set()  # checked by this process; each is shown again for every setting drawn
