"""All kernels of these tests, compiled once a session together with the simulator."""

from __future__ import annotations

import pathlib

import catalogue
import pytest
from kernel_harness import Library


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(list(catalogue.KERNELS.values()), pathlib.Path(tmp_path_factory.mktemp("kernels")))
