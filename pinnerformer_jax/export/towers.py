"""The two towers as functions of plain arrays, with their parameters in them, in float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.contracts import NO_TIME, Events
from pinnerformer_jax.model.pinnerformer import PinnerFormer
from pinnerformer_jax.model.towers import Sizes

NO_IDENTITY = int(np.iinfo(np.int32).max)
"""Number of an item that the training did not know."""


@dataclass(frozen=True)
class Input:
    """An input of a tower."""

    name: str
    dtype: str
    shape: tuple[int, ...]  # of one user or item
    meaning: str
    padding: float | None = None  # what stands past the length of a history


@dataclass(frozen=True)
class Tower:
    """A tower as a function of arrays, with the parameters in it."""

    name: Literal["user_tower", "item_tower"]
    inputs: tuple[Input, ...]
    output: str
    dim: int
    call: Callable[..., jax.Array]

    def to_json(self) -> dict[str, Any]:
        """As in contract.json."""
        inputs = [dataclasses.asdict(i) | {"shape": ["batch", *i.shape]} for i in self.inputs]
        output = {"name": self.output, "dtype": "float32", "shape": ["batch", self.dim], "length_of_a_row": 1}
        return {
            "inputs": [{key: value for key, value in i.items() if value is not None} for i in inputs],
            "output": output,
        }


class _Vectors:
    """The vectors of a history, where the model looks up those of the catalogue."""

    def __init__(self, vectors: jax.Array) -> None:
        self.vectors = vectors

    def __getitem__(self, ids: jax.Array) -> jax.Array:
        return self.vectors


def in_float32(config: Config) -> Config:
    """The config of the same model with all matrix products in float32."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, compute_dtype="float32"))


def structure(config: Config, sizes: Sizes) -> nnx.GraphDef:
    """What `nnx.merge` needs besides the parameters."""
    return jax.eval_shape(lambda: PinnerFormer(config, sizes).split())[0]


def towers(config: Config, sizes: Sizes, params: Any) -> tuple[Tower, Tower]:
    """User and item tower of a trained model.

    Args:
        config: of the run.
        sizes: likewise.
        params: of a checkpoint.
    """
    # auto would take cuDNN's attention where there is one, and that serves one platform alone.
    settings = dataclasses.replace(config.model, attention="blocks")
    graphdef = structure(in_float32(dataclasses.replace(config, model=settings)), sizes)

    def user(
        item_vectors: jax.Array,
        action: jax.Array,
        surface: jax.Array,
        time: jax.Array,
        duration: jax.Array,
        length: jax.Array,
        item: jax.Array | None = None,
    ) -> jax.Array:
        history = Events(time if item is None else item, action, surface, time, duration)
        built: PinnerFormer = nnx.merge(graphdef, params)
        return built.embed_users(history, length, _Vectors(item_vectors))

    def item(item_vectors: jax.Array, item: jax.Array | None = None) -> jax.Array:
        return nnx.merge(graphdef, params).embed_items(item_vectors, item)

    length, dim = settings.max_length, sizes.item_dim
    events = (length,)
    number = f"row of item_vectors.npy; {NO_IDENTITY} for an item that the training did not know"
    user_inputs = [
        Input("item_vectors", "float32", (length, dim), "rows of item_vectors.npy", 0.0),
        Input("action", "int32", events, "number in `actions`, 0 for any other", 0),
        Input("surface", "int32", events, "number in `surfaces`, 0 for any other", 0),
        Input("time", "int32", events, "seconds since `history.epoch`", NO_TIME),
        Input("duration", "float32", events, "seconds, 0 where there is none", 0.0),
        Input("length", "int32", (), f"events of the history, 1 to {length}"),
    ]
    item_inputs = [Input("item_vectors", "float32", (dim,), "rows of item_vectors.npy")]
    if settings.identity_dim:
        user_inputs.append(Input("item", "int32", events, number, 0))
        item_inputs.append(Input("item", "int32", (), number))
    return (
        Tower("user_tower", tuple(user_inputs), "user_vector", settings.output_dim, user),
        Tower("item_tower", tuple(item_inputs), "item_vector", settings.output_dim, item),
    )
