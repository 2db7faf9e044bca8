"""examples/feast reads a snapshot, offline and online. Runs where feast is installed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from states import make_state, vector

EXAMPLE = Path(__file__).parent.parent / "examples" / "feast"
CODE = """
import datetime, json, pandas
from feast import FeatureStore
store = FeatureStore(".")
now = datetime.datetime.now(datetime.timezone.utc)
names = ["user_vectors:embedding", "user_vectors:model_version"]
asked = pandas.DataFrame({"user_id": ["u1", "u2"], "event_timestamp": [now, now]})
past = store.get_historical_features(entity_df=asked, features=names).to_df().sort_values("user_id")
store.materialize(datetime.datetime(1969, 1, 1, tzinfo=datetime.timezone.utc), now)
online = store.get_online_features(
    features=names, entity_rows=[{"user_id": name} for name in ("u1", "u2", "nobody")]
).to_dict()
offline = [[float(x) for x in row] for row in past["embedding"]]
print(json.dumps([offline, online["embedding"], online["model_version"]]))
"""


@pytest.fixture
def python():
    """One that has feast: this one, or FEAST_PYTHON."""
    name = os.environ.get("FEAST_PYTHON", sys.executable)
    if subprocess.run([name, "-c", "import feast"], capture_output=True).returncode:
        pytest.skip("feast is not installed: pip install feast, or name a Python that has it in FEAST_PYTHON")
    return name


def in_example(tmp_path, python, *arguments):
    environment = os.environ | {"SNAPSHOTS": str(tmp_path / "snapshots"), "FEAST_USAGE": "False"}
    return subprocess.run(
        [python, *arguments], cwd=tmp_path / "feast", env=environment, capture_output=True, text=True
    )


def test_feast_reads_the_snapshot(tmp_path, python):
    make_state(tmp_path / "snapshots", 1, {"u1": 1, "u2": 2})
    shutil.copytree(EXAMPLE, tmp_path / "feast")
    apply = "from feast.cli.cli import cli; cli(['apply'])"
    done = in_example(tmp_path, python, "-c", apply)
    assert done.returncode == 0, done.stderr
    done = in_example(tmp_path, python, "-c", CODE)
    assert done.returncode == 0, done.stderr
    offline, online, versions = json.loads(done.stdout.splitlines()[-1])
    assert offline == [vector("u1", 1).tolist(), vector("u2", 2).tolist()]
    assert online == [*offline, None]
    assert versions == ["a", "a", None]
