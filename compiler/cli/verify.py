"""`pangu-compile verify`."""

from __future__ import annotations

import json

import click

from .progress import Bars


@click.command()
@click.argument("out", type=click.Path())
@click.option("--against", required=True, type=click.Path(), help="The checkpoint that the artifact was built from.")
@click.option("--tokens", type=int, default=64, show_default=True, help="How many random tokens to compare.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(out: str, against: str, tokens: int, as_json: bool) -> int:
    """Compare the artifact OUT with the torch reference in float64, per token. Exit status 1 where they differ."""
    from pangu_compile.driver.verify import LIMIT, verify_artifact

    with Bars() as bars:
        report = verify_artifact(out, against, tokens, progress=bars)
    if as_json:
        print(json.dumps(report.to_json()))
        return 0 if report.passed else 1
    print(f"{report.tokens} tokens; largest |logit| {report.largest_logit:.4f}; limit {LIMIT:.0e} of it")
    for d in report.differences:
        print(
            f"{d.mode:<16} max |difference| {d.max_difference:.3e} ({d.ratio:.2e} of the largest),"
            f" greedy tokens equal {d.greedy_agreement:.1%}  {'ok' if d.agrees else 'FAILED'}"
        )
    if report.speculation_identical is not None:
        print(f"{'speculation':<16} {'same tokens as without  ok' if report.speculation_identical else 'FAILED'}")
    print("passed" if report.passed else "FAILED")
    return 0 if report.passed else 1
