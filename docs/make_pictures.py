"""Draw the pictures of docs/learning-rate.md that need no training, from lrlab's own functions.

    python docs/make_pictures.py

Writes activations, digits, losses, noise_floor and valley .png to docs/images.
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.func import grad, vmap

from lrlab.data import torchvision_images
from lrlab.losses import mse_one_hot, nll
from lrlab.networks import ACTIVATIONS

IMAGES = Path(__file__).parent / "images"
# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#767676"
MEAN, STD = 0.1307, 0.3081  # of MNIST's pixels, which lrlab takes off and divides by
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


def digits() -> Figure:
    """One training image pixel by pixel, and the first four of each digit."""
    data = torchvision_images(mean=MEAN, std=STD)
    grey = (data.train_x[:400, 0] * STD + MEAN).numpy()
    labels = data.train_y[:400].numpy()
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=(1, 1.75))
    left, right = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    axes = left.subplots()
    shown = int((labels == 3).argmax())
    image = axes.imshow(grey[shown], cmap="gray_r", vmin=0, vmax=1)
    axes.set_xticks([0, 9, 18, 27])
    axes.set_yticks([0, 9, 18, 27])
    axes.set_title("one image: 28 × 28 numbers")
    left.colorbar(image, ax=axes, shrink=0.7, label="ink, 0 to 1")
    panels = right.subplots(4, 10)
    for digit in range(10):
        for row, place in enumerate((labels == digit).nonzero()[0][:4]):
            panels[row][digit].imshow(grey[place], cmap="gray_r", vmin=0, vmax=1)
            panels[row][digit].set_axis_off()
        panels[0][digit].set_title(str(digit))
    right.suptitle("training images and their labels")
    return figure


def valley() -> Figure:
    """Gradient descent from one point of L(w) = ½·λ·w², at four values of lr·λ."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    panels = figure.subplots(1, 4, sharey=True)
    w = torch.linspace(-1.6, 1.6, 401)
    for axes, (product, what) in zip(
        panels,
        {0.2: "creeps", 1.0: "there at once", 1.8: "across, lower", 2.2: "across, higher"}.items(),
        strict=True,
    ):
        steps = [torch.tensor(1.0)]
        for _ in range(5):
            steps.append(steps[-1] - product * grad(_bowl)(steps[-1]))
        at = torch.stack(steps)
        axes.plot(w.numpy(), _bowl(w).numpy(), color=GREY, linewidth=1.5)
        axes.plot(at.numpy(), _bowl(at).numpy(), "-", color=BLUE, linewidth=1)
        axes.plot(at[1:].numpy(), _bowl(at[1:]).numpy(), "o", color=BLUE, markersize=5)
        axes.plot(at[:1].numpy(), _bowl(at[:1]).numpy(), "o", color=BLUE, mfc="white", markersize=8)
        axes.set_title(f"lr·λ = {product:g}\n{what}")
        axes.set_xlabel("weight w")
        axes.set_ylim(-0.05, 1.3)
        axes.set_xlim(-1.7, 1.7)
        _plain(axes)
    panels[0].set_ylabel("loss")
    return figure


def noise_floor() -> Figure:
    """Noisy descent in the valley L(w) = ½·w²: the mean loss of 4,000 walks, and the formula's.

    The noise of each gradient has the standard deviation 0.3. The third walk takes the long steps
    first and the short ones behind step 40.
    """
    long, short, sigma, steps = 0.5, 0.05, 0.3, 120
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    axes = figure.subplots()
    for label, colour, style, lrs in (
        (f"lr {long:g} all the way", VERMILION, "-", [long] * steps),
        (f"lr {short:g} all the way", BLUE, "--", [short] * steps),
        (f"lr {long:g}, then {short:g}", "#009E73", "-", [long] * 40 + [short] * (steps - 40)),
    ):
        draw = torch.Generator().manual_seed(0)
        w = torch.full((4000,), 3.0)
        losses = [float(_bowl(w).mean())]
        for lr in lrs:
            w = w - lr * (w + sigma * torch.randn(len(w), generator=draw))
            losses.append(float(_bowl(w).mean()))
        axes.plot(losses, style, color=colour, linewidth=2, label=label)
    for lr, above in ((long, 4), (short, -13)):
        floor = 0.5 * sigma**2 * lr / (2 - lr)
        axes.axhline(floor, color=GREY, linewidth=1, linestyle=":")
        axes.annotate(
            f"floor of lr {lr:g}: {floor:.2g}", (steps, floor), (-2, above),
            textcoords="offset points", ha="right", color=GREY,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlim(0, steps)
    axes.set_ylim(5e-4, 10)
    axes.set_xlabel("step")
    axes.set_ylabel("mean loss")
    axes.legend(frameon=False, loc="upper right")
    _plain(axes)
    return figure


def _bowl(w: torch.Tensor) -> torch.Tensor:
    """½·λ·w² at λ = 1."""
    return w**2 / 2


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
    for draw in (activations, digits, losses, noise_floor, valley):
        draw().savefig(IMAGES / f"{draw.__name__}.png", dpi=120, facecolor="white")


if __name__ == "__main__":
    main()
