"""Prepare a TFDS data set (download, unpack, write ArrayRecord files) without TensorFlow.

TFDS reads ArrayRecord files without TensorFlow, but to prepare them it asks TensorFlow for a few
plain file calls (to unpack an archive, in most parsers of raw files, to shuffle more than 1 GB),
and for the package importlib_resources, which it does not declare. Here it is handed the standard
library's equals of both. A data set whose parser asks for more of TensorFlow cannot be prepared so.
"""

from __future__ import annotations

import contextlib
import glob
import importlib.resources.abc  # TFDS looks Traversable up in it
import os
import resource
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_builder
from tensorflow_datasets.core.utils import lazy_imports_utils

_LOCAL_FILES = SimpleNamespace(
    compat=SimpleNamespace(as_text=os.fsdecode),
    errors=SimpleNamespace(ResourceExhaustedError=()),  # as an except clause: plain files never raise it
    io=SimpleNamespace(
        gfile=SimpleNamespace(
            GFile=open,
            exists=os.path.exists,
            glob=glob.glob,
            isdir=os.path.isdir,
            listdir=os.listdir,
            remove=os.remove,
        )
    ),
)


def prepare(builder: tfds.core.DatasetBuilder) -> None:
    """Download and prepare a data set as ArrayRecord files in its data folder. Errors of the data set's code
    pass through."""
    # The copies on Google's cloud are TFRecord files, which only TensorFlow reads.
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    _allow_open_files(4096)
    with (
        _stand_in(lazy_imports_utils.tensorflow, _LOCAL_FILES),
        _stand_in(dataset_builder.importlib_resources, importlib.resources),
    ):
        builder.download_and_prepare(file_format="array_record", download_config=config)


def _allow_open_files(wanted: int) -> None:
    """TFDS shuffles more than 1 GB through a thousand files open at once; the usual limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


@contextlib.contextmanager
def _stand_in(lazy_module: Any, module: Any) -> Generator[None, None, None]:
    """Let one of TFDS's lazily imported modules resolve to `module`."""
    # _module is what the lazy module caches its import in.
    state = vars(lazy_module)
    before = {key: state[key] for key in ("_module",) if key in state}
    state["_module"] = module
    try:
        yield
    finally:
        del state["_module"]
        state |= before
