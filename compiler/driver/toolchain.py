"""The C++ toolchain: finds the compiler, chooses flags, and builds one shared library reproducibly."""

from __future__ import annotations

import platform
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pangu_compile.errors import CompileError, UserError

from .objects import fetch, keep, object_key
from .options import BuildOptions

CANDIDATES = ("g++", "clang++", "c++")

# No -ffast-math: infinities mark masked keys, and NaN must stay visible.
COMPILE_FLAGS = (
    "-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", "-fno-math-errno",
    "-fno-trapping-math", "-pthread", "-pipe",
)  # fmt: skip
LINK_FLAGS = (
    "-shared", "-fPIC", "-pthread", "-Wl,--build-id=none", "-Wl,--no-undefined", "-Wl,-soname,libpangu_model.so",
)  # fmt: skip

# Macros that the compiler defines for an instruction set, and the flag of /proc/cpuinfo that must be there to run it.
ISA_MACROS = {
    "__AVX2__": "avx2", "__FMA__": "fma", "__F16C__": "f16c", "__BMI2__": "bmi2", "__AVX512F__": "avx512f",
    "__AVX512BW__": "avx512bw", "__AVX512DQ__": "avx512dq", "__AVX512VL__": "avx512vl",
    "__AVX512VNNI__": "avx512_vnni", "__AVX512BF16__": "avx512_bf16", "__AVX512FP16__": "avx512_fp16",
    "__ARM_NEON": "asimd", "__ARM_FEATURE_SVE": "sve", "__ARM_FEATURE_DOTPROD": "asimddp",
}  # fmt: skip


@dataclass(frozen=True)
class Level:
    """An instruction set beyond the least that an artifact needs, for which the model is compiled once more.

    `features`: how the code that chooses asks for it: names of __builtin_cpu_supports (x86), bits of AT_HWCAP (aarch64).
    """

    name: str
    flags: tuple[str, ...]
    features: tuple[str, ...]

    @property
    def identifier(self) -> str:
        return self.name.replace("-", "_")

    @property
    def source(self) -> str:
        """The file that compiles model.cpp for it."""
        return f"model_{self.identifier}.cpp"


V4 = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
# Best first: the first that the processor has is used.
LEVELS = {
    "x86-64-v3": (
        Level("x86-64-v4-vnni", ("-march=x86-64-v4", "-mavx512vnni"), (*V4, "avx512vnni")),
        Level("x86-64-v4", ("-march=x86-64-v4",), V4),
    ),
    "aarch64": (Level("armv8-2-a-dotprod", ("-march=armv8.2-a+dotprod",), ("HWCAP_ASIMDDP",)),),
}


@dataclass(frozen=True)
class Toolchain:
    """A found compiler. `command` starts it, `machine` is what it compiles for (x86_64, aarch64)."""

    command: tuple[str, ...]
    machine: str

    @property
    def is_clang(self) -> bool:
        return "clang" in Path(self.command[-1]).name


