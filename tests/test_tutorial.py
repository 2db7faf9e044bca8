"""The commands of docs/tutorial.md, run as they stand there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.csv as csv
import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tutorial.md"


def commands():
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    # A user's environment: the tests' has several devices, and keeps its compiled programs elsewhere.
    environment = {name: of for name, of in os.environ.items() if not name.startswith(("XLA_", "JAX_"))}
    printed = []
    for command in commands():
        python, *arguments = shlex.split(command)
        assert python == "python", command
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        printed.append(" ".join(done.stdout.split()))
    made, init, run, evaluated, everybody, one, similar = printed
    assert "orders.csv: 182,702 lines" in made
    assert "data.columns.item │ sku" in init
    assert "check these lines" not in init
    assert "EDIT" not in (tmp_path / "configs" / "shop.py").read_text().split('"""')[2]
    assert "verdict: On all items, PinnerFormer, served" in run
    assert "recommendations: runs/shop/recommendations.parquet: 7,209 users, 72,090 recommendations" in run
    assert "136 of 1,911 items may not be shown; they are 5.1% of the targets" in evaluated
    assert "7,209 users, 72,090 recommendations" in everybody
    assert "without this event the" in one
    assert similar.count("Decaf") >= 3

    recommended = csv.read_csv(tmp_path / "data" / "shop" / "recs.csv").to_pydict()
    assert not set((tmp_path / "data/shop/sold-out.txt").read_text().split()) & set(recommended["item_id"])
    category = {sku: sku[:3] for sku in recommended["item_id"]}
    ranked = {}
    for user, item in zip(recommended["user_id"], recommended["item_id"], strict=True):
        ranked.setdefault(user, []).append(category[item])
    assert all(len(of) == 10 and max(map(of.count, of)) <= 3 for of in ranked.values())
