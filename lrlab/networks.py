"""The networks that ship with lrlab: ordinary ``torch.nn.Module`` classes, nothing more.

A network takes the shape of one input and the number of classes, and turns a batch of inputs
``(batch, *in_shape)`` into raw scores ``(batch, num_classes)``; the loss turns scores into
probabilities. Lanes run it under ``torch.func.vmap`` and ``functional_call``, so ``forward``
holds no data-dependent branch and changes no state in place. A class of your own needs no more
than that either.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrlab.config import nearest
from lrlab.errors import UserError

T = TypeVar("T")


def step(x: Tensor) -> Tensor:
    """The threshold of the first neurons, 1 where x >= 0 and else 0, with a gradient to train by.

    x: any shape, a float type; returns the same shape and type, exactly 0 or 1 (NaN stays NaN, so
    a run that diverges shows it).

    The true derivative is 0 everywhere, so nothing in front of a step would learn. The backward
    pass takes the derivative of hardtanh(x) = min(max(x, -1), 1) in its stead, the clipped
    straight-through estimator: dL/dx = dL/dy · [|x| < 1] (Bengio, Léonard & Courville 2013,
    arXiv:1308.3432; clipped as in Hubara et al. 2016, arXiv:1602.02830, section 1.3). Clipping
    matters: without it a neuron far from its threshold is pushed on although no small change of x
    can change its output.
    """
    threshold = (x >= 0).to(x.dtype)
    surrogate = F.hardtanh(x)
    # The bracket is exactly 0, so the sum is exactly the threshold. In the more usual order,
    # x + (threshold - x).detach(), rounding swallows the threshold for |x| > 2**24, and an
    # infinite x gives NaN.
    return threshold + (surrogate - surrogate.detach())


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu,
    "step": step,
}

INITS: dict[str, Callable[[Tensor], Any] | None] = {
    "torch": None,  # what each layer's own reset_parameters does; biases included
    "kaiming_uniform": nn.init.kaiming_uniform_,
    "kaiming_normal": nn.init.kaiming_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "orthogonal": nn.init.orthogonal_,
    "uniform": nn.init.uniform_,
    "normal": nn.init.normal_,
    "trunc_normal": nn.init.trunc_normal_,
    "zeros": nn.init.zeros_,
    "ones": nn.init.ones_,
}


class MLP(nn.Module):
    """A multilayer perceptron: the input laid flat, hidden layers, then one score a class.

    in_shape:    shape of one input, such as (1, 28, 28)
    num_classes: number of scores
    hidden:      neurons in each hidden layer, from the input on; [] for none
    activation:  a name in ACTIVATIONS, applied behind every hidden layer
    bias:        whether the neurons have a bias
    init:        a name in INITS; other than "torch" sets the weights so and every bias to 0. It
                 draws from torch's global generator: seed that first.

    Raises UserError for a value that no network can be made of.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        num_classes: int,
        hidden: Sequence[int] = (64, 64, 64),
        activation: str = "relu",
        bias: bool = True,
        init: str = "torch",
    ) -> None:
        super().__init__()
        _check_bias(bias)
        widths = [math.prod(in_shape), *_sizes("hidden", hidden, "[64,64,64]"), num_classes]
        self.activation = _chosen("activation", activation, ACTIVATIONS)
        self.layers = nn.ModuleList(
            nn.Linear(fan_in, fan_out, bias=bias) for fan_in, fan_out in itertools.pairwise(widths)
        )
        _initialise(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, *in_shape). Returns scores (batch, num_classes)."""
        x = x.flatten(1)
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if number < len(self.layers):
                x = self.activation(x)
        return x


class Perceptron(MLP):
    """No hidden layer: each class's score is a weighted sum of the inputs plus a bias.

    With the nll loss this is softmax regression. Arguments as for MLP.
    """

    def __init__(
        self, in_shape: Sequence[int], num_classes: int, bias: bool = True, init: str = "torch"
    ) -> None:
        super().__init__(in_shape, num_classes, hidden=(), bias=bias, init=init)


class CNN(nn.Module):
    """A small convolutional network after LeNet-5 (LeCun et al. 1998).

    Two times a 5×5 convolution, the activation and 2×2 max pooling, then a fully connected part
    as in MLP. The first convolution pads by 2, so that 28×28 images give LeNet's sizes:
    28×28 → 14×14 → 10×10 → 5×5. Images must be at least 12×12.

    in_shape:    (image channels, height, width)
    num_classes: number of scores
    channels:    feature maps of the two convolutions
    hidden:      neurons in each hidden layer behind them
    activation, bias, init: as for MLP

    Raises UserError for a value that no network can be made of, or an image that is too small.
    """

    KERNEL = 5
    PADDING = 2
    SMALLEST_SIDE = 12  # the second pooling still has its 2 pixels: 12 → 6 → 2 → 1

    def __init__(
        self,
        in_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = (16, 32),
        hidden: Sequence[int] = (64,),
        activation: str = "relu",
        bias: bool = True,
        init: str = "torch",
    ) -> None:
        super().__init__()
        _check_bias(bias)
        shape = "×".join(map(str, in_shape))
        if len(in_shape) != 3:
            raise UserError(
                f"network=cnn: needs images (channels, height, width), the data's inputs are "
                f"{shape}; try network=mlp"
            )
        if min(in_shape[1:]) < self.SMALLEST_SIDE:
            side = self.SMALLEST_SIDE
            raise UserError(
                f"network=cnn: needs images of at least {side}×{side} pixels, the data's inputs "
                f"are {shape}; try network=mlp"
            )
        maps = _sizes("channels", channels, "[16,32]")
        if len(maps) != 2:
            raise UserError(
                f"network.channels={maps}: must be two sizes, for example network.channels=[16,32]"
            )
        image_channels, height, width = in_shape
        self.activation = _chosen("activation", activation, ACTIVATIONS)
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(image_channels, maps[0], self.KERNEL, padding=self.PADDING, bias=bias),
                nn.Conv2d(maps[0], maps[1], self.KERNEL, bias=bias),
            ]
        )
        features = (maps[1], self._side(height), self._side(width))
        _initialise(self, init)
        self.head = MLP(features, num_classes, hidden, activation, bias, init)

    @classmethod
    def _side(cls, pixels: int) -> int:
        """Height or width of the feature maps behind both poolings."""
        first = (pixels + 2 * cls.PADDING - cls.KERNEL + 1) // 2
        return (first - cls.KERNEL + 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, *in_shape). Returns scores (batch, num_classes)."""
        for convolution in self.convolutions:
            x = F.max_pool2d(self.activation(convolution(x)), 2)
        return self.head(x)


