"""The variants of the train step that `torch_rival` compares, and their check against our float32 step."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from benchmarks import problem
from benchmarks.problem import Arrays, Size, Step
from pinnerformer_jax.bench.correctness import gradient_errors

CHECK_STEPS = 3
TOLERANCE = {"float32": (1e-4, 2e-3, 1e-3), "bfloat16": (2e-2, 1e-1, 3e-2)}
"""Relative, of the loss, of each gradient, of the loss after CHECK_STEPS updates."""


class Variant(NamedTuple):
    """One way to run the step."""

    framework: str  # ours, ours whole, torch
    pruned: bool = True
    compiled: bool = False
    instead_of: str = ""  # torch.compile without `inplace_buffers`, where it is wrong with them


VARIANTS = {
    "ours": Variant("ours"),
    "ours, whole step": Variant("ours whole"),
    "torch eager": Variant("torch"),
    "torch compiled": Variant("torch", compiled=True),
    "torch compiled, no inplace": Variant("torch", compiled=True, instead_of="torch compiled"),
    "ours, unpruned": Variant("ours", pruned=False),
    "torch eager, unpruned": Variant("torch", pruned=False),
    "torch compiled, unpruned": Variant("torch", pruned=False, compiled=True),
    "torch compiled, no inplace, unpruned": Variant(
        "torch", pruned=False, compiled=True, instead_of="torch compiled, unpruned"
    ),
}
"""torch.compile 2.13 gave wrong gradients with a correct loss on CPU. With `inplace_buffers=False` they are
right; that variant is run where the check rejects the default."""


class Wrong(Exception):
    """A variant computes something else than the reference."""


def check(
    loss: float, gradient: Arrays, later_loss: float, wanted: tuple[float, Arrays, float], dtype: str
) -> str:
    """One line on how far a variant is from the reference.

    Raises:
        Wrong: too far.
    """
    errors = gradient_errors(gradient, wanted[1])
    worst = max(errors, key=lambda name: np.nan_to_num(errors[name], nan=np.inf))
    found = (abs(loss / wanted[0] - 1), errors[worst], abs(later_loss / wanted[2] - 1))
    bad = [name for name, error in errors.items() if not error <= TOLERANCE[dtype][1]]
    line = f"loss {found[0]:.0e}, worst gradient {found[1]:.0e} ({worst}), loss later {found[2]:.0e}"
    if not all(error <= limit for error, limit in zip(found, TOLERANCE[dtype], strict=True)):
        raise Wrong(f"{line}; {len(bad)} of {len(errors)} gradients are off")
    return line


def torch_side(
    variant: Variant, size: Size, dtype: str, inputs: Arrays, params: Arrays
) -> tuple[float, Arrays, Step]:
    """(loss, gradients, step) of the rival."""
    import torch

    from benchmarks import torch_model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    config = problem.make_config(size, dtype)
    model = torch_model.PinnerFormer(
        config.model,
        size.of_data(),
        config.objective.min_temperature,
        pruned=variant.pruned,
        autocast=dtype == "bfloat16",
    )
    torch_model.copy_weights(model, params)
    model.to(device)
    tensors = {
        name: torch.from_numpy(v.astype(np.int64) if name in ("position", "action", "surface") else v)
        for name, v in inputs.items()
    }
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    loss_of = model
    if variant.compiled:
        options = {"inplace_buffers": False} if variant.instead_of else None
        loss_of = torch.compile(model, fullgraph=True, dynamic=False, options=options)
    loss = loss_of(tensors)
    loss.backward()
    gradient = torch_model.gradients(model)

    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    training = config.training
    optimiser = torch.optim.AdamW(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
        lr=training.learning_rate,
        weight_decay=training.weight_decay,
        fused=True,
    )

    def run() -> Any:
        optimiser.zero_grad(set_to_none=True)
        loss = loss_of(tensors)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm, foreach=True)
        optimiser.step()
        return loss.detach()

    return loss.item(), gradient, run


def our_side(variant: Variant, size: Size, dtype: str, inputs: Arrays) -> tuple[float, Arrays, Step]:
    """(loss, gradients, step) of ours."""
    config = problem.make_config(size, dtype)
    graphdef, params = problem.make_params(config, size)
    loss, gradient = problem.our_gradients(graphdef, params, inputs, pruned=variant.pruned)
    return loss, gradient, problem.our_step(config, graphdef, params, inputs, pruned=variant.pruned)


def reference(size: Size, inputs: Arrays) -> tuple[float, Arrays, float]:
    """Ours in float32 at full precision: loss, gradients, loss after CHECK_STEPS updates."""
    import jax

    with jax.default_matmul_precision("highest"):
        loss, gradient, run = our_side(VARIANTS["ours"], size, "float32", inputs)
        return loss, gradient, [float(run()) for _ in range(CHECK_STEPS + 1)][-1]
