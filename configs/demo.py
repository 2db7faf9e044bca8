"""The demo: the synthetic log, small enough for two CPU cores.

    python -m pinnerformer_jax.synthetic --out data/demo/raw
    python -m pinnerformer_jax.ingest --config configs/demo.py
    python train.py --config configs/demo.py --workdir runs/demo
    python evaluate.py --workdir runs/demo

`make demo` runs all four. It takes under five minutes on two quiet cores, once the environment is made.
Expected paper Recall@10: 0.137 +- 0.008 by the inner product alone, 0.140 served, with a prior of
popularity; the best baseline has 0.052. On new items 0.144 and 0.148; EASE has 0.075. One seed;
docs/results.md has three.
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
    name="demo",
    data=DataConfig(
        events=("data/demo/raw/events.parquet",),
        prepared="data/demo/prepared",
        columns=ColumnsConfig(action="action", surface="surface", duration="duration"),
        positives=(
            PositiveRule(action="repin", surface="homefeed"),
            PositiveRule(action="closeup", min_duration=10, surface="homefeed"),
            PositiveRule(action="click", min_duration=10, surface="homefeed"),
        ),
        evaluation_share=0.2,
    ),
    items=ItemsConfig(
        table="data/demo/raw/items.parquet",
        id="item",
        vector="vector",
        title="title",
        topic="topic",
        without_events=True,
    ),
    # Learning rate, weight decay, dropout, temperature and positions: the best of twenty trials of
    # `pinnerformer tune`, on validation users at splits before t (docs/tuning.md).
    model=ModelConfig(
        layers=2, width=128, heads=4, max_length=64, output_dim=64, item_hidden=256, dropout=0.28
    ),
    objective=ObjectiveConfig(
        positions=11, random_negatives=1024, in_batch_negatives=1024, initial_temperature=0.077
    ),
    training=TrainingConfig(
        batch_size=128, steps=600, learning_rate=2.4e-3, weight_decay=1.2e-3, checkpoint_every=100
    ),
)
