"""The same model and loss in PyTorch, as its users would write them for speed: what `torch_rival` times.

Names and shapes follow `pinnerformer_jax.model`, so that weights can be copied by name. Dimensions:
B users, T actions, P chosen positions, H width, D output, N negatives, R = B * P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinnerformer_jax.config import ModelConfig
from pinnerformer_jax.data.contracts import EPOCH
from pinnerformer_jax.model.features import _LOG_SCALE, ABSOLUTE_PERIODS, RELATIVE_PERIODS
from pinnerformer_jax.model.towers import Sizes


class ActionEncoder(nn.Module):
    """Actions [B, T] -> [B, T, H]: one matmul for all numbers, tables multiplied before the look-up."""

    def __init__(self, config: ModelConfig, sizes: Sizes) -> None:
        super().__init__()
        periods = np.concatenate([ABSOLUTE_PERIODS, RELATIVE_PERIODS, RELATIVE_PERIODS])
        self.widths = [sizes.item_dim, config.action_dim, config.surface_dim, len(periods), len(periods), 4]
        self.kernel = nn.Parameter(torch.empty(sum(self.widths), config.width))
        self.bias = nn.Parameter(torch.empty(config.width))
        self.phase = nn.Parameter(torch.empty(len(periods)))
        self.action_table = nn.Parameter(torch.empty(sizes.actions, config.action_dim))
        self.surface_table = nn.Parameter(torch.empty(sizes.surfaces, config.surface_dim))
        self.register_buffer("periods", torch.from_numpy(periods))
        self.register_buffer("rates", torch.from_numpy((2 * np.pi / periods).astype(np.float32)))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        item, action, surface, cosine, sine, logs = self.kernel.split(self.widths)
        time = inputs["time"]  # int32 [B, T]
        newest = time.gather(1, (inputs["length"].long() - 1)[:, None])
        before_latest, gap = newest - time, time - torch.cat([time[:, :1], time[:, :-1]], dim=1)
        counts = [len(ABSOLUTE_PERIODS), len(RELATIVE_PERIODS), len(RELATIVE_PERIODS)]
        seconds = torch.cat(
            [
                t[:, :, None].expand(-1, -1, n)
                for t, n in zip((time, before_latest, gap), counts, strict=True)
            ],
            dim=-1,
        )
        angle = torch.remainder(seconds, self.periods).float() * self.rates + self.phase
        durations = [time.float() + float(EPOCH), before_latest.float(), gap.float(), inputs["duration"]]
        numbers = torch.cat(
            [
                F.embedding(inputs["item"], inputs["item_features"]) * self.widths[0] ** 0.5,
                angle.cos(),
                angle.sin(),
                torch.log1p(torch.stack(durations, dim=-1).clamp_min(0)) * _LOG_SCALE,
            ],
            dim=-1,
        )
        stream = F.linear(numbers, torch.cat([item, cosine, sine, logs]).T, self.bias)
        stream = stream + F.embedding(inputs["action"], _known(self.action_table) @ action)
        return stream + F.embedding(inputs["surface"], _known(self.surface_table) @ surface)


def _known(table: Tensor) -> Tensor:
    """The unknown (row 0) adds nothing."""
    return F.pad(table[1:], (0, 0, 1, 0))


class MLP(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.Linear(inputs, hidden)
        self.down = nn.Linear(hidden, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(inputs), approximate="tanh"))


class Block(nn.Module):
    """Pre-norm causal self-attention and FFN; fused QKV, SDPA."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.ffn_norm = nn.LayerNorm(width, eps=1e-6)
        self.ffn = MLP(width, 4 * width, width)

    def forward(self, stream: Tensor) -> Tensor:
        kernel = torch.cat([self.query.weight, self.key.weight, self.value.weight])
        bias = torch.cat([self.query.bias, torch.zeros_like(self.query.bias), self.value.bias])
        query, key, value = F.linear(self.attention_norm(stream), kernel, bias).chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(*map(self._split, (query, key, value)), is_causal=True)
        return self._finish(stream, mixed)

    def chosen(self, stream: Tensor, position: Tensor) -> Tensor:
        """Only the given positions [B, P]: keys and values everywhere, all else there."""
        normed = self.attention_norm(stream)
        query = self.query(_rows(normed, position))
        kernel = torch.cat([self.key.weight, self.value.weight])
        bias = F.pad(self.value.bias, (len(self.value.bias), 0))
        key, value = F.linear(normed, kernel, bias).chunk(2, dim=-1)
        visible = torch.arange(stream.shape[1], device=stream.device) <= position[:, None, :, None]
        mixed = F.scaled_dot_product_attention(*map(self._split, (query, key, value)), attn_mask=visible)
        return self._finish(_rows(stream, position), mixed)

    def _split(self, part: Tensor) -> Tensor:
        return part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, heads, T, head dim]

    def _finish(self, stream: Tensor, mixed: Tensor) -> Tensor:
        stream = stream + self.out(mixed.transpose(1, 2).flatten(2))
        return stream + self.ffn(self.ffn_norm(stream))


