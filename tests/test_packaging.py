"""What a wheel says of itself, and what it can do away from the checkout."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

import pinnerformer_jax

ROOT = Path(__file__).parent.parent
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = BUILD["project"]
EXTRAS = PROJECT["optional-dependencies"]
NOT_IMPORTED = {"array_record", "flatbuffers", "onnx-ir", "sqlalchemy", "alembic", "s3fs"}
"""Dependencies that only another one imports: TFDS, jax.export, jax2onnx, MLflow, fsspec."""
OPTIONAL = ("redis", "explore", "export", "wandb", "mlflow", "tune", "ray", "s3")
BY_ITSELF = {"jax2onnx", "mlflow"}
"""Installed without its dependencies (docs/export.md); the module of mlflow-skinny."""
CHECKOUT = ("benchmarks", "examples", "tests")
"""Folders that are not part of the wheel."""


def name_of(requirement):
    """`jax` for `jax[cuda12]>=0.10.2`, spelled as pip compares names."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def imported(folder):
    """Top-level names of what is imported anywhere in a folder, but for the standard library."""
    names = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"pinnerformer_jax"}


def test_requirements_and_the_package_ask_for_the_same():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    asked = [line for line in lines if not line.startswith("#")]
    assert asked == [*PROJECT["dependencies"], *EXTRAS["redis"], *EXTRAS["explore"], *EXTRAS["dev"]]


def test_what_is_imported_is_declared_and_nothing_else():
    extras = [line for name in OPTIONAL for line in EXTRAS[name]]
    declared = {name_of(line) for line in [*PROJECT["dependencies"], *extras]} | BY_ITSELF
    owners = importlib.metadata.packages_distributions()
    of_module = {module: {name_of(owner) for owner in owners.get(module, [module])} for module in
                 imported(ROOT / "pinnerformer_jax")}  # fmt: skip
    undeclared = {module for module, distributions in of_module.items() if not distributions & declared}
    assert undeclared == set()
    unused = (
        declared
        - set().union(*of_module.values())
        - {name_of(name) for name in {*NOT_IMPORTED, "mlflow-skinny"}}
    )
    assert unused == set()


def test_scann_is_asked_for_only_where_it_has_wheels():
    markers = pytest.importorskip("packaging.requirements")
    [line] = [line for line in PROJECT["dependencies"] if name_of(line) == "scann"]
    marker = markers.Requirement(line).marker

    def asked(**machine):
        here = {"sys_platform": "linux", "platform_machine": "x86_64", "python_version": "3.13"}
        return marker.evaluate(here | machine)

    assert asked()
    assert asked(python_version="3.11")
    assert not asked(python_version="3.14")
    assert not asked(platform_machine="aarch64")
    assert not asked(sys_platform="darwin")
    assert not asked(sys_platform="win32", platform_machine="AMD64")


def test_the_version_is_told_once():
    assert "version" not in PROJECT
    assert re.fullmatch(r"\d+\.\d+\.\d+", pinnerformer_jax.__version__)
    assert "\nversion:" not in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


CONFIG = """
from pinnerformer_jax.config import *

config = Config(
    data=DataConfig(
        events=("raw/events.parquet",),
        prepared="prepared",
        columns=ColumnsConfig(action="action", surface="surface", duration="duration"),
        positives=(PositiveRule(action="repin"), PositiveRule(action="closeup", min_duration=10)),
        evaluation_share=0.3,
    ),
    items=ItemsConfig(table="raw/items.parquet", vector="vector", title="title", topic="topic"),
    model=ModelConfig(layers=1, width=16, heads=2, max_length=8, output_dim=8, item_hidden=16),
    objective=ObjectiveConfig(positions=4, random_negatives=16, in_batch_negatives=16, sketch_width=256),
    training=TrainingConfig(batch_size=16, steps=3, future_events=16, validation_batches=1),
)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an environment that has the wheel, built of this checkout. It borrows the libraries of
    the environment that runs the tests, but not the package."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    [backend] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"][
        "requires"
    ]
    reach = run([*pip, "download", "--no-deps", "--dest", str(folder), backend], check=False)
    if reach.returncode:
        pytest.skip(f"pip cannot fetch {backend}: {reach.stderr.strip().splitlines()[-1]}")
    source = folder / "source"
    source.mkdir()
    shutil.copytree(ROOT / "pinnerformer_jax", source / "pinnerformer_jax")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(source)])
    [wheel] = folder.glob("pinnerformer_jax-*.whl")
    environment = folder / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    run([*pip, "--python", str(environment / "bin" / "python"), "install", "--no-deps", str(wheel)])
    [packages] = environment.glob("lib/python*/site-packages")
    libraries = [path for path in sys.path if path.endswith("-packages")]
    (packages / "borrowed.pth").write_text("\n".join(libraries) + "\n")
    return environment


def run(command, cwd=None, check=True):
    """A process that finds no checkout."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XLA_FLAGS")}
    done = subprocess.run(command, cwd=cwd, env=kept, capture_output=True, text=True)
    assert not (check and done.returncode), done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_installed_elsewhere_it_makes_reads_trains_and_evaluates(installed, tmp_path):
    program = str(installed / "bin" / "pinnerformer")
    (tmp_path / "small.py").write_text(CONFIG)
    where = "import pinnerformer_jax; print(pinnerformer_jax.__file__)"
    found = run([str(installed / "bin" / "python"), "-c", where], tmp_path).stdout
    assert Path(found.strip()).is_relative_to(installed)
    assert f"{pinnerformer_jax.__version__}\n" == run([program, "--version"], tmp_path).stdout
    assert "\n    train  " in run([program, "--help"], tmp_path).stdout
    run([program, "synthetic", "--out", "raw", "--users", "200", "--items", "200"], tmp_path)
    run([program, "ingest", "--config", "small.py"], tmp_path)
    run([program, "train", "--config", "small.py", "--workdir", "work"], tmp_path)
    evaluated = run([program, "evaluate", "--workdir", "work"], tmp_path).stdout
    assert "PinnerFormer" in evaluated
    assert (tmp_path / "work" / "report.html").is_file()
    run([program, "embed", "--workdir", "work", "--snapshots", "served", "--date", "2026-04-01"], tmp_path)
    asked = run([program, "recommend", "--snapshots", "served", "--user", "0", "-k", "3"], tmp_path).stdout
    assert "model" in asked


@pytest.mark.slow
def test_the_wheel_has_its_templates_its_types_and_no_checkout(installed):
    files = {str(path) for path in importlib.metadata.Distribution.at(dist_info(installed)).files}
    for name in (
        "py.typed",
        "evaluation/report.html",
        "evaluation/style.css",
        "studies/study.html",
        "serving/pages/user.html",
        "serving/pages/explorer.css",
    ):
        assert f"pinnerformer_jax/{name}" in files
    assert not [name for name in files if name.startswith(CHECKOUT)]


def dist_info(environment):
    [folder] = environment.glob("lib/python*/site-packages/pinnerformer_jax-*.dist-info")
    return folder
