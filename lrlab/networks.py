"""The networks that ship with lrlab: ordinary ``torch.nn.Module`` classes.

A network takes the shape of one input and the number of classes. It turns a batch of inputs
``(batch, *in_shape)`` into raw scores ``(batch, num_classes)``, and the loss turns scores into
probabilities. Lanes run it under ``torch.func.vmap`` and ``functional_call``. So ``forward`` holds
no data-dependent branch and changes no state in place. Your own class needs no more than that.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrlab.config.schema import no_such
from lrlab.errors import UserError, must_be

T = TypeVar("T")


def step(x: Tensor) -> Tensor:
    """The threshold of the first neurons: 1 where x >= 0, else 0, with a gradient to train by.

    x: any shape, a float type. Returns the same shape and type, exactly 0 or 1; NaN stays NaN, so a
    run that diverges shows it.

    The true derivative is 0 everywhere, so nothing in front of a step would learn. The backward
    pass uses the derivative of hardtanh(x) = min(max(x, -1), 1) instead, the clipped
    straight-through estimator: dL/dx = dL/dy · [|x| < 1]. Sources: Bengio, Léonard & Courville
    2013, arXiv:1308.3432; clipped as in Hubara et al. 2016, arXiv:1602.02830, section 1.3. Without
    clipping, a neuron far from its threshold would be pushed on although no small change of x can
    change its output.
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
    "torch": None,  # as each layer's own reset_parameters does; biases included
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


PARAMETRISATIONS = {name: name for name in ("standard", "mup_sgd", "mup_adam")}
MUP_INITS = ("torch", "kaiming_uniform", "kaiming_normal")  # variance 1/fan_in, up to a factor


class ScaledLinear(nn.Linear):
    """A linear layer that multiplies its weight and bias by a constant each: y = x·(aW)ᵀ + c·b.

    The network computes with aW and trains W, so aW has an lr of its own. SGD moves W by lr·dL/dW =
    lr·a·dL/d(aW), and so aW by a² times its usual step. Adam and its kin move W by about lr,
    whatever the size of the gradient, and so aW by a times that.
    """

    def __init__(
        self, fan_in: int, fan_out: int, bias: bool, weight_factor: float, bias_factor: float
    ) -> None:
        super().__init__(fan_in, fan_out, bias=bias)
        self.weight_factor = weight_factor
        self.bias_factor = bias_factor

    def forward(self, input: Tensor) -> Tensor:
        """input: (batch, fan_in). Returns (batch, fan_out)."""
        bias = None if self.bias is None else self.bias_factor * self.bias
        return F.linear(input, self.weight_factor * self.weight, bias)


