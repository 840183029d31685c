"""Builds the simulator once a session and each kernel file on first use."""

from __future__ import annotations

import pathlib

import pytest
from simulated import Simulation


@pytest.fixture(scope="session")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    return Simulation(pathlib.Path(tmp_path_factory.mktemp("simulator")))
