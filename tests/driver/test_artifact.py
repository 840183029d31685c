"""The artifact folder appears whole or not at all, and damage is found when it is opened."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pangu_compile.driver import artifact as artifact_module
from pangu_compile.driver.artifact import MANIFEST, SUMS, Artifact, ArtifactWriter, list_files
from pangu_compile.errors import UserError


def make(out: Path, text: str = "one") -> Artifact:
    with ArtifactWriter(out) as writer:
        writer.write("src/a.txt", text)
        writer.write("b.bin", b"\0\1")
        return writer.commit({"model_type": "test"})


def snapshot(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in list_files(root)}


def test_write_open_and_replace(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "m.pangu"
    made = make(out)
    assert list_files(out) == [SUMS, "b.bin", MANIFEST, "src/a.txt"]
    assert Artifact.open(out).manifest == made.manifest == made.reload().manifest
    assert os.system(f"cd '{out}' && sha256sum --quiet -c {SUMS}") == 0
    make(out, "two")
    assert (out / "src/a.txt").read_text() == "two"
    assert os.listdir(out.parent) == ["m.pangu"]


def test_same_input_same_bytes(tmp_path: Path) -> None:
    make(tmp_path / "x.pangu")
    make(tmp_path / "other" / "y.pangu")
    assert snapshot(tmp_path / "x.pangu") == snapshot(tmp_path / "other" / "y.pangu")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt(), ValueError("x")])
def test_failure_keeps_the_good_artifact(tmp_path: Path, error: BaseException) -> None:
    out = tmp_path / "m.pangu"
    make(out)
    before = snapshot(out)
    expected = UserError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected), ArtifactWriter(out) as writer:
        writer.write("src/a.txt", "half")
        raise error
    assert snapshot(out) == before and os.listdir(tmp_path) == ["m.pangu"]


@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), KeyboardInterrupt()])
def test_failing_rename_keeps_the_good_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, error: BaseException
) -> None:
    out = tmp_path / "m.pangu"
    make(out)
    before = snapshot(out)
    real, count = os.rename, 0

    def rename(a: Path, b: Path) -> None:
        nonlocal count
        count += 1
        if count == call:
            raise error
        real(a, b)

    monkeypatch.setattr(artifact_module.os, "rename", rename)
    if call < 3:  # a replacement needs two renames
        with pytest.raises((UserError, KeyboardInterrupt)):
            make(out, "two")
        assert snapshot(out) == before
    else:
        make(out, "two")
    assert os.listdir(tmp_path) == ["m.pangu"]


def test_foreign_destinations_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.jpg").write_text("meow")
    file = tmp_path / "file"
    file.write_text("x")
    link = tmp_path / "link"
    link.symlink_to(folder)
    for out, message in ((folder, "not an artifact"), (file, "not an artifact"), (link, "symbolic link"),
                         (file / "m.pangu", "not a folder")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            make(out)
    (folder / MANIFEST).write_text('{"name": "somebody else"}')
    with pytest.raises(UserError, match="not an artifact"):
        make(folder)
    assert (folder / "cat.jpg").exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    make(empty)


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    out = tmp_path / "m.pangu"
    make(out)
    for name in list_files(out):
        data = bytearray((out / name).read_bytes())
        for at in range(0, len(data), max(1, len(data) // 12)):
            changed = bytearray(data)
            changed[at] ^= 1
            (out / name).write_bytes(bytes(changed))
            with pytest.raises(UserError) as caught:
                Artifact.open(out)
            assert str(out) in str(caught.value) and "\n" not in str(caught.value)
        (out / name).write_bytes(bytes(data))
    Artifact.open(out)


def test_missing_files_and_other_versions(tmp_path: Path) -> None:
    out = tmp_path / "m.pangu"
    make(out)
    text = (out / MANIFEST).read_text()
    (out / MANIFEST).write_text(text.replace('"format_version": 1', '"format_version": 99'))
    with pytest.raises(UserError, match="format version 99, but this pangu-compile reads version 1"):
        Artifact.open(out)
    (out / MANIFEST).write_text(text)
    (out / "b.bin").unlink()
    with pytest.raises(UserError, match=r"b\.bin: missing"):
        Artifact.open(out)
    with pytest.raises(UserError, match="does not exist"):
        Artifact.open(tmp_path / "nothing")
    with pytest.raises(UserError, match="not an artifact"):
        Artifact.open(tmp_path)


def test_disk_full_on_a_real_file_system(tmp_path: Path) -> None:
    """A tmpfs of 64 KiB where the machine lets us mount one."""
    mount = tmp_path / "small"
    mount.mkdir()
    if os.getuid() != 0 or os.system(f"mount -t tmpfs -o size=64k none '{mount}' 2>/dev/null") != 0:
        pytest.skip("needs root and mount")
    try:
        make(mount / "m.pangu")
        before = snapshot(mount / "m.pangu")
        with pytest.raises(UserError, match="No space left on device; free some space"):
            make(mount / "m.pangu", "x" * 200_000)
        assert snapshot(mount / "m.pangu") == before and os.listdir(mount) == ["m.pangu"]
    finally:
        os.system(f"umount '{mount}'")