def parameter_count(module: nn.Module) -> int:
    """How many numbers training may change; a parameter that is shared counts once."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _initialise(module: nn.Module, init: str) -> None:
    """Set every weight as the function named by init does, and every bias to 0."""
    function = _chosen("init", init, INITS)
    if function is None:
        return
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            function(parameter)


def _chosen(option: str, name: object, table: dict[str, T]) -> T:
    if isinstance(name, str) and name in table:
        return table[name]
    raise UserError(
        f"network.{option}={name}: no such {option}{nearest(str(name).lower(), table)}; "
        f"choose from {', '.join(table)}"
    )


def _sizes(option: str, values: object, example: str) -> list[int]:
    """values as a list of whole numbers of at least 1."""
    if isinstance(values, Sequence) and not isinstance(values, str):
        sizes = list(values)
        if all(type(size) is int and size >= 1 for size in sizes):
            return sizes
        values = "[" + ",".join(map(str, sizes)) + "]"
    raise UserError(
        f"network.{option}={values}: must be a list of whole numbers of at least 1, "
        f"for example network.{option}={example}"
    )


def _check_bias(bias: object) -> None:
    # The command line hands over bias=off as the text "off", which Python takes for true.
    if not isinstance(bias, bool):
        raise UserError(
            f"network.bias={bias}: must be true or false, for example network.bias=false"
        )
