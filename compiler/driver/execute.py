"""Opens artifacts for the command line: checks that the machine fits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pangu_compile.errors import UserError

from .artifact import Artifact
from .doctor import missing_features
from .options import ASCEND_TARGETS
from .targets.ascend_run import open_ascend
from .targets.program import ProgramModel

if TYPE_CHECKING:
    from pangu_compile.runtime import Model


def open_model(out: Path, threads: int | None, simulate: bool = False) -> tuple[Artifact, Model | ProgramModel]:
    """The artifact, checked, and its model.

    Raises:
        UserError: damaged, of another version, or built for a CPU that this is not.
    """
    from pangu_compile.runtime import Model

    artifact = Artifact.open(out, check=False)  # the runtime compares the sums when it loads
    if artifact.manifest.get("target") in ASCEND_TARGETS:
        return artifact, open_ascend(artifact, threads, simulate)
    if simulate:
        raise UserError(f"--simulate is for Ascend artifacts; {out} was built for {artifact.manifest.get('target')}")
    if artifact.manifest.get("target") == "torch_npu":
        artifact.check()
        return artifact, ProgramModel(out, threads)
    missing = missing_features(artifact)
    if missing:
        raise UserError(f"{out} was built for a CPU with {' '.join(missing)}, which this machine lacks; build it again")
    return artifact, Model(out, threads=threads)
