"""Loading an artifact's shared library: checked against its checksum first, then declared for ctypes."""

from __future__ import annotations

import ctypes as C
import hashlib
import json
import shutil
import tempfile
import threading
from pathlib import Path

from .errors import ArtifactError

LIBRARY = "lib/libpangu_model.so"
FORMAT_VERSION = 1
MAX_DRAFTS = 16

TokenCallback = C.CFUNCTYPE(C.c_int, C.c_int64, C.c_void_p)


class ModelOptions(C.Structure):
    _fields_ = [("threads", C.c_int32), ("skip_verify", C.c_int32)]


class ModelInfo(C.Structure):
    _fields_ = [
        ("vocab_size", C.c_int64), ("hidden_size", C.c_int64), ("max_context", C.c_int64), ("max_chunk", C.c_int64),
        ("num_drafts", C.c_int32), ("threads", C.c_int32),
    ]  # fmt: skip


class SessionOptions(C.Structure):
    _fields_ = [("max_context", C.c_int64), ("speculate", C.c_int32)]


class GenerateOptions(C.Structure):
    _fields_ = [
        ("max_new_tokens", C.c_int64), ("temperature", C.c_float), ("top_k", C.c_int32), ("top_p", C.c_float),
        ("seed", C.c_uint64), ("speculate", C.c_int32), ("stop_tokens", C.POINTER(C.c_int64)),
        ("n_stop_tokens", C.c_size_t), ("max_drafts", C.c_int32),
    ]  # fmt: skip


class GenerateStats(C.Structure):
    _fields_ = [
        ("prompt_tokens", C.c_int64), ("new_tokens", C.c_int64), ("steps", C.c_int64),
        ("drafted", C.c_int64 * MAX_DRAFTS), ("accepted", C.c_int64 * MAX_DRAFTS),
        ("prefill_seconds", C.c_double), ("decode_seconds", C.c_double),
    ]  # fmt: skip


class ProgramInfo(C.Structure):
    _fields_ = [("n_dims", C.c_int32), ("n_in", C.c_int32), ("n_out", C.c_int32), ("n_states", C.c_int32)]


_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "pangu_last_error": (C.c_char_p, []),
    "pangu_model_open": (C.c_int32, [C.c_char_p, C.POINTER(ModelOptions), C.POINTER(C.c_void_p)]),
    "pangu_model_close": (None, [C.c_void_p]),
    "pangu_model_info": (C.c_int32, [C.c_void_p, C.POINTER(ModelInfo)]),
    "pangu_session_open": (C.c_int32, [C.c_void_p, C.POINTER(SessionOptions), C.POINTER(C.c_void_p)]),
    "pangu_session_close": (None, [C.c_void_p]),
    "pangu_session_length": (C.c_int64, [C.c_void_p]),
    "pangu_session_reset": (C.c_int32, [C.c_void_p]),
    "pangu_session_truncate": (C.c_int32, [C.c_void_p, C.c_int64]),
    "pangu_program_info": (C.c_int32, [C.c_void_p, C.c_char_p, C.POINTER(ProgramInfo)]),
    "pangu_prefill": (C.c_int32, [C.c_void_p, C.c_void_p, C.c_size_t, C.c_int64, C.c_int32, C.c_void_p]),
    "pangu_decode": (C.c_int32, [C.c_void_p, C.c_int64, C.c_void_p]),
    "pangu_generate": (
        C.c_int32,
        [C.c_void_p, C.c_void_p, C.c_size_t, C.POINTER(GenerateOptions), TokenCallback, C.c_void_p,
         C.POINTER(GenerateStats), C.c_void_p, C.POINTER(C.c_size_t)],
    ),
    "pangu_session_save": (C.c_int32, [C.c_void_p, C.c_void_p, C.POINTER(C.c_size_t)]),
    "pangu_session_restore": (C.c_int32, [C.c_void_p, C.c_void_p, C.c_size_t]),
    "pangu_run_program": (C.c_int32, [C.c_void_p, C.c_char_p, C.c_void_p, C.c_void_p, C.c_void_p, C.c_void_p]),
}  # fmt: skip

_loading = threading.Lock()
_loaded: dict[str, str] = {}  # path given to the dynamic loader -> digest of the library that it loaded from there


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; this is not an artifact of pangu-compile", 2) from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})", 5) from None


def check_before_loading(folder: Path) -> str:
    """Format version and the library's checksum, which is returned: a damaged library must never be executed.

    Raises:
        ArtifactError: something is missing or differs.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such artifact directory", 2)
    manifest = _read(folder / "manifest.json")
    try:
        version = json.loads(manifest)["format_version"]
    except (ValueError, KeyError, TypeError):
        raise ArtifactError(f"{folder / 'manifest.json'}: is damaged or not an artifact's; build the artifact again", 4) from None
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"{folder / 'manifest.json'}: format version {version}, this runtime reads {FORMAT_VERSION}; build the artifact again",
            3,
        )
    sums = _read(folder / "SHA256SUMS").decode("utf-8", "replace").splitlines()
    table = dict(line.split("  ", 1)[::-1] for line in sums if "  " in line)
    for name, path in ((LIBRARY, folder / LIBRARY), ("manifest.json", folder / "manifest.json")):
        digest = hashlib.sha256(_read(path)).hexdigest()
        if table.get(name) != digest:
            raise ArtifactError(f"{path}: does not match its checksum in SHA256SUMS; the artifact is corrupt, build it again", 4)
    return table[LIBRARY]


def _open(path: Path, digest: str) -> C.CDLL:
    """The library at `path`. The loader knows libraries by path: one that was built again in the same place would be
    taken for the old one, so it is loaded from a copy."""
    with _loading:
        if _loaded.setdefault(str(path), digest) == digest:
            return C.CDLL(str(path))
        with tempfile.TemporaryDirectory(prefix="pangu-library-") as scratch:
            copy = shutil.copy(path, Path(scratch) / path.name)
            return C.CDLL(str(copy))  # stays mapped after the file is gone


def load_library(folder: Path) -> C.CDLL:
    """The artifact's own library, declared. Several artifacts can be loaded in one process."""
    digest = check_before_loading(folder)
    try:
        library = _open((folder / LIBRARY).resolve(), digest)
    except OSError as error:
        raise ArtifactError(f"{folder / LIBRARY}: cannot be loaded on this machine ({error}); build it here", 2) from None
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name, None)
        if function is None:
            raise ArtifactError(f"{folder / LIBRARY}: lacks {name}, so another version built it; build the artifact again", 3)
        function.restype, function.argtypes = result, arguments
    return library
