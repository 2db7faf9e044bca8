"""Every setting of an experiment, typed and frozen; the only home of defaults.

data.py         the event log, the prepared folder, the items
model.py        the two towers
training.py     the objective and the training
evaluation.py   user vectors, the served index, the evaluation
pinsage.py      item vectors by PinSage
checks.py       checks of single settings

A file in configs/ builds one `Config` named `config`; the command line overrides single
fields (`--training.batch-size 512`); the run saves what it used beside its checkpoints.
Each class checks itself when built, and its errors name the field and the fix.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pinnerformer_jax.config.checks import require, require_types
from pinnerformer_jax.config.data import ColumnsConfig, CsvConfig, DataConfig, ItemsConfig, PositiveRule
from pinnerformer_jax.config.evaluation import EmbeddingConfig, EvaluationConfig, IndexConfig
from pinnerformer_jax.config.model import Attention, Feature, ModelConfig
from pinnerformer_jax.config.pinsage import PinSageConfig, PinSageLoss
from pinnerformer_jax.config.training import (
    ItemDtype,
    LossName,
    ObjectiveConfig,
    ObjectiveName,
    PoolName,
    TrainingConfig,
)

__all__ = [
    "Attention",
    "ColumnsConfig",
    "Config",
    "CsvConfig",
    "DataConfig",
    "EmbeddingConfig",
    "EvaluationConfig",
    "Feature",
    "IndexConfig",
    "ItemDtype",
    "ItemsConfig",
    "LossName",
    "ModelConfig",
    "ObjectiveConfig",
    "ObjectiveName",
    "PinSageConfig",
    "PinSageLoss",
    "PoolName",
    "PositiveRule",
    "TrainingConfig",
]


@dataclass(frozen=True)
class Config:
    """One experiment: every setting, by section. Files in configs/ build one each."""

    name: str = "pinnerformer"
    """Shown in logs and reports."""
    sizes_by_log: bool = False
    """Sizes of model, objective and training, and the shares of users that do not train, follow from the log
    (config/by_log.py). A setting that is not at its default stays as it is. Training prints what it uses.
    False: the defaults, which are the paper's."""
    data: DataConfig = field(default_factory=DataConfig)
    items: ItemsConfig = field(default_factory=ItemsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    pinsage: PinSageConfig = field(default_factory=PinSageConfig)

    def __post_init__(self) -> None:
        require_types(self, "")
        require(
            not self.training.deterministic or self.model.attention in ("blocks", "xla"),
            "training.deterministic", True,
            f"needs model.attention = 'blocks' or 'xla', not {self.model.attention!r}: XLA fails on cuDNN's "
            "deterministic attention in more than one layer",
        )  # fmt: skip
