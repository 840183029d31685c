"""The click application: commands, and the one place that turns errors into a line and an exit status."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from types import FrameType

import click

from pangu_compile import __version__
from pangu_compile.driver.options import debug_enabled
from pangu_compile.errors import PanguError

from .bench import bench
from .build import build
from .doctor import doctor
from .inspect import inspect
from .run import run as run_command
from .verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pangu-compile")
def app() -> None:
    """Ahead-of-time compiler for the openPangu-2.0 family."""


for command in (build, run_command, inspect, verify, bench, doctor):
    app.add_command(command)


def fail(message: str, status: int) -> int:
    """Print the one line on stderr."""
    line = " ".join(message.split())
    print(f"pangu-compile: error: {line}", file=sys.stderr)
    return status


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # unwinds, so that a half-written artifact is removed


def run(args: list[str] | None) -> int:
    """Run with `args` (sys.argv without them) and return the exit status."""
    with contextlib.suppress(ValueError):  # not the main thread (tests)
        signal.signal(signal.SIGTERM, _terminate)
    try:
        result = app.main(args=args, prog_name="pangu-compile", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Abort:
        return fail("interrupted", 130)
    except KeyboardInterrupt:
        return fail("interrupted", 130)
    except click.UsageError as error:
        return fail(error.format_message() + _help_hint(error), 2)
    except click.ClickException as error:
        return fail(error.format_message(), 2)
    except PanguError as error:
        return fail(str(error), error.exit_status)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away: no second message
        return 1
    except Exception as error:
        if debug_enabled():
            traceback.print_exc()
        status = getattr(error, "exit_status", None)
        if isinstance(status, int):  # the runtime's errors, which know nothing of ours
            return fail(str(error), status)
        return fail(f"{type(error).__name__}: {error} (PANGU_DEBUG=1 shows where)", 1)


def _help_hint(error: click.UsageError) -> str:
    return f" (see `{error.ctx.command_path} --help`)" if error.ctx is not None else ""
