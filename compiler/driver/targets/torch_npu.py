"""`--target torch_npu`: writes and runs artifacts that are a Python program over torch_npu's operators."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np

from pangu_compile.errors import CompileError, UserError

from ..artifact import Artifact, ArtifactWriter, json_text
from ..progress import Progress
from ..safetensors_file import Layout, LayoutWriter

if TYPE_CHECKING:
    from pangu_compile.codegen.torch_npu.emit import Generated, StoredWeight
    from pangu_compile.ir import Module

WEIGHTS, PROGRAM = "weights.safetensors", "src/model.py"
MAX_CHUNK = 256
MODULES = ("pangu_blocks", "pangu_operators", "pangu_session", "npu_reference")
ReadWeight = Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Request:
    """One artifact. dtype: "bf16" or "f32"; manifest: what the caller knows (config, sizes, stop tokens)."""

    module: Module
    read: ReadWeight
    chip: str
    dtype: str
    max_context: int
    manifest: Mapping[str, Any]
    max_chunk: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    extra_files: tuple[Path, ...] = ()


def write_artifact(request: Request, out: str | Path, progress: Progress) -> Artifact:
    """Generate, check and write the artifact of an optimised module.

    Raises:
        CompileError: an operator that has no form in torch_npu, or a generated call that its schema does not allow.
    """
    from pangu_compile.codegen.torch_npu import CallError, generate
    from pangu_compile.codegen.torch_npu.emit import Limits
    from pangu_compile.ir import IRError

    limits = Limits(request.max_context, min(request.max_chunk or MAX_CHUNK, request.max_context))
    try:
        generated = generate(request.module, request.chip, request.dtype, limits, request.manifest)
    except (IRError, CallError) as error:
        raise CompileError(" ".join(str(error).split())) from error
    with ArtifactWriter(out) as writer:
        for name in sorted(generated.files):
            writer.write(f"src/{name}", generated.files[name])
        layout = _write_weights(generated, request.read, writer, progress)
        writer.write("plan.json", json_text(generated.plan))
        for file in request.extra_files:
            writer.copy(file, file.name)
        writer.write("README.md", _readme(request, generated))
        return writer.commit(_manifest(request, limits.max_chunk, layout))


def bf16_bits(values: np.ndarray) -> np.ndarray:
    """float32 values as the 16 bits of bfloat16, rounded to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), (bits >> np.uint32(16)) | np.uint32(0x40), rounded).astype(np.uint16)


def stored_values(weight: StoredWeight, read: ReadWeight) -> np.ndarray:
    """The array as it lies in weights.safetensors."""
    values = weight.planned.compute(read)
    if weight.taps_first:
        values = np.ascontiguousarray(values[:, 0, :].T)
    return bf16_bits(values) if weight.dtype == "BF16" else values


def _write_weights(generated: Generated, read: ReadWeight, writer: ArtifactWriter, progress: Progress) -> Layout:
    layout = Layout((w.planned.name, w.dtype, w.shape) for w in generated.weights)
    progress.stage("weights", max(layout.total, 1))
    with writer.stream(WEIGHTS) as stream:
        out = LayoutWriter(layout, stream)
        progress.advance(len(layout.header))
        for weight in generated.weights:
            values = stored_values(weight, read)
            out.add(weight.planned.name, values)
            progress.advance(values.nbytes)
        out.finish()
    return layout


def _readme(request: Request, generated: Generated) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), undefined=jinja2.StrictUndefined,
        autoescape=False, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template("torch_npu_README.md.jinja").render(
        chip=request.chip, dtype=request.dtype, plan=generated.plan, max_context=request.max_context
    )


def _manifest(request: Request, max_chunk: int, layout: Layout) -> dict[str, Any]:
    from pangu_compile import __version__

    module = request.module
    return {
        "producer": {"name": "pangu-compile", "version": __version__},
        "role": module.info["role"],
        **request.manifest,
        "target": "torch_npu", "chip": request.chip, "weights": request.dtype,
        "max_context": request.max_context, "max_chunk": max_chunk, "options": dict(request.options),
        "entry_points": {"program": PROGRAM, "weights": WEIGHTS},
        "programs": {
            name: {
                "dims": list(p.dims),
                "inputs": [role.key for role in p.params if role.kind == "input"],
                "outputs": [role.key for role in p.outputs if role.kind == "output"],
            }
            for name, p in module.programs.items()
        },
        "tensors": {
            e.name: {"dtype": e.dtype, "shape": list(e.shape), "offset": e.offset, "nbytes": e.nbytes}
            for e in layout.entries.values()
        },
        "states": [
            {"name": s.name, "dtype": request.dtype, "width": s.width, "rows": s.rows, "owner": s.owner}
            for s in module.states.values()
        ],
    }  # fmt: skip


# Running.


def load_program(path: Path) -> ModuleType:
    """The artifact's model.py as a module. UserError where it cannot be imported (no torch, a damaged file)."""
    source = path / "src"
    earlier = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    sys.path.insert(0, str(source))
    try:
        spec = importlib.util.spec_from_file_location("pangu_torch_npu_model", source / "model.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{source / 'model.py'}: cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(source))
        for name in MODULES:
            sys.modules.pop(name, None)
        sys.modules.update(earlier)
    return module


@dataclass
class Runner:
    """A loaded artifact. `simulated`: the operators are CPU reference implementations, since there is no torch_npu."""

    artifact: Artifact
    program: ModuleType

    @classmethod
    def open(cls, path: str | Path) -> Runner:
        """UserError: damaged, or for another target."""
        artifact = Artifact.open(path)
        if artifact.manifest.get("target") != "torch_npu":
            raise UserError(f"{path} was built for {artifact.manifest.get('target')}, not for torch_npu")
        return cls(artifact, load_program(artifact.path))

    @property
    def simulated(self) -> bool:
        return bool(self.program.SIMULATED)

    def session(self, max_context: int | None = None, speculate: bool = True) -> Any:
        """A session of the program (`prefill`, `decode`, `generate`); see the artifact's src/pangu_session.py."""
        return self._tools["open_session"](self.program.DESCRIPTION, max_context, speculate)

    def generate(
        self, session: Any, tokens: Sequence[int], max_new_tokens: int, speculate: bool = True, **sampling: Any
    ) -> Iterator[int]:
        """New tokens as they come. UserError where the context or the vocabulary is exceeded."""
        stops = self.artifact.manifest.get("eos_token_ids", ())
        try:
            yield from session.generate(tokens, max_new_tokens, self._tools["Sampling"](**sampling), speculate, stops)
        except ValueError as error:
            raise UserError(f"{self.artifact.path}: {error}") from error

    @property
    def _tools(self) -> dict[str, Any]:
        """Names of the artifact's own pangu_session, whichever other artifact is loaded beside it."""
        return dict(self.program.main.__globals__)
