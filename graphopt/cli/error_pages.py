"""The page of every error code, packaged beside the commands."""

from __future__ import annotations

from importlib import resources

from graphopt.errors import UnknownNameError

__all__ = ["error_codes", "error_page"]


def error_codes() -> tuple[str, ...]:
    """Return every code that has a page, in order."""
    folder = resources.files("graphopt.cli") / "pages"
    names = [item.name for item in folder.iterdir()]
    return tuple(sorted(name.removesuffix(".md") for name in names if name.endswith(".md")))


def error_page(code: str) -> str:
    """Return the page of `code`, Markdown.

    Raises:
        UnknownNameError: There is no such code; the nearest ones are the hint.
    """
    codes = error_codes()
    if code not in codes:
        raise UnknownNameError("error code", code, codes)
    path = resources.files("graphopt.cli") / "pages" / f"{code}.md"
    return path.read_text(encoding="utf-8").strip()
