"""Data sheets of the chips that benchmarks measure or compile for."""

from __future__ import annotations

from typing import NamedTuple


class Chip(NamedTuple):
    """One device."""

    memory: int  # bytes
    bandwidth: float  # bytes a second from its memory
    tflops: float  # of dense bfloat16 products
    kind: str  # part of the name that jax gives the device, in lower case
    slice: str = ""  # a TPU's smallest topology

    @property
    def platform(self) -> str:
        """As jax names it."""
        return "tpu" if self.slice else "cuda"


CHIPS = {
    "h100": Chip(84_942_979_072, 3.35e12, 989.4, "h100"),
    "h200": Chip(151_397_597_184, 4.8e12, 989.4, "h200"),
    "v4": Chip(32 << 30, 1.228e12, 275.0, "tpu v4", slice="v4:2x2x1"),
    "v5e": Chip(16 << 30, 0.819e12, 197.0, "tpu v5 lite", slice="v5e:2x2"),
    "v5p": Chip(95 << 30, 2.765e12, 459.0, "tpu v5p", slice="v5p:2x2x1"),
    "v6e": Chip(32 << 30, 1.64e12, 918.0, "tpu v6 lite", slice="v6e:2x2"),
}

REACHED_FLOPS, REACHED_BANDWIDTH = 0.8, 0.9
"""Shares of the data sheet that a large matrix product and a large copy reach on a Hopper GPU. A roofline
uses them where nothing can be measured."""


def chip_of(device_kind: str) -> Chip | None:
    """The chip that `jax.Device.device_kind` names; None: not known here."""
    return next((chip for chip in CHIPS.values() if chip.kind in device_kind.lower()), None)
