"""Does this device compute what the CPU computes? Loss, gradients, attention, and a run that is resumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from pinnerformer_jax.bench import workload
from pinnerformer_jax.bench.compile import seen_as
from pinnerformer_jax.bench.report import table
from pinnerformer_jax.config import Config
from pinnerformer_jax.model.attention import WAYS, compiles, in_blocks
from pinnerformer_jax.training.sharding import AXIS, replicate, shard_batch
from pinnerformer_jax.training.state import create
from pinnerformer_jax.training.step import make_gradient

Arrays = Mapping[str, np.ndarray]

KINDS = ("gradients", "attention", "resume")

GRADIENTS = {
    "float32, highest precision": ("float32", "highest", 1e-5, 2e-3),
    "float32": ("float32", None, 2e-3, 2e-2),
    "bfloat16": ("bfloat16", None, 2e-2, 1e-1),
}
"""Compute dtype, precision of matrix products (None: the device's default, TF32 on a recent GPU), and the
tolerances of the loss and of the worst gradient, relative."""

ATTENTION_TOLERANCE = 2e-2
RESUME_STEPS = 3
RESUME_TOLERANCE = 1e-2


def gradient_errors(got: Arrays, wanted: Arrays) -> dict[str, float]:
    """By parameter, |got - wanted| over the larger of |wanted| and a hundredth of the whole gradient's norm.
    A gradient that nearly cancels is thus judged by its effect on the step."""
    least = 0.01 * float(np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in wanted.values())))
    return {
        name: float(np.linalg.norm(got[name] - wanted[name]) / max(np.linalg.norm(wanted[name]), least))
        for name in wanted
    }


def named(tree: Any) -> dict[str, np.ndarray]:
    """Leaves by path, such as user/blocks/0/query/kernel."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def measure(config: Config, *, items: int, only: Sequence[str] = tuple(KINDS)) -> dict[str, Any]:
    """Run the checks: error, tolerance and result of each.

    Args:
        config: sizes; small ones are enough.
        items: in the catalogue.
        only: which of KINDS to run.
    """
    of_kind = {
        "gradients": partial(_gradients, config, items),
        "attention": partial(_attention, config),
        "resume": partial(_resumed, config, items),
    }
    checks = [check for kind in only for check in of_kind[kind]()]
    return {"passed": all(check["passed"] for check in checks), "checks": checks}


def _gradients(config: Config, items: int) -> list[dict[str, Any]]:
    here, cpu = jax.devices()[0], jax.devices("cpu")[0]
    wanted_loss, wanted = _gradient(config, cpu, "float32", "highest", items)
    checks = []
    for name, (dtype, precision, loss_tolerance, tolerance) in GRADIENTS.items():
        loss, gradient = _gradient(config, here, dtype, precision, items)
        errors = gradient_errors(gradient, wanted)
        worst = max(errors, key=lambda name: np.nan_to_num(errors[name], nan=np.inf))
        off = abs(loss / wanted_loss - 1)
        checks += [
            _check(f"loss, {name}", off, loss_tolerance),
            _check(f"worst gradient, {name} ({worst})", errors[worst], tolerance),
        ]
    return checks


def _gradient(
    config: Config, device: jax.Device, dtype: str, precision: str | None, items: int
) -> tuple[float, Arrays]:
    """Loss and gradient of the config's first step on one device, from the same parameters on each."""
    model = dataclasses.replace(config.model, compute_dtype=dtype, aligned_start=False)
    config = dataclasses.replace(config, model=model)
    mesh = Mesh(np.array([device]), (AXIS,))
    cpu = jax.devices("cpu")[0]
    with jax.default_device(cpu):
        graphdef, state = create(config, workload.SIZES._replace(items=items))
    batch = workload.make_batch(config, workload.lengths("uniform", config), items)
    with seen_as("cuda" if device.platform == "gpu" else device.platform, ahead=False):
        tables = workload.make_tables(config, mesh, items)
        with jax.default_matmul_precision(precision or "default"):
            run = make_gradient(config, graphdef, mesh, items)
            loss, gradient = run(replicate(mesh, jax.device_get(state)), shard_batch(mesh, batch), tables)
            return float(loss), named(gradient)


def _attention(config: Config) -> list[dict[str, Any]]:
    """Each implementation in bfloat16 against blocks in float32, forward and backward."""
    model = config.model
    shape = (8, model.max_length, model.heads, model.width // model.heads)
    numbers = np.random.default_rng(0).standard_normal((4, *shape), np.float32)
    arrays = [jnp.asarray(part, jnp.bfloat16) for part in numbers]

    def run(way: Any, dtype: str) -> list[np.ndarray]:
        query, key, value, outward = (array.astype(dtype) for array in arrays)

        @jax.jit
        def forward_and_backward(outward: jax.Array, *inputs: jax.Array) -> tuple[jax.Array, ...]:
            mixed, backward = jax.vjp(way, *inputs)
            return mixed, *backward(outward)

        results = forward_and_backward(outward, query, key, value)
        return [np.asarray(values.astype(jnp.float32)) for values in results]

    with jax.default_matmul_precision("highest"):
        wanted = run(in_blocks, "float32")
    checks = []
    for name, way in WAYS.items():
        if name == "cudnn" and (jax.default_backend() != "gpu" or not compiles(name, shape, "bfloat16")):
            continue
        got = run(way, "bfloat16")
        error = max(
            float(np.linalg.norm(g - w) / np.linalg.norm(w)) for g, w in zip(got, wanted, strict=True)
        )
        checks.append(_check(f"attention by {name}, bfloat16, and its gradients", error, ATTENTION_TOLERANCE))
    return checks


def _resumed(config: Config, items: int) -> list[dict[str, Any]]:
    """Parameters after some steps, compared with those of the same steps repeated, and of the same steps with
    the state copied to the host and back half-way."""
    checks = []
    for deterministic in (False, True) if jax.default_backend() == "gpu" else (False,):
        if deterministic:  # which needs attention without cuDNN
            training = dataclasses.replace(config.training, deterministic=True)
            model = dataclasses.replace(config.model, attention="blocks")
            config = dataclasses.replace(config, training=training, model=model)
        work = workload.prepare(config, "uniform", items, devices=1)
        first = jax.device_get(work.state)

        def after(*, brought_over: bool, work: Any = work, first: Any = first) -> Arrays:
            work.state = replicate(work.mesh, first)
            for _ in range(RESUME_STEPS):
                work()
            if brought_over:
                work.state = replicate(work.mesh, jax.device_get(work.state))
            for _ in range(RESUME_STEPS):
                work()
            return named(work.state.params)

        unbroken = after(brought_over=False)
        tolerance = 0.0 if deterministic or jax.default_backend() == "cpu" else RESUME_TOLERANCE
        word = ", deterministic" if deterministic else ""
        for name, brought_over in ((f"run again{word}", False), (f"run resumed{word}", True)):
            other = after(brought_over=brought_over)
            checks.append(_check(name, max(gradient_errors(other, unbroken).values()), tolerance))
    return checks


def _check(name: str, error: float, tolerance: float) -> dict[str, Any]:
    return {"check": name, "error": float(error), "tolerance": tolerance, "passed": bool(error <= tolerance)}


def show(figures: dict[str, Any]) -> None:
    """Print a line for each check."""
    table(
        f"This device ({jax.devices()[0].device_kind}) against the CPU",
        ("check", "error", "tolerance", "passed"),
        [
            [c["check"], f"{c['error']:.1e}", f"{c['tolerance']:.0e}", "yes" if c["passed"] else "NO"]
            for c in figures["checks"]
        ],
    )
