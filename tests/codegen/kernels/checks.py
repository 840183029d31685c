"""What every fused kernel must do: agree with the operator's semantics in float64, and give a token the same bits on any
number of threads and whatever other tokens are in the call. Also a program: all checks of one compiled family of cases."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pangu_compile.ir import opdef
from pangu_compile.ir.types import symbol
from tests.ir.fused_cases import Case

from .cases import cases
from .library import Library, updated

SIZES = ((1, 0), (1, 33), (2, 1), (3, 5), (7, 0), (7, 33), (19, 5), (19, 33))
Operands = dict[str, np.ndarray]


def draw(case: Case, tokens: int, rows: int, ties: bool = False) -> Operands:
    """float32 operands (float64 in the case's own draw); start is the number of rows, as in a session."""
    rng = np.random.default_rng(tokens * 100 + rows)
    arrays = case.arrays({"T": tokens, "S": rows}, rng, rows, ties)
    return {n: a.astype(np.float32) if a.dtype == np.float64 else a for n, a in zip(case.operands, arrays, strict=True)}


def expected(case: Case, operands: Operands, env: dict[str, int]) -> dict[str, np.ndarray]:
    wide = [a.astype(np.float64) if a.dtype == np.float32 else a for a in operands.values()]
    results = opdef(case.op).evaluate(wide, case.attrs, env)
    return dict(zip(case.attrs.get("results", [f"out{i}" for i in range(len(results))]), results, strict=True))


def check_semantics(library: Library, number: int) -> None:
    case = library.cases[number]
    for tokens, rows in SIZES:
        for ties in (False, True) if case.op in ("dsa_attention", "moe_gate") else (False,):
            operands, env = draw(case, tokens, rows, ties), {"T": tokens, "S": rows}
            got = library.run(number, env, operands)
            for name, want in expected(case, operands, env).items():
                assert got[name].shape == want.shape, f"{name} {got[name].shape} for {want.shape}"
                if want.dtype == np.int64:
                    np.testing.assert_array_equal(got[name], want, err_msg=f"{name} T={tokens} S={rows}")
                    continue
                error = np.abs(got[name] - want).max(initial=0)
                bound = 1e-5 * max(np.abs(want).max(initial=0), 1e-3)
                assert error <= bound, f"{name} T={tokens} S={rows} ties={ties}: {error:.3g} of at most {bound:.3g}"


def same_bits(got: Operands, want: Operands, what: str) -> None:
    for name, array in want.items():
        assert array.tobytes() == got[name].tobytes(), f"{name}: other bits {what}"


def check_threads(library: Library, number: int) -> None:
    for tokens, rows in ((1, 33), (4, 5), (7, 33), (19, 33)):
        operands, env = draw(library.cases[number], tokens, rows), {"T": tokens, "S": rows}
        want = library.run(number, env, operands)
        for threads in (1, 2, 3):
            same_bits(library.run(number, env, operands, threads), want, f"on {threads} threads, T={tokens} S={rows}")


def _one_token(case: Case, operands: Operands, states: Operands, t: int, rows: int) -> Operands:
    """Operands of token t alone, after the tokens before it."""
    out = {}
    for name, array in operands.items():
        lead = case.operands[name].shape[:1]
        if name in states:
            out[name] = states[name]
        elif name == "start":
            out[name] = np.asarray(rows + t, np.int64)
        elif lead and lead[0] == symbol("T"):
            out[name] = array[t : t + 1]
        elif lead and lead[0] == symbol("S") + symbol("T"):
            out[name] = array[: rows + t + 1]
        else:
            out[name] = array
    return out


def check_one_by_one(library: Library, number: int) -> None:
    """A call of some tokens gives the bits of as many calls of one token (below the expanded form of attention)."""
    case = library.cases[number]
    if case.op == "mtp_verify":
        return  # one verdict on all rows; their tokens are lm_head_argmax's
    updates = updated(case)
    for tokens, rows in ((4, 0), (4, 33), *(() if case.attrs.get("expand_from") else ((19, 5),))):
        operands = draw(case, tokens, rows)
        want = library.run(number, {"T": tokens, "S": rows}, operands)
        states = {slot: operands[slot] for slot in updates.values()}
        parts: dict[str, list[np.ndarray]] = {}
        for t in range(tokens):
            got = library.run(number, {"T": 1, "S": rows + t}, _one_token(case, operands, states, t, rows))
            states = {slot: got[result] for result, slot in updates.items()}
            for name, array in got.items():
                parts.setdefault(name, []).append(array)
        joined = {n: p[-1] if n in updates else np.concatenate(p) for n, p in parts.items()}
        same_bits(joined, want, f"when {tokens} tokens come one by one, S={rows}")


CHECKS = (check_semantics, check_threads, check_one_by_one)


def run_all(library: Library, chosen: Sequence[Callable[[Library, int], None]] = CHECKS) -> Iterator[str]:
    """A line for every check that fails."""
    for number, case in enumerate(library.cases):
        for check in chosen:
            try:
                check(library, number)
            except AssertionError as error:
                yield f"{check.__name__} of case {number}, {case}: {error}"
            except Exception:
                yield f"{check.__name__} of case {number}, {case}: {traceback.format_exc()}"


def main(family: str, folder: str, *names: str) -> int:
    """names: of the checks; all where there are none."""
    library = Library(cases(family), Path(folder))
    library.load()
    failures = list(run_all(library, [check for check in CHECKS if not names or check.__name__ in names]))
    print("\n".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
