"""Throughput of each part on the machine at hand.

    python -m pinnerformer_jax.bench step --config configs/demo.py [--model.width 256 ...]

Programs that are compared run in turns. A time is the median of synchronised calls after a first call that
is not timed, with quartiles beside it. The output is a table, and on the last line of stdout JSON with the
date, the machine, the command, the sizes and every figure. The users are random and the config gives the
sizes, so no data need be prepared. jax, flax, optax and numpy are enough; `items` also needs tqdm.

Any setting of pinnerformer_jax/config/ can be given by its name, such as --model.compute-dtype bfloat16 or
--training.batch-size 512.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from pinnerformer_jax.bench import (
    accelerator,
    attention,
    collectives,
    correctness,
    counts,
    daily,
    device,
    embed,
    items,
    loss,
    profile,
    recommend,
    retrieval,
    step,
    store,
    sweep,
    train,
)
from pinnerformer_jax.bench import compile as compile_ahead
from pinnerformer_jax.bench import input as host_input
from pinnerformer_jax.bench.overrides import override
from pinnerformer_jax.bench.report import finish, record
from pinnerformer_jax.command_line import errors_as_messages
from pinnerformer_jax.config_files import load_config
from pinnerformer_jax.runtime import set_up_process


def _parser() -> argparse.ArgumentParser:
    """The parser. A verb's flags have the names of the keyword arguments of its module's `measure`."""
    layout: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = argparse.ArgumentParser(prog="python -m pinnerformer_jax.bench", description=__doc__, **layout)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="WHAT")

    def add_verb(name: str, module: ModuleType, **defaults: int | float) -> argparse.ArgumentParser:
        """A verb with those shared flags whose defaults are given."""
        text = module.__doc__ or ""
        summary = text.splitlines()[0]
        verb = verbs.add_parser(name, help=summary, description=f"{text}\n\n{_SETTINGS}", **layout)
        verb.set_defaults(module=module)
        verb.add_argument(
            "--config", required=True, metavar="FILE", help="gives the sizes, such as configs/demo.py"
        )
        verb.add_argument("--json", type=Path, metavar="FILE", help="also write the JSON here")
        for flag, explanation in _SHARED.items():
            if flag in defaults:
                value = defaults[flag]
                verb.add_argument(
                    f"--{flag}", type=type(value), default=value, help=f"{explanation} ({value:g})"
                )
        return verb

    def add_sizes(verb: argparse.ArgumentParser, first: int) -> None:
        verb.add_argument(
            "--from", dest="first", type=int, default=first, help="first batch size (%(default)s)"
        )
        verb.add_argument(
            "--to", dest="last", type=int, help="last batch size; default: until the memory is full"
        )

    step_verb = add_verb("step", step, items=100_000, seconds=20.0)
    add_verb("loss", loss, items=100_000, seconds=20.0)
    add_verb("attention", attention, seconds=20.0)
    counts_verb = add_verb("counts", counts, seconds=20.0)
    counts_verb.add_argument(
        "--items", nargs="+", type=int, default=[10_000, 100_000, 1_000_000, 10_000_000],
        help="sizes of the catalogue (%(default)s)",
    )  # fmt: skip
    embed_verb = add_verb("embed", embed, items=100_000, seconds=20.0)
    input_verb = add_verb("input", host_input, seconds=20.0)
    input_verb.add_argument("--prepared", metavar="DIR", help="prepared timelines; default: random ones")
    add_verb("retrieval", retrieval, items=50_000, seconds=20.0)
    store_verb = add_verb("store", store, seconds=20.0)
    store_verb.add_argument("--users", type=int, default=100_000, help="users in the store (%(default)s)")
    store_verb.add_argument(
        "--redis", metavar="URL", help="also measure this server, which must hold no vectors"
    )
    recommend_verb = add_verb("recommend", recommend, items=10_000, seconds=20.0)
    recommend_verb.add_argument("--users", type=int, default=100_000, help="users of the state (%(default)s)")
    recommend_verb.add_argument(
        "--row-groups", type=int, default=200, help="of the users' events (%(default)s)"
    )
    daily_verb = add_verb("daily", daily, items=200_000)
    daily_verb.add_argument("--users", type=int, default=200_000, help="users with events (%(default)s)")
    daily_verb.add_argument(
        "--active",
        nargs="+",
        type=float,
        default=[0.0025, 0.05, 1.0],
        help="shares of the users who are active, a day for each (%(default)s)",
    )
    items_verb = add_verb("items", items)
    items_verb.add_argument(
        "--sizes",
        nargs="+",
        type=int,
        default=[10_000, 1_000_000],
        help="numbers of items, ascending (%(default)s)",
    )
    sweep_verb = add_verb("sweep", sweep, items=100_000, seconds=10.0)
    add_sizes(sweep_verb, 16)
    sweep_verb.add_argument(
        "--png", type=Path, default=Path("sweep.png"), help="file of the curve (%(default)s)"
    )
    compile_verb = add_verb("compile", compile_ahead, items=10_000)
    compile_verb.add_argument(
        "--chip", choices=compile_ahead.CHIPS, required=True, help="chip to compile for"
    )
    compile_verb.add_argument(
        "--from", dest="first", type=int, default=64, help="first batch size (%(default)s)"
    )
    compile_verb.add_argument(
        "--to", dest="last", type=int, default=4096, help="last batch size (%(default)s)"
    )
    collectives_verb = add_verb("collectives", collectives, items=10_000)
    collectives_verb.add_argument(
        "--devices",
        type=int,
        default=8,
        help="largest of 1, 2, 4 ... devices; a CPU simulates them (%(default)s)",
    )
    collectives_verb.add_argument(
        "--users-a-device",
        type=int,
        metavar="N",
        help="batch of each device; default: training.batch_size divided by the devices",
    )
    add_verb("device", device, seconds=5.0)
    correctness_verb = add_verb("correctness", correctness, items=10_000)
    correctness_verb.add_argument(
        "--only",
        nargs="+",
        choices=correctness.KINDS,
        default=correctness.KINDS,
        help="checks to run; default: all",
    )
    profile_verb = add_verb("profile", profile, items=100_000)
    profile_verb.add_argument(
        "--trace", type=Path, metavar="FILE", help="keep the trace here (.xplane.pb.gz)"
    )
    train_verb = add_verb("train", train)
    train_verb.add_argument("--steps", type=int, default=100, help="training steps (%(default)s)")
    train_verb.add_argument("--prepared", metavar="DIR", help="prepared timelines; default: random ones")
    accelerator_verb = add_verb("accelerator", accelerator, seconds=6.0)
    accelerator_verb.add_argument(
        "--small",
        default="configs/demo.py",
        metavar="FILE",
        help="config of the correctness checks (%(default)s)",
    )
    accelerator_verb.add_argument(
        "--sizes", nargs="+", type=int, default=[512, 1024, 64, 256, 128, 2048],
        help="batch sizes; the first is the main one (%(default)s)",
    )  # fmt: skip
    accelerator_verb.add_argument(
        "--limit",
        type=float,
        default=400.0,
        help="seconds after which the running part is stopped (%(default)s)",
    )
    accelerator_verb.add_argument(
        "--folder",
        type=Path,
        default=Path("benchmarks/accelerator"),
        help="folder of all output (%(default)s)",
    )
    for verb, kind in ((step_verb, "full"), (sweep_verb, "full"), (embed_verb, "uniform")):
        verb.add_argument(
            "--lengths", dest="kind", default=kind,
            help="full, uniform (1 to T), or a folder of prepared timelines (%(default)s)",
        )  # fmt: skip
    for verb in (step_verb, sweep_verb):
        verb.add_argument("--peak-tflops", type=float, help="data-sheet rate of one device, for a second MFU")
    return parser


_SHARED = {"items": "items of the catalogue", "seconds": "seconds for each comparison, without compiling"}
_SETTINGS = "Any setting can be given by its name: --model.compute-dtype bfloat16 --training.batch-size 512"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the verb that the command line names."""
    values, others = _parser().parse_known_args(argv)
    keywords = vars(values)
    verb, module, file, json_file = (keywords.pop(name) for name in ("verb", "module", "config", "json"))
    if module is accelerator:  # its parts are processes, which need the device
        with errors_as_messages():
            override(load_config(file), others)  # report a wrong setting before the first part
            small = keywords.pop("small")
            summary = module.measure(config_file=file, small_file=small, overrides=others, **keywords)
        module.show(summary, keywords["folder"])
        return
    set_up_process(keep_programs=False)
    if "devices" in keywords:
        jax.config.update("jax_num_cpu_devices", keywords["devices"])
    with errors_as_messages():
        config = override(load_config(file), others)
        if config.sizes_by_log:
            raise ValueError(f"{file}: sizes_by_log = True needs a prepared log; give a config with sizes")
        figures = module.measure(config, **keywords)
        module.show(figures)
        finish(record(verb, config, figures), json_file)


if __name__ == "__main__":
    main()
