"""Attention of the paper's size on a GPU: cuDNN beside the kernels that come with JAX and with Tokamax.

    python -m benchmarks.attention_libraries OUT.json [USERS]

Forward, and forward and backward, of one layer in bfloat16, T = 256, with 8 heads of 96 and 6 of 128: the
times of twenty calls in one go, five times, and the relative difference from cuDNN's results. A kernel that
does not run is in the file with its error. Tokamax is measured if it is installed.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.gpu import attention as pallas

Attention = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

BLOCKS = {
    "128/64 dkv 64x64 dq 64x64, 4 warps": ((128, 64, 64, 64, 64, 64), 4, 2),
    "64/64 dkv 64x32 dq 64x32, 4 warps": ((64, 64, 64, 32, 32, 64), 4, 2),
    "128/64 dkv 64x64 dq 64x64, 8 warps": ((128, 64, 64, 64, 64, 64), 8, 2),
    "128/64 dkv 128x64 dq 128x64, 8 warps": ((128, 64, 128, 64, 64, 128), 8, 2),
    "64/64 dkv 64x64 dq 64x64, 4 warps, 1 stage": ((64, 64, 64, 64, 64, 64), 4, 1),
    "128/128 dkv 128x32 dq 128x32, 8 warps": ((128, 128, 128, 32, 32, 128), 8, 2),
}
"""Block sizes of query, keys, and of both backward kernels; warps; stages."""


def ways() -> dict[str, Attention]:
    """By name; cuDNN is first."""
    found: dict[str, Attention] = {
        "cudnn": functools.partial(jax.nn.dot_product_attention, is_causal=True, implementation="cudnn")
    }
    try:
        import tokamax
    except ImportError:
        print("Tokamax is not installed")
    else:
        for kind in ("mosaic", "triton"):
            found[f"tokamax {kind}"] = functools.partial(
                tokamax.dot_product_attention, is_causal=True, implementation=kind
            )
    for name, (sizes, warps, stages) in BLOCKS.items():
        blocks = pallas.BlockSizes(**dict(zip(_FIELDS, sizes, strict=True)))
        found[f"pallas {name}"] = functools.partial(_pallas, blocks=blocks, warps=warps, stages=stages)
    return found


_FIELDS = ("block_q", "block_k", "block_kv_dkv", "block_q_dkv", "block_kv_dq", "block_q_dq")


def _pallas(
    query: jax.Array, key: jax.Array, value: jax.Array, *, blocks: Any, warps: int, stages: int
) -> jax.Array:
    return pallas.mha(
        query, key, value, None, sm_scale=query.shape[-1] ** -0.5, causal=True, block_sizes=blocks,
        num_warps=warps, num_stages=stages,
    )  # fmt: skip


def measure(way: Attention, arrays: list[jax.Array]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Times, and the results for the first four users: output and three gradients."""

    def both(query: jax.Array, key: jax.Array, value: jax.Array, outward: jax.Array) -> tuple[jax.Array, ...]:
        mixed, backward = jax.vjp(way, query, key, value)
        return mixed, *backward(outward)

    forward = jax.jit(way).lower(*arrays[:3]).compile()
    whole = jax.jit(both).lower(*arrays).compile()
    results = [np.asarray(array[:4].astype(jnp.float32)) for array in whole(*arrays)]
    return {"forward_ms": _times(forward, arrays[:3]), "both_ms": _times(whole, arrays)}, results


def _times(run: Callable[..., Any], arrays: list[jax.Array]) -> list[float]:
    jax.block_until_ready([run(*arrays) for _ in range(3)])
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(20):
            result = run(*arrays)
        jax.block_until_ready(result)
        taken.append((time.perf_counter() - started) / 20 * 1e3)
    return sorted(taken)


def main() -> None:
    """Measure all, and write the file after each."""
    out, users = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 512
    found: dict[str, Any] = {}
    for heads in (8, 6):
        shape, wanted = (users, 256, heads, 768 // heads), None
        keys = jax.random.split(jax.random.key(0), 4)
        arrays = [jax.random.normal(key, shape, jnp.bfloat16) for key in keys]
        for name, way in ways().items():
            try:
                row, results = measure(way, arrays)
            except Exception as error:  # each library raises its own kind
                row = {"error": str(error)[:300]}
            else:
                wanted = wanted or results
                row["errors"] = [
                    float(np.linalg.norm(a - b) / np.linalg.norm(b))
                    for a, b in zip(results, wanted, strict=True)
                ]
            found[f"{name}, {heads} heads"] = row
            print(name, heads, {key: value for key, value in row.items() if key != "errors"}, flush=True)
            out.write_text(json.dumps({"device": jax.devices()[0].device_kind, "figures": found}, indent=1))


if __name__ == "__main__":
    main()
