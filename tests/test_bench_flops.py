"""The formula against XLA's own count of the compiled program."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from pinnerformer_jax.bench import flops, workload
from pinnerformer_jax.bench.loss import inputs
from pinnerformer_jax.config import Config, ModelConfig, ObjectiveConfig, TrainingConfig
from pinnerformer_jax.model.attention import QUERY_BLOCK
from pinnerformer_jax.model.pinnerformer import PinnerFormer
from pinnerformer_jax.objective.loss import sampled_softmax

ITEMS = 50


def config(**model) -> Config:
    return Config(
        model=ModelConfig(
            **{"layers": 2, "width": 128, "heads": 2, "max_length": 64, "output_dim": 64, "item_hidden": 128}
            | model
        ),
        objective=ObjectiveConfig(positions=16, random_negatives=256, in_batch_negatives=128),
        training=TrainingConfig(batch_size=16, future_events=8),
    )


SMALL = config()
MEDIUM = config(layers=3, width=256, heads=4, max_length=192, output_dim=128, item_hidden=256)


def expected(parts: list[flops.Part], model: ModelConfig, users: int, chosen: int) -> tuple[float, float]:
    """(forward, backward) of what the program computes: the formula, but for attention. That counts half of
    the square; blocks of queries leave out only what lies beyond the block's end, and chosen positions
    look at every key behind a mask."""
    length = model.max_length
    block = min(QUERY_BLOCK, length)
    pairs = sum(block * min(start + block, length) for start in range(0, length, block))
    attention = 4.0 * users * model.width * ((model.layers - 1) * pairs + chosen * length)
    forward = sum(part.forward for part in parts if part.name != "attention") + attention
    backward = sum(part.backward for part in parts if part.name != "attention") + 2 * attention
    return forward, backward


@pytest.mark.slow
@pytest.mark.parametrize("case", [SMALL, MEDIUM])
def test_formula_equals_xlas_count(case):
    """XLA counts what is no matmul too (softmax, GELU, norms, waves and their gradients): 1 to 2.2 % here,
    less the wider the model. Never fewer than the matmuls, so the formula is a lower bound."""
    batch = jax.tree.map(jnp.asarray, workload.make_batch(case, workload.lengths("full", case), ITEMS))
    features = jnp.asarray(workload.make_features(ITEMS))
    facts = inputs(case, ITEMS)[4:]
    rows, pool, _ = facts
    users, chosen = case.training.batch_size, flops.positions(case)
    position = jnp.broadcast_to(jnp.arange(chosen, dtype=jnp.int32), (users, chosen))
    graphdef, params = PinnerFormer(case, workload.SIZES).split()

    def loss(params):
        model = nnx.merge(graphdef, params)
        embedding = model.user(batch.history, batch.length, position, features)
        return sampled_softmax(
            embedding.reshape(len(rows.item), -1),
            model.embed_items(features[rows.item]),
            model.embed_items(features[pool.item]),
            model.temperature(),
            *facts,
        )

    def count(function):
        return jax.jit(function).lower(params).compile().cost_analysis()["flops"]

    forward, backward = expected(flops.step_parts(case, workload.SIZES), case.model, users, chosen)
    assert 1.0 <= count(loss) / forward < 1.03
    assert 1.0 <= count(jax.value_and_grad(loss)) / (forward + backward) < 1.05


def test_the_papers_size():
    """Per user 19.8 GFLOP forward with the last block pruned, logits 0.22, item tower about 10 a step."""
    parts = {part.name: part for part in flops.step_parts(Config(), workload.SIZES)}
    assert flops.negatives(Config()) == 13_192
    users = Config().training.batch_size
    tower = sum(part.forward for name, part in parts.items() if name not in ("logits", "item tower"))
    assert tower / users == pytest.approx(19.8e9, rel=0.02)
    assert parts["logits"].forward / users == pytest.approx(0.22e9, rel=0.02)
    pool = 13_192 * 2 * (256 * 768 + 768 * 256)
    assert parts["item tower"].forward == pytest.approx(pool * (1 + 512 * 32 / 13_192))
    assert flops.step_flops(Config(), workload.SIZES) / users == pytest.approx(60e9, rel=0.03)


def test_another_objective_is_refused():
    other = dataclasses.replace(SMALL, objective=ObjectiveConfig(name="next_action"))
    with pytest.raises(ValueError, match=r"objective\.name = 'next_action'"):
        flops.step_flops(other, workload.SIZES)


def test_small_batches_have_no_more_in_batch_negatives_than_pairs():
    few = dataclasses.replace(SMALL, training=TrainingConfig(batch_size=2))
    assert flops.negatives(few) == 2 * 16 + 256
    short = config(max_length=8)
    assert flops.positions(short) == 8
