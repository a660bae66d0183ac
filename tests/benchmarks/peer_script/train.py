"""A learning-rate sweep as one writes it without lrlab: Hydra's multirun over a training script.

Each job loads MNIST through a DataLoader, trains with torch.optim.SGD and tests at the end. This is
what sweep_against_script.py compares lrlab with, so it is written to be fast as well as usual.
"""

import csv
import logging
from pathlib import Path

import hydra
import torch
import torch.nn.functional as F
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch import nn
from torch.utils.data import DataLoader, random_split
from torchvision import datasets, transforms

log = logging.getLogger(__name__)


def build_network(hidden: list[int]) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    width = 28 * 28
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU()]
        width = size
    layers.append(nn.Linear(width, 10))
    return nn.Sequential(*layers)


def train_epoch(model, loader, optimizer, device) -> list[float]:
    model.train()
    losses = []
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        loss = F.nll_loss(F.log_softmax(model(images), dim=1), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def evaluate(model, loader, device) -> tuple[float, float]:
    model.eval()
    loss, correct = 0.0, 0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        log_probabilities = F.log_softmax(model(images), dim=1)
        loss += F.nll_loss(log_probabilities, labels, reduction="sum").item()
        correct += (log_probabilities.argmax(1) == labels).sum().item()
    return loss / len(loader.dataset), correct / len(loader.dataset)


@hydra.main(version_base=None, config_path=".", config_name="config")
def main(cfg: DictConfig) -> None:
    torch.manual_seed(cfg.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    )
    images = datasets.MNIST(cfg.root, train=True, transform=transform)
    train_set, _ = random_split(images, [cfg.train_size, len(images) - cfg.train_size])
    test_set = datasets.MNIST(cfg.root, train=False, transform=transform)
    train_loader = DataLoader(
        train_set,
        batch_size=cfg.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=cfg.num_workers,
    )
    test_loader = DataLoader(test_set, batch_size=1000, num_workers=cfg.num_workers)

    model = build_network(list(cfg.hidden)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=cfg.lr)

    losses = []
    for epoch in range(cfg.epochs):
        epoch_losses = train_epoch(model, train_loader, optimizer, device)
        losses += epoch_losses
        log.info("epoch %d: train loss %.4f", epoch, sum(epoch_losses) / len(epoch_losses))
    test_loss, test_acc = evaluate(model, test_loader, device)
    log.info("lr %g: test loss %.4f, test accuracy %.4f", cfg.lr, test_loss, test_acc)

    with open(Path(HydraConfig.get().runtime.output_dir) / "losses.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "train_loss"])
        writer.writerows(enumerate(losses))


if __name__ == "__main__":
    main()
