"""Ingest other rows into a prepared folder at fifty moments beside each verb, and count what the verb did.

    PYTHONPATH=.:tests python tests/ingest_beside.py FOLDER [VERB ...] [--times 50]

Each round starts from a copy of the same world. The ingest starts after a share of the time that the verb
takes alone, from none of it to all. A result is right if it is, to the byte, that of the verb alone on the
old rows or on the new ones; a verb that exits with 2 refused; anything else is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from daily_run import ROWS, TRAINED, day, make_run, of_days
from logs import write_parquet

import pinnerformer_jax.items.__main__ as items
from pinnerformer_jax import embed, evaluate, ingest, recommend, train
from pinnerformer_jax.data.timelines import read_manifest
from pinnerformer_jax.serving import state
from pinnerformer_jax.serving.manifest import read_manifest as read_state
from pinnerformer_jax.training.checkpoint import Checkpoints

CONFIG = """
import json
from pinnerformer_jax.config_files import from_dict
config = from_dict(json.load(open("config.json")))
"""
OF = ["--config", "config.py"]
NIGHT = ["--workdir", "run", "--snapshots", "snapshots", "--date"]
VERBS = {
    "embed": (embed, [*NIGHT, day(TRAINED), "--events", "day.parquet"]),
    "evaluate": (evaluate, ["--workdir", "run"]),
    "train": (train, [*OF, "--workdir", "run"]),
    "recommend": (recommend, ["--snapshots", "snapshots", "--user", "u001", "--hide-seen"]),
    "items": (items, [*OF, "--method", "svd", "--out", "out"]),
}
OTHER = (ingest, [*OF, "--data.events", "other.parquet"])


def make_world(world: Path) -> None:
    """Two logs, a run of the first that has done 11 of 30 steps, its state, and the log of the day after."""
    world.mkdir(parents=True)
    first = SimpleNamespace(main=lambda folder: int(not make_run(folder, ROWS)))
    assert wait(start(world, (first, world))) == 0, (world / "said").read_text()
    workdir = world / "run-0"
    values = json.loads((workdir / "config.json").read_text())["config"]
    values["data"] |= {"prepared": "prepared", "events": ["log.parquet"]}
    values["items"] |= {"table": "items.parquet"}
    values["training"] |= {
        "batch_size": 16, "steps": 30, "checkpoint_every": 10, "future_events": 8, "length_parts": 1
    }  # fmt: skip
    for left in (workdir, world / "prepared"):
        shutil.rmtree(left)
    (world / "config.json").write_text(json.dumps(values))
    (world / "config.py").write_text(CONFIG)
    shifted = [row | {"item": f"i{(int(row['item'][1:]) + 7) % 20}"} for row in ROWS if row["user"] != "u000"]
    write_parquet(world / "other.parquet", of_days(shifted, 0, TRAINED))
    write_parquet(world / "day.parquet", of_days(ROWS, TRAINED, TRAINED + 1))
    stopped = SimpleNamespace(main=train_to_the_first_checkpoint)
    for verb in ((ingest, OF), (stopped, VERBS["train"][1]), (embed, [*NIGHT, day(TRAINED - 1)])):
        assert wait(start(world, verb)) == 0, (world / "said").read_text()


def train_to_the_first_checkpoint(arguments: list[str]) -> int:
    """Train until SIGTERM, which comes with the first checkpoint."""
    save, asked = Checkpoints.save, []

    def save_and_stop(*values: Any) -> None:
        save(*values)
        if not asked:
            asked.append(os.kill(os.getpid(), signal.SIGTERM))

    Checkpoints.save = save_and_stop
    return train.main(arguments)


def start(folder: Path, verb: tuple, after: float = 0.0) -> int:
    """Run a verb in a process of its own; its number."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.chdir(folder)
        with open("said" if verb is not OTHER else "said.ingest", "w") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        time.sleep(after)
        code = verb[0].main(verb[1]) or 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(process: int) -> int:
    """The exit code of a process."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def result(folder: Path, name: str) -> str:
    """What a verb left, or said."""
    if name == "embed":
        root = folder / "snapshots"
        served = str(state.current(root))
        return served + str(sorted(read_state(root, served).files.items()))
    if name == "evaluate":
        return json.dumps(json.loads((folder / "run" / "results.json").read_text())["rows"])
    if name == "train":
        metrics = folder / "run" / "checkpoints" / "30" / "metrics" / "metrics"
        return json.loads(metrics.read_text())["params_sha256"]
    if name == "items":
        return str(sorted(read_manifest(folder / "out").files.items()))
    return (folder / "said").read_text()


def read_arguments(
    description: str | None, verbs: dict[str, Any], times: int
) -> tuple[Path, argparse.Namespace]:
    """The world, made in the folder that the command line names, and the command line's values."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("verbs", nargs="*", default=list(verbs))
    parser.add_argument("--times", type=int, default=times)
    values = parser.parse_args()
    world = values.folder.absolute() / "world"
    make_world(world)
    return world, values


def main() -> None:
    """Run the verbs."""
    world, values = read_arguments(__doc__, VERBS, 50)
    for name in values.verbs:
        verb, right, seconds = VERBS[name], [], 0.0
        for rows in ("new", "old"):
            alone = shutil.copytree(world, world.with_name(f"{name}-{rows}"))
            if rows == "new":
                assert wait(start(alone, OTHER)) == 0
            began = time.perf_counter()
            if wait(start(alone, verb)) == 0:
                right.append(result(alone, name))
            seconds = time.perf_counter() - began
        outcomes: Counter[str] = Counter()
        for k in range(values.times):
            folder = shutil.copytree(world, world.with_name(f"{name}-{k}"))
            one, other = start(folder, verb), start(folder, OTHER, seconds * k / values.times)
            code, ingested = wait(one), wait(other)
            assert ingested in (0, 2), folder
            if code == 0:
                outcome = "unharmed" if result(folder, name) in right else "WRONG"
            else:
                outcome = "refused" if code == 2 else f"WRONG: exit code {code}"
            outcomes[f"{outcome}, ingest {'done' if ingested == 0 else 'refused'}"] += 1
            if not outcome.startswith("WRONG"):
                shutil.rmtree(folder)
        print(f"{name} ({seconds:.1f} s alone): {dict(outcomes)}", flush=True)


if __name__ == "__main__":
    main()
