"""`pangu-compile build`."""

from __future__ import annotations

import sys
import time

import click

from pangu_compile.driver.options import ACTIVATIONS, ARCHS, CHIPS, TARGETS, WEIGHT_FORMATS

from .progress import Bars


@click.command()
@click.argument("checkpoint", type=click.Path())
@click.option("-o", "--out", required=True, type=click.Path(), help="The artifact to write, by convention NAME.pangu.")
@click.option("--target", type=click.Choice(TARGETS), default="cpu", show_default=True)
@click.option("--chip", type=click.Choice(CHIPS), default=CHIPS[0], show_default=True, help="Chip of --target torch_npu.")
@click.option("--weights", type=click.Choice(WEIGHT_FORMATS), help="[f32; bf16 for NPU targets]")
@click.option(
    "--activations", type=click.Choice(ACTIVATIONS), default=ACTIVATIONS[0], show_default=True,
    help="Accuracy of activations and caches on NPU targets.",
)  # fmt: skip
@click.option("--max-context", type=int, help="Longest context [the model's own, at most 4096].")
@click.option("--ranks", type=int, default=1, show_default=True, help="Shards of a distributed artifact.")
@click.option("--arch", type=click.Choice(ARCHS), default="native", show_default=True, help="CPU to build for.")
@click.option("--no-mtp", is_flag=True, help="Leave the multi-token prediction heads out.")
@click.option(
    "--no-key-codes", is_flag=True, help="On CPUs: no integers beside the indexer's keys. Less memory, slower in long contexts."
)  # fmt: skip
@click.option("--validate", is_flag=True, help="Prove every pass on random inputs with the numpy interpreter.")
@click.option("--dump-ir", type=click.Path(), help="Folder that gets the IR after every pass.")
def build(
    checkpoint: str, out: str, target: str, chip: str, weights: str | None, activations: str, max_context: int | None, ranks: int,
    arch: str, no_mtp: bool, no_key_codes: bool, validate: bool, dump_ir: str | None,
) -> None:  # fmt: skip
    """Compile CHECKPOINT (a Hugging Face folder) into an artifact."""
    from pangu_compile.driver.build import build as build_artifact

    begin = time.perf_counter()
    with Bars() as bars:
        artifact = build_artifact(
            checkpoint, out, target=target, weights=weights, activations=activations, max_context=max_context, progress=bars,
            ranks=ranks, chip=chip, arch=arch, mtp=not no_mtp, key_codes=not no_key_codes, validate=validate,
            dump_ir=dump_ir,
        )  # fmt: skip
    size = sum(p.stat().st_size for p in artifact.path.rglob("*") if p.is_file())
    seconds = time.perf_counter() - begin
    print(f"built {artifact.path} ({size / 1e6:.1f} MB) in {seconds:.1f} s", file=sys.stderr)
