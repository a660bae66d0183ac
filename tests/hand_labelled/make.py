"""Makes mnist.csv.gz: real runs of lrlab on MNIST, thinned, with branch gains. See README.md.

    python tests/hand_labelled/make.py outputs/<sweep>

The sweep is that of README.md's first command.
"""

import math
import sys
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from lrlab import losses
from lrlab.data import Dataset, torchvision_images
from lrlab.networks import MLP
from lrlab.tables import frames

KEPT = 8  # every eighth mini-batch loss is kept, and every row with an evaluation
MULTIPLES = (0.1, 1.0, 3.0)
EPSILON = 1e-3  # of the initial loss


def main(sweep: Path) -> None:
    torch.set_num_threads(1)
    runs, curves = frames.runs(sweep), frames.curves(sweep)
    data = torchvision_images()
    parts = []
    for run in runs.to_dict("records"):
        curve = curves.query(f"run == {run['run']}")
        kept = curve.query(f"step % {KEPT} == 0 or val_loss.notna() or index == {curve.index[-1]}")
        gains = branches(run, data) if math.isfinite(run["train_loss"]) else {}
        parts.append(kept.assign(num_classes=10, **gains))
        print(run["run"], run["lr"], gains, flush=True)
    table = pd.concat(parts, ignore_index=True)
    names = ["run", "lr", "seed", "step", "train_loss", "val_loss", "initial_loss", "num_classes"]
    table = table.reindex(columns=[*names, "gain_low", "gain_high"])
    table.to_csv(Path(__file__).with_name("mnist.csv.gz"), index=False, float_format="%.4g")


def branches(run: dict, data: Dataset) -> dict[str, float]:
    """Train a quarter more steps at lr/10, lr and 3·lr on identical batches; log ratios of loss."""
    steps = round(0.25 * run["steps"])
    batches = torch.randperm(len(data.train_y), generator=torch.Generator().manual_seed(0))
    batches = batches[: steps * 64].view(steps, 64)
    low, same, high = (_branch(run, data, batches, multiple) for multiple in MULTIPLES)
    epsilon = EPSILON * run["initial_loss"]

    def gain(loss: float) -> float:
        return math.log((same + epsilon) / (loss + epsilon)) if math.isfinite(loss) else -math.inf

    return {"gain_low": gain(low), "gain_high": gain(high)}


def _branch(run: dict, data: Dataset, batches: Tensor, multiple: float) -> float:
    network = MLP((1, 28, 28), 10)
    network.load_state_dict(torch.load(Path(run["folder"]) / "model.pt", weights_only=True))
    optimizer = torch.optim.SGD(network.parameters(), lr=run["lr"] * multiple)
    for batch in batches:
        optimizer.zero_grad()
        losses.nll(network(data.train_x[batch]), data.train_y[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        return losses.nll(network(data.train_x[:10000]), data.train_y[:10000]).item()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
