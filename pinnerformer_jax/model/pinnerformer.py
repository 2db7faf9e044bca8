"""The whole model: user tower, item tower and temperature, built from the config alone.

B users, T actions of a history, C items of the catalogue, D numbers of an embedding.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.contracts import Events
from pinnerformer_jax.model.features import ItemVectors
from pinnerformer_jax.model.identity import ItemIdentity
from pinnerformer_jax.model.initialisation import align_towers
from pinnerformer_jax.model.layers import MLP, unit
from pinnerformer_jax.model.towers import Sizes, UserTower


class PinnerFormer(nnx.Module):
    """User tower, item tower and the temperature of the loss (paper, sections "model" and "loss").

    `model.user` is the user tower, which embeds any positions of a history: training needs many. `model.item`
    is the item tower without its normalisation. Use `embed_users` and `embed_items` for embeddings.

    Args:
        config: the experiment. Read are its `model` section; `initial_temperature` and `min_temperature` of
            its `objective` section; and, where `seed` is not given, `training.seed`.
        sizes: what the data decide.
        seed: of the initial parameters: an int, or a uint32 scalar, which may be traced. Default:
            `config.training.seed`. The same seed gives the same parameters.
    """

    def __init__(self, config: Config, sizes: Sizes, seed: int | jax.Array | None = None) -> None:
        rngs = nnx.Rngs(jax.random.key(config.training.seed if seed is None else seed))
        self.dtype = jnp.dtype(config.model.compute_dtype)
        self.user = UserTower(config.model, sizes, rngs=rngs)
        model = config.model
        content = model.output_dim - model.identity_dim
        self.item = MLP(sizes.item_dim, model.item_hidden, content, self.dtype, rngs=rngs)
        self.item_identity = nnx.data(
            ItemIdentity(model, sizes.identities, sizes.item_dim, rngs=rngs) if model.identity_dim else None
        )
        self.min_temperature = config.objective.min_temperature
        excess = config.objective.initial_temperature - self.min_temperature
        self.log_temperature = nnx.Param(jnp.asarray(math.log(excess), jnp.float32))
        if model.aligned_start:
            align_towers(self.user, self.item, rngs)

    def embed_users(
        self, history: Events, length: Int[Array, " b"], item_features: ItemVectors
    ) -> Float[Array, "b o"]:
        """Embedding of each user as of the newest action: the vector that is served.

        Args:
            history: arrays [B, T], oldest first, padding at the tail.
            length: int32 [B], real events of each history; 0 gives a vector without meaning.
            item_features: the catalogue's vectors, unit rows: [C, D_item].

        Returns:
            float32 [B, D], unit rows.
        """
        newest = jnp.maximum(length - 1, 0)[:, None]  # the last block computes this position only
        return self.user(history, length, newest, item_features)[:, 0]

    def embed_items(
        self,
        features: Float[Array, "*dims d"],
        ids: Int[Array, "*dims"] | None = None,
        identity_key: jax.Array | None = None,
    ) -> Float[Array, "*dims o"]:
        """Embeddings of items. The item tower is an MLP on the item's vector alone, as in the paper, beside
        the item's identity, if the model has that part.

        Args:
            features: the items' vectors, unit rows: [..., D_item].
            ids: int [...], the items' numbers, read where the model has identities; None: items that have
                none, such as new ones.
            identity_key: of the step, in training: the identities of some items are hidden; None: none are.

        Returns:
            float32 [..., D], unit rows.
        """
        with jax.named_scope("item_tower"):
            scaled = features.astype(jnp.float32) * features.shape[-1] ** 0.5
            scaled = scaled.astype(self.dtype)
            content = unit(self.item(scaled))
        if self.item_identity is None:
            return content
        if ids is None:
            ids = jnp.full(features.shape[:-1], jnp.iinfo(jnp.int32).max)
        with jax.named_scope("identity"):
            return self.item_identity(content, scaled, ids, identity_key)

    def temperature(self) -> Float[Array, ""]:
        """tau of the loss, float32. It is learned. It exceeds `objective.min_temperature` by construction, so
        that no clamp ever stops its gradient."""
        return self.min_temperature + jnp.exp(self.log_temperature[...])

    def split(self) -> tuple[nnx.GraphDef, dict[str, Any]]:
        """(structure, parameters), the parameters as a nested dict of float32 arrays, which is what optax and
        a checkpoint take. `nnx.merge(structure, parameters)` is the model again."""
        graphdef, variables = nnx.split(self)
        return graphdef, nnx.to_pure_dict(variables)
