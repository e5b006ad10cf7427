"""Who runs: ours in four ways, and those it is measured against. One per process, by the function's name."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

import torch
from plain import Plain, adam, step
from task import Clock, Outcome, Task

if TYPE_CHECKING:
    from pipeline.config import RunConfig

STREAMING_MB: Final = 164
"""Two windows, and less than `Model.streamed` rows take."""


def ours(task: Task, **train: Any) -> Outcome:
    """`train` by one Ray worker: the snapshot is ingested, the MLflow database there, this training new."""
    from pipeline import ingest
    from pipeline.tracking import server
    from pipeline.train import train as trained_by_ray

    config = _config(task, seed=time.time_ns() % 2**31, **train)
    trained = trained_by_ray(config, ingest.latest(config))
    client = server.connect(config)
    speeds, seconds = (
        [it.value for it in sorted(client.get_metric_history(trained.mlflow_run, name), key=lambda it: it.step)]
        for name in ("rows_per_s", "epoch_s")
    )
    return Outcome(speeds, sum(seconds), trained.startup_s)


def ours_compiled(task: Task) -> Outcome:
    """By torch.compile."""
    return ours(task, compile="on")


def ours_streaming(task: Task) -> Outcome:
    """The rows do not fit the memory allowed."""
    return ours(task, memory_mb=STREAMING_MB)


def ours_by_two(task: Task) -> Outcome:
    """Two workers, the same global batch."""
    return ours(task, num_workers=2)


def bare(task: Task) -> Outcome:
    """A tensor in memory, shuffled; a step for each slice."""
    rows, model = task.tensor().to(task.device), Plain(task.model).to(task.device)
    optimizer, clock = adam(model), Clock(len(rows))
    for _ in range(task.epochs):
        with clock:
            for index in torch.randperm(len(rows), device=task.device).split(task.model.batch_rows):
                step(model, optimizer, rows[index])
    return clock.outcome()


def usual_ray(task: Task) -> Outcome:
    """Ray Train on a shard of Ray Data, iterated anew in every epoch, rows in the file's order, as in Ray's guide."""
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    trainer = TorchTrainer(
        _on_shard,
        train_loop_config={"task": task},
        datasets={"train": ray.data.read_parquet(str(task.folder / "rows.parquet"))},
        scaling_config=ScalingConfig(num_workers=1, use_gpu=task.device == "cuda"),
        run_config=RunConfig(storage_path=str(task.folder / "usual_ray")),
    )
    outcome: Outcome = trainer.fit().return_value
    ray.shutdown()
    return outcome


def pythae(task: Task) -> Outcome:
    """pythae's VAE and trainer, float32; for reals its squared error, which has no scale to learn."""
    import pythae_side

    rows, model = task.tensor(), task.model
    trained = pythae_side.train(
        rows,
        hidden=model.hidden,
        latent=model.latent,
        epochs=task.epochs,
        batch_rows=model.batch_rows,
        learning_rate=1e-3,
        seed=0,
        likelihood=model.likelihood,
        device=task.device,
    )
    return Outcome([len(rows) / it for it in trained.seconds_per_epoch], sum(trained.seconds_per_epoch))


def lightning(task: Task) -> Outcome:
    """Lightning's Trainer over a shuffled DataLoader; no logger, progress bar or checkpoint."""
    from lightning import LightningModule, Trainer
    from torch.utils.data import DataLoader, TensorDataset

    rows = task.tensor()
    clock = Clock(len(rows))

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.plain = Plain(task.model)

        def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
            return self.plain(batch[0])

        def configure_optimizers(self) -> torch.optim.Adam:
            return adam(self.plain)

        def on_train_epoch_start(self) -> None:
            clock.__enter__()

        def on_train_epoch_end(self) -> None:
            clock.__exit__()

    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    trainer = Trainer(max_epochs=task.epochs, accelerator=task.device, devices=1, **silent)
    trainer.fit(Module(), DataLoader(TensorDataset(rows), batch_size=task.model.batch_rows, shuffle=True))
    return clock.outcome()


def prepare(task: Task) -> Outcome:
    """No training: what `ours` finds done."""
    from pipeline import ingest
    from pipeline.tracking import server

    config = _config(task)
    ingest.ingest(config)
    server.connect(config)
    return Outcome([], 0.0)


def matmul(task: Task) -> Outcome:
    """No training: large matrix products, their FLOP/s for speeds; float32 on a CPU, bfloat16 on a GPU."""
    size, kind = (8192, torch.bfloat16) if task.device == "cuda" else (1024, torch.float32)
    square, times = torch.randn(size, size, dtype=kind, device=task.device), 20
    clock = Clock(2 * size**3 * times)
    for _ in range(task.epochs):
        with clock:
            for _ in range(times):
                torch.mm(square, square)
    return clock.outcome()


def _config(task: Task, **train: Any) -> RunConfig:
    from pipeline import runfile

    model = task.model
    kind = "float32" if model.likelihood == "gaussian" else f"uint8[{model.features}]"
    return runfile.parse(
        {
            "name": "bench",
            "workspace": str(task.folder / "workspace"),
            "data": {"uri": str(task.folder / "rows.parquet"), "validation": 0.01, "test": 0.01},
            "columns": {name: {"type": kind, "likelihood": model.likelihood} for name in model.names},
            "model": {"hidden": model.hidden, "latent": model.latent, "activation": "relu"},
            "train": {
                "epochs": task.epochs,
                "patience": task.epochs,
                "batch_rows": model.batch_rows,
                "num_workers": 1,
                "importance_samples": 0,
                "use_gpu": task.device == "cuda",
                **train,
            },
        }
    )


def _on_shard(settings: dict[str, Any]) -> Outcome:
    """What the worker of `usual_ray` runs."""
    from ray.train import get_dataset_shard
    from ray.train.torch import prepare_model

    torch.set_num_threads(1)
    task: Task = settings["task"]
    model, shard = prepare_model(Plain(task.model)), get_dataset_shard("train")
    optimizer, clock = adam(model), Clock()
    for _ in range(task.epochs):
        with clock:
            clock.rows = 0
            for batch in shard.iter_torch_batches(batch_size=task.model.batch_rows, dtypes=torch.float32):
                columns = [batch[name] for name in task.model.names]
                values = columns[0] if len(columns) == 1 else torch.stack(columns, 1)
                step(model, optimizer, values)
                clock.rows += len(values)
    return clock.outcome()
