"""Causal attention alone, forward and backward: the config's choice, cuDNN, XLA and blocks."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pinnerformer_jax.bench.report import table
from pinnerformer_jax.bench.timing import alternate, keep_heap_of, temporary_bytes
from pinnerformer_jax.config import Config
from pinnerformer_jax.model.attention import WAYS, causal_attention, compiles


def measure(config: Config, *, seconds: float) -> dict[str, Any]:
    """Time and temporary memory at the config's [B, T, heads, H / heads], in its compute dtype."""
    model = config.model
    shape = (config.training.batch_size, model.max_length, model.heads, model.width // model.heads)
    # By NumPy: XLA on CPU (jax 0.11.2) took over a minute to compile `jax.random.normal` of some shapes.
    numbers = np.random.default_rng(0).standard_normal((4, *shape), np.float32)
    query, key, value, outward = (jnp.asarray(part, model.compute_dtype) for part in numbers)
    ways = {"model": partial(causal_attention, attention=model.attention)}
    for name, way in WAYS.items():
        here = name != "cudnn" or jax.default_backend() == "gpu"
        if here and (name == "blocks" or compiles(name, shape, model.compute_dtype)):
            ways[name] = way

    def compiled(attention: Any) -> jax.stages.Compiled:
        def run(query: jax.Array, key: jax.Array, value: jax.Array, outward: jax.Array) -> tuple:
            mixed, backward = jax.vjp(attention, query, key, value)
            return mixed, backward(outward)

        return jax.jit(run).lower(query, key, value, outward).compile()

    programs = {name: compiled(attention) for name, attention in ways.items()}
    keep_heap_of(programs.values())
    results = {name: run(query, key, value, outward)[0] for name, run in programs.items()}
    timings = alternate(
        {name: partial(run, query, key, value, outward) for name, run in programs.items()}, seconds
    )
    # Two matmuls forward; four backward (of scores and values, each by two); half of the square.
    flops = 6 * 2.0 * shape[0] * shape[1] ** 2 * model.width / 2
    return {
        "shape": list(shape),
        "dtype": model.compute_dtype,
        "ways": {
            name: {
                **timings[name].milliseconds(),
                "tflops_per_second": flops / timings[name].median / 1e12,
                "time_of_model": timings[name].median / timings["model"].median,
                "temporary_bytes": temporary_bytes(programs[name]),
                "largest_difference": float(
                    jnp.max(jnp.abs((results[name] - results["model"]).astype(jnp.float32)))
                ),
            }
            for name in programs
        },
    }


def show(figures: dict[str, Any]) -> None:
    """A line a way."""
    table(
        f"Causal attention, forward and backward: {figures['shape']} {figures['dtype']}",
        ("way", "ms", "of model's", "TFLOP/s", "temp MiB"),
        [
            [name, way["ms"], way["time_of_model"], way["tflops_per_second"], way["temporary_bytes"] / 2**20]
            for name, way in figures["ways"].items()
        ],
    )
