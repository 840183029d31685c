"""How the tests are shared out over xdist's workers (--dist loadgroup), and the cache that all workers have in common.

A unit is what one worker runs: a file, a folder whose tests share costly fixtures, or one test of a file whose tests are costly
and share nothing. Large units come first, so that no worker is left with one at the end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

FOLDERS = (
    "tests/ascend/host/", "tests/ascend/kernels/", "tests/ascend/simulator/", "tests/runtime/", "tests/cli/", "tests/torch_npu/",
)  # fmt: skip
SINGLE_TESTS = (
    "tests/codegen/linear/test_linear.py", "tests/e2e/test_whole_builds.py", "tests/codegen/test_modules.py",
    "tests/e2e/test_random_checkpoints.py",
)  # fmt: skip
# In this order; all other files between the two.
FIRST, LAST = (*FOLDERS, "tests/codegen/kernels/", "tests/onnx/", "tests/driver/"), SINGLE_TESTS


def unit_of(nodeid: str) -> str:
    if nodeid.startswith(SINGLE_TESTS):
        return nodeid
    return next((folder for folder in FOLDERS if nodeid.startswith(folder)), nodeid.split("::")[0])


def place(nodeid: str) -> int:
    """Where a test stands in the order."""
    order = (*FIRST, "", *LAST)
    return next((i for i, start in enumerate(order) if start and nodeid.startswith(start)), len(FIRST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: place(item.nodeid))


# xdist's own groups (the mark xdist_group) rely on a private field that pytest 9.2 no longer reads.
@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Units(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid)

    config.option.loadscopereorder = False
    return Units(config, log)


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache of compiled files for this run, unless the caller names one."""
    with pytest.MonkeyPatch.context() as patch:
        if not os.environ.get("PANGU_CACHE"):
            base = tmp_path_factory.getbasetemp()
            patch.setenv("PANGU_CACHE", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"))
        yield
