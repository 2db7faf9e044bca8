"""The README and the pages in docs/: links lead to files, code and commands name what exists, and the figures
are drawn from the tables beside them."""

import ast
import re
import runpy
from pathlib import Path

import pytest

import pinnerformer_jax as pf
from pinnerformer_jax.__main__ import VERBS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_of_the_repository(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) + re.findall(r'src="([^"]+)"', text)
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_name_verbs_and_configs_that_exist(page):
    text = page.read_text(encoding="utf-8")
    if page.name != "CHANGELOG.md":  # which names commands of before
        verbs = {verb.partition(".")[0] for verb in re.findall(r"-m pinnerformer_jax\.([a-z_]+)", text)}
        assert verbs <= set(VERBS)
    configs = set(re.findall(r"configs/[\w/]+\.py", text)) - {"configs/yours.py", "configs/shop.py"}
    assert [config for config in configs if not (ROOT / config).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_that_are_named_exist(page):
    if page.name == "CHANGELOG.md":  # which names modules of before
        return
    named = set(re.findall(r"`((?:pinnerformer_jax/)?[a-z_]+/\w+\.py)", page.read_text(encoding="utf-8")))
    named -= {"configs/yours.py"}
    roots = ROOT, ROOT / "pinnerformer_jax"
    assert [name for name in named if not any((root / name).is_file() for root in roots)] == []


def test_the_code_of_the_readme_uses_public_names():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    names = {
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pf"
    }
    assert names
    assert names <= set(pf.__all__)
    assert sum(bool(line) for line in code.splitlines()) <= 12


def test_the_figure_of_the_results_has_all_rows_of_its_tables():
    read_tables = runpy.run_path(str(ROOT / "docs/draw.py"))["read_tables"]
    tables = read_tables((ROOT / "docs/results.md").read_text(encoding="utf-8"))
    assert list(tables) == ["KuaiRand-Pure, two weeks", "Online Retail II"]
    assert all(len(methods) == 11 for methods in tables.values())
    assert tables["Online Retail II"]["PinnerFormer"] == [(0.075, 0.017), (0.117, 0.023), (0.058, 0.021)]
