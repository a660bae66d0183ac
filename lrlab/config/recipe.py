"""Name the options of a run, besides those of its groups, that change how each step is made.

Figures need their names too, and import no omegaconf, as ``schema`` does.
"""

from __future__ import annotations

from typing import Any

# With the values that an older run without them has.
RECIPE: dict[str, Any] = {"clip_grad_norm": None, "accumulate": 1, "ema": None}
