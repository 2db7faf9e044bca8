"""Both towers as files, served by processes that have neither this package nor, for ONNX, JAX."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from daily_run import make_rows, make_run, of_days

from pinnerformer_jax.data.windows import histories_at_split
from pinnerformer_jax.export import __main__ as verb
from pinnerformer_jax.export import formats
from pinnerformer_jax.export.folder import difference
from pinnerformer_jax.export.folder import export as write_export
from pinnerformer_jax.export.towers import NO_IDENTITY, towers
from pinnerformer_jax.model.inference import Embedder
from pinnerformer_jax.retrieval.priors import Priors, write_priors
from pinnerformer_jax.serving.trained_model import TrainedModel
from pinnerformer_jax.training.checkpoint import Checkpoints
from pinnerformer_jax.training.run_record import read_record

ROWS = make_rows()
PAGE = Path(__file__).parents[1] / "docs/export.md"

BY_ITSELF = """
import json, pathlib, sys
import numpy as np
folder = pathlib.Path(sys.argv[1])
contract = json.loads((folder / "contract.json").read_text())
golden = np.load(folder / "golden.npz")
worst = {}
for tower in ("user_tower", "item_tower"):
    said = contract[tower]
    inputs = {i["name"]: golden[f"{tower}.{i['name']}"] for i in said["inputs"]}
    for i in said["inputs"]:
        assert inputs[i["name"]].dtype == i["dtype"] and [*inputs[i["name"]].shape[1:]] == i["shape"][1:]
    wanted = golden[f"{tower}.{said['output']['name']}"]
    program = load(folder / said["files"][FORMAT], said)
    for rows in (1, 2, 5, len(wanted)):
        given = np.asarray(program({name: value[:rows] for name, value in inputs.items()}))
        assert given.shape == (rows, said["output"]["shape"][1]) and given.dtype == np.float32
        worst[f"{tower} {rows}"] = float(np.abs(given - wanted[:rows]).max())
loaded = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([worst, sorted(loaded & {"jax", "flax", "pinnerformer_jax", "onnxruntime"})]))
"""
LOADERS = {
    "onnx": """
FORMAT = "onnx"
def load(file, said):
    import onnxruntime
    session = onnxruntime.InferenceSession(file)
    return lambda inputs: session.run(None, inputs)[0]
""",
    "jax": """
FORMAT = "jax"
def load(file, said):
    from jax import export
    program = export.deserialize(bytearray(file.read_bytes()))
    return lambda inputs: program.call(*(inputs[i["name"]] for i in said["inputs"]))
