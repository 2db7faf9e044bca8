from pathlib import Path

import pytest

from pinnerformer_jax.config import (
    ColumnsConfig,
    Config,
    DataConfig,
    EmbeddingConfig,
    EvaluationConfig,
    IndexConfig,
    ItemsConfig,
    ModelConfig,
    ObjectiveConfig,
    PinSageConfig,
    PositiveRule,
    TrainingConfig,
)


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (
            lambda: Config(training=TrainingConfig(deterministic=True)),
            r"training.deterministic = True: needs model.attention = 'blocks' or 'xla', not 'auto'",
        ),
        (lambda: ModelConfig(width=100, heads=8), r"model.width = 100: must be a multiple of heads = 8"),
        (lambda: ModelConfig(layers=0), r"model.layers = 0: must be >= 1"),
        (
            lambda: ObjectiveConfig(sketch_width=1000),
            r"objective.sketch_width = 1000: must be a power of two, or 0",
        ),
        (lambda: ObjectiveConfig(random_negatives=0, in_batch_negatives=0), r"need at least one negative"),
        (lambda: ObjectiveConfig(initial_temperature=0.01), r"objective.initial_temperature"),
        (lambda: ObjectiveConfig(horizon_days=0), r"objective.horizon_days"),
        (lambda: ObjectiveConfig(sketch_decay=1.5), r"objective.sketch_decay"),
        (lambda: ObjectiveConfig(name="bert"), r"objective.name = 'bert': must be one of \('dense_all"),
        (lambda: ObjectiveConfig(logq=False, refined_logq=True), r"objective.refined_logq .* needs"),
        (lambda: ObjectiveConfig(pool="separate", random_negatives=0), r"objective.pool = 'separate': needs"),
        (
            lambda: ObjectiveConfig(target_actions="like"),
            r"objective.target_actions = 'like': must be a tuple",
        ),
        (
            lambda: ModelConfig(drop_features=("items",)),
            r"model.drop_features = \('items',\): must be a tuple, and",
        ),
        (
            lambda: ModelConfig(
                drop_features=("item", "action", "surface", "duration", "absolute_time", "relative_time")
            ),
            r"one besides position must stay",
        ),
        (lambda: PinSageConfig(loss="hinge"), r"pinsage.loss = 'hinge': must be one of"),
        (lambda: PinSageConfig(hard_negatives=-1), r"pinsage.hard_negatives = -1: must be >= 0"),
        (lambda: PinSageConfig(session_hours=-1), r"pinsage.session_hours = -1: must be >= 0"),
        (lambda: PinSageConfig(numbers="price"), r"pinsage.numbers = 'price': must be a tuple"),
        (lambda: PinSageConfig(neighbours=0), r"pinsage.neighbours = 0: must be >= 1"),
        (lambda: PinSageConfig(restart=1.0), r"pinsage.restart = 1.0: must be in \[0, 1\)"),
        (lambda: PinSageConfig(window_days=0), r"pinsage.window_days = 0: must be > 0"),
        (lambda: TrainingConfig(batch_size=0), r"training.batch_size = 0"),
        (lambda: TrainingConfig(warmup_share=1.0), r"training.warmup_share"),
        (lambda: TrainingConfig(learning_rate=-1.0), r"training.learning_rate"),
        (lambda: TrainingConfig(seed=-1), r"training.seed = -1"),
        (lambda: DataConfig(evaluation_share=1.2), r"data.evaluation_share = 1.2: a share"),
        (lambda: DataConfig(evaluation_share=0.6, validation_share=0.5), r"no user is left to train"),
        (lambda: DataConfig(final=True), r"data.final = True: all users train"),
        (lambda: TrainingConfig(steps=10, stop_after=11), r"training.stop_after = 11: must be in \[0, "),
        (lambda: DataConfig(positives=()), r"data.positives"),
        (lambda: DataConfig(evaluation_days=-1), r"data.evaluation_days"),
        (lambda: DataConfig(events="log.parquet"), r"data.events = 'log.parquet': must be a tuple"),
        (
            lambda: DataConfig(sequence_actions=("view",), positives=(PositiveRule(action="like"),)),
            r"data.positives = 'like': is not in data.sequence_actions",
        ),
        (lambda: PositiveRule(min_duration=-3), r"data.positives.min_duration"),
        (lambda: ItemsConfig(title="name"), r"items.table = '': name the table"),
        (lambda: EvaluationConfig(cutoffs=()), r"evaluation.cutoffs"),
        (lambda: EvaluationConfig(max_users=-1), r"evaluation.max_users = -1: must be >= 0"),
        (lambda: EmbeddingConfig(batch_size=0), r"embedding.batch_size = 0: must be >= 1"),
        (lambda: IndexConfig(leaves=-1), r"index.leaves = -1: must be >= 0"),
        (lambda: IndexConfig(reorder=0), r"index.reorder = 0: must be >= 1"),
        (
            lambda: ObjectiveConfig(horizon_days=36_500),
            r"objective.horizon_days = 36500: .* at most 24,855 days",
        ),
        (lambda: ObjectiveConfig(horizon_days=1e-7), r"objective.horizon_days"),
        (lambda: ObjectiveConfig(initial_temperature=float("inf")), r"initial_temperature = inf: .* finite"),
        (lambda: ModelConfig(dropout=50), r"model.dropout = 50: a share"),
        (lambda: ModelConfig(compute_dtype="float16"), r"model.compute_dtype = 'float16': must be one of"),
        (lambda: DataConfig(time_unit="minutes"), r"data.time_unit = 'minutes': must be one of"),
        (lambda: TrainingConfig(batch_size=True), r"training.batch_size = True: must be a whole number"),
        (lambda: TrainingConfig(learning_rate=True), r"training.learning_rate = True: must be a finite"),
        (
            lambda: TrainingConfig(deterministic="yes"),
            r"training.deterministic = 'yes': must be True or False",
        ),
        (
            lambda: TrainingConfig(batch_size=2**32),
            r"training.batch_size = 4294967296: must be <= 16,777,216",
        ),
        (lambda: TrainingConfig(steps=10**13), r"training.steps = 10000000000000: must be <= 1,000,000,000"),
        (lambda: TrainingConfig(future_events=2 * 10**9), r"training.future_events = 2000000000: must be <="),
        (lambda: ModelConfig(width=10**9), r"model.width = 1000000000: must be <= 65,536"),
        (lambda: ObjectiveConfig(positions=10**11), r"objective.positions = 100000000000: must be <= 65,536"),
        (lambda: ObjectiveConfig(sketch_width=2**32), r"objective.sketch_width = 4294967296: must be <="),
        (lambda: PinSageConfig(walkers=2 * 10**9), r"pinsage.walkers = 2000000000: must be <= 1,000,000"),
        (lambda: PinSageConfig(seed=-1), r"pinsage.seed = -1: must be in 0..2\^32 - 1"),
        (lambda: EvaluationConfig(cutoffs=(10, 10**8)), r"evaluation.cutoffs = .*: must be <= 10,000"),
        (lambda: EvaluationConfig(cutoffs=(10, "50")), r"evaluation.cutoffs = .*each of it a whole number"),
        (lambda: EvaluationConfig(seed=10**20), r"evaluation.seed = 1\d*: must be in 0..2\^32 - 1"),
        (lambda: DataConfig(shards=100_000), r"data.shards = 100000: must be <= 4,096"),
        (lambda: DataConfig(evaluation_days=1e308), r"data.evaluation_days = 1e\+308: must be <= 36,500"),
        (
            lambda: DataConfig(events=(Path("a"),)),
            r"data.events = .*: must be a tuple, and each of it a text, 'a'",
        ),
        (lambda: DataConfig(prepared=Path("p")), r"data.prepared = PosixPath\('p'\): must be a text, 'p'"),
        (lambda: DataConfig(columns={"user": "u"}), r"data.columns = .*: must be a ColumnsConfig\(...\)"),
        (lambda: DataConfig(positives=("like",)), r"data.positives = .*each of it a PositiveRule\(...\)"),
        (lambda: DataConfig(memory_limit="-1GB"), r"data.memory_limit = '-1GB': must be a size, such as 2GB"),
        (lambda: DataConfig(memory_limit="0.0GB"), r"data.memory_limit = '0.0GB': must be a size"),
        (lambda: ColumnsConfig(user=3), r"data.columns.user = 3: must be a text"),
        (lambda: ColumnsConfig(user=" "), r"data.columns.user = ' ': name the log's column"),
        (lambda: ItemsConfig(id=""), r"items.id = '': name the item table's column"),
        (lambda: Config(data={}), r"data = {}: must be a DataConfig\(...\)"),
        (lambda: Config(name=3), r"name = 3: must be a text"),
        (lambda: TrainingConfig(steps=1e4), r"training.steps = 10000.0: must be a whole number"),
        (lambda: TrainingConfig(weight_decay=-1), r"training.weight_decay"),
        (lambda: TrainingConfig(learning_rate="fast"), r"training.learning_rate = 'fast': must be a finite"),
    ],
)
def test_errors_name_the_field_and_the_cure(build, names):
    with pytest.raises(ValueError, match=names):
        build()


@pytest.mark.parametrize("limit", ["2GB", "0.5 GiB", "100mb", "80%"])
def test_sizes_of_memory(limit):
    assert DataConfig(memory_limit=limit).memory_limit == limit