def _probe(command: Sequence[str], *args: str) -> str | None:
    """Output of a quick compiler call, or None where it fails."""
    try:
        done = subprocess.run([*command, *args], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def find_compiler(compiler: str | None = None) -> Toolchain:
    """The compiler asked for (CXX), else the first of g++, clang++, c++ on PATH.

    Raises:
        UserError: there is none, or the one asked for does not start.
    """
    if compiler is not None:
        try:
            command = tuple(shlex.split(compiler))
        except ValueError as error:
            raise UserError(f"CXX={compiler!r} cannot be read: {error}") from error
        if not command or shutil.which(command[0]) is None:
            raise UserError(f"no C++ compiler: CXX={compiler!r} is not an executable; unset CXX or set it to g++")
    else:
        found = next((path for name in CANDIDATES if (path := shutil.which(name))), None)
        if found is None:
            raise UserError("no C++ compiler found: install g++ or clang++ (apt-get install g++), or set CXX")
        command = (found,)
    triple = _probe(command, "-dumpmachine")
    if triple is None or not triple.strip():
        raise UserError(f"no working C++ compiler: {shlex.join(command)} -dumpmachine fails; set CXX to g++ or clang++")
    return Toolchain(command, triple.strip().split("-")[0])


def arch_flags(tools: Toolchain, arch: str) -> tuple[str, ...]:
    """Code generation flags of --arch.

    Raises:
        UserError: the compiler does not build for that machine.
    """
    if arch == "native":
        if tools.machine != platform.machine():
            raise UserError(
                f"arch native: {tools.command[-1]} is for {tools.machine}, this is {platform.machine()}; give --arch"
            )
        return ("-march=native",) if tools.machine == "x86_64" else ("-mcpu=native",)
    wanted, flags = {"x86-64-v3": ("x86_64", ("-march=x86-64-v3",)), "aarch64": ("aarch64", ("-march=armv8-a",))}[arch]
    if tools.machine != wanted:
        name = tools.command[-1]
        raise UserError(f"arch {arch}: {name} compiles for {tools.machine}; set CXX to a compiler for {wanted}")
    return flags


def required_features(tools: Toolchain, flags: Sequence[str]) -> list[str]:
    """Names (as in /proc/cpuinfo) of the instruction sets that code built with `flags` may use."""
    macros = _probe(tools.command, *flags, "-dM", "-E", "-x", "c++", "/dev/null") or ""
    defined = {line.split()[1] for line in macros.splitlines() if line.startswith("#define ")}
    return [feature for macro, feature in ISA_MACROS.items() if macro in defined]


def cpu_features() -> set[str] | None:
    """Flags of this machine's CPU, or None where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return set(value.split())
    return None


def levels(options: BuildOptions) -> tuple[Level, ...]:
    """What the model is compiled for besides the least; empty where the machine is known."""
    return LEVELS.get(options.arch, ())


def compile_flags(tools: Toolchain, options: BuildOptions) -> list[str]:
    """Flags that decide the code, without paths: the same list goes into the artifact's CMakeLists.txt."""
    return [f"-O{options.opt_level}", *COMPILE_FLAGS, *arch_flags(tools, options.arch)]


def build_library(
    tools: Toolchain, flags: Sequence[str], root: Path, sources: Sequence[str], includes: Sequence[str], output: Path,
    scratch: Path, jobs: int = 2, advance: Callable[[int], None] | None = None, more: Mapping[str, Sequence[str]] | None = None,
    kept: Mapping[str, Sequence[str]] | None = None,
) -> None:  # fmt: skip
    """Compile `sources` (relative to `root`, compiled there so that no absolute path gets in) and link `output`, in this order.

    Args:
        more: flags of single sources, behind those of all.
        scratch: an existing folder for object files.
        jobs: compilers at once.
        advance: called with 1 for every finished step (sources + 1 in all).
        kept: sources whose object files are kept for later builds, each with all files of ours that it reads.
    Raises:
        CompileError: the first error line of the compiler or linker.
    """
    objects = [scratch / f"{number:03d}.o" for number in range(len(sources))]
    step = advance or (lambda _: None)
    commands, new = [], {}
    for source, target in zip(sources, objects, strict=True):
        stable = [] if tools.is_clang else [f"-frandom-seed={source}"]
        options = [*flags, *(more or {}).get(source, ()), *stable, *(f"-I{folder}" for folder in includes)]
        reads = (kept or {}).get(source)
        key = object_key(tools.command, options, root, [source, *reads]) if reads is not None else None
        if key is not None and fetch(key, target):
            step(1)
            continue
        if key is not None:
            new[target] = key
        commands.append([*tools.command, *options, f"-ffile-prefix-map={root}=.", "-c", source, "-o", str(target)])
    _run_all(commands, root, scratch, jobs, step)
    for target, key in new.items():
        keep(key, target)
    link = [*tools.command, *LINK_FLAGS, *map(str, objects), "-o", str(output), "-lm"]
    _run_all([link], root, scratch, 1, step)


def _run_all(
    commands: list[list[str]], cwd: Path, scratch: Path, jobs: int, advance: Callable[[int], None]
) -> None:
    """Run commands, at most `jobs` at once; on the first failure (or Ctrl-C) the others are ended."""
    waiting = list(enumerate(commands))
    running: list[tuple[subprocess.Popen[bytes], Path]] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                number, command = waiting.pop(0)
                log = scratch / f"log-{number:03d}"
                with open(log, "wb") as stream:
                    try:
                        process = subprocess.Popen(
                            command, cwd=cwd, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
                        )
                    except OSError as error:
                        raise CompileError(f"cannot start {command[0]}: {error.strerror}") from error
                running.append((process, log))
            for entry in [e for e in running if e[0].poll() is not None]:
                running.remove(entry)
                if entry[0].returncode != 0:
                    raise CompileError(_failure(entry[0], entry[1]))
                advance(1)
            time.sleep(0.01)
    finally:
        for process, _ in running:
            process.kill()
            process.wait()


def _failure(process: subprocess.Popen[bytes], log: Path) -> str:
    args = process.args
    name = Path(str(args[0] if isinstance(args, list) else args)).name
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    error = next((line for line in lines if "error" in line.lower() or "undefined reference" in line), None)
    reason = error or next((line for line in reversed(lines) if line.strip()), f"exit status {process.returncode}")
    if process.returncode < 0:
        reason = f"ended by signal {-process.returncode} (out of memory?)"
    return f"the C++ compiler failed ({name}): {reason.strip()}"
