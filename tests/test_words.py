# SPDX-License-Identifier: BSD-3-Clause
"""The words of the field in names, comments, sentences and docs: words to avoid, and what to write.

The table is the project's glossary. A word is looked for in identifiers (split at underscores and capitals), in prose
(comments, docstrings, sentences in string literals, Markdown outside of code), or in both. Run as a program with files
or folders, it lists what it finds there.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("python", "ptycho_ext", "csrc", "cmake", "tests", "benchmarks", "docs", "integrations", "scripts")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "CMakeLists.txt")
SUFFIXES = {".py", ".cpp", ".cu", ".h", ".cmake", ".md", ".sh"}


class Word(NamedTuple):
    """A word to avoid, where, and what to write.

    Args:
        names: pattern of a whole part of an identifier, lower case; empty: names are free.
        prose: pattern in running text, lower case; empty: prose is free.
        instead: the word of the field.
        unless: what the text around may say, for words with a second sense.
    """

    names: str
    prose: str
    instead: str
    unless: str = "(?!)"


WORDS = (
    Word("said|says", "said|says", "states, reports, records; override"),
    Word("meanings?", "meanings?", "description, docs of a field, definition"),
    Word("whole", "", "root, all, integer", r"reassemble_whole_object"),  # a name of PtychoPINN
    Word("misfits?", "misfits?", "objective, loss"),
    Word("seek|seeker|seeking", "seeks?|seeking|sought", "search", r"\.seek\(|SEEK_"),
    Word("gauges?", "gauges?", "ambiguities"),
    Word("halves", "", "split half"),
    Word("lit|unlit|fallen", "lit|unlit|fallen", "illuminated, uncovered, illumination"),
    Word("light", "light", "illumination, intensity", r"light sources?|light-source|speed of light|\[light\]|`light`"),
    Word("places", "places", "positions", r"decimal places|takes places"),
    Word("stretch|stretches", "stretch|stretches", "block of rows, scale"),
    Word("shares?", "shares of", "shard, part"),
    Word("doomed", "doomed", "failing"),
    Word("spoils?|spoiled|spoilt", "spoils?|spoiled|spoilt", "corrupt"),
    Word("anew", "anew", "again"),
    Word("", "(left|leaves?|leaving) (it |them |this |these |that )?(out|away)", "omit", r'"left out"'),
    Word("", "(stands?|stood|standing) for", "represent"),
    Word("", "(go|goes|went|going) on", "resume, continue"),
    Word("numbers", "", "scalars, numeric", r"import numbers|from numbers|numbers\.(Real|Integral|Number)"),
    Word("windows", "", "views, patches", r"win32|sys\.platform|hann|hamming"),
    Word("darken|slope|visits?", "visits?|second-level cache", "threshold, position gradient, pairs, L2 cache"),
    Word("together", "", "CompositeOptimizer, combined"),
    Word("rooms?", "rooms", "layer, folder"),
    Word("", "is gone|are gone|(lies|lie|is|are) not there|is not at hand", "not found, not available"),
)

_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_CODE = re.compile(r"``[^`]*``|`[^`]*`|:\w+:`[^`]*`|https?://\S+|\{[^{}]*\}")
#: Literals of code rather than sentences: keys, option names, dtype letters.
_SENTENCE = re.compile(r"\w[^\n]*\s[^\n]*\w")
#: Comments and string literals of C++, CMake and shell; # before a directive of the preprocessor is none.
_NATIVE = re.compile(
    r"/\*.*?\*/|//[^\n]*"
    r"|(?<![\w$])#(?!\s*(?:include|define|if|endif|pragma|else|error|undef))[^\n]*"
    r"|\"(?:\\.|[^\"\\\n])*\"",
    re.DOTALL,
)
_STRINGS = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)}


class Found(NamedTuple):
    """A word found: its line, the text around it, and the rule."""

    line: int
    text: str
    word: Word


def _check_name(name: str, line: int, around: str) -> Iterator[Found]:
    parts = [part.lower() for part in _PART.findall(name)]
    for word in WORDS:
        named = word.names and any(re.fullmatch(word.names, part) for part in parts)
        if named and not re.search(word.unless, around, re.IGNORECASE):
            yield Found(line, name, word)


def _check_prose(text: str, line: int) -> Iterator[Found]:
    text = _CODE.sub(lambda match: " " * len(match[0]), text)
    for word in WORDS:
        if word.prose:
            for match in re.finditer(rf"\b(?:{word.prose})\b", text, re.IGNORECASE):
                start, end = max(0, match.start() - 30), match.end() + 30
                around = text[start:end]
                if not re.search(word.unless, around, re.IGNORECASE):
                    yield Found(line + text.count("\n", 0, match.start()), " ".join(around.split()), word)


def in_python(source: str) -> Iterator[Found]:
    """What is wrong in the names, comments and sentences of a Python source."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            yield from _check_name(token.string, token.start[0], token.line)
        elif token.type == tokenize.COMMENT or (token.type in _STRINGS and _SENTENCE.search(token.string)):
            yield from _check_prose(token.string, token.start[0])


