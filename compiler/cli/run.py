"""`pangu-compile run`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pangu_compile.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@click.command()
@click.argument("out", type=click.Path())
@click.option("--prompt", help="The text to go on from.")
@click.option("--prompt-file", type=click.Path(), help="A file with that text.")
@click.option("--tokens", help="Token ids instead of text: 1,2,3.")
@click.option("--max-new-tokens", type=int, default=128, show_default=True)
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 takes the likeliest token.")
@click.option("--top-p", type=float, default=1.0, show_default=True)
@click.option("--top-k", type=int, default=0, show_default=True, help="0: no limit.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--drafts", type=int, help="At most so many drafts a step [greedy on a CPU: what is fastest; else one a head].")
@click.option("--no-speculate", is_flag=True, help="Do not draft tokens with the MTP heads.")
@click.option("--threads", type=int, help="[all cores]")
@click.option("--simulate", is_flag=True, help="Run an Ascend artifact in the simulator.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def run(
    out: str, prompt: str | None, prompt_file: str | None, tokens: str | None, max_new_tokens: int, temperature: float,
    top_p: float, top_k: int, seed: int, drafts: int | None, no_speculate: bool, threads: int | None, simulate: bool, as_json: bool,
) -> None:  # fmt: skip
    """Generate text with the artifact OUT; the text goes to stdout as it comes, figures to stderr."""
    from pangu_compile.driver.execute import open_model
    from pangu_compile.driver.text import TextStream, encode, parse_tokens, read_prompt
    from pangu_compile.runtime import Sampling, stats_record

    if sum(source is not None for source in (prompt, prompt_file, tokens)) != 1:
        raise UserError("give exactly one of --prompt, --prompt-file and --tokens")
    if drafts is not None and no_speculate:
        raise UserError("--drafts and --no-speculate exclude each other; give one of them")
    folder = Path(out)
    artifact, model = open_model(folder, threads, simulate)
    simulated = getattr(model, "simulated", False)
    tokenizer: Tokenizer | None = None
    if tokens is None or (folder / "tokenizer.json").is_file():
        tokenizer = _tokenizer(folder, needed=tokens is None)
    if tokens is not None:
        ids = parse_tokens(tokens)
    else:
        assert tokenizer is not None
        ids = encode(folder, tokenizer, prompt if prompt is not None else read_prompt(str(prompt_file)))
    stream = TextStream(tokenizer) if tokenizer is not None else None
    text: list[str] = []

    def show(token: int) -> None:
        piece = stream.push(token) if stream is not None else f"{token} "
        text.append(piece)
        if not as_json:
            sys.stdout.write(piece)
            sys.stdout.flush()

    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
    with model, model.session(speculate=not no_speculate) as session:
        result = session.generate(
            ids, max_new_tokens, sampling, speculate=not no_speculate,
            stop_tokens=artifact.manifest.get("eos_token_ids", ()), on_token=show, drafts=drafts,
        )  # fmt: skip
    if stream is not None:
        text.append(stream.finish())
    record = dict(stats_record(result.stats))
    if simulated:
        record["simulated"] = True
        print(getattr(model, "simulated_note", "simulated"), file=sys.stderr)
    if as_json:
        whole = "".join(text) if stream is not None else None
        print(json.dumps({"prompt_tokens": ids, "tokens": list(result.tokens), "text": whole, "stats": record}))
        return
    sys.stdout.write((text[-1] if stream is not None else "") + "\n")
    sys.stdout.flush()
    print(stats_line(len(ids), len(result.tokens), record), file=sys.stderr)


def _tokenizer(folder: Path, needed: bool) -> Tokenizer | None:
    from pangu_compile.driver.text import load_tokenizer

    try:
        return load_tokenizer(folder)
    except UserError:
        if needed:
            raise
        return None  # ids are printed instead of text


def stats_line(prompt: int, generated: int, record: dict[str, Any]) -> str:
    """One line for people."""
    parts = [f"{prompt} prompt tokens"]
    seconds = record.get("prefill_seconds")
    if seconds:
        parts[0] += f" in {seconds:.3f} s ({prompt / seconds:.0f}/s)"
    parts.append(f"{generated} tokens")
    seconds = record.get("decode_seconds")
    if seconds:
        parts[1] += f" in {seconds:.3f} s ({generated / seconds:.1f}/s)"
    if record.get("steps"):
        parts.append(f"{generated / record['steps']:.2f} tokens a step")
    drafted, accepted = record.get("drafted") or [], record.get("accepted") or []
    if any(drafted):
        rates = [f"{a / d:.0%}" for a, d in zip(accepted, drafted, strict=False) if d]
        parts.append(f"drafts accepted by depth {', '.join(rates)}")
    return "; ".join(parts)
