"""The train step compiled for a GPU or TPU that this machine lacks: which batch fits, and the bytes it moves.

Nothing is executed. The chip's compiler is needed: pip install "jax[cuda12]" or "jax[tpu]", on any machine.
On a GPU XLA chooses kernels for matrix products by timing them. Without the chip cuBLAS's are assumed, so
the program on the chip may have others.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pinnerformer_jax.bench import program, workload
from pinnerformer_jax.bench.chips import CHIPS, REACHED_BANDWIDTH, REACHED_FLOPS, Chip
from pinnerformer_jax.bench.report import table
from pinnerformer_jax.config import Config
from pinnerformer_jax.model import attention
from pinnerformer_jax.training.item_table import BLOCK
from pinnerformer_jax.training.sharding import AXIS, make_mesh
from pinnerformer_jax.training.state import create
from pinnerformer_jax.training.step import make_train_step

_HOPPER = """
gpu_device_info {{
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  memory_bandwidth: {bandwidth}  device_memory_size: {memory}
  l2_cache_size: 52428800  shared_memory_per_core: 233472
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448
  threads_per_warp: 32  threads_per_block_limit: 1024  threads_per_core_limit: 2048
  registers_per_block_limit: 65536  registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024  thread_dim_limit_y: 1024  thread_dim_limit_z: 64
  device_address_bits: 64  pcie_bandwidth: 34359738368  ecc_enabled: true
  device_vendor: "NVIDIA Corporation"  name: "{name}"  driver_version: "13.0.0"  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{name}"
"""


def measure(config: Config, *, chip: str, items: int, first: int, last: int) -> dict[str, Any]:
    """Compile for batch sizes first, 2 first, 4 first ... on one device.

    Args:
        config: sizes but for the batch's.
        chip: of CHIPS.
        items: in the catalogue. Each look-up counts the whole item table as moved, so few items give the
            better estimate.
        first: batch size to begin with.
        last: largest batch size; a batch that does not fit ends the search.

    Returns:
        Figures by batch size: memory beside the arguments (`temporary_bytes`), memory with them (`bytes`),
        and whether that fits the chip. A GPU's program also has the number of its kernels, the bytes that
        they read and write (`program.moved_bytes`), and the minimum time (`program.roofline`, with the rates
        in `chips`). A TPU's program does not say how many rounds its loops have.

    Raises:
        ValueError: the chip's compiler is not installed.
    """
    jax.config.update("jax_platforms", "cpu")  # or CUDA's plug-in asks for a driver
    kind = CHIPS[chip]
    sizes: list[dict[str, Any]] = []
    with seen_as(kind.platform):
        mesh = Mesh(np.array(_devices(chip)[:1]), (AXIS,))
        size = first
        while size <= last and (not sizes or sizes[-1]["fits"]):
            training = dataclasses.replace(config.training, batch_size=size)
            sizes.append(_compile(dataclasses.replace(config, training=training), mesh, kind, items))
            print(f"batch size {size}: {'fits' if sizes[-1]['fits'] else 'does not fit'}", flush=True)
            size *= 2
    return {"chip": chip, "memory_bytes": kind.memory, "sizes": sizes}


def _compile(config: Config, mesh: Mesh, chip: Chip, items: int) -> dict[str, Any]:
    lowered = traced(config, mesh, items).lower()
    figures: dict[str, Any] = {"batch_size": config.training.batch_size}
    started = time.perf_counter()
    try:
        # Whether a product is cuBLAS's or Triton's is found by timing; untimed, Triton's fail at some sizes.
        options = {"xla_gpu_enable_triton_gemm": False} if chip.platform == "cuda" else None
        compiled = lowered.compile(options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return figures | {"fits": False}  # reported by the TPU's compiler
    figures["compile_seconds"] = time.perf_counter() - started
    memory = compiled.memory_analysis()
    figures["temporary_bytes"] = memory.temp_size_in_bytes
    # The new state takes the place of the old one, an argument.
    figures["bytes"] = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    figures["fits"] = figures["bytes"] <= chip.memory
    if chip.platform == "cuda":
        text = compiled.as_text()
        figures["kernels"] = program.total(text, program.kernel)
        figures["moved_bytes"] = program.total(text, program.moved_bytes)
        figures["roofline"] = program.roofline(
            text, REACHED_FLOPS * 1e12 * chip.tflops, REACHED_BANDWIDTH * chip.bandwidth
        )
    return figures


def traced(config: Config, mesh: Mesh, items: int) -> jax.stages.Traced:
    """The train step on shapes alone, without a number in them.

    Args:
        config: sizes.
        mesh: of devices that need not be there.
        items: in the catalogue; rounded up to whole blocks of each device where the item table is sharded.
    """
    sharded = config.training.shard_items
    held = -(-items // (BLOCK * mesh.size)) * BLOCK * mesh.size if sharded else items

    def on_mesh(tree: Any, split: PartitionSpec) -> Any:
        rows = NamedSharding(mesh, split)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows), tree)

    graphdef, state = jax.eval_shape(lambda: create(config, workload.SIZES._replace(items=items)))
    batch = workload.make_batch(config, workload.lengths("full", config), items)
    tables = workload.make_tables(config, make_mesh(1), held)
    split = PartitionSpec(AXIS)
    tables = on_mesh(tables, PartitionSpec())._replace(
        item_features=on_mesh(tables.item_features, split if sharded else PartitionSpec())
    )
    return make_train_step(config, graphdef, mesh, items).trace(
        on_mesh(state, PartitionSpec()), on_mesh(batch, split), tables
    )


def _devices(name: str) -> list[Any]:
    chip = CHIPS[name]
    if chip.platform == "tpu":
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # libtpu would ask the network where it is
        options = {"topology_name": chip.slice}
    else:
        target = _HOPPER.format(name=name, memory=chip.memory, bandwidth=int(chip.bandwidth))
        options = {"topology_name": name, "target_config": target, "topology": "1x1x1"}
    try:
        return topologies.get_topology_desc(platform=chip.platform, **options).devices
    except (RuntimeError, NotImplementedError) as error:
        package = f"jax[{'cuda12' if chip.platform == 'cuda' else 'tpu'}]=={jax.__version__}"
        raise ValueError(f'no compiler for {name}: pip install "{package}" brings it ({error})') from error


@contextmanager
def seen_as(platform: str, *, ahead: bool = True) -> Generator[None, None, None]:
    """A context in which `jax.default_backend()` names another platform.

    Args:
        platform: cuda, tpu or cpu.
        ahead: the machine has no such device, so the checks of what its libraries support are replaced too.
    """
    backend = "gpu" if platform == "cuda" else platform
    patches: list[Any] = [patch.object(jax, "default_backend", lambda: backend)]
    if ahead:
        patches.append(patch.object(attention, "compiles", lambda *_: True))
        if platform == "cuda":
            # `dot_product_attention` asks the GPU for its cuDNN. No public function sets the answer.
            from jax._src.cudnn import fused_attention_stablehlo as cudnn

            patches += [
                patch.object(cudnn, "check_cudnn_version", lambda: 91000),
                patch.object(cudnn, "check_compute_capability", lambda capability: float(capability) <= 9.0),
                patch.object(
                    cudnn, "is_cuda_compute_capability_equal", lambda capability: capability == "9.0"
                ),
            ]
    with ExitStack() as stack:
        for replaced in patches:
            stack.enter_context(replaced)
        yield


def show(figures: dict[str, Any]) -> None:
    """Print a line for each batch size."""
    rows = []
    for size in figures["sizes"]:
        users, gib, mib = size["batch_size"], 2**30, 2**20
        scaled = [
            size[name] / unit if name in size else None
            for name, unit in (
                ("temporary_bytes", gib), ("bytes", gib), ("temporary_bytes", mib * users),
                ("moved_bytes", gib), ("moved_bytes", mib * users),
            )
        ]  # fmt: skip
        least = size["roofline"]["all"]["seconds"] * 1e3 if "roofline" in size else None
        fits = "yes" if size["fits"] else "no"
        rows.append([users, fits, *scaled, size.get("kernels"), least, size.get("compile_seconds")])
    table(
        f"Train step compiled for one {figures['chip']} ({figures['memory_bytes'] / 2**30:.0f} GiB)",
        ("users a step", "fits", "temp GiB", "in all GiB", "temp MiB a user", "moved GiB", "moved MiB a user",
         "kernels", "roofline ms", "compile s"),
        rows,
    )  # fmt: skip
    if roofline := figures["sizes"][0].get("roofline"):
        table(
            f"Its kernels at {figures['sizes'][0]['batch_size']} users, at {REACHED_FLOPS:.0%} of the data "
            f"sheet's products and {REACHED_BANDWIDTH:.0%} of its memory's pace",
            ("kernels", "how many", "TFLOP", "moved GiB", "least ms"),
            [
                [
                    group,
                    sums["kernels"],
                    sums["flops"] / 1e12,
                    sums["moved_bytes"] / 2**30,
                    1e3 * sums["seconds"],
                ]
                for group, sums in roofline.items()
            ],
        )
