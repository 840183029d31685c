"""All kernels of these tests, compiled once a session together with the simulator."""

from __future__ import annotations

import pathlib

import catalogue
import pytest
from kernel_harness import Library


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--dist loadgroup` one process compiles the library."""
    folder = pathlib.Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(folder) and "library" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("ascend kernels"))


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(list(catalogue.KERNELS.values()), pathlib.Path(tmp_path_factory.mktemp("kernels")))
