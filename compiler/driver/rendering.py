"""The driver's own text files from templates: CMake projects, READMEs of artifacts, a check program."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

FOLDERS = (Path(__file__).parent / "templates", Path(__file__).parent / "targets" / "templates")


@lru_cache(maxsize=2)
def _environment(trim: bool) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDERS), undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True,
        trim_blocks=trim, lstrip_blocks=trim,
    )  # fmt: skip


def render(template: str, trim: bool = False, **values: Any) -> str:
    """trim: lines that hold nothing but a statement of the template leave no line."""
    return _environment(trim).get_template(template).render(**values)
