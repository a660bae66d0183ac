"""Draw the pictures of docs/learning-rate.md that need no training, from lrlab's own functions.

    python docs/make_pictures.py

Writes docs/images/activations.png and docs/images/losses.png.
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.func import grad, vmap

from lrlab.losses import mse_one_hot, nll
from lrlab.networks import ACTIVATIONS

IMAGES = Path(__file__).parent / "images"
# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#767676"
SHOWN = {"step": "step (stand-in gradient)", "sigmoid": "sigmoid", "tanh": "tanh", "relu": "ReLU"}


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)


def activations() -> Figure:
    """Each activation and the gradient that training sees, over the weighted sum z."""
    figure = Figure(figsize=(10, 3.1), layout="constrained")
    panels = figure.subplots(1, len(SHOWN), sharey=True)
    z = torch.linspace(-3, 3, 1201)
    for axes, (name, title) in zip(panels, SHOWN.items(), strict=True):
        function = ACTIVATIONS[name]
        # Where a line jumps it is broken, so that no slope is drawn that is not there.
        for y, colour, style, label in (
            (function(z), BLUE, "-", "output"),
            (vmap(grad(function))(z), VERMILION, "--", "gradient"),
        ):
            jumps = (y.diff().abs() > 0.5).nonzero() + 1
            pieces = torch.tensor_split(torch.arange(len(z)), jumps.flatten().tolist())
            for number, piece in enumerate(pieces):
                axes.plot(
                    z[piece].numpy(),
                    y[piece].numpy(),
                    linestyle=style,
                    color=colour,
                    linewidth=2,
                    label=label if number == 0 else None,
                )
        axes.set_title(title)
        axes.set_xlabel("weighted sum z")
        axes.set_ylim(-1.2, 2.2)
        _plain(axes)
    panels[0].set_ylabel("output, gradient")
    panels[0].legend(frameon=False, loc="upper left")
    return figure


def losses() -> Figure:
    """Both losses of one sample and the size of their gradients, over the probability it is given.

    Two classes, scores (s, 0), true class the first: p = softmax(s, 0)[0] = sigmoid(s). The mean
    squared error is taken of the probabilities, so that both judge the same prediction.
    """
    scores = torch.linspace(-12, 12, 2401)
    target = torch.tensor([0])

    def both(score: torch.Tensor) -> torch.Tensor:
        return torch.stack([score, torch.zeros_like(score)]).unsqueeze(0)

    def nll_of(score: torch.Tensor) -> torch.Tensor:
        return nll(both(score), target)

    def mse_of(score: torch.Tensor) -> torch.Tensor:
        return mse_one_hot(both(score).softmax(1), target)

    p = torch.sigmoid(scores).numpy()
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for function, colour, style, name in (
        (nll_of, BLUE, "-", "nll"),
        (mse_of, VERMILION, "--", "mean squared error"),
    ):
        values = vmap(function)(scores).numpy()
        slopes = vmap(grad(function))(scores).abs().numpy()
        left.plot(p, values, linestyle=style, color=colour, linewidth=2, label=name)
        right.plot(p, slopes, linestyle=style, color=colour, linewidth=2)
    left.set_ylim(0, 5)
    left.set_title("loss of one sample")
    left.set_ylabel("loss (nll in nats)")
    left.legend(frameon=False)
    right.set_title("how strongly it pulls: |dL/ds|")
    right.set_ylabel("size of the gradient at the score s")
    right.set_ylim(0, 1.05)
    for axes in (left, right):
        axes.set_xlim(0, 1)
        axes.set_xlabel("predicted probability p of the true class")
        _plain(axes)
    return figure


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    for draw in (activations, losses):
        draw().savefig(IMAGES / f"{draw.__name__}.png", dpi=120, facecolor="white")


if __name__ == "__main__":
    main()
