"""Model FLOPs of each part of a train step, and the bytes that its matmuls must move.

A matmul [m, k] @ [k, n] has 2 m k n FLOPs. By the convention of MFU only matmuls count; norms, softmax, GELU,
the optimiser and sampling do not. A causal position attends to half of the others on average, so attention
counts half of the square, whatever an implementation computes. Padding counts like real actions, because
shapes are fixed.

The backward pass of `y = x W` is two such matmuls, the gradients of x and of W: twice the forward pass.
Where x is data (the action features, the items' vectors) its gradient is not needed: once.

B users, T actions, P positions (min(P, T) are drawn), H width, L blocks, D output, N negatives.
"""

from __future__ import annotations

from typing import NamedTuple

from pinnerformer_jax.config import Config
from pinnerformer_jax.model.features import ABSOLUTE_PERIODS, RELATIVE_PERIODS
from pinnerformer_jax.model.towers import Sizes

TIME_FEATURES = 2 * (len(ABSOLUTE_PERIODS) + 2 * len(RELATIVE_PERIODS)) + 4
"""Cosines and sines of three times, and four logs."""


class Part(NamedTuple):
    """One part of the step."""

    name: str
    forward: float  # FLOPs
    backward: float
    bytes: float  # read or written by the forward pass's matmuls, each operand and result once

    @property
    def flops(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward


def negatives(config: Config) -> int:
    """N, the pool's size: in-batch negatives are at most the batch's pairs."""
    objective = config.objective
    pairs = config.training.batch_size * positions(config)
    return min(objective.in_batch_negatives, pairs) + objective.random_negatives


def positions(config: Config) -> int:
    """P: positions that are drawn, at most T."""
    return min(config.objective.positions, config.model.max_length)


def step_parts(config: Config, sizes: Sizes) -> list[Part]:
    """The parts of one step over the global batch.

    Raises:
        ValueError: the objective or the loss is not the paper's, whose FLOPs these are.
    """
    objective = config.objective
    if (objective.name, objective.loss) != ("dense_all_action", "sampled_softmax"):
        raise ValueError(
            f"objective.name = {objective.name!r}, objective.loss = {objective.loss!r}: benchmarks count "
            "the FLOPs of 'dense_all_action' with 'sampled_softmax'; set these"
        )
    model, users = config.model, config.training.batch_size
    length, width, layers, output = model.max_length, model.width, model.layers, model.output_dim
    chosen, pool = users * positions(config), negatives(config)  # rows
    tokens = users * length
    number = 2 if model.compute_dtype == "bfloat16" else 4  # bytes

    def linear(rows: int, inputs: int, outputs: int) -> tuple[float, float]:
        moved = rows * inputs + inputs * outputs + rows * outputs
        return 2.0 * rows * inputs * outputs, float(number * moved)

    def attention(queries: int) -> tuple[float, float]:
        """Scores and mixture of `queries` of each user's positions, half of the keys each."""
        moved = number * 2 * users * (queries + length) * width
        return 2 * (2.0 * users * queries * length * width) / 2, float(moved)

    def part(name: str, *terms: tuple[float, float], data_terms: int = 0) -> Part:
        """The first `data_terms` have data as their input."""
        forward = sum(flops for flops, _ in terms)
        of_data = sum(flops for flops, _ in terms[:data_terms])
        return Part(name, forward, 2 * forward - of_data, sum(moved for _, moved in terms))

    full = layers - 1  # the last block computes only what the chosen positions need
    names = linear(sizes.actions, model.action_dim, width), linear(sizes.surfaces, model.surface_dim, width)
    features = linear(tokens, sizes.item_dim, width), linear(tokens, TIME_FEATURES, width)
    items = chosen + pool
    return [
        part("input projection", *features, *names, data_terms=2),
        part(
            "QKV",
            *[linear(tokens, width, 3 * width)] * full,
            linear(tokens, width, 2 * width),
            linear(chosen, width, width),
        ),
        part("attention", *[attention(length)] * full, attention(positions(config))),
        part("output projection", *[linear(tokens, width, width)] * full, linear(chosen, width, width)),
        part(
            "FFN",
            *[linear(tokens, width, 4 * width), linear(tokens, 4 * width, width)] * full,
            linear(chosen, width, 4 * width),
            linear(chosen, 4 * width, width),
        ),
        part("head", linear(chosen, width, 2 * width), linear(chosen, 2 * width, output)),
        part(
            "item tower",
            linear(items, sizes.item_dim, model.item_hidden),
            linear(items, model.item_hidden, output),
            data_terms=1,
        ),
        _logits(chosen, pool, output),
    ]


def _logits(rows: int, pool: int, output: int) -> Part:
    """Logits are float32 in every compute dtype. A chunk's logits are used where they are computed, so they
    do not count as moved."""
    forward = 2.0 * rows * pool * output + 2.0 * rows * output
    return Part("logits", forward, 2 * forward, 4.0 * output * (2 * rows + pool))


def step_flops(config: Config, sizes: Sizes) -> float:
    """Model FLOPs of one step, forward and backward."""
    return sum(part.flops for part in step_parts(config, sizes))
