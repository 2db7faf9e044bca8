"""Training by one, two and four processes with four devices together, on one machine.

    python -m benchmarks.hosts OUT.json [--folder DIR]

The processes meet as on several machines (`--hosts ADDRESS:PORT`), and a CPU simulates the devices. Measured
for a whole and a sharded item table: how far losses, gains and final parameters are from those of one
process; what each process reads; the collectives of a step; what a SIGTERM to one of two processes does, and
a SIGKILL to it, or to it and its parent, as when a machine is lost; and the parameters of a run that two
processes began and one, two or four ended. The data are made up.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pinnerformer_jax.bench.report import table
from pinnerformer_jax.files import write_json

DEVICES = 4
WORLD = ("--users", "800", "--items", "2000", "--seed", "0")
SETTINGS = (
    "--model.layers", "1", "--model.width", "32", "--model.heads", "2", "--model.max-length", "32",
    "--model.output-dim", "16", "--model.item-hidden", "32", "--objective.positions", "8",
    "--objective.random-negatives", "128", "--objective.in-batch-negatives", "128",
    "--training.batch-size", "32", "--training.steps", "40", "--training.checkpoint-every", "10",
    "--training.log-every", "1", "--training.validation-batches", "2", "--data.validation-share", "0.3",
)  # fmt: skip
KILLS = 3  # of each of two processes
TABLES = {"whole": (), "sharded": ("--training.shard-items",)}

# Trains, and notes what this process read and what its programs are. WAIT slows the input, so that there is
# time for a signal.
CHILD = """
import json, os, sys, time
from pathlib import Path
import numpy as np
from pinnerformer_jax import train
from pinnerformer_jax.bench.collectives import count
from pinnerformer_jax.data.timelines import COLUMNS
from pinnerformer_jax.data.windows import Windows
from pinnerformer_jax.training import loop

note, batch_of, compiled, opened = Path(sys.argv[1]), Windows.with_lengths, loop._compiled_step, train._open
noted = {"rows": [], "bytes": [], "programs": []}
event = sum(np.dtype(kind).itemsize for kind in COLUMNS.values())

def write():
    note.with_suffix(".part").write_text(json.dumps(noted))
    note.with_suffix(".part").replace(note)

def with_lengths(self, step):
    batch, lengths = batch_of(self, step)
    if self.role == 0:
        read = batch.length.sum() + np.minimum(batch.future_count, self.config.training.future_events).sum()
        noted["rows"].append(len(batch.length))
        noted["bytes"].append(int(read) * event)
    time.sleep(float(os.environ["WAIT"]))
    return batch, lengths

def program(*arguments, **settings):
    made = compiled(*arguments, **settings)
    noted["programs"].append(count(made.as_text() or ""))
    write()
    return made

def open_(*arguments):
    run, state = opened(*arguments)
    parts = run.tables.item_features.values.addressable_shards
    noted["table"] = sum({str(part.index): part.data.nbytes for part in parts}.values())
    return run, state

Windows.with_lengths, loop._compiled_step, train._open = with_lengths, program, open_
code = train.main(sys.argv[2:])
if noted["programs"]:  # this is not the parent
    write()
