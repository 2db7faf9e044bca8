"""A tower as a file: ONNX, or a program of jax.export. The batch may have any size."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from pinnerformer_jax.export.towers import Tower

Format = Literal["onnx", "jax"]
FORMATS: tuple[Format, ...] = ("onnx", "jax")
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "jax": ".jax_export"}
PLATFORMS = ("cpu", "cuda", "tpu")
PACKAGES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxruntime", "jax2onnx"),
    "jax": ("flatbuffers",),
}
OPSET = 18
"""The oldest that has the bitwise operators of model.identity_dim; ONNX Runtime 1.14 and newer read it."""

Program = Callable[[dict[str, np.ndarray]], np.ndarray]
"""A tower that was read back: its inputs by name -> its output."""


def check_packages(formats: Sequence[Format]) -> None:
    """Whether what a format needs is installed.

    Raises:
        ValueError: a package is missing; the message has the command that installs it.
    """
    for name in formats:
        missing = [package for package in PACKAGES[name] if importlib.util.find_spec(package) is None]
        if missing:
            other = [one for one in formats if one != name]
            raise ValueError(
                f"--formats {name} needs {', '.join(missing)}: pip install 'pinnerformer_jax[export]' && pip "
                "install --no-deps jax2onnx"
                + (f"; or write the other: --formats {other[0]}" if other else "")
            )


def write(tower: Tower, format: Format, file: Path) -> None:
    """Write a tower to a file."""
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = [jax.ShapeDtypeStruct((batch, *i.shape), i.dtype) for i in tower.inputs]
    with jax.default_matmul_precision("float32"):
        if format == "jax":
            exported = jax.export.export(jax.jit(tower.call), platforms=PLATFORMS)(*shapes)
            file.write_bytes(exported.serialize())
            return
        import onnx

        with _quiet():
            from jax2onnx import to_onnx

            model = to_onnx(
                tower.call,
                shapes,
                model_name=tower.name,
                opset=OPSET,
                input_names=[i.name for i in tower.inputs],
                output_names=[tower.output],
            )
    onnx.save(model, file)


def read(tower: Tower, format: Format, file: Path) -> Program:
    """Read a tower from a file, to run it on the CPU or, a program of JAX, on this process's device."""
    if format == "jax":
        exported = jax.export.deserialize(bytearray(file.read_bytes()))
        return lambda inputs: np.asarray(exported.call(*(jnp.asarray(inputs[i.name]) for i in tower.inputs)))
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda inputs: np.asarray(session.run([tower.output], inputs)[0])


@contextlib.contextmanager
def _quiet() -> Generator[None, None, None]:
    """jax2onnx loads its examples with its converters, and logs a traceback of each whose library is not
    installed; and it reads parameters in a way that Flax warns of."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logging.disable(before)
