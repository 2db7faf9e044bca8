"""Hooks of MkDocs (mkdocs.yml): pages of the site that are not in docs/, and links that lead out of docs/.

README, CONTRIBUTING and CHANGELOG become pages, as does all that they and docs/ link to in the repository: a
Markdown file as a page, any other file as text below source/. A link to a folder becomes plain text.
commands.md has what each verb's --help says first, settings.md every setting, api.md the public names.
"""

from __future__ import annotations

import ast
import dataclasses
import os
import posixpath
import re
from pathlib import Path
from typing import get_type_hints

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import pinnerformer_jax
from pinnerformer_jax.__main__ import VERBS
from pinnerformer_jax.config import Config

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
SHOWN = {".md", ".html", ".svg", ".png", ".json"}
"""Endings that a browser shows; to any other .txt is added, so that it does not store the file."""

LINK = re.compile(r'(\[[^\]\[]*\])\(([^)#\s]+)(#[^)\s]*)?\)|\b(src|href)="([^"#]+)"')

origin: dict[str, str] = {}  # path in the repository of each page


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and the files that pages link to."""
    origin.update({file.src_uri: f"docs/{file.src_uri}" for file in files.documentation_pages()})
    waiting = [*origin.values(), *PAGES]
    known = set(waiting)
    while waiting:
        path = waiting.pop()
        if not path.startswith("docs/"):
            uri = site_path(path)
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
            origin[uri] = path
        if path.endswith(".md"):
            text = (ROOT / path).read_text(encoding="utf-8")
            for match in LINK.finditer(text):
                target = repository_path(path, match[2] or match[5])
                if target and target not in known and (ROOT / target).is_file():
                    known.add(target)
                    waiting += [] if target.startswith("docs/") else [target]
    files.append(File.generated(config, "commands.md", content=commands()))
    files.append(File.generated(config, "settings.md", content=settings()))
    files.append(File.generated(config, "api.md", content=api()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between files of the site."""
    here = origin.get(page.file.src_uri)
    if here is None:
        return markdown

    def turned(match: re.Match[str]) -> str:
        target = repository_path(here, match[2] or match[5])
        if target is None:
            return match[0]
        if (ROOT / target).is_dir():
            return match[1][1:-1] if match[2] else match[0]
        if not (ROOT / target).is_file():
            return match[0]
        uri = site_path(target)
        if match[2]:
            relative = posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or ".")
            return f"{match[1]}({relative}{match[3] or ''})"
        return f'{match[4]}="{posixpath.relpath(uri, page.file.url or ".")}"'  # MkDocs leaves HTML as it is

    return LINK.sub(turned, markdown)


def repository_path(page: str, link: str) -> str | None:
    """Path in the repository that a link of a page leads to; None: it leads elsewhere."""
    if "://" in link or link.startswith(("mailto:", "/", "data:")):
        return None
    path = os.path.normpath(posixpath.join(posixpath.dirname(page), link))
    return None if path.startswith("..") else path


def site_path(path: str) -> str:
    """Path in the site's sources of a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path in PAGES:
        return PAGES[path]
    return f"source/{path}" + ("" if Path(path).suffix in SHOWN else ".txt")


def commands() -> str:
    """The page of the verbs, from their docstrings; none is imported."""
    parts = ["# Commands", "`pinnerformer VERB` is the same as `python -m pinnerformer_jax.VERB`."]
    package = Path(pinnerformer_jax.__file__).parent
    for verb in VERBS:
        file = package / verb / "__main__.py" if (package / verb).is_dir() else package / f"{verb}.py"
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        parts += [f"## {verb}", f"```text\n{text}\n```"]
    return "\n\n".join(parts) + "\n"


def settings() -> str:
    """The page of the config's sections."""
    parts = ["# Settings", "On the command line `--training.seed 1` is the setting `seed` of `training`."]
    for section in dataclasses.fields(Config):
        if dataclasses.is_dataclass(kind := get_type_hints(Config)[section.name]):
            parts += [f"## {section.name}", f"::: {kind.__module__}.{kind.__qualname__}"]
    return "\n\n".join(parts) + "\n"


def api() -> str:
    """The page of the public names, by the folder that has them."""
    parts = ["# API", "All names below are attributes of the package: `import pinnerformer_jax as pf`, then "
             "`pf.fit`."]  # fmt: skip
    modules = pinnerformer_jax._MODULE_OF
    stages: dict[str, list[str]] = {}
    for name in sorted(modules, key=lambda name: (modules[name], name)):
        stages.setdefault(modules[name].partition(".")[0], []).append(name)
    for stage, names in stages.items():
        parts.append(f"## {stage}")
        parts += [f"::: pinnerformer_jax.{modules[name]}.{name}" for name in names]
    return "\n\n".join(parts) + "\n"
