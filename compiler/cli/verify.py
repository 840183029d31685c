"""`pangu-compile verify`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from .progress import Bars

if TYPE_CHECKING:
    from pangu_compile.driver.verify import Report


@click.command()
@click.argument("out", type=click.Path())
@click.option("--against", required=True, type=click.Path(), help="The checkpoint that the artifact was built from.")
@click.option("--tokens", type=int, help="How many random tokens to compare [64; 16 with --simulate].")
@click.option("--simulate", is_flag=True, help="Run an Ascend artifact in the simulator.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(out: str, against: str, tokens: int | None, simulate: bool, as_json: bool) -> int:
    """Compare the artifact OUT with the torch reference in float64, per token. Exit status 1 where they differ."""
    from pangu_compile.driver.verify import verify_artifact

    with Bars() as bars:
        report = verify_artifact(out, against, tokens, progress=bars, simulate=simulate)
    if as_json:
        print(json.dumps(report.to_json()))
        return 0 if report.passed else 1
    if report.simulated:
        print(report.simulated)
    print(f"{report.tokens} tokens; largest |logit| {report.largest_logit:.4f}; {report.tolerance}")
    for d in report.differences:
        print(
            f"{d.mode:<16} max |difference| {d.max_difference:.3e} ({d.ratio:.2e} of the largest),"
            f" {d.within:.0%} of tokens within, greedy tokens equal {d.greedy_agreement:.1%}  {'ok' if d.agrees else 'FAILED'}"
        )
    if report.speculation_identical is not None:
        print(f"{'speculation':<16} {_drafts(report)}")
    print("passed" if report.passed else "FAILED")
    return 0 if report.passed else 1


def _drafts(report: Report) -> str:
    if report.speculation_identical:
        return "same tokens as without  ok"
    return "FAILED" if report.tolerance.drafts_exact else "other tokens than without: activations in bf16 are rounded by batch"