sys.exit(code)
"""


class Trainings:
    """Trainings below one folder, by any number of processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        raw = folder / "raw"
        self._config = (
            "--config", "configs/demo.py", "--data.events", str(raw / "events.parquet"), "--items.table",
            str(raw / "items.parquet"), "--data.prepared", str(folder / "prepared"), *SETTINGS,
        )  # fmt: skip
        for command in (("synthetic", "--out", str(raw), *WORLD), ("ingest", *self._config)):
            subprocess.run([sys.executable, "-m", f"pinnerformer_jax.{command[0]}", *command[1:]], check=True)

    def start(self, name: str, processes: int, kind: str, wait: float = 0.0) -> list[subprocess.Popen[str]]:
        """The processes, started."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        environment = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES // processes}",
            "JAX_PLATFORMS": "cpu",
            "WAIT": str(wait),
        }
        return [
            subprocess.Popen(
                [
                    *(sys.executable, "-c", CHILD, str(self._note(name, index)), *self._config),
                    *("--workdir", str(self._folder / name), *TABLES[kind]),
                    *(("--hosts", address) if processes > 1 else ()),
                    *(("--host-count", str(processes), "--host-index", str(index)) if processes > 1 else ()),
                ],
                env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for index in range(processes)
        ]  # fmt: skip

    def run(self, name: str, processes: int, kind: str) -> None:
        """Train to the end.

        Raises:
            RuntimeError: a process failed.
        """
        for process in self.start(name, processes, kind):
            _, errors = process.communicate()
            if process.returncode:
                raise RuntimeError(f"{name}: code {process.returncode}: {errors[-2000:]}")

    def after_signal(
        self, name: str, kind: str, number: signal.Signals, at: int, *, child: bool = False
    ) -> dict[str, Any]:
        """What two processes do when one, or its child, gets a signal, once there is a checkpoint.

        Raises:
            RuntimeError: one ended before.
            subprocess.TimeoutExpired: one hangs.
        """
        processes = self.start(name, 2, kind, wait=0.4)
        while not self.steps(name):
            if any(process.poll() is not None for process in processes):
                raise RuntimeError(f"{name}: ended early: {processes[0].communicate()[1][-2000:]}")
            time.sleep(0.05)
        it, other = processes[at], processes[1 - at]
        os.kill(_child(it.pid) if child else it.pid, number)
        sent = time.monotonic()
        figures: dict[str, Any] = {}
        for who, process in (("other", other), ("it", it)):
            errors = process.communicate(timeout=300)[1].splitlines()
            message = next((line for line in reversed(errors) if line.startswith("error:")), "")
            figures[who] = {"code": process.returncode, "message": message}
            figures[who]["seconds"] = round(time.monotonic() - sent, 1)
        return figures | {"step": max(self.steps(name))}

    def steps(self, name: str) -> list[int]:
        """Of the checkpoints."""
        return [int(path.name) for path in (self._folder / name).glob("checkpoints/*") if path.name.isdigit()]

    def copy(self, name: str, new: str) -> None:
        """Of a workdir."""
        shutil.copytree(self._folder / name, self._folder / new)

    def logged(self, name: str, figure: str) -> dict[int, float]:
        """A figure of the log by step: "loss" or "validation_gain"."""
        text = (self._folder / name / "metrics.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        return {line["step"]: line[figure] for line in lines if figure in line}

    def parameters(self, name: str) -> np.ndarray:
        """Of the last checkpoint, in one row."""
        import jax
        from jax.sharding import SingleDeviceSharding

        from pinnerformer_jax.training.checkpoint import Checkpoints
        from pinnerformer_jax.training.run_record import read_record
        from pinnerformer_jax.training.state import create

        workdir = self._folder / name
        record = read_record(workdir)
        abstract = jax.eval_shape(lambda: create(record.config, record.sizes)[1])
        with Checkpoints(workdir, read_only=True) as checkpoints:
            state = checkpoints.restore(abstract, SingleDeviceSharding(jax.devices()[0]))
        return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(state.params)])

    def notes(self, name: str, processes: int) -> list[dict[str, Any]]:
        """What each process noted."""
        return [json.loads(self._note(name, index).read_text()) for index in range(processes)]

    def _note(self, name: str, index: int) -> Path:
        return self._folder / f"{name}-{index}.json"


def _child(parent: int) -> int:
    return int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])


def measure(trainings: Trainings, kind: str) -> dict[str, Any]:
    """All figures for one way to hold the item table."""
    one = f"{kind}-1"
    figures: dict[str, Any] = {"processes": {}, "resumed": {}}
    for processes in (1, 2, 4):
        name = f"{kind}-{processes}"
        trainings.run(name, processes, kind)
        notes = trainings.notes(name, processes)
        losses, wanted = trainings.logged(name, "loss"), trainings.logged(one, "loss")
        gains = [trainings.logged(of, "validation_gain") for of in (name, one)]
        assert losses.keys() == wanted.keys()
        assert gains[0].keys() == gains[1].keys() != set()
        figures["processes"][processes] = {
            "losses": len(losses),
            "loss_difference": max(abs(losses[step] - wanted[step]) for step in wanted),
            "gain_difference": max(abs(gains[0][step] - gains[1][step]) for step in gains[1]),
            "parameter_difference": _difference(trainings, name, one),
            "rows_a_step": [int(np.unique(note["rows"]).item()) for note in notes],
            "event_bytes_a_step": [round(float(np.mean(note["bytes"]))) for note in notes],
            "table_bytes": [note["table"] for note in notes],
            "collectives_a_step": notes[0]["programs"],
        }
        print(f"{kind}, {processes} processes: {figures['processes'][processes]}", flush=True)
    stopped = f"{kind}-stopped"
    figures["sigterm"] = trainings.after_signal(stopped, kind, signal.SIGTERM, 1)
    for processes in (1, 2, 4):
        name = f"{stopped}-{processes}"
        trainings.copy(stopped, name)
        trainings.run(name, processes, kind)
        figures["resumed"][processes] = {
            "step": max(trainings.steps(name)),
            "parameter_difference": _difference(trainings, name, one),
            "parameter_difference_from_two": _difference(trainings, name, f"{kind}-2"),
        }
        print(f"{kind}, resumed by {processes}: {figures['resumed'][processes]}", flush=True)
    print(f"{kind}: {figures['sigterm']}", flush=True)
    figures["killed"], figures["lost"] = {}, {}
    for at in (0, 1):
        figures["killed"][at] = [
            trainings.after_signal(f"{kind}-killed-{at}-{k}", kind, signal.SIGKILL, at, child=True)
            for k in range(KILLS)
        ]
        figures["lost"][at] = trainings.after_signal(f"{kind}-lost-{at}", kind, signal.SIGKILL, at)
        print(f"{kind}, {at} killed: {figures['killed'][at]}\n{figures['lost'][at]}", flush=True)
    return figures


def _difference(trainings: Trainings, name: str, other: str) -> float:
    """The largest difference of a parameter; 0: they are the same bit for bit."""
    return float(np.abs(trainings.parameters(name) - trainings.parameters(other)).max())


def show(figures: dict[str, Any]) -> None:
    """A line a number of processes."""
    rows = [
        [kind, processes, f["loss_difference"], f["parameter_difference"], f["rows_a_step"][0],
         f["event_bytes_a_step"], f["table_bytes"]]
        for kind, of_kind in figures.items() for processes, f in of_kind["processes"].items()
    ]  # fmt: skip
    names = ("table", "processes", "losses off by", "parameters off by", "rows", "event bytes", "table bytes")
    table("A step of each process", names, rows)


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("--folder", type=Path, help="where the trainings go; without it, they are removed")
    values = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        trainings = Trainings(values.folder or Path(temporary))
        figures = {}
        for kind in TABLES:
            figures[kind] = measure(trainings, kind)
            write_json(values.out, figures)
    show(figures)


if __name__ == "__main__":
    main()
