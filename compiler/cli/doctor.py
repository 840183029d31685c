"""`pangu-compile doctor`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("artifacts", nargs=-1, type=click.Path())
def doctor(artifacts: tuple[str, ...]) -> int:
    """Check this machine, and any ARTIFACTS given, and say what is missing."""
    from pangu_compile.driver.doctor import BAD, examine

    findings = examine(tuple(Path(path) for path in artifacts))
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{finding.state:<5} {finding.name:<{width}}  {finding.detail}")
    return 1 if any(finding.state == BAD for finding in findings) else 0
