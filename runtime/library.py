"""Loading an artifact's shared library: checked against its checksum first, then declared for ctypes."""

from __future__ import annotations

import ctypes as C
import hashlib
import json
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
        ("n_stop_tokens", C.c_size_t),
    ]  # fmt: skip


class GenerateStats(C.Structure):
    _fields_ = [
        ("prompt_tokens", C.c_int64), ("new_tokens", C.c_int64), ("steps", C.c_int64),
        ("drafted", C.c_int64 * MAX_DRAFTS), ("accepted", C.c_int64 * MAX_DRAFTS),
        ("prefill_seconds", C.c_double), ("decode_seconds", C.c_double),
    ]  # fmt: skip


_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "pangu_last_error": (C.c_char_p, []),
    "pangu_model_open": (C.c_int32, [C.c_char_p, C.POINTER(ModelOptions), C.POINTER(C.c_void_p)]),
    "pangu_model_close": (None, [C.c_void_p]),
    "pangu_model_info": (C.c_int32, [C.c_void_p, C.POINTER(ModelInfo)]),
    "pangu_session_open": (C.c_int32, [C.c_void_p, C.POINTER(SessionOptions), C.POINTER(C.c_void_p)]),
    "pangu_session_close": (None, [C.c_void_p]),
    "pangu_session_length": (C.c_int64, [C.c_void_p]),
    "pangu_session_reset": (C.c_int32, [C.c_void_p]),
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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; this is not an artifact of pangu-compile", 2) from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})", 5) from None


def check_before_loading(folder: Path) -> None:
    """Format version and the library's checksum: a damaged library must never be executed. ArtifactError otherwise."""
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


def load_library(folder: Path) -> C.CDLL:
    """The artifact's own library, declared. Several artifacts can be loaded in one process."""
    check_before_loading(folder)
    try:
        library = C.CDLL(str((folder / LIBRARY).resolve()))
    except OSError as error:
        raise ArtifactError(f"{folder / LIBRARY}: cannot be loaded on this machine ({error}); build it here", 2) from None
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
