"""Kill each verb with SIGKILL at twenty random moments, run the same command again, and compare the result
with that of a run that nobody killed.

    PYTHONPATH=.:tests python tests/kill_at_random.py FOLDER [VERB ...] [--times 20]

Each round starts from a copy of the same world (ingest_beside.py). For train the results compared are the
final parameters, bit for bit.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
from ingest_beside import CONFIG, VERBS, read_arguments, result, start, wait

from pinnerformer_jax import study

STUDY = (
    CONFIG
    + """
from pinnerformer_jax.studies.study_table import BASE, RECALL, Line, StudyTable
tables = (StudyTable("one", "One", (Line("dense", BASE),), (RECALL,)),)
"""
)
KILLED = {name: VERBS[name] for name in ("train", "evaluate", "items", "embed")} | {
    "study": (study, ["--config", "study.py", "--workdir", "study", "--seeds", "1"])
}


def outcome(folder: Path, name: str) -> str:
    """What a verb left."""
    if name == "study":
        (cell,) = (folder / "study").glob("cells/*/measured.json")
        return json.dumps(json.loads(cell.read_text())["numbers"])
    return result(folder, name)


def temporary(folder: Path) -> list[str]:
    """Files and folders that a writer had not finished."""
    return [path.name for path in folder.rglob("*") if path.name.startswith(".") or "tmp" in path.name]


def main() -> None:
    """Kill the verbs."""
    world, values = read_arguments(__doc__, KILLED, 20)
    (world / "study.py").write_text(STUDY)
    rng = np.random.default_rng(0)
    for name in values.verbs:
        verb = KILLED[name]
        alone = shutil.copytree(world, world.with_name(f"{name}-alone"))
        began = time.perf_counter()
        assert wait(start(alone, verb)) == 0, (alone / "said").read_text()
        seconds, right = time.perf_counter() - began, outcome(alone, name)
        counts: Counter[str] = Counter()
        for k in range(values.times):
            folder = shutil.copytree(world, world.with_name(f"{name}-{k}"))
            process = start(folder, verb)
            time.sleep(rng.uniform(0, seconds))
            os.kill(process, signal.SIGKILL)
            counts["killed" if wait(process) == -signal.SIGKILL else "ended before"] += 1
            counts["left something unfinished"] += bool(temporary(folder))
            again = wait(start(folder, verb))
            good = again == 0 and outcome(folder, name) == right
            counts["completed as if never killed" if good else f"WRONG, exit code {again}"] += 1
            counts["unfinished after completion"] += bool(temporary(folder))
            if good:
                shutil.rmtree(folder)
        print(f"{name} ({seconds:.1f} s alone): {dict(counts)}", flush=True)


if __name__ == "__main__":
    main()
