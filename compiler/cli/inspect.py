"""`pangu-compile inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pangu_compile.driver.options import WEIGHT_FORMATS
from pangu_compile.errors import UserError

from .progress import Bars

TARGETS = ("cpu", "ascend910b", "ascend910_93")


@click.command()
@click.argument("path", type=click.Path())
@click.option("--html", type=click.Path(), help="Write the report as one self-contained page to this file.")
@click.option("--json", "json_file", type=click.Path(), help="Write the report to this file as JSON (- for stdout).")
@click.option("--ir", is_flag=True, help="Print the optimised IR instead of the summary.")
@click.option("--onnx", type=click.Path(), help="Write a program of the optimised model as ONNX to this file.")
@click.option("--program", default="step", show_default=True, help="The program for --onnx.")
@click.option("--weights", type=click.Choice(WEIGHT_FORMATS), help="Compile a checkpoint's matrices to this format [f32].")
@click.option("--context", type=int, help="Rows cached at decode [the artifact's context; a checkpoint's own, at most 4096].")
@click.option("--target", type=click.Choice(TARGETS), help="Whose roofline to estimate with [an artifact's own; cpu].")
@click.option("--acceptance", help="Acceptance rate of each draft head, like 0.92,0.89,0.88 [published rates of Flash].")
@click.option("--measure", is_flag=True, help="Measure this machine's memory bandwidth for the estimate (target cpu).")
def inspect(
    path: str, html: str | None, json_file: str | None, ir: bool, onnx: str | None, program: str, weights: str | None,
    context: int | None, target: str | None, acceptance: str | None, measure: bool,
) -> None:  # fmt: skip
    """Describe PATH: an artifact, or a checkpoint (config.json is enough)."""
    from pangu_compile.driver.summary import InspectOptions, ir_text, summarise
    from pangu_compile.report import parse_acceptance, render_report
    from pangu_compile.report.text import render_text

    if measure and target not in (None, "cpu"):
        raise UserError(f"inspect --measure measures this machine; it does not go with --target {target}")
    for file in (html, json_file, onnx):
        _check_destination(file)
    if onnx is not None:
        _export(path, onnx, program)
        if html is None and json_file is None and not ir:
            return
    if ir:
        with Bars() as bars:
            text = ir_text(Path(path), bars, weights)
        print(text)
        return
    rates = None if acceptance is None else parse_acceptance(acceptance)
    with Bars() as bars:
        summary = summarise(Path(path), InspectOptions(context, target, weights, rates, measure), bars)
    if html is not None:
        _write(html, render_report(summary))
    if json_file is not None:
        text = json.dumps(summary, indent=1) + "\n"
        if json_file == "-":
            print(text, end="")
        else:
            _write(json_file, text)
    if html is None and json_file is None:
        print(render_text(summary))


def _export(path: str, out: str, program: str) -> None:
    from pangu_compile.driver.onnx_io import write_onnx

    with Bars() as bars:
        write_onnx(Path(path), Path(out), program, bars)


def _check_destination(file: str | None) -> None:
    """UserError before the long work, where a file could not be written."""
    if file in (None, "-"):
        return
    path = Path(str(file))
    if path.is_dir():
        raise UserError(f"cannot write {file}: is a folder; give a file name")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {file}: folder {path.parent} does not exist")


def _write(file: str, text: str) -> None:
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from error
