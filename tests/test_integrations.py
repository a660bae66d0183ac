"""The callbacks for Lightning and Hugging Face, in trainings by the real libraries."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lrlab import records
from lrlab.errors import UserError
from lrlab.verdicts import loading

pytestmark = [
    pytest.mark.full,
    pytest.mark.filterwarnings("ignore"),  # those of the other libraries are not lrlab's
]


def pairs() -> TensorDataset:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(64, 5, generator=draw)
    return TensorDataset(x, (x[:, :1] > 0).float())


def lightning_module(lr: float, logged: list[str]) -> Any:
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            logged.append("step")
            loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=lr, momentum=0.5)

    return Module()


def lightning_fit(module: Any, callbacks: list[Any], folder: Path, **options: Any) -> Any:
    lightning = pytest.importorskip("lightning.pytorch")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
    loader = DataLoader(pairs(), batch_size=8)
    trainer.fit(module, loader, DataLoader(pairs(), batch_size=64))
    return trainer


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_by_lightning_is_measured_and_stays_the_same(
    accumulate: int, tmp_path: Path
) -> None:
    pytest.importorskip("lightning.pytorch")
    from lrlab.integrations.lightning import LearningRateProbe

    alone = lightning_module(0.1, [])
    options = {"accumulate_grad_batches": accumulate}
    lightning_fit(alone, [], tmp_path, **options)
    module, calls = lightning_module(0.1, calls := []), calls
    callback = LearningRateProbe(folder=tmp_path / "runs", every=4)
    trainer = lightning_fit(module, [callback], tmp_path, **options)
    for mine, other in zip(
        module.state_dict().values(), alone.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, other)
    probe = callback.probe
    assert probe is not None and probe.steps == trainer.global_step == 24 // accumulate
    assert len(calls) > 24  # measured steps call it again
    rows = records.read_metrics(probe.folder)
    assert rows["val_loss"].notna().sum() == 3
    found = loading.load([tmp_path / "runs"]).verdicts()
    assert found["lr"].tolist() == [0.1] and found["outcome"].tolist() == ["not compared"]
    assert str(probe.verdict()).startswith("lr=0.1, step ")
    # alpha of the first step, by hand
    hand = lightning_module(0.1, [])
    if accumulate == 1:
        x, y = (part[:8] for part in pairs().tensors)
        start = nn.functional.mse_loss(hand.net(x), y)
        assert probe.measured[0].loss == pytest.approx(float(start.detach()), rel=1e-6)


def test_a_module_that_steps_its_optimizers_itself_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("lightning.pytorch")
    from lrlab.integrations.lightning import LearningRateProbe

    module = lightning_module(0.1, [])
    module.automatic_optimization = False
    with pytest.raises(UserError, match="steps them itself"):
        lightning_fit(module, [LearningRateProbe(folder=tmp_path / "runs")], tmp_path)
    assert not (tmp_path / "runs").exists()


def hugging_face_model() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=16, n_positions=8, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_by_hugging_face_is_measured_and_stays_the_same(
    accumulate: int, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    from lrlab.integrations.huggingface import LearningRateProbe

    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 16, (32, 8), generator=draw)
    rows = [{"input_ids": row, "labels": row} for row in tokens]

    def train(callbacks: list[Any]) -> Any:
        model = hugging_face_model()
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / "hf"),
            max_steps=6,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=accumulate,
            learning_rate=0.01,
            lr_scheduler_type="linear",
            warmup_steps=2,
            report_to=[],
            save_strategy="no",
            eval_strategy="steps",
            eval_steps=3,
            disable_tqdm=True,
            use_cpu=True,
            seed=0,
            logging_strategy="no",
        )
        trainer = transformers.Trainer(
            model, arguments, train_dataset=rows, eval_dataset=rows, callbacks=callbacks
        )
        trainer.train()
        return model

    alone = train([])
    callback = LearningRateProbe(folder=tmp_path / "runs", every=2)
    model = train([callback])
    for mine, other in zip(model.parameters(), alone.parameters(), strict=True):
        assert torch.equal(mine, other)
    probe = callback.probe
    assert probe is not None and probe.steps == 6
    table = records.read_metrics(probe.folder)
    assert table["val_loss"].notna().sum() == 2
    summary = records.read_summary(probe.folder)
    assert summary["lr"] == 0.01 and summary["state"] == "finished"
    assert len(probe.measured) >= 2
    assert not model._forward_pre_hooks