""",
}


@pytest.fixture
def workdir(tmp_path):
    return make_run(tmp_path, ROWS)


def skip_without(name):
    for package in formats.PACKAGES[name]:
        pytest.importorskip(package, reason=f"export --formats {name} needs it: docs/export.md")


def in_process(source, *arguments, cwd):
    """What a Python process prints as JSON; this checkout is not on its path."""
    done = subprocess.run(
        [sys.executable, "-c", source, *map(str, arguments)], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("format", formats.FORMATS)
@pytest.mark.parametrize(
    "settings",
    [
        {"aligned_start": False, "layers": 2},
        {"aligned_start": False, "identity_dim": 4, "output_dim": 12},
        {"aligned_start": False, "strictly_causal": True, "compute_dtype": "bfloat16"},
        {"aligned_start": False, "drop_features": ("item", "surface", "absolute_time")},
        {"drop_features": ("absolute_time", "relative_time", "action", "duration", "position")},
        {"max_length": 80, "attention": "xla"},  # attention in two blocks
    ],
    ids=lambda settings: "-".join(settings),
)
def test_a_process_without_this_package_gives_the_same_vectors(tmp_path, settings, format):
    skip_without(format)
    workdir = make_run(tmp_path, ROWS, **settings)
    if "identity_dim" in settings:
        record = json.loads((workdir / "config.json").read_text())
        record["sizes"]["identities"] = 12  # of twenty items
        del record["sha256"]
        (workdir / "config.json").write_text(json.dumps(record))
    write_export(workdir, tmp_path / "out", formats=(format,))
    worst, loaded = in_process(LOADERS[format] + BY_ITSELF, tmp_path / "out", cwd=tmp_path)
    assert loaded == {"onnx": ["onnxruntime"], "jax": ["jax"]}[format]
    assert len(worst) == 8
    assert max(worst.values()) < 1e-5


def test_the_folder_says_what_a_server_must_know(tmp_path, workdir):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step = checkpoints.step("best")
    write_priors(workdir, Priors(own_weight=0.5, popularity_weight=0.25), step, "by hand")
    assert write_export(workdir, tmp_path / "out", formats=()) == {}
    contract = json.loads((tmp_path / "out/contract.json").read_text())
    model = TrainedModel.load(workdir, "best")
    assert contract["model_version"] == model.version
    assert contract["step"] == step
    assert contract["actions"] == model.timelines.manifest.actions
    assert contract["surfaces"] == model.timelines.manifest.surfaces
    assert contract["score"]["priors"]["own_weight"] == 0.5
    assert contract["score"]["served"] == model.priors.formula != "inner product"
    assert contract["history"]["epoch"] == 883_008_000
    assert contract["items"]["count"] == len(np.load(tmp_path / "out/item_vectors.npy"))
    assert "jax_export" not in contract
    assert set(contract["files"]) == {"golden.npz", "item_vectors.npy", "items.parquet"}

    golden = np.load(tmp_path / "out/golden.npz")
    embedder = Embedder(model.graphdef, model.params, np.asarray(model.catalog.features))
    users = np.flatnonzero(np.concatenate([shard.cut for shard in model.timelines.shards]))
    wanted = embedder.users(*histories_at_split(model.timelines, users, 24))
    np.testing.assert_allclose(golden["user_tower.user_vector"], wanted, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(golden["item_tower.item_vector"], axis=1), 1, atol=1e-6)
    length = golden["user_tower.length"]
    assert length.min() >= 1
    assert length.max() == 24
    padding = {i["name"]: i.get("padding") for i in contract["user_tower"]["inputs"]}
    assert padding.pop("length") is None
    past = np.arange(24)[None, :] >= length[:, None]
    assert past.any()
    for name, value in padding.items():
        assert (golden[f"user_tower.{name}"][past] == value).all()


def test_identities_are_an_input_of_a_model_that_has_them(tmp_path):
    workdir = make_run(tmp_path, ROWS, identity_dim=4, output_dim=12)
    model, sizes = TrainedModel.load(workdir, "best"), read_record(workdir).sizes._replace(identities=12)
    user, item = towers(model.config, sizes, model.params)
    assert [tower.inputs[-1].name for tower in (user, item)] == ["item", "item"]
    vectors = jnp.asarray(model.catalog.features[:3], jnp.float32)
    named = item.call(vectors, jnp.arange(3))
    unnamed = item.call(vectors, jnp.full(3, NO_IDENTITY))
    embedder = Embedder(model.graphdef, model.params, model.catalog.features)
    np.testing.assert_array_equal(np.asarray(unnamed)[:, -4:], 0)
    assert (np.abs(np.asarray(named)[:, -4:]) > 0).all()
    np.testing.assert_allclose(embedder.items()[:3], unnamed, atol=1e-6)  # sizes of the run: none is known


def test_a_file_that_gives_other_vectors_is_not_written(workdir):
    model = TrainedModel.load(workdir, "best")
    user, _ = towers(model.config, read_record(workdir).sizes, model.params)
    inputs = {f"user_tower.{i.name}": np.zeros((3, *i.shape), i.dtype) for i in user.inputs}
    golden = inputs | {"user_tower.user_vector": np.ones((3, 8), np.float32)}
    assert difference(user, lambda given: np.ones((len(given["length"]), 8)), golden, "a") == 0
    for bad in (np.nan, 1.1):
        with pytest.raises(ValueError, match="a gives other vectors than the model"):
            difference(user, lambda given, bad=bad: np.full((len(given["length"]), 8), bad), golden, "a")


def test_nothing_else_is_replaced(tmp_path, workdir):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/one.png").write_bytes(b"1")
    for out in ("photos", "photos/one.png"):
        with pytest.raises(ValueError, match="not a folder that export wrote"):
            write_export(workdir, tmp_path / out, formats=())
    assert (tmp_path / "photos/one.png").read_bytes() == b"1"
    for _ in range(2):
        write_export(workdir, tmp_path / "out", formats=())
        (tmp_path / "out/old").touch()
    write_export(workdir, tmp_path / "out", formats=())
    assert not (tmp_path / "out/old").exists()


def test_a_missing_package_is_named_with_its_cure(tmp_path, workdir, monkeypatch, capsys):
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        verb.main(["--workdir", str(workdir), "--out", str(tmp_path / "out"), "--formats", "onnx"])
    told = capsys.readouterr().err
    assert "--formats onnx needs onnx, onnxruntime, jax2onnx" in told
    assert "pip install --no-deps jax2onnx" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_page_serves_a_log_in_onnx_runtime(tmp_path, workdir):
    """The code of docs/export.md, in a process without this package, gives the vectors of the same users."""
    skip_without("onnx")
    assert verb.main(["--workdir", str(workdir), "--out", str(tmp_path / "export"), "--formats", "onnx"]) == 0
    code = re.search(r"```python\n(# serve\.py.*?)```", PAGE.read_text(), re.DOTALL)[1]
    names = ["u001", "u002", "u017"]
    model = TrainedModel.load(workdir, "best")
    split = model.timelines.manifest.split_time
    rows = [row for row in of_days(ROWS, 0, 30) if row["time"] <= split]
    histories = [
        sorted((row for row in rows if row["user"] == name), key=lambda row: row["time"]) for name in names
    ]
    (tmp_path / "histories.json").write_text(json.dumps(histories))
    ask = "\nimport sys\nprint(json.dumps(embed_users(json.load(open('histories.json'))).tolist()))"
    vectors = in_process(code + ask, cwd=tmp_path)
    numbers = {
        user: number
        for number, user in enumerate(u for s in model.timelines.shards for u in s.user_ids.to_pylist())
    }
    users = np.array([numbers[name] for name in names])
    embedder = Embedder(model.graphdef, model.params, np.asarray(model.catalog.features))
    wanted = embedder.users(*histories_at_split(model.timelines, users, 24))
    np.testing.assert_allclose(vectors, wanted, atol=1e-5)
