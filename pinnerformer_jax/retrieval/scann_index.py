"""The served index: ScaNN, approximate nearest items by inner product, on the CPU.

    INDEX/
      manifest.json     items, dim, settings, checksum of the item vectors and of every file
      ...               the files that ScaNN writes, with the vectors; of several parts in 00000/, 00001/, ...

The default parameters are measured, on clustered unit vectors of 64 and 128 numbers with queries that are
mixtures of items, and on trained models (docs/log.md):
- brute force up to 20,000 items, where it answers over 10,000 queries a second on two cores;
- about sqrt(N) partitions, and as many searched as users' vectors need to find 98 % of their nearest items: a
  tenth is enough for mixtures of items, and four to eight tenths for users of a trained model;
- four candidates re-scored for each neighbour that is wanted;
- SOAR (each item in a second partition) from 100,000 items: it lifts 0.959 to 0.975, at less
  cost than searching more partitions; for fewer items it only costs speed;
- partitions and codebooks trained on 256 items a partition, at least 100,000: as good as all items, and with
  sqrt(N) partitions the build grows like N. ScaNN's own sample of 100,000 loses recall beyond it;
- more than a million items are indexed in equal parts, and each is searched: at four million a tenth of the
  partitions has recall@50 0.999 instead of 0.946, the build takes 0.8 of the time and 0.65 of the memory,
  a search 1.15 of the time.

ScaNN draws at random and has no seed: two builds of the same vectors with partitions differ in their bytes.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from pinnerformer_jax.config import IndexConfig
from pinnerformer_jax.files import check_contents, read_checked_json, sha256, write_checked_json
from pinnerformer_jax.retrieval import exact

FORMAT = 1
BRUTE_FORCE_ITEMS = 20_000
TREE_ITEMS = 100  # of fewer no tree can be made
SOAR_ITEMS = 100_000
TRAINED_A_LEAF, LEAST_TRAINED = 256, 100_000
"""Partitions and codebooks are trained on so many items a partition, and at least on so many."""
PART_ITEMS = 2**20
"""Of more items an index has parts."""
LEAST_RECALL, CHOICE_K, CHOICE_QUERIES, REORDERED = 0.98, 50, 256, 4
"""So many partitions are searched that this share of the nearest CHOICE_K items of so many users is found; so
many candidates are re-scored for each neighbour that is wanted."""


@dataclass(frozen=True)
class Settings:
    """What an index was built with; all but `parts` is of each part."""

    leaves: int  # partitions; 0: brute force
    leaves_searched: int
    reorder: int  # candidates re-scored exactly
    soar: bool
    parts: int = 1


def settings(items: int, config: IndexConfig) -> Settings:
    """The parameters for so many items; see the head of this file."""
    parts = max(-(-items // PART_ITEMS), 1)
    items = -(-items // parts)
    if items < (TREE_ITEMS if config.leaves else BRUTE_FORCE_ITEMS):
        return Settings(leaves=0, leaves_searched=0, reorder=0, soar=False, parts=parts)
    leaves = min(config.leaves or round(math.sqrt(items)), items)
    searched = min(config.leaves_searched or max(10, leaves // 10), leaves)
    return Settings(leaves, searched, config.reorder, items >= SOAR_ITEMS, parts)


def training_sample(items: int, leaves: int) -> int:
    """How many items the partitions and codebooks are trained on."""
    return min(items, max(TRAINED_A_LEAF * leaves, LEAST_TRAINED))


class ScannIndex:
    """Items that can be searched."""

    def __init__(
        self, searchers: list[Any], items: int, dim: int, vectors_sha256: str, settings: Settings
    ) -> None:
        self.searchers, self.items, self.dim = searchers, items, dim
        self.vectors_sha256, self.settings = vectors_sha256, settings

    @classmethod
    def build(cls, vectors: np.ndarray, config: IndexConfig, queries: np.ndarray | None = None) -> ScannIndex:
        """Index the rows of `vectors`, float32 [N, D].

        Args:
            vectors: of the items.
            config: settings.
            queries: float32 [Q, D], users' vectors, by which the number of partitions to search is chosen
                unless the config names it; None: a tenth.

        Raises:
            ImportError: ScaNN does not load on this machine.
            ValueError: no item, or a number that is not finite.
        """
        scann = _scann()
        vectors = np.ascontiguousarray(vectors, np.float32)
        items, dim = vectors.shape
        if items == 0 or not np.isfinite(vectors).all():
            raise ValueError(f"{items} item vectors: needs at least one, and finite numbers only")
        chosen = settings(items, config)
        searchers = []
        for first, end in pairwise(_bounds(items, chosen.parts)):
            builder = scann.builder(vectors[first:end], min(10, end - first), "dot_product")
            if chosen.leaves == 0:
                builder = builder.score_brute_force()
            else:
                sample = training_sample(end - first, chosen.leaves)
                builder = (
                    builder.tree(
                        chosen.leaves,
                        chosen.leaves_searched,
                        training_sample_size=sample,
                        soar_lambda=1.5 if chosen.soar else None,
                    )
                    .score_ah(2, anisotropic_quantization_threshold=0.2, training_sample_size=sample)
                    .reorder(chosen.reorder)
                )
            searchers.append(builder.build())
        index = cls(searchers, items, dim, checksum(vectors), chosen)
        if chosen.leaves and not config.leaves_searched and queries is not None and len(queries):
            index._choose_leaves_searched(vectors, queries[:CHOICE_QUERIES])
        return index

    def _choose_leaves_searched(self, vectors: np.ndarray, queries: np.ndarray) -> None:
        """Double the partitions that are searched until `LEAST_RECALL` is reached."""
        k = min(CHOICE_K, self.items)
        nearest = exact.search(queries, vectors, k)[1]
        while self.settings.leaves_searched < self.settings.leaves:
            if recall(self.search(queries, k)[1], nearest, self.items) >= LEAST_RECALL:
                return
            more = min(2 * self.settings.leaves_searched, self.settings.leaves)
            self.settings = replace(self.settings, leaves_searched=more)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """About the k items of largest inner product with each query, on all cores.

        Args:
            queries: float32 [Q, D].
            k: how many.

        Returns:
            scores float32 [Q, k], descending, and rows int32 [Q, k]. Where the partitions searched hold
            fewer than k items, the others are row -1 with score -inf.
        """
        if queries.shape[1] != self.dim:
            raise ValueError(f"queries have {queries.shape[1]} numbers, the index {self.dim}")
        queries = np.ascontiguousarray(queries, np.float32)
        found = [
            self._search_part(searcher, queries, k, first, end - first)
            for searcher, (first, end) in zip(
                self.searchers, pairwise(_bounds(self.items, self.settings.parts)), strict=True
            )
        ]
        scores, rows = (np.concatenate(of, axis=1) for of in zip(*found, strict=True))
        if len(found) > 1:
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores, rows = (np.take_along_axis(of, best, axis=1) for of in (scores, rows))
        return scores, rows

    def _search_part(
        self, searcher: Any, queries: np.ndarray, k: int, first: int, items: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """`search` of the part of rows first : first + items."""
        how = ()  # brute force
        if self.settings.leaves:
            how = max(self.settings.reorder, REORDERED * k), self.settings.leaves_searched
        rows, scores = searcher.search_batched_parallel(queries, min(k, items), *how)
        short = ((0, 0), (0, k - rows.shape[1]))
        found = np.isfinite(scores)  # ScaNN fills up with row 0 and NaN
        rows = np.where(found, rows.astype(np.int32) + np.int32(first), -1)
        return (
            np.pad(np.where(found, scores, -np.inf), short, constant_values=-np.inf).astype(np.float32),
            np.pad(rows, short, constant_values=-1).astype(np.int32),
        )

    def save(self, path: str | Path, model_version: str = "") -> None:
        """Write the index as a folder. It replaces an existing folder once it is complete.

        Args:
            path: the folder.
            model_version: of the vectors, for `version_of`.
        """
        path = Path(path)
        new, old = (path.with_name(f".{path.name}.{os.getpid()}.{which}") for which in ("new", "old"))
        try:
            new.mkdir(parents=True)
            for searcher, name in zip(self.searchers, _names(self.settings.parts), strict=True):
                (new / name).mkdir(exist_ok=True)
                searcher.serialize(str(new / name), relative_path=True)
            files = {name: sha256(new / name) for name in sorted(_files(new))}
            facts = {
                "items": self.items,
                "dim": self.dim,
                "vectors_sha256": self.vectors_sha256,
                "model_version": model_version,
            }
            settings = asdict(self.settings)
            write_checked_json(
                new / "manifest.json", {"format": FORMAT, **facts, "settings": settings, "files": files}
            )
            if path.exists():
                path.rename(old)
            new.rename(path)
        finally:
            shutil.rmtree(new, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)

    @classmethod
    def load(cls, path: str | Path, vectors: np.ndarray | None = None) -> ScannIndex:
        """Read what `save` wrote.

        Args:
            path: the folder.
            vectors: if given, the item vectors the index must have been built from.

        Raises:
            ImportError: ScaNN does not load on this machine.
            FileNotFoundError: no index there.
            ValueError: a file is missing, altered or foreign, or the index is of other vectors.
        """
        path = Path(path)
        manifest = check_saved(path)
        if vectors is not None and checksum(vectors) != manifest["vectors_sha256"]:
            raise ValueError(f"{path}: built from other item vectors than these; build the index again")
        settings = Settings(**manifest["settings"])
        load = partial(_scann().load_searcher, assets_backcompat_shim=False)
        searchers = [load(str(path / name)) for name in _names(settings.parts)]
        return cls(searchers, manifest["items"], manifest["dim"], manifest["vectors_sha256"], settings)


def _bounds(items: int, parts: int) -> list[int]:
    """The first row of each part, and the end."""
    return [items * part // parts for part in range(parts + 1)]


def _names(parts: int) -> list[str]:
    """The folder of each part within the index."""
    return [""] if parts == 1 else [f"{part:05d}" for part in range(parts)]


def _files(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir()}


def check_saved(path: Path) -> dict[str, Any]:
    """The manifest of a saved index, whose files are those that it names and as they were written.

    Raises:
        FileNotFoundError: no index there.
        ValueError: a file is missing, altered or foreign.
    """
    if not (path / "manifest.json").is_file():
        raise FileNotFoundError(f"{path / 'manifest.json'}: no ScaNN index here; build and save one first")
    manifest = _read_manifest(path)
    if manifest["format"] != FORMAT:
        raise ValueError(f"{path}: an index of format {manifest['format']}, not {FORMAT}; build it again")
    present = _files(path) - {"manifest.json"}
    if present != manifest["files"].keys():  # ScaNN would unpickle a scann_docids.pkl it finds
        odd = sorted(present ^ manifest["files"].keys())
        raise ValueError(f"{path}: missing or foreign files {odd}; build the index again")
    for name, expected in manifest["files"].items():
        check_contents(path / name, expected, "build the index again")
    return manifest


def version_of(path: Path) -> str:
    """The model version that a saved index names; "" if none was given."""
    return _read_manifest(path).get("model_version", "")


def _read_manifest(path: Path) -> dict[str, Any]:
    return read_checked_json(path / "manifest.json", "the manifest of an index", "build the index again")


class SearchSpeed(NamedTuple):
    """ScaNN beside exact search."""

    k: int
    recall: float  # share of the k exact nearest items that ScaNN finds
    exact_qps: float  # queries/s
    scann_qps: float


def against_exact(index: ScannIndex, vectors: np.ndarray, queries: np.ndarray, k: int) -> SearchSpeed:
    """ScaNN's recall of the k exact nearest items, and the speed of both on these queries.

    Speeds are queries a second, from host arrays to host arrays, everything warm: the median of
    three runs, alternating.
    """
    on_device = jnp.asarray(vectors, jnp.float32)
    rows = {"exact": exact.search(queries, on_device, k)[1], "scann": index.search(queries, k)[1]}
    many = np.resize(queries, (max(len(queries), 1024), queries.shape[1]))  # too few would time the call
    searches: dict[str, Callable[[], object]] = {
        "exact": lambda: exact.search(many, on_device, k),
        "scann": lambda: index.search(many, k),
    }
    seconds: dict[str, list[float]] = {name: [] for name in searches}
    for _ in range(3):
        for name, search in searches.items():
            start = time.perf_counter()
            search()
            seconds[name].append(time.perf_counter() - start)
    return SearchSpeed(
        k=k,
        recall=recall(rows["scann"], rows["exact"], len(vectors)),
        exact_qps=len(many) / statistics.median(seconds["exact"]),
        scann_qps=len(many) / statistics.median(seconds["scann"]),
    )


def recall(found: np.ndarray, nearest: np.ndarray, items: int) -> float:
    """Share of the exact nearest that were found.

    Args:
        found: int [Q, k] rows; -1 is none.
        nearest: int [Q, k] rows, by exact search.
        items: how many rows there are.
    """
    query = np.arange(len(nearest))[:, None] * items
    return float(np.isin(query + nearest, (query + found)[found >= 0]).mean())


def checksum(vectors: np.ndarray) -> str:
    """Hex digest of vectors as float32 [N, D]."""
    return hashlib.sha256(np.ascontiguousarray(vectors, np.float32).data).hexdigest()


def _scann() -> Any:
    try:
        from scann import scann_ops_pybind
    except ImportError as error:
        raise ImportError(
            "ScaNN does not load here: it has wheels for Linux on x86-64 and Python up to 3.13, and needs a "
            f"CPU with AVX and FMA (pip install scann); exact search works without it [{error}]"
        ) from error
    return scann_ops_pybind
