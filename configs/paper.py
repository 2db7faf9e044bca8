"""The paper's final model: L 6, H 768, T 256, D 256, 8,192 random, up to 5,000 in-batch negatives, bfloat16.

    python -m pinnerformer_jax.ingest --config configs/paper.py
    python train.py    --config configs/paper.py --workdir runs/paper
    python evaluate.py --workdir runs/paper

Name your log and your item table (ids and 256-number vectors) on the command line, or copy this file. The
paper gives no batch size, number of steps or learning rate; those here are our choice. On the authors' own
data the paper reports Recall@10 of 0.229. That data is not public, so no run of this file has a measured
metric. A test builds and compiles it and takes a step on a CPU at a small batch
(tests/test_paper_config.py).
"""

from pinnerformer_jax.config import (
    ColumnsConfig,
    Config,
    DataConfig,
    ItemsConfig,
    ModelConfig,
    ObjectiveConfig,
    PositiveRule,
    TrainingConfig,
)

config = Config(
    name="paper",
    data=DataConfig(
        events=("data/paper/events/*.parquet",),
        prepared="data/paper/prepared",
        columns=ColumnsConfig(action="action", surface="surface", duration="duration"),
        positives=(
            PositiveRule(action="repin", surface="homefeed"),
            PositiveRule(action="closeup", min_duration=10, surface="homefeed"),
            PositiveRule(action="click", min_duration=10, surface="homefeed"),
        ),
        shards=64,
    ),
    items=ItemsConfig(table="data/paper/items.parquet", vector="vector", without_events=True),
    model=ModelConfig(layers=6, width=768, heads=8, max_length=256, output_dim=256, compute_dtype="bfloat16"),
    objective=ObjectiveConfig(horizon_days=28, positions=32, random_negatives=8192, in_batch_negatives=5000),
    training=TrainingConfig(batch_size=512, steps=100_000, learning_rate=1e-3, checkpoint_every=2000),
)
