"""What a training loop of a user has: batches of several kinds, losses of them, networks."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

SHORT: Any = {"lr": (1e-3, 1.0), "points": 2, "steps": 12}
DRAW = torch.Generator().manual_seed(0)
X = torch.randn(44, 5, generator=DRAW)
LABELS = torch.randint(0, 3, (44,), generator=DRAW)
ROWS = [{"x": x, "y": y} for x, y in zip(X, LABELS, strict=True)]


class Small(nn.Module):
    """A transformer that takes keywords, and returns a loss among others, as Hugging Face's do."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 8, dropout, batch_first=True)
        self.head = nn.Linear(8, 7)

    def forward(self, tokens: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.block(self.embed(tokens)))
        return {"loss": F.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


TEXTS = [(torch.arange(6) * (1 + j % 3) + j) % 7 for j in range(22)]


class Encoding(UserDict):  # type: ignore[type-arg]
    """Moves to a device in place, as Hugging Face's BatchEncoding."""

    def to(self, device: Any) -> Encoding:
        self.data = {name: tensor.to(device) for name, tensor in self.data.items()}
        return self


def encoded(texts: list[Tensor]) -> Encoding:
    tokens = torch.stack(texts)
    return Encoding(tokens=tokens[:, :-1], labels=tokens[:, 1:])


def own_loss(model: nn.Module, batch: Any) -> Tensor:
    return model(**batch)["loss"]


def of_dict(model: nn.Module, batch: Any) -> Tensor:
    labels = batch.pop("y")
    return F.cross_entropy(model(batch["x"].mul_(0.5)), labels)


def normed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def shuffled(data: Any, size: int = 8, **settings: Any) -> DataLoader[Any]:
    return DataLoader(data, size, shuffle=True, **settings)
