"""Our artifacts beside other programs: decode at several contexts, prefill of several lengths, both measured in turn.

    python benchmarks/side_by_side.py --ours int8=build/q8.pangu --peer int8='COMMAND' \
        [--contexts 0,4096,32768] [--prompts 512,2048] [--threads 1,2] [--repeats 5] [--tokens 16] [--json]

A peer is a program that reads a line and answers with one line, WALL and PROCESSOR seconds, until its input ends:

    decode THREADS CONTEXT TOKENS    one token after the other, behind a cache of CONTEXT rows
    prefill THREADS TOKENS           one prompt on an empty cache

It first prints "ready". Ours and the peer take turns within each cell, and the median of the repetitions counts. On a machine
that does other work too, processor time of one thread is what can be compared; with more threads waiting counts as work.
Caches beyond FILL rows are filled with random rows: the time of a step does not depend on what they hold.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's idle threads would spin beside those that are measured

import numpy as np

from pangu_compile.runtime import Model, Session

FILL = 64
DIGEST, NUMBERS = 64, 4  # of a saved session: the artifact's fingerprint, and the numbers before its tokens


def filled(session: Session, states: list[dict[str, Any]], context: int, rng: np.random.Generator) -> None:
    """Give a session without drafts `context` tokens and random rows (runtime/core/state.cpp has the saved form)."""
    saved = session.save()
    head = saved[: 8 + DIGEST]
    count, heads, _, _ = struct.unpack_from(f"<{NUMBERS}q", saved, len(head))
    parts = [head, struct.pack(f"<{NUMBERS}q", count, heads, context, context), bytes(8 * context), bytes(16 * (heads + 1))]
    for state in states[:count]:
        rows, width = state["rows"] or context, state["width"]
        parts += [struct.pack("<q", 4 * rows * width), rng.standard_normal((rows, width), np.float32).tobytes()]
    data = b"".join(parts)
    session.restore(data + hashlib.sha256(data).hexdigest().encode())


class Ours:
    """The artifact in this process, one model for each number of threads."""

    def __init__(self, path: Path, threads: list[int]):
        self.states = json.loads((path / "manifest.json").read_text())["states"]
        self.models = {n: Model(path, threads=n, verify=False) for n in threads}
        self.rng = np.random.default_rng(0)
        self.kept: dict[tuple[int, int], Session] = {}

    def tokens(self, n: int) -> list[int]:
        return [int(t) for t in self.rng.integers(0, next(iter(self.models.values())).vocab_size, n)]

    def decode(self, threads: int, context: int, tokens: int) -> tuple[float, float]:
        session = self.kept.get((threads, context))
        if session is None:
            session = self.kept[threads, context] = self.models[threads].session(speculate=False)
            session.prefill(self.tokens(min(max(context, 1), FILL)))
            if context > FILL:
                filled(session, self.states, context, self.rng)
            session.decode(self.tokens(1)[0])
        ids = self.tokens(tokens)
        wall, cpu = time.perf_counter(), time.process_time()
        for token in ids:
            session.decode(token)
        return time.perf_counter() - wall, time.process_time() - cpu

    def prefill(self, threads: int, tokens: int) -> tuple[float, float]:
        ids = self.tokens(tokens)
        with self.models[threads].session(speculate=False) as session:
            wall, cpu = time.perf_counter(), time.process_time()
            session.prefill(ids)
            return time.perf_counter() - wall, time.process_time() - cpu


class Peer:
    """A program of the protocol above."""

    def __init__(self, command: str):
        self.process = subprocess.Popen(command, shell=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.command = command
        if self._line() != "ready":
            raise SystemExit(f"peer {command!r}: its first line must be 'ready'")

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"peer {self.command!r} ended with status {self.process.wait()}")
        return line.strip()

    def _ask(self, line: str) -> tuple[float, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        wall, cpu = self._line().split()
        return float(wall), float(cpu)

    def decode(self, threads: int, context: int, tokens: int) -> tuple[float, float]:
        return self._ask(f"decode {threads} {context} {tokens}")

    def prefill(self, threads: int, tokens: int) -> tuple[float, float]:
        return self._ask(f"prefill {threads} {tokens}")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@contextmanager
def peer_of(command: str | None) -> Iterator[Peer | None]:
    peer = Peer(command) if command else None
    try:
        yield peer
    finally:
        if peer is not None:
            peer.close()


def cells(options: argparse.Namespace) -> Iterator[tuple[str, int, int]]:
    """(kind, threads, size); prefill last, since a peer may empty its cache for it."""
    for context in options.contexts:
        for threads in options.threads:
            yield "decode", threads, context
    for tokens in options.prompts:
        for threads in options.threads:
            yield "prefill", threads, tokens


def measure(side: Ours | Peer, cell: tuple[str, int, int], tokens: int) -> tuple[float, float]:
    kind, threads, size = cell
    return side.decode(threads, size, tokens) if kind == "decode" else side.prefill(threads, size)


def compare(name: str, ours: Ours, peer: Peer | None, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One record a cell: tokens/s by wall clock and by processor time of one thread, and the ratios ours / peer's."""
    for cell in cells(options):
        kind, threads, size = cell
        tokens = options.tokens if kind == "decode" else size
        sides = [ours] if peer is None else [ours, peer]
        measure(ours, cell, 1)
        times: list[list[tuple[float, float]]] = [[] for _ in sides]
        for _ in range(options.repeats if kind == "decode" else max(1, options.repeats // 2)):
            for side, kept in zip(sides, times, strict=True):
                kept.append(measure(side, cell, options.tokens))
        rates = [[tokens / statistics.median(t[i] for t in kept) for i in (0, 1)] for kept in times]
        record = {"format": name, "kind": kind, "threads": threads, "size": size, "ours": rates[0][0], "ours_cpu": rates[0][1]}
        if peer is not None:
            record |= {"peer": rates[1][0], "peer_cpu": rates[1][1], "ratio": rates[0][0] / rates[1][0]}
            record["ratio_cpu"] = rates[0][1] / rates[1][1]
        yield record


def pairs(values: list[str]) -> dict[str, str]:
    return dict(v.split("=", 1) for v in values)


def numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", action="append", required=True, metavar="NAME=ARTIFACT")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--contexts", type=numbers, default=[0, 4096, 32768])
    parser.add_argument("--prompts", type=numbers, default=[512, 2048])
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    peers = pairs(options.peer)
    for name, path in pairs(options.ours).items():
        with peer_of(peers.get(name)) as peer:
            for r in compare(name, Ours(Path(path), options.threads), peer, options):
                if options.json:
                    print(json.dumps(r), flush=True)
                    continue
                other = f"  peer {r['peer']:8.2f}  ratio {r['ratio']:5.2f}  (processor time {r['ratio_cpu']:5.2f})" if peer else ""
                print(f"{name:6s} {r['kind']:8s}{r['size']:6d} x{r['threads']}  {r['ours']:8.2f} tokens/s{other}", flush=True)


if __name__ == "__main__":
    main()
