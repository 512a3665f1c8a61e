"""The grammar of pipeline text, without any knowledge of passes.

    pipeline ::= element ("," element)*
    element  ::= pass | group | "@" name
    pass     ::= name options?
    group    ::= "fixpoint" options? "(" pipeline ")"
    options  ::= "{" key "=" value (" " key "=" value)* "}"
    value    ::= number | "true" | "false" | "none" | word | string | "[" (value ("," value)*)? "]"

Strings are JSON strings. White space, line ends and ``# comments`` are free between tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from graphopt.errors import PipelineSyntaxError
from graphopt.rewrite import OptionValue

__all__ = ["ElementText", "GroupText", "NamedText", "Options", "PassText", "parse_text"]

Options = tuple[tuple[str, OptionValue], ...]

_SPACE = re.compile(r"(?:\s|#[^\n]*)*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What follows a number must end it: `4bit` and `1.2.3` are words.
_NUMBER = re.compile(
    r"[+-]?(?:inf\b|nan\b|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![A-Za-z0-9_.\-])"
)
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_GROUP = "fixpoint"
_DEEPEST = 32
"""Groups and lists within one another; deeper ones would end in Python's limit of recursion."""
_CONSTANTS: dict[str, OptionValue] = {"true": True, "false": False, "none": None}

_QUOTE_HINT = "quote the pipeline on the command line: --pipeline 'pass{option=value}'"
_COMMA_HINT = "separate options by a space, and write lists in brackets: {a=1 b=[2,3]}"


@dataclass(frozen=True)
class PassText:
    """A pass as written: its name and options; ``position`` is where the name begins."""

    name: str
    options: Options
    position: int


@dataclass(frozen=True)
class NamedText:
    """A named pipeline as written; ``position`` is where its ``@`` stands."""

    name: str
    position: int


@dataclass(frozen=True)
class GroupText:
    """A group as written; ``position`` is where its keyword begins."""

    options: Options
    elements: tuple[ElementText, ...]
    position: int


ElementText = PassText | NamedText | GroupText


def parse_text(text: str) -> tuple[ElementText, ...]:
    """Return the elements of a pipeline text.

    Raises:
        PipelineSyntaxError: With a caret under the first character that does not fit.
    """
    parser = _Parser(text)
    elements = parser.pipeline()
    if not parser.at_end():
        parser.fail("`,` or the end", hint=parser.tail_hint())
    return elements


class _Parser:
    """Recursive descent over one text; `position` is the first unread character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self._depth = 0

    def at_end(self) -> bool:
        self._skip_space()
        return self.position == len(self.text)

    def fail(
        self, expected: str, *, position: int | None = None, hint: str | None = None
    ) -> NoReturn:
        at = self.position if position is None else position
        start = self.text.rfind("\n", 0, at) + 1
        line = self.text[start:].split("\n", 1)[0]
        raise PipelineSyntaxError(line, at - start, expected, hint=hint)

    def tail_hint(self) -> str | None:
        """Recognise what a shell makes of unquoted braces: ``p{a=1,2}`` becomes ``pa=1 p2``."""
        is_mangled = self.text[self.position] == "="
        return f"the shell has expanded the braces; {_QUOTE_HINT}" if is_mangled else None

    def pipeline(self) -> tuple[ElementText, ...]:
        elements = [self._element()]
        while self._take(","):
            elements.append(self._element())
        return tuple(elements)

    def _element(self) -> ElementText:
        self._skip_space()
        position = self.position
        if self._take("@"):
            return NamedText(self._name("the name of a named pipeline"), position)
        name = self._name("the name of a pass, `fixpoint(...)` or `@name`")
        options = self._options()
        if name != _GROUP:
            return PassText(name, options, position)
        self._expect("(", "`(` and the passes of the group")
        with self._inside():
            elements = self.pipeline()
        self._expect(")", "`,` or `)`")
        return GroupText(options, elements, position)

    def _options(self) -> Options:
        if not self._take("{"):
            return ()
        options: dict[str, OptionValue] = {}
        while not self._take("}"):
            if options and self._peek() == ",":
                self.fail("a space and the next option, or `}`", hint=_COMMA_HINT)
            key = self._key(options)
            options[key] = self._value()
        return tuple(options.items())

    def _key(self, seen: dict[str, OptionValue]) -> str:
        self._skip_space()
        position = self.position
        if self.at_end():
            self.fail("`}`", hint=_QUOTE_HINT)
        key = self._match(_KEY, "an option, as in `{option=value}`, or `}`")
        if key in seen:
            self.fail(f"each option once, and `{key}` is already there", position=position)
        self._expect("=", f"`=` and the value of `{key}`")
        return key

    def _value(self) -> OptionValue:
        self._skip_space()
        if self._take("["):
            with self._inside():
                return self._list()
        if text := self._try(_NUMBER):
            # `3` and `3.0` are different options: what is written is what is read back.
            return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
        if self._peek() == '"':
            return self._string()
        word = self._match(
            _NAME,
            "a number, `true`, `false`, a word, a quoted string or a `[list]`",
            hint='text with other characters is quoted: {option="a b"}',
        )
        return _CONSTANTS.get(word, word)

    def _list(self) -> tuple[OptionValue, ...]:
        if self._take("]"):
            return ()
        values = [self._value()]
        while self._take(","):
            values.append(self._value())
        self._expect("]", "`,` or `]`")
        return tuple(values)

    def _string(self) -> str:
        position = self.position
        quoted = self._match(_STRING, "a closing quote")
        try:
            return str(json.loads(quoted))
        except json.JSONDecodeError as error:
            self.fail("a string as JSON writes it", position=position + error.pos)

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """Count how deep groups and lists are nested."""
        if self._depth == _DEEPEST:
            self.fail(f"at most {_DEEPEST} groups or lists within one another")
        self._depth += 1
        yield
        self._depth -= 1

    def _name(self, expected: str) -> str:
        return self._match(_NAME, expected)

    def _peek(self) -> str:
        self._skip_space()
        return self.text[self.position : self.position + 1]

    def _take(self, token: str) -> bool:
        if self._peek() != token:
            return False
        self.position += 1
        return True

    def _expect(self, token: str, expected: str) -> None:
        if not self._take(token):
            self.fail(expected)

    def _try(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self.text, self.position)
        if found is None:
            return None
        self.position = found.end()
        return found.group()

    def _match(self, pattern: re.Pattern[str], expected: str, *, hint: str | None = None) -> str:
        self._skip_space()
        text = self._try(pattern)
        if text is None:
            self.fail(expected, hint=hint)
        return text

    def _skip_space(self) -> None:
        found = _SPACE.match(self.text, self.position)
        self.position = found.end() if found else self.position
