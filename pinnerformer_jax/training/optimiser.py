"""AdamW, warmed up, then cosine to zero, with clipped gradients."""

from __future__ import annotations

from typing import Any

import jax
import optax

from pinnerformer_jax.config import TrainingConfig


def learning_rate(config: TrainingConfig) -> optax.Schedule:
    """Linear warm-up over `warmup_share` of the steps, then cosine to zero at the last."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=min(round(config.warmup_share * config.steps), config.steps - 1),
        decay_steps=config.steps,
    )


def make_optimiser(config: TrainingConfig) -> optax.GradientTransformation:
    """Clipping by the global norm, then AdamW with the schedule of `learning_rate`."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(learning_rate(config), weight_decay=config.weight_decay, mask=_decayed),
    )


def _decayed(params: Any) -> Any:
    """Weight decay applies to matrices and tables, not to vectors and scalars (biases, norms, phases,
    temperature)."""
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)
