"""Errors that reach a user as one line: what was wrong, where, and what to do.

The command line maps them to exit statuses: bad usage or input is 2, work that failed is 1.
"""

from __future__ import annotations


class PanguError(Exception):
    """Base of every error that a user may see; `exit_status` is the command line's."""

    exit_status = 1


class UserError(PanguError):
    """Bad usage or bad input (a broken checkpoint, an impossible option): exit status 2."""

    exit_status = 2


class CompileError(PanguError):
    """The input was fine but the work failed (a compiler error, an uncovered operator): exit status 1."""