def in_native(source: str) -> Iterator[Found]:
    """The same of C++, CUDA, CMake and shell: comments and quoted sentences are prose, the rest are names."""
    position = 0
    for match in (*_NATIVE.finditer(source), None):
        end = len(source) if match is None else match.start()
        for name in _IDENTIFIER.finditer(source, position, end):
            line = source.count("\n", 0, name.start()) + 1
            yield from _check_name(name[0], line, source[max(0, name.start() - 40) : name.end() + 40])
        if match is not None:
            if _SENTENCE.search(match[0]):
                yield from _check_prose(match[0], source.count("\n", 0, match.start()) + 1)
            position = match.end()


def in_markdown(source: str) -> Iterator[Found]:
    """The same of a page, without its blocks of code."""
    blank = re.sub(r"^```.*?^```", lambda match: "\n" * match[0].count("\n"), source, flags=re.MULTILINE | re.DOTALL)
    yield from _check_prose(blank, 1)


def found_in(path: Path) -> list[Found]:
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return list(in_markdown(source))
    return list(in_python(source) if path.suffix == ".py" else in_native(source))


def files(*under: Path) -> list[Path]:
    """Sources and pages, except this one, which names all the words."""
    found: list[Path] = []
    for path in under:
        found += sorted(path.rglob("*")) if path.is_dir() else [path] if path.exists() else []
    unread = {"results", "__pycache__", "data", "_build", "_project", "auto_gallery", "generated"}
    return [
        path
        for path in found
        if (path.suffix in SUFFIXES or path.name in PAGES)
        and path.resolve() != Path(__file__).resolve()
        and not unread & set(path.resolve().relative_to(ROOT).parts)
    ]


@pytest.mark.parametrize(
    "path", files(*(ROOT / name for name in (*FOLDERS, *PAGES))), ids=lambda path: str(path.relative_to(ROOT))
)
def test_words_of_the_field(path: Path) -> None:
    wrong = [f"line {f.line}: {f.text!r}: write {f.word.instead}" for f in found_in(path)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def compare_halves(x): ...", 1),
        ("class SaidElsewhere(Exception): ...", 1),
        ("# what is said anew\n", 2),
        ('raise ValueError("the file is gone")', 1),
        ("x = 'lit'", 0),  # a key, not a sentence
        ("# a light source, to two decimal places\n", 0),
        ("#: whole pixels are fine in prose\n", 0),
        ("from numbers import Real\n", 0),
        ("light = probe.abs()", 1),
    ],
)
def test_the_check_itself(source: str, count: int) -> None:
    assert len(list(in_python(source))) == count


def test_native_and_markdown() -> None:
    assert len(list(in_native('int visits = 0; // left out\nauto s = "goes on here";'))) == 3
    assert len(list(in_markdown("It says so.\n```\nsays\n```\n`said` is code\n"))) == 1


if __name__ == "__main__":
    for path in files(*map(Path, sys.argv[1:])):
        for found in found_in(path):
            print(f"{path}:{found.line}: {found.text!r}: write {found.word.instead}")
