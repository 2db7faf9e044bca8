"""What `import pinnerformer_jax` gives."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import pinnerformer_jax as pf

NAMES = sorted(set(pf.__all__) - {"__version__"})


@pytest.mark.parametrize("name", NAMES)
def test_a_name_comes_with_a_docstring_that_says_what_it_takes(name):
    value = getattr(pf, name)
    assert value is getattr(sys.modules[f"pinnerformer_jax.{pf._MODULE_OF[name]}"], name)
    text = inspect.getdoc(value)
    assert len(text) > 20
    if inspect.isfunction(value) and len(inspect.signature(value).parameters) > 1:
        assert "Args:" in text
    assert name in dir(pf)


def test_checkers_are_told_of_the_same_names():
    tree = ast.parse(Path(pf.__file__).read_text(encoding="utf-8"))
    told = {
        alias.asname: node.module
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        for alias in node.names
    }
    assert told == {name: f"pinnerformer_jax.{module}" for name, module in pf._MODULE_OF.items()}
    assert pf._MODULE_OF.keys() == set(NAMES)


def test_no_name_hides_a_module():
    modules = {path.stem for path in Path(pf.__file__).parent.iterdir()}
    assert not modules & set(NAMES)


def test_importing_costs_nothing_until_a_name_is_used():
    script = (
        "import sys, pinnerformer_jax as pf; before = {'jax', 'numpy', 'pyarrow'} & set(sys.modules); "
        "pf.search; print(before, 'jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set() True\n"


def test_other_names_are_errors():
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = pf.fitt
