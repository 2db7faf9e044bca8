"""RecTools' sequence models, trained on an exported split: the process that `benchmarks.peers` starts.

    PYTHON benchmarks/peers_rectools.py FOLDER

It runs in an environment of its own and needs rectools[torch], torch, pandas and numpy, nothing of this
project. FOLDER holds split.npz and settings.json, as `benchmarks.peers.export_split` writes them. Each time
that training has used up one of the settings' CPU minutes, the vectors of that moment are written to
vectors-MINUTES.npz; after the last, training ends. The time that taking vectors costs is not counted.

The users whose vectors are taken are not trained on: their histories are given as RecTools' recommend takes
them, for users that are new to the model.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel, SASRecModel
from rectools.models.nn.transformers.ligr import LiGRLayers

MODELS = {
    "sasrec": (SASRecModel, {}),
    "sasrec_ligr": (SASRecModel, {"transformer_layers_type": LiGRLayers}),
    "bert4rec": (BERT4RecModel, {}),
}
"""Class, and what differs from its defaults."""


def interactions(owner: np.ndarray, item: np.ndarray, seconds: np.ndarray) -> pd.DataFrame:
    """One interaction an event, in the order of the events."""
    return pd.DataFrame(
        {
            Columns.User: owner,
            Columns.Item: item,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(seconds, unit="s"),
        }
    )


class Budget(Callback):
    """Writes vectors whenever a budget of CPU minutes is used up, and ends training after the last."""

    def __init__(self, folder: Path, minutes: list[float], users: int, items: int, histories: Any) -> None:
        self.folder, self.left, self.users, self.items = folder, sorted(minutes), users, items
        self.histories = histories
        self.paused, self.cpu_start, self.wall_start = 0.0, time.process_time(), time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """Look at the clock after each step."""
        while self.left and self._spent() >= 60 * self.left[0]:
            before, spent = time.process_time(), self._spent()
            self._write(trainer, module, self.left.pop(0), spent)
            module.train()
            self.paused += time.process_time() - before
        if not self.left:
            trainer.should_stop = True

    def _spent(self) -> float:
        """CPU seconds of training, over all threads."""
        return time.process_time() - self.cpu_start - self.paused

    def _write(self, trainer: Trainer, module: LightningModule, minutes: float, spent: float) -> None:
        preparator = module.data_preparator
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = preparator.transform_dataset_u2i(self.histories, np.arange(self.users))
        loader = preparator.get_dataloader_recommend(dataset, 256)
        found, embedded = module._get_user_item_embeddings(loader, "cpu")
        place = dataset.user_id_map.external_ids.astype(int)
        users = np.zeros((self.users, found.shape[1]), np.float32)
        users[place] = found.numpy()
        known = preparator.get_known_item_ids().astype(int)
        items = np.zeros((self.items, embedded.shape[1]), np.float32)
        items[known] = embedded.numpy()[preparator.n_item_extra_tokens :]
        steps = trainer.global_step
        facts = {
            "known": np.isin(np.arange(self.items), known),
            "embedded": np.isin(np.arange(self.users), place),
            "cpu_minutes": spent / 60,
            "wall_minutes": (time.perf_counter() - self.wall_start) / 60,
            "steps": steps,
            "epochs": steps / max(trainer.num_training_batches, 1),
            "loss": float(trainer.callback_metrics.get("train_loss", np.nan)),
            "versions": f"rectools {version('rectools')}, torch {torch.__version__}",
        }
        path = self.folder / f"vectors-{minutes:g}.npz"
        with open(path.with_suffix(".part"), "wb") as file:
            np.savez(file, users=users, items=items, **facts)
        os.replace(path.with_suffix(".part"), path)


def main(folder: Path) -> None:
    """Train the model of the settings."""
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    torch.set_num_threads(settings["threads"])
    seed_everything(settings["seed"], workers=True)
    with np.load(folder / "split.npz", allow_pickle=False) as split:
        train = interactions(split["train_user"], split["train_item"], split["train_time"])
        owner, item = split["history_user"], split["history_item"]
        histories = Dataset.construct(interactions(owner, item, split["history_time"]))
    users, items = settings["users"], settings["items"]

    def trainer() -> Trainer:
        # RecTools builds its trainer in the constructor, so that epochs set later would be ignored.
        budget = Budget(folder, settings["minutes"], users, items, histories)
        return Trainer(
            max_epochs=-1,
            callbacks=[budget],
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    kind, own = MODELS[settings["model"]]
    chosen = {"session_max_len": settings["length"], "loss": "softmax", **own, **settings["model_settings"]}
    kind(get_trainer_func=trainer, **chosen).fit(Dataset.construct(train))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