def _rows(stream: Tensor, position: Tensor) -> Tensor:
    return stream.gather(1, position[:, :, None].expand(-1, -1, stream.shape[-1]))


class UserTower(nn.Module):
    """Actions -> unit embeddings of the chosen positions."""

    def __init__(self, config: ModelConfig, sizes: Sizes, *, pruned: bool) -> None:
        super().__init__()
        self.pruned = pruned
        self.encoder = ActionEncoder(config, sizes)
        self.position_table = nn.Parameter(torch.empty(config.max_length, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.head = MLP(config.width, 2 * config.width, config.output_dim)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        index = torch.arange(inputs["time"].shape[1], device=inputs["time"].device)
        index = (inputs["length"][:, None] - 1 - index).clamp_min(0)
        stream = self.encoder(inputs) + F.embedding(index, self.position_table)
        for block in self.blocks[:-1]:
            stream = block(stream)
        position = inputs["position"]
        if self.pruned:
            chosen = self.blocks[-1].chosen(stream, position)
        else:
            chosen = _rows(self.blocks[-1](stream), position)
        return _unit(self.head(self.norm(chosen)))


class PinnerFormer(nn.Module):
    """Both towers; called, it gives the sampled softmax loss with logQ and masks.

    Args:
        config: sizes.
        sizes: what the data decides.
        min_temperature: tau never goes below.
        pruned: compute the last block at the chosen positions only.
        autocast: run the towers in bfloat16.
    """

    def __init__(
        self, config: ModelConfig, sizes: Sizes, min_temperature: float, *, pruned: bool, autocast: bool
    ) -> None:
        super().__init__()
        self.min_temperature, self.autocast = min_temperature, autocast
        self.user = UserTower(config, sizes, pruned=pruned)
        self.item = MLP(sizes.item_dim, config.item_hidden, config.output_dim)
        self.log_temperature = nn.Parameter(torch.empty(()))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """inputs: the arrays of `torch_rival.make_problem`."""
        features = inputs["item_features"]
        with torch.autocast(features.device.type, torch.bfloat16, enabled=self.autocast):
            user = self.user(inputs).flatten(0, 1)  # [R, D]
            # One call for both: autocast adds the gradients of two calls in bfloat16. Those of targets and
            # negatives nearly cancel, so that the sum would have an error of a tenth.
            target, pool_item = inputs["target"], inputs["pool_item"]
            items = F.embedding(torch.cat([target, pool_item]), features) * features.shape[1] ** 0.5
            positive, pool = _unit(self.item(items)).split([len(target), len(pool_item)])
        temperature = self.min_temperature + self.log_temperature.exp()
        own = (user * positive).sum(-1) / temperature - inputs["target_log_q"]
        logits = user @ pool.T / temperature - inputs["pool_log_q"]  # [R, N]
        negative = inputs["pool_valid"] & (inputs["target"][:, None] != inputs["pool_item"])
        negative = negative & (inputs["target_user"][:, None] != inputs["pool_user"])
        everything = torch.logaddexp(logits.masked_fill(~negative, -torch.inf).logsumexp(-1), own)
        return ((everything - own) * inputs["weight"]).sum()


def _unit(vectors: Tensor) -> Tensor:
    vectors = vectors.float()
    return vectors * torch.rsqrt((vectors * vectors).sum(-1, keepdim=True) + 1e-12)


def copy_weights(model: PinnerFormer, params: Mapping[str, np.ndarray]) -> None:
    """Set every parameter from ours, by name ('user/blocks/0/query/kernel')."""
    named = dict(model.named_parameters())
    ours = {_our_name(name, value) for name, value in named.items()}
    if ours != params.keys():
        raise ValueError(f"the two models differ in parameters: {sorted(ours ^ params.keys())}")
    with torch.no_grad():
        for name, value in named.items():
            given = torch.from_numpy(np.array(params[_our_name(name, value)]))
            value.copy_(given.T if _transposed(name, value) else given)


def gradients(model: PinnerFormer) -> dict[str, np.ndarray]:
    """Every parameter's gradient, named and laid out as ours."""
    found = {}
    for name, value in model.named_parameters():
        gradient = value.grad.T if _transposed(name, value) else value.grad
        found[_our_name(name, value)] = gradient.float().cpu().numpy()
    return found


def _transposed(name: str, value: Tensor) -> bool:
    return name.endswith(".weight") and value.ndim == 2


def _our_name(name: str, value: Tensor) -> str:
    renamed = name.removesuffix("weight") + ("kernel" if value.ndim == 2 else "scale")
    return (renamed if name.endswith(".weight") else name).replace(".", "/")
