"""A trained PinSage as a file: it gives vectors to items that came later, without another training."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from pinnerformer_jax.ingestion.item_vectors import TextBasis
from pinnerformer_jax.items.content import Scale
from pinnerformer_jax.items.pinsage import PinSage
from pinnerformer_jax.items.whitening import Whitening


class Trained(NamedTuple):
    """A model, and the fitted steps that turn content into its input and its output into vectors."""

    model: PinSage
    whitening: Whitening  # of the vectors of the training period's items
    basis: TextBasis | None  # of the text vectors; None: it reads no text
    scale: Scale  # of the numbers


def save(file: Path, trained: Trained) -> None:
    """Write an .npz."""
    arrays = {_name(path): np.asarray(value[...]) for path, value in _parameters(trained.model)}
    for part, of in (("spread", trained.whitening), ("numbers", trained.scale), ("text", trained.basis)):
        if of:
            arrays |= {f"{part}.{name}": values for name, values in of._asdict().items()}
    np.savez(file, allow_pickle=False, **arrays)


def load(file: Path) -> Trained:
    """Read what `save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not one of `save`.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no model here; --reuse takes a folder that --method pinsage wrote")
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
        inputs, width = arrays["inner.message.kernel"].shape
        model = PinSage(inputs, width, arrays["down.kernel"].shape[1], rngs=nnx.Rngs(0))
        for path, value in _parameters(model):
            value[...] = jnp.asarray(arrays[_name(path)])
        whitening = Whitening(arrays["spread.centre"], arrays["spread.axes"])
        scale = Scale(arrays["numbers.mean"], arrays["numbers.deviation"])
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file}: not a model that --method pinsage wrote: {error}") from error
    basis = TextBasis(arrays["text.word"], arrays["text.vector"]) if "text.word" in arrays else None
    return Trained(model, whitening, basis, scale)


def _parameters(model: PinSage) -> list[tuple[tuple[Any, ...], Any]]:
    return list(nnx.to_flat_state(nnx.state(model, nnx.Param)))


def _name(path: tuple[str, ...]) -> str:
    return ".".join(path)
