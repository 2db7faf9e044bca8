import dataclasses
from pathlib import Path

import pytest

from pinnerformer_jax.config import (
    Config,
    DataConfig,
    EvaluationConfig,
    ItemsConfig,
    ModelConfig,
    ObjectiveConfig,
    PinSageConfig,
    PositiveRule,
    TrainingConfig,
    differences,
    digest,
    from_dict,
    load_config,
    to_dict,
)

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (lambda: ModelConfig(width=100, heads=8), r"model.width = 100: must be a multiple of heads = 8"),
        (lambda: ModelConfig(layers=0), r"model.layers = 0: must be >= 1"),
        (
            lambda: ObjectiveConfig(sketch_width=1000),
            r"objective.sketch_width = 1000: must be a power of two",
        ),
        (lambda: ObjectiveConfig(random_negatives=0, in_batch_negatives=0), r"need at least one negative"),
        (lambda: ObjectiveConfig(initial_temperature=0.01), r"objective.initial_temperature"),
        (lambda: ObjectiveConfig(horizon_days=0), r"objective.horizon_days"),
        (lambda: ObjectiveConfig(sketch_decay=1.5), r"objective.sketch_decay"),
        (lambda: ObjectiveConfig(name="bert"), r"objective.name = 'bert': must be one of \('dense_all"),
        (lambda: ObjectiveConfig(logq=False, refined_logq=True), r"objective.refined_logq .* needs"),
        (lambda: ObjectiveConfig(pool="separate", random_negatives=0), r"objective.pool = 'separate': needs"),
        (lambda: ObjectiveConfig(target_actions="like"), r"objective.target_actions = 'like': a tuple"),
        (lambda: ModelConfig(drop_features=("items",)), r"model.drop_features = \('items',\): a tuple of"),
        (
            lambda: ModelConfig(
                drop_features=("item", "action", "surface", "duration", "absolute_time", "relative_time")
            ),
            r"one besides position must stay",
        ),
        (lambda: PinSageConfig(loss="hinge"), r"pinsage.loss = 'hinge': must be one of"),
        (lambda: PinSageConfig(hard_negatives=-1), r"pinsage.hard_negatives = -1: must be >= 0"),
        (lambda: PinSageConfig(session_hours=-1), r"pinsage.session_hours = -1: must be >= 0"),
        (lambda: PinSageConfig(numbers="price"), r"pinsage.numbers = 'price': a tuple"),
        (lambda: PinSageConfig(neighbours=0), r"pinsage.neighbours = 0: must be >= 1"),
        (lambda: PinSageConfig(restart=1.0), r"pinsage.restart = 1.0: must be in \[0, 1\)"),
        (lambda: PinSageConfig(window_days=0), r"pinsage.window_days = 0: must be > 0"),
        (lambda: TrainingConfig(batch_size=0), r"training.batch_size = 0"),
        (lambda: TrainingConfig(warmup_share=1.0), r"training.warmup_share"),
        (lambda: TrainingConfig(learning_rate=-1.0), r"training.learning_rate"),
        (lambda: TrainingConfig(seed=-1), r"training.seed = -1"),
        (lambda: DataConfig(evaluation_share=1.2), r"data.evaluation_share = 1.2: a share"),
        (lambda: DataConfig(evaluation_share=0.6, validation_share=0.5), r"no user is left to train"),
        (lambda: DataConfig(positives=()), r"data.positives"),
        (lambda: DataConfig(evaluation_days=-1), r"data.evaluation_days"),
        (lambda: DataConfig(events="log.parquet"), r"data.events = 'log.parquet': a tuple"),
        (
            lambda: DataConfig(sequence_actions=("view",), positives=(PositiveRule(action="like"),)),
            r"data.positives = 'like': is not in data.sequence_actions",
        ),
        (lambda: PositiveRule(min_duration=-3), r"data.positives.min_duration"),
        (lambda: ItemsConfig(title="name"), r"items.table = '': name the table"),
        (lambda: EvaluationConfig(cutoffs=()), r"evaluation.cutoffs"),
    ],
)
def test_errors_name_the_field_and_the_cure(build, names):
    with pytest.raises(ValueError, match=names):
        build()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_explains_itself_and_survives_json(path):
    config = load_config(path)
    assert from_dict(to_dict(config)) == config
    assert "train.py" in path.read_text(encoding="utf-8").split('"""')[1], "docstring lacks its command"


def test_unknown_settings_are_named():
    values = to_dict(Config())
    values["model"]["depth"] = 3
    with pytest.raises(ValueError, match=r"model.depth = 3: no such setting"):
        from_dict(values)


def test_differences_and_digest():
    old = Config()
    new = dataclasses.replace(old, model=ModelConfig(layers=2))
    assert differences(to_dict(old), to_dict(new)) == ["model.layers: 6 -> 2"]
    assert digest(old) == digest(Config())
    assert digest(old) != digest(new)


def test_missing_and_empty_config_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such config file"):
        load_config(tmp_path / "none.py")
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="must define `config = Config"):
        load_config(tmp_path / "empty.py")