class MLP(nn.Module):
    """A multilayer perceptron: the flattened input, hidden layers, then one score a class.

    in_shape:    shape of one input, such as (1, 28, 28)
    num_classes: number of scores
    hidden:      neurons in each hidden layer, from the input on; [] for none
    activation:  a name in ACTIVATIONS, applied after every hidden layer
    bias:        whether the neurons have a bias
    init:        a name in INITS; other than "torch" sets the weights so and every bias to 0. It
                 draws from torch's global generator: seed that first.
    parametrisation: "standard", or the maximal update parametrisation (Yang et al. 2022,
                 arXiv:2203.03466, table 3) under which the best lr of one width suits all:
                 "mup_sgd" for SGD with or without momentum, "mup_adam" for Adam and the like.
    base_width:  the hidden width at which all parametrisations are the same network. The learning
                 rates and start values of another width are those of table 3 relative to it.

    Raises UserError for a value from which no network can be made.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        num_classes: int,
        hidden: Sequence[int] = (64, 64, 64),
        activation: str = "relu",
        bias: bool = True,
        init: str = "torch",
        parametrisation: str = "standard",
        base_width: int = 64,
    ) -> None:
        super().__init__()
        _check_bias(bias)
        widths = [math.prod(in_shape), *_sizes("hidden", hidden, "[64,64,64]"), num_classes]
        self.activation = _chosen("activation", activation, ACTIVATIONS)
        self.parametrisation = _chosen("parametrisation", parametrisation, PARAMETRISATIONS)
        if type(base_width) is not int or base_width < 1:
            raise must_be("network.base_width", base_width, "a whole number of at least 1", 64)
        pairs = list(itertools.pairwise(widths))
        if parametrisation == "standard":
            self.layers = nn.ModuleList(nn.Linear(*pair, bias=bias) for pair in pairs)
            _initialise(self, init)
        else:
            if init in INITS and init not in MUP_INITS:
                raise UserError(
                    f"network.init={init}: does not suit "
                    f"network.parametrisation={parametrisation}; choose from "
                    f"{', '.join(MUP_INITS)}"
                )
            layers = _mup_layers(pairs, base_width, bias, parametrisation == "mup_adam")
            self.layers = nn.ModuleList(layers)
            _initialise(self, init)
            _start_as_mup(layers, base_width)

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

    It has two 5×5 convolutions, each followed by the activation and 2×2 max pooling, then a fully
    connected part as in MLP. The first convolution pads by 2, so that 28×28 images give LeNet's
    sizes: 28×28 → 14×14 → 10×10 → 5×5. Images must be at least 12×12.

    in_shape:    (image channels, height, width)
    num_classes: number of scores
    channels:    feature maps of the two convolutions
    hidden:      neurons in each hidden layer after them
    activation, bias, init: as for MLP

    Raises UserError for a value from which no network can be made, or for an image that is too
    small.
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
            raise must_be("network.channels", maps, "two sizes", "[16,32]")
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
        """Height or width of the feature maps after both poolings."""
        first = (pixels + 2 * cls.PADDING - cls.KERNEL + 1) // 2
        return (first - cls.KERNEL + 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, *in_shape). Returns scores (batch, num_classes)."""
        for convolution in self.convolutions:
            x = F.max_pool2d(self.activation(convolution(x)), 2)
        return self.head(x)


def _mup_layers(
    pairs: Sequence[tuple[int, int]], base_width: int, bias: bool, adam: bool
) -> list[ScaledLinear]:
    """Make layers of these (fan_in, fan_out), with the lrs of Yang et al. 2022, table 3.

    A weight's lr grows as fan_out/fan_in with SGD and as 1/fan_in with Adam. A bias's lr grows as
    fan_out with SGD and stays with Adam. Only hidden widths count as growing, from base_width on.
    """
    layers: list[ScaledLinear] = []
    for number, (fan_in, fan_out) in enumerate(pairs):
        grown_in = 1.0 if number == 0 else fan_in / base_width
        grown_out = 1.0 if number == len(pairs) - 1 else fan_out / base_width
        if adam:
            factors = 1 / grown_in, 1.0
        else:
            factors = math.sqrt(grown_out / grown_in), math.sqrt(grown_out)
        layers.append(ScaledLinear(fan_in, fan_out, bias, *factors))
    return layers


def _start_as_mup(layers: Sequence[ScaledLinear], base_width: int) -> None:
    """Turn usual start values into those of table 3, which have smaller output weights."""
    output = layers[-1]
    with torch.no_grad():
        for layer in layers:
            layer.weight.div_(layer.weight_factor)
            if layer.bias is not None:
                layer.bias.div_(layer.bias_factor)
        if len(layers) > 1:
            output.weight.div_(math.sqrt(output.in_features / base_width))


def _initialise(module: nn.Module, init: str) -> None:
    """Set every weight with the function that init names, and every bias to 0."""
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
    raise UserError(no_such(f"network.{option}={name}", option, str(name).lower(), table))


def _sizes(option: str, values: object, example: str) -> list[int]:
    """Return values as a list of whole numbers of at least 1."""
    if isinstance(values, Sequence) and not isinstance(values, str):
        sizes = list(values)
        if all(type(size) is int and size >= 1 for size in sizes):
            return sizes
        values = "[" + ",".join(map(str, sizes)) + "]"
    raise must_be(f"network.{option}", values, "a list of whole numbers of at least 1", example)


def _check_bias(bias: object) -> None:
    # The command line passes bias=off as the text "off", which is true in Python.
    if not isinstance(bias, bool):
        raise must_be("network.bias", bias, "true or false", "false")
