"""The artifact folder NAME.pangu: written beside its place and renamed at the end, checked when it is opened."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from pangu_compile.errors import UserError

FORMAT_VERSION = 1
FORMAT_NAME = "pangu-compile artifact"
MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
WEIGHTS = "weights.safetensors"
PIECES = "weights.crc32"  # what the runtime compares the weights with: SHA-256 of gigabytes takes seconds
LIBRARY = "lib/libpangu_model.so"
BLOCK = 1 << 20
PIECE = 1 << 22


def json_text(value: Any) -> str:
    """JSON with a stable layout (the key order is the caller's)."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def weights_sums(path: Path) -> tuple[str, str]:
    """sha256 of the file, and the text of PIECES, from one reading: bytes of a piece and of the file, then each piece's CRC-32."""
    digest, sums = hashlib.sha256(), []
    with open(path, "rb") as stream:
        while piece := stream.read(PIECE):
            digest.update(piece)
            sums.append(f"{zlib.crc32(piece):08x}\n")
    return digest.hexdigest(), f"{PIECE} {path.stat().st_size}\n" + "".join(sums)


def list_files(root: Path) -> list[str]:
    """Relative POSIX paths of all regular files below `root`, sorted."""
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def write_error(path: Path, error: OSError) -> UserError:
    """The one line for a write that the system refused."""
    hint = None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space or write elsewhere"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "choose a folder that you may write to"
    return UserError(f"cannot write {path}: {error.strerror or error}" + (f"; {hint}" if hint else ""))


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the artifact at `path`.

    Raises:
        UserError: no artifact there, a damaged manifest, or another format version.
    """
    if not path.exists():
        raise UserError(f"artifact {path} does not exist")
    if not path.is_dir() or not (path / MANIFEST).is_file():
        raise UserError(f"{path} is not an artifact: it has no {MANIFEST}; build one with `pangu-compile build`")
    try:
        manifest = json.loads((path / MANIFEST).read_bytes().decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path / MANIFEST}: damaged ({type(error).__name__}); build the artifact again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT_NAME:
        raise UserError(f"{path / MANIFEST}: is not a manifest of pangu-compile")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path}: artifact of format version {version}, but this pangu-compile reads version {FORMAT_VERSION};"
            " build the artifact again"
        )
    return manifest


class Artifact:
    """A finished artifact.

    Attributes:
        path: its folder.
        manifest: manifest.json.
    """

    def __init__(self, path: str | Path, manifest: dict[str, Any]):
        self.path, self.manifest = Path(path), manifest

    def __repr__(self) -> str:
        return f"Artifact({str(self.path)!r})"

    @classmethod
    def open(cls, path: str | Path, check: bool = True) -> Artifact:
        """Read the manifest and, with `check`, compare every file with its recorded sha256.

        Raises:
            UserError: not an artifact, another format version, or a missing or changed file (named).
        """
        artifact = cls(Path(path), read_manifest(Path(path)))
        if check:
            artifact.check()
        return artifact

    def reload(self) -> Artifact:
        """The artifact as it is on disk now, checked."""
        return Artifact.open(self.path)

    def check(self) -> None:
        """UserError naming the first file that is missing, changed or not recorded."""
        files = self.manifest.get("files")
        if not isinstance(files, dict):
            raise UserError(f"{self.path / MANIFEST}: damaged: no list of files; build the artifact again")
        try:
            sums = dict(_parse_sums((self.path / SUMS).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path / SUMS}: missing or damaged; build the artifact again") from error
        expected = {**{name: str(digest) for name, digest in files.items()}, MANIFEST: sums.get(MANIFEST)}
        if sums != expected:
            name = next((n for n in sorted({*sums, *expected}) if sums.get(n) != expected.get(n)), MANIFEST)
            raise UserError(f"{self.path}: {SUMS} and {MANIFEST} disagree about {name}; build the artifact again")
        for name, digest in sums.items():
            try:
                actual = sha256_file(self.path / name)
            except OSError as error:
                raise UserError(f"{self.path / name}: missing from the artifact; build it again") from error
            if actual != digest:
                raise UserError(f"{self.path / name}: damaged: its sha256 differs from {SUMS}; build it again")


def _parse_sums(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        digest, separator, name = line.partition("  ")
        if not separator or len(digest) != 64:
            raise ValueError("bad line")
        yield name, digest


class ArtifactWriter:
    """Context manager: a hidden sibling folder that takes the artifact's place on `commit`, else disappears.

    Every OSError inside the block that comes from writing becomes a UserError with the artifact's path.
    """

    def __init__(self, out: str | Path):
        self.out = Path(out)
        self.root = self.out  # the temporary folder, once entered
        self._committed = False

    def __enter__(self) -> ArtifactWriter:
        check_destination(self.out)
        parent = self.out.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            self.root = Path(tempfile.mkdtemp(prefix=f".{self.out.name}.tmp-", dir=parent))
            os.chmod(self.root, 0o755)
        except OSError as error:
            raise write_error(self.out, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._committed:
            shutil.rmtree(self.root, ignore_errors=True)
        if isinstance(error, OSError):
            raise write_error(self.out, error) from error

    def path(self, name: str) -> Path:
        """Where file `name` (relative) goes; its folder exists afterwards."""
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    @contextlib.contextmanager
    def stream(self, name: str) -> Iterator[BinaryIO]:
        with open(self.path(name), "wb") as stream:
            yield stream

    def write(self, name: str, data: str | bytes) -> None:
        raw = data.encode("utf-8") if isinstance(data, str) else data
        with self.stream(name) as stream:
            stream.write(raw)

    def copy(self, source: Path, name: str) -> None:
        try:
            data = source.read_bytes()
        except OSError as error:
            raise UserError(f"{source}: cannot be read: {error.strerror}") from error
        self.write(name, data)

    def commit(self, manifest: dict[str, Any]) -> Artifact:
        """Write manifest and sums, sync everything, and take the place of an earlier artifact."""
        known = {}
        if (self.root / WEIGHTS).is_file():
            known[WEIGHTS], pieces = weights_sums(self.root / WEIGHTS)
            self.write(PIECES, pieces)
        files = {name: known.get(name) or sha256_file(self.root / name) for name in list_files(self.root)}
        manifest = {"format": FORMAT_NAME, "format_version": FORMAT_VERSION, **manifest, "files": files}
        self.write(MANIFEST, json_text(manifest))
        sums = {**files, MANIFEST: sha256_file(self.root / MANIFEST)}
        self.write(SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))
        self._sync()
        check_destination(self.out)
        _replace(self.root, self.out)
        self._committed = True
        _fsync(self.out.parent)
        return Artifact(self.out, manifest)

    def _sync(self) -> None:
        for name in list_files(self.root):
            path = self.root / name
            os.chmod(path, 0o755 if path.suffix == ".so" else 0o644)
            _fsync(path)
        for folder in sorted((p for p in self.root.rglob("*") if p.is_dir()), reverse=True):
            os.chmod(folder, 0o755)
            _fsync(folder)
        _fsync(self.root)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(new: Path, out: Path) -> None:
    """Rename `new` to `out`; an earlier artifact steps aside first and comes back if that fails."""
    if not out.exists():
        os.rename(new, out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.old-", dir=out.parent)) / out.name
    try:
        os.rename(out, aside)
        os.rename(new, out)
    except BaseException:
        if aside.exists() and not out.exists():
            os.rename(aside, out)
        raise
    finally:
        if out.exists():  # whichever artifact lies there, it is whole; only then may what stepped aside go
            shutil.rmtree(aside.parent, ignore_errors=True)


def check_destination(out: Path) -> None:
    """UserError where `out` is something that a build must not replace, or cannot be written."""
    if out.is_symlink():
        raise UserError(f"{out} is a symbolic link; give the real path of the artifact")
    if out.exists():
        if not out.is_dir():
            raise UserError(f"{out} exists and is not an artifact; remove it or choose another path")
        if any(out.iterdir()) and not _is_ours(out):
            raise UserError(f"{out} is a folder that is not an artifact; it is left alone, choose another path")
    parent = next(p for p in [out.parent, *out.parent.parents] if p.exists() or p == p.parent)
    if not parent.is_dir():
        raise UserError(f"cannot write {out}: {parent} is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {out}: no permission in {parent}; choose a folder that you may write to")
    try:  # what permissions do not tell (/proc, a file system that is full or read-only), before minutes of work
        os.rmdir(tempfile.mkdtemp(prefix=f".{out.name}.try-", dir=parent))
    except OSError as error:
        raise write_error(out, error) from error


def _is_ours(out: Path) -> bool:
    """An artifact of any format version, whole or damaged: it says that it is one."""
    path = out / MANIFEST
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        manifest = json.loads(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT_NAME
