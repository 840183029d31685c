"""A PC with a processor that this machine does not have: Bochs, Debian's cloud kernel, and a file system in memory.

Nothing is installed: kernel, boot loader and shell are taken out of Debian's packages, which apt downloads once into build/.
Bochs interprets about 50 million instructions a second on one core; a vector instruction of floats costs it far more.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import IO

HERE = Path(__file__).resolve().parent
PACKAGES = ("isolinux", "syslinux-common", "genisoimage", "busybox-static")
KERNEL = "linux-image-cloud-amd64"  # names the package of the newest version; other kernels have more drivers, and boot slower
# Bochs 2.7 describes the saved state of protection keys as empty, and its size without the compact form: left alone, Linux
# finds that its XSAVE makes no sense and turns off all that needs it, AVX and AVX-512 too. Told to use the fast string
# instructions, on the models that have them, Linux finds its own code overwritten; the C library is kept from them too.
KERNEL_OPTIONS = (
    "console=ttyS0,115200 loglevel=4 mitigations=off nokaslr lpj=1000000 clearcpuid=pku,xsavec,xsaves,erms,fsrm"
    " GLIBC_TUNABLES=glibc.cpu.hwcaps=-ERMS,-FSRM"
)
MEMORY = 1024  # MiB
Files = dict[str, Path | bytes]  # contents, or where they are, by absolute path in the machine


class MachineError(Exception):
    """What is missing to boot, or how the machine ended too early."""


@dataclass(frozen=True)
class Job:
    """One line of shell, and what must come of it: `judge` takes status and output and returns what is wrong, or nothing."""

    name: str
    command: str
    judge: Callable[[int, str], str]


@dataclass(frozen=True)
class Result:
    """How a job went. seconds: of this machine, not of the emulated one."""

    name: str
    status: int
    output: str
    seconds: float


def _run(*command: object, cwd: Path | None = None) -> str:
    words = [str(c) for c in command]
    try:
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    except OSError as error:
        raise MachineError(f"{words[0]} does not start ({error.strerror}); the tests need a Debian machine with apt") from error
    if done.returncode != 0:
        raise MachineError(f"{' '.join(words)} failed: {done.stderr.strip()[-600:]}")
    return done.stdout


def parts(folder: Path) -> Path:
    """The root of the unpacked packages; downloads them where the folder lacks them."""
    if shutil.which("bochs") is None:
        raise MachineError("no bochs: apt-get install bochs bochsbios")
    root = folder / "root"
    if (root / "complete").exists():
        return root
    shutil.rmtree(folder, ignore_errors=True)
    root.mkdir(parents=True)
    depends = _run("apt-cache", "depends", "--important", KERNEL).split()
    kernel = next((word for word in depends if word.startswith("linux-image-") and word != KERNEL), None)
    if kernel is None:
        raise MachineError(f"apt does not know {KERNEL}: run apt-get update")
    _run("apt-get", "download", kernel, *PACKAGES, cwd=folder)
    for package in sorted(folder.glob("*.deb")):
        _run("dpkg-deb", "-x", package, root)
    (root / "complete").touch()
    return root


def _entry(number: int, name: str, mode: int, data: bytes = b"", mtime: int = 0, device: tuple[int, int] = (0, 0)) -> bytes:
    """One member of a cpio archive of the kind newc."""
    title = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, mtime, len(data), 0, 0, *device, len(title), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + title
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


def file_system(files: Files) -> bytes:
    """A cpio archive of the files by absolute path, their folders, /dev/console, and mount points; times of files are kept."""
    folders = {"dev", "proc", "tmp"} | {str(f)[1:] for name in files for f in Path(name).parents if str(f) != "/"}
    out = [_entry(i, name, 0o40755) for i, name in enumerate(sorted(folders), 1)]
    out.append(_entry(len(out) + 1, "dev/console", 0o20600, device=(5, 1)))
    for name, source in sorted(files.items()):
        data, mtime = (source, 0) if isinstance(source, bytes) else (source.read_bytes(), int(source.stat().st_mtime))
        out.append(_entry(len(out) + 1, name[1:], 0o100755, data, mtime))
    return b"".join(out) + _entry(0, "TRAILER!!!", 0)


def _prepare(folder: Path, root: Path, settings: dict[str, object], jobs: list[Job], files: Files) -> None:
    iso = folder / "iso"
    iso.mkdir(parents=True)
    table = "".join(f"{job.name}\t{job.command}\n" for job in jobs).encode()
    system = {"/bin/busybox": root / "bin/busybox", "/init": HERE / "init", "/jobs": table}
    (iso / "initrd").write_bytes(file_system({**files, **system}))
    shutil.copy(next((root / "boot").glob("vmlinuz-*")), iso / "vmlinuz")
    for name in ("ISOLINUX/isolinux.bin", "syslinux/modules/bios/ldlinux.c32"):
        shutil.copy(root / "usr/lib" / name, iso)
    options = f"default jobs\nprompt 0\nlabel jobs\n kernel vmlinuz\n append initrd=initrd {KERNEL_OPTIONS}\n"
    (iso / "isolinux.cfg").write_text(options)
    loader = ("-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table")
    _run(root / "usr/bin/genisoimage", "-quiet", "-o", folder / "boot.iso", *loader, iso)
    shutil.rmtree(iso)
    (folder / "bochsrc").write_text(Template((HERE / "bochsrc").read_text()).substitute(settings))
    (folder / "go").write_text("continue\n")  # Debian's Bochs waits in its debugger


def _lines(process: subprocess.Popen[bytes], terminal: int, copy: IO[bytes], deadline: float) -> Iterator[str]:
    """What comes over the serial port, line by line, until the machine is off."""
    rest = b""
    while True:
        ended = process.poll() is not None
        if select.select([terminal], [], [], 0.5)[0]:
            chunk = os.read(terminal, 65536)
            copy.write(chunk)
            copy.flush()
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace").rstrip("\r") for line in lines)
        elif ended:
            return
        elif time.monotonic() > deadline:
            raise MachineError(f"the machine's time is over; its last words: {rest[-300:]!r}")


def boot(folder: Path, root: Path, cpu: str, jobs: list[Job], files: Files, limit: float) -> Iterator[str | Result]:
    """Run the jobs on a new machine; yields the processor's flags as Linux names them, then each job's result when it has ended.

    Args:
        folder: for the machine's files; made anew. bochs.log and serial.txt stay there.
        cpu: a processor of `bochs --help cpu`.
        files: what the jobs need, by absolute path; the programs' shared libraries among them.
        limit: seconds after which a machine that is still on is switched off.
    Raises:
        MachineError: it did not boot, or ended before its jobs.
    """
    shutil.rmtree(folder, ignore_errors=True)
    ours, theirs = os.openpty()
    _prepare(folder, root, {"cpu": cpu, "terminal": os.ttyname(theirs), "memory": MEMORY}, jobs, files)
    command = ["nice", "-n", "10", "bochs", "-q", "-f", "bochsrc", "-rc", "go"]
    with open(folder / "out.txt", "wb") as out, open(folder / "serial.txt", "wb") as copy:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        left, text, begun, flags = list(jobs), [], time.monotonic(), False
        try:
            for line in _lines(process, ours, copy, begun + limit):
                if line.startswith("@flags"):
                    flags = True
                    yield line
                elif line.startswith("@begin "):
                    begun, text = time.monotonic(), []
                elif line.startswith("@end "):
                    yield Result(left.pop(0).name, int(line.split()[1]), "\n".join(text).strip(), time.monotonic() - begun)
                elif flags:
                    text.append(line)
        finally:
            process.kill()
            process.wait()
            os.close(ours)
            os.close(theirs)
    if left:
        raise MachineError(f"the machine ended before {left[0].name}; see {folder}/out.txt, bochs.log and serial.txt")
