"""`pangu-compile bench`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from .progress import Bars


@click.command()
@click.argument("out", type=click.Path())
@click.option("--prompt-tokens", type=int, default=256, show_default=True)
@click.option("--new-tokens", type=int, default=64, show_default=True)
@click.option("--threads", type=int, help="[all cores]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(out: str, prompt_tokens: int, new_tokens: int, threads: int | None, as_json: bool) -> None:
    """Measure the artifact OUT on random tokens: the best of three runs."""
    from pangu_compile.driver.execute import bench as measure
    from pangu_compile.driver.execute import open_model

    artifact, model = open_model(Path(out), threads)
    with model, Bars() as bars:
        result = measure(
            model, artifact, prompt_tokens, new_tokens, threads, stage=lambda name: bars.stage(name, 1)
        )
    if as_json:
        print(json.dumps(dataclasses.asdict(result)))
        return
    print(f"prefill      {result.prefill_tokens_per_second:10.1f} tokens/s ({result.prompt_tokens} tokens)")
    print(f"decode       {result.decode_tokens_per_second:10.1f} tokens/s ({result.new_tokens} tokens)")
    if result.speculative_tokens_per_second is not None:
        print(f"speculative  {result.speculative_tokens_per_second:10.1f} tokens/s, random prompt")
