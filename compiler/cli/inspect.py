"""`pangu-compile inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pangu_compile.errors import UserError

from .progress import Bars


@click.command()
@click.argument("path", type=click.Path())
@click.option("--html", type=click.Path(), help="Write a report to this file.")
@click.option("--json", "json_file", type=click.Path(), help="Write the summary to this file (- for stdout).")
@click.option("--ir", is_flag=True, help="Print the optimised IR instead of the summary.")
@click.option("--onnx", type=click.Path(), help="Write the graph as ONNX to this file.")
def inspect(path: str, html: str | None, json_file: str | None, ir: bool, onnx: str | None) -> None:
    """Describe PATH: an artifact, or a checkpoint (config.json is enough)."""
    from pangu_compile.driver.summary import ir_text, render, summarise

    for name, value in (("html", html), ("onnx", onnx)):
        if value is not None:
            raise UserError(f"inspect --{name} is not available in this version; use --json or --ir")
    if ir:
        with Bars() as bars:
            text = ir_text(Path(path), bars)
        print(text)
        return
    with Bars() as bars:
        summary = summarise(Path(path), bars)
    if json_file is None:
        print(render(summary))
        return
    text = json.dumps(summary, indent=1)
    if json_file == "-":
        print(text)
        return
    try:
        Path(json_file).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {json_file}: {error.strerror}") from error
