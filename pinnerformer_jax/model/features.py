"""One vector an action: item, action type, surface, duration and three time values (paper, "input").

The paper concatenates all of it and applies one Linear. Here the Linear's kernel is one parameter, so that
it is initialised as one, and it is applied source by source, without the concatenation. Tables are
multiplied before they are looked up. The learned phases of Time2vec are rotated into the kernel instead of
into every token (`cos(a + phi) = cos a cos phi - sin a sin phi`).
"""

from __future__ import annotations

from functools import reduce
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Integer

from pinnerformer_jax.config import ModelConfig
from pinnerformer_jax.data.contracts import DAY, EPOCH, Events

HOUR = 3600
ABSOLUTE_PERIODS = np.array(
    [HOUR // 4, HOUR // 2, HOUR, 2 * HOUR, 4 * HOUR, 8 * HOUR, 16 * HOUR, DAY, 7 * DAY, 28 * DAY, 365 * DAY],
    np.int32,
)
"""Seconds; the paper's eleven."""

RELATIVE_PERIODS = np.unique(np.rint(np.geomspace(1, 28 * DAY, 32)).astype(np.int32))
"""Seconds; the paper's 32, log-spaced from one second to four weeks. Rounded to whole seconds, so that
the phase `t mod p` is exact integer arithmetic for any t."""

ONE_HOT_ROWS = 512
"""On an accelerator, a table of at most this many rows is looked up by a matrix product. For the paper's 256
positions that is half a percent of a step's FLOPs."""

_LOG_SCALE = 0.125
"""Our choice: brings logs of seconds (0 to 21) to the size of the other inputs."""


def angles(seconds: Int[Array, "b t"], periods: np.ndarray) -> Float[Array, "b t p"]:
    """2 pi (t mod p) / p for each period; exact for any int32 t, as the modulo is taken in integers. It is
    written as a division, because jax2onnx does not convert `jnp.mod` for a batch of any size (export.py)."""
    shape = (*seconds.shape, len(periods))
    time, period = (jnp.broadcast_to(of, shape) for of in (seconds[:, :, None], periods[None, None, :]))
    remainder = time - jax.lax.div(time, period) * period  # has the sign of t
    remainder = jnp.where(remainder < 0, remainder + period, remainder)
    return remainder.astype(jnp.float32) * (2 * np.pi / periods).astype(np.float32)[None, None, :]


def times(events: Events, length: Int[Array, " b"], *, strictly_causal: bool) -> tuple[jax.Array, ...]:
    """The paper's three time values of each action, int32 seconds [B, T]: absolute (since EPOCH), since
    the user's latest action, since the previous action.

    The second is the one input by which the end of the window reaches earlier positions; strictly causal
    training takes it as zero throughout.
    """
    absolute = events.time
    previous = jnp.concatenate([absolute[:, :1], absolute[:, :-1]], axis=1)
    if strictly_causal:
        before_latest = jnp.zeros_like(absolute)
    else:
        newest = jnp.maximum(length - 1, 0)[:, None]
        before_latest = jnp.take_along_axis(absolute, newest, axis=1) - absolute
    return absolute, before_latest, absolute - previous


def log_seconds(seconds: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """log(1 + t), scaled; 0 for negative t."""
    return jnp.log1p(jnp.maximum(seconds, 0.0)) * _LOG_SCALE


@runtime_checkable
class ItemVectors(Protocol):
    """The catalogue's vectors: an array [C, D], or a table that holds the rows in another way."""

    def __getitem__(self, ids: Int[Array, "*dims"], /) -> Float[Array, "*dims d"]:
        """Rows of the ids."""


class ActionEncoder(nnx.Module):
    """Actions [B, T] -> input of the Transformer [B, T, H].

    Args:
        config: sizes.
        item_dim: numbers of an item's feature vector.
        actions: size of the action vocabulary, the unknown (0) included.
        surfaces: likewise.
        rngs: of the initialisation.
    """

    def __init__(
        self, config: ModelConfig, item_dim: int, actions: int, surfaces: int, *, rngs: nnx.Rngs
    ) -> None:

        def uses(feature: str) -> bool:
            return feature not in config.drop_features

        self.item, self.action, self.surface = uses("item"), uses("action"), uses("surface")
        self.duration = uses("duration")
        self.absolute_time, self.relative_time = uses("absolute_time"), uses("relative_time")
        periods = self.absolute_time * len(ABSOLUTE_PERIODS) + self.relative_time * 2 * len(RELATIVE_PERIODS)
        self.sizes = (
            self.item * item_dim,
            self.action * config.action_dim,
            self.surface * config.surface_dim,
            periods,  # cosines
            periods,  # sines
            self.absolute_time + self.relative_time * 2 + self.duration,  # logs
        )
        self.strictly_causal = config.strictly_causal
        self.dtype = jnp.dtype(config.compute_dtype)
        init = nnx.initializers.lecun_normal()
        unit = nnx.initializers.normal(1.0)
        self.kernel = nnx.Param(init(rngs.params(), (sum(self.sizes), config.width), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(config.width))
        if periods:
            self.phase = nnx.Param(jnp.zeros(periods))
        if self.action:
            self.action_table = nnx.Param(unit(rngs.params(), (actions, config.action_dim), jnp.float32))
        if self.surface:
            self.surface_table = nnx.Param(unit(rngs.params(), (surfaces, config.surface_dim), jnp.float32))

    def __call__(
        self, events: Events, length: Int[Array, " b"], item_features: ItemVectors
    ) -> Float[Array, "b t h"]:
        """Encode. An unknown action or surface (0) adds nothing, as in the paper."""
        kernels = jnp.split(self.kernel[...], np.cumsum(self.sizes)[:-1].tolist())
        item_kernel, action_kernel, surface_kernel, *number_kernels = kernels
        parts = []
        if self.item:
            item_scale = self.sizes[0] ** 0.5  # unit rows -> unit variance a number, our choice
            items = item_features[events.item].astype(self.dtype)
            parts.append(project(items, (item_kernel * item_scale).astype(self.dtype)))
        if self.absolute_time or self.relative_time or self.duration:
            numbers, kernel = self._numbers(events, length, *number_kernels)
            parts.append(project(numbers.astype(self.dtype), kernel.astype(self.dtype)))
        if self.action:
            parts.append(self._known(self.action_table[...] @ action_kernel, events.action))
        if self.surface:
            parts.append(self._known(self.surface_table[...] @ surface_kernel, events.surface))
        return reduce(jnp.add, parts) + self.bias[...].astype(self.dtype)[None, None, :]

    def _known(self, table: Float[Array, "v h"], ids: Integer[Array, "b t"]) -> Float[Array, "b t h"]:
        """Rows of a table; the row of the unknown is zero."""
        return look_up(table.at[0].set(0.0).astype(self.dtype), ids)

    def _numbers(
        self,
        events: Events,
        length: Int[Array, " b"],
        cos_kernel: Float[Array, "p h"],
        sin_kernel: Float[Array, "p h"],
        log_kernel: Float[Array, "l h"],
    ) -> tuple[Float[Array, "b t n"], Float[Array, "n h"]]:
        """Waves and logs of times and duration, and the kernel they are multiplied with."""
        absolute, *relative = times(events, length, strictly_causal=self.strictly_causal)
        angle, seconds = [], []
        if self.absolute_time:
            angle.append(angles(absolute, ABSOLUTE_PERIODS))
            seconds.append(absolute.astype(jnp.float32) + float(EPOCH))
        if self.relative_time:
            angle += [angles(t, RELATIVE_PERIODS) for t in relative]
            seconds += [t.astype(jnp.float32) for t in relative]
        if self.duration:
            seconds.append(events.duration)
        logs = log_seconds(jnp.stack(seconds, axis=-1))
        if not angle:
            return logs, log_kernel
        turn = jnp.concatenate(angle, axis=-1)  # [B, T, periods]
        cos_phase, sin_phase = jnp.cos(self.phase[...])[:, None], jnp.sin(self.phase[...])[:, None]
        kernel = [
            cos_phase * cos_kernel + sin_phase * sin_kernel,
            cos_phase * sin_kernel - sin_phase * cos_kernel,
            log_kernel,
        ]
        return jnp.concatenate([jnp.cos(turn), jnp.sin(turn), logs], axis=-1), jnp.concatenate(kernel)


def project(inputs: Float[Array, "*dims i"], kernel: Float[Array, "i o"]) -> Float[Array, "*dims o"]:
    """`inputs @ kernel` as a product of two matrices. With more axes, XLA on CPU copies the operands of the
    kernel's gradient into another layout, which takes a tenth of a train step."""
    rows = inputs.reshape(-1, inputs.shape[-1])
    return (rows @ kernel).reshape(*inputs.shape[:-1], -1)


def look_up(table: Float[Array, "v h"], ids: Integer[Array, "b t"]) -> Float[Array, "b t h"]:
    """Rows of a table. On an accelerator, a small table is multiplied with one-hot rows. The gradient of an
    indexed look-up is a scatter: its atomic additions wait for each other where many ids share few rows, and
    their order changes from run to run."""
    if jax.default_backend() == "cpu" or table.shape[0] > ONE_HOT_ROWS:
        return table[ids.astype(jnp.int32)]
    return project(jax.nn.one_hot(ids, table.shape[0], dtype=table.dtype), table)
