"""The code that examples/ and docs/ show runs, and does what they say."""

import contextlib
import io
import json
import re
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
import small
import small_run

import pinnerformer_jax as pf

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Of a tiny prepared folder."""
    return small_run.config(small_run.write_data(tmp_path_factory.mktemp("data") / "prepared"))


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_own_loop_learns_and_retrieves(config, capsys):
    source = ROOT / "examples" / "own_loop.py"
    assert len(source.read_text().splitlines()) <= 45
    runpy.run_path(str(source))["main"](config, 60)
    said = capsys.readouterr().out.splitlines()
    losses = [float(line.split()[-1]) for line in said if line.startswith("step")]
    assert len(losses) == 10
    assert np.mean(losses[-3:]) < losses[0]
    retrieved = [line for line in said if line.startswith("user")]
    assert len(retrieved) == 3
    assert all(len(set(re.findall(r"item-\d+", line))) == 5 for line in retrieved)


@pytest.mark.slow
def test_the_documented_objective_trains(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pf, "load_config", lambda path: config, raising=False)
    page = (ROOT / "docs" / "adding-an-objective.md").read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "adding-an-objective.md", "exec"), names)
    lines = (tmp_path / "runs" / "next-few" / "metrics.jsonl").read_text().splitlines()
    assert any(json.loads(line).get("pairs", 0) > 0 for line in lines)

    batch, table = small.batch(), small.tables().positive_table
    keys = jax.random.split(jax.random.key(0), 16)
    targets = names["next_few"](keys, batch, table, positives=4)
    first = pf.next_action(keys, batch, table, horizon=365 * 86_400)
    np.testing.assert_array_equal(targets.item[:, :1], first.item)
    np.testing.assert_array_equal(targets.valid[:, :1], first.valid)
    assert targets.valid[:, 1:].any()


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text(encoding="utf-8"))
    names = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile("".join(cell["source"]), "quickstart.ipynb", "exec"), names)
        assert bool(said.getvalue()) == bool(cell["outputs"]), "the notebook was saved executed"
    assert names["results"]["rows"]
    assert len(names["recommended"]) == 5
