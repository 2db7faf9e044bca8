"""Settings of the two towers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from pinnerformer_jax.config.checks import require, require_at_most, require_types

Feature = Literal["item", "action", "surface", "duration", "absolute_time", "relative_time", "position"]
Attention = Literal["auto", "cudnn", "xla", "blocks"]


@dataclass(frozen=True)
class ModelConfig:
    """The towers. Defaults are the paper's final model."""

    layers: int = 6
    """L, Transformer blocks."""
    width: int = 768
    """H, hidden width."""
    heads: int = 8
    """Attention heads; must divide the width."""
    max_length: int = 256
    """M (T in shapes), the most recent actions that are read."""
    output_dim: int = 256
    """D, numbers of a user or item embedding."""
    identity_dim: int = 0
    """I, how many of the D name the item itself (model/identity.py); 0: none, as in the paper. It helps the
    inner product where people come back to items; `output_dim` should grow by it."""
    identity_dropout: float = 0.1
    """Share of the items whose identity is hidden in a training step, so that content alone must do, as it
    must for items that came later."""
    action_dim: int = 32
    """Width of the action-type embedding."""
    surface_dim: int = 32
    """Width of the surface embedding."""
    item_hidden: int = 768
    """Hidden width of the item tower."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of matmuls and activations; parameters, norms, softmax and loss stay float32. An accelerator multiplies
    float32 numbers, the loss's logits too, by its default: TF32 on a recent GPU, bfloat16 on a TPU."""
    attention: Attention = "auto"
    """How the blocks but the last compute attention: cudnn (a GPU's fused kernel, bfloat16), xla (jax's own
    products and softmax over the whole square) or blocks (ours, half of the square, see model/attention.py).
    auto: cudnn where there is one, else blocks. If the compiler refuses one, the run says so and takes the
    next of cudnn, xla, blocks."""
    dropout: float = 0.0
    """Share dropped of the Transformer's input and of each sublayer's output, in training. The paper names
    none; logs of few users need some."""
    aligned_start: bool = True
    """Aligned initialisation (model/initialisation.py): an item's embedding starts as its vector and a user's
    as the mean of its items'. False: at random. Aligned is better where likeness to what a user had predicts
    what comes. Where popularity does, as in configs/kuairand.py, it overfits sooner."""
    drop_features: tuple[Feature, ...] = ()
    """Sources left out of the user tower's input, with their part of the kernel (paper, Table 6, whose
    "timestamp" is both times). The item tower keeps its item vectors."""
    strictly_causal: bool = False
    """The paper's `time since the latest action` and positions counted from the newest action let the
    END of the window (when it is, never what it is) reach earlier positions. True: neither does."""

    def __post_init__(self) -> None:
        require_types(self, "model")
        known, dropped = set(get_args(Feature)), self.drop_features
        require(
            set(dropped) <= known and bool(known - {"position", *dropped}),
            "model.drop_features", dropped, f"a tuple of {sorted(known)}; one besides position must stay",
        )  # fmt: skip
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "a share in [0, 1)")
        require(0 <= self.identity_dropout < 1, "model.identity_dropout", self.identity_dropout, "in [0, 1)")
        require(
            0 <= self.identity_dim < self.output_dim,
            "model.identity_dim", self.identity_dim, f"0, or less than output_dim = {self.output_dim}",
        )  # fmt: skip
        for name in (
            "layers",
            "width",
            "heads",
            "max_length",
            "output_dim",
            "action_dim",
            "surface_dim",
            "item_hidden",
        ):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "must be >= 1")
        require_at_most(
            self, "model", layers=1_000, width=65_536, heads=65_536, max_length=65_536, output_dim=65_536,
            action_dim=65_536, surface_dim=65_536, item_hidden=65_536,
        )  # fmt: skip
        require(
            self.width % self.heads == 0,
            "model.width",
            self.width,
            f"must be a multiple of heads = {self.heads}",
        )
