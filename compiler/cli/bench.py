"""`pangu-compile bench`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pangu_compile.errors import UserError

from .progress import Bars

if TYPE_CHECKING:
    from pangu_compile.driver.bench import BenchResult


@click.command()
@click.argument("out", type=click.Path())
@click.option("--prompt-tokens", type=int, default=256, show_default=True, help="Length of a random prompt.")
@click.option("--prompt-file", type=click.Path(), help="A file with the prompt: drafts are accepted as they are on such text.")
@click.option("--tokens", help="The prompt as token ids: 1,2,3.")
@click.option("--new-tokens", type=int, default=64, show_default=True)
@click.option("--threads", type=int, help="[all cores]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(
    out: str, prompt_tokens: int, prompt_file: str | None, tokens: str | None, new_tokens: int, threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure the artifact OUT, with drafts and without: medians of three runs, beside a plain read of its weights."""
    from pangu_compile.driver.bench import bench as measure
    from pangu_compile.driver.execute import open_model

    if prompt_file is not None and tokens is not None:
        raise UserError("give one of --prompt-file and --tokens")
    artifact, model = open_model(Path(out), threads)
    with model, Bars() as bars:
        prompt = _prompt(Path(out), prompt_file, tokens)
        result = measure(
            model, artifact, prompt_tokens if prompt is None else prompt, new_tokens, stage=lambda name: bars.stage(name, 1)
        )
    print(json.dumps(dataclasses.asdict(result)) if as_json else _text(result))


def _prompt(out: Path, prompt_file: str | None, tokens: str | None) -> list[int] | None:
    from pangu_compile.driver.text import encode, load_tokenizer, parse_tokens, read_prompt

    if tokens is not None:
        return parse_tokens(tokens)
    if prompt_file is None:
        return None
    return encode(out, load_tokenizer(out), read_prompt(prompt_file))


def _text(r: BenchResult) -> str:
    lines = [
        f"prefill      {r.prefill_tokens_per_second:10.1f} tokens/s ({r.prompt_tokens} tokens)",
        f"decode       {r.decode_tokens_per_second:10.1f} tokens/s ({r.new_tokens} tokens, {r.threads} threads)",
    ]
    if r.share_of_read is not None:
        plain = f"{r.share_of_read:.0%} of a plain read ({r.read_gigabytes_per_second:.2f} GB/s)"
        lines.append(f"weights read {r.decode_gigabytes_per_second:10.2f} GB/s, {plain}")
    for s in r.speculation:
        accepted = " ".join("-" if a is None else f"{a:.0%}" for a in s.acceptance)
        name = "as chosen" if s.drafts is None else f"{s.drafts} draft{'s' if s.drafts > 1 else ''}"
        made = f"{sum(s.drafted) / s.steps:.1f} drafts a step, " if s.drafts is None else ""
        kind = "random prompt" if r.random_prompt else "this prompt"
        ratio = s.tokens_per_second / r.decode_tokens_per_second
        lines.append(f"{name:<12} {s.tokens_per_second:10.1f} tokens/s, {ratio:.2f} of decode, {made}accepted {accepted} ({kind})")
    return "\n".join(lines)
