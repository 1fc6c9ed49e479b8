# SPDX-License-Identifier: Apache-2.0
"""Tables of a TOML file to frozen dataclasses: keys, types and defaults are those of the fields.

A field is a key where TOML has its type; functions and objects (an optimizer, a progress bar) are
none. A field
of `SourcePath` names what has to be there, one of `TargetPath` what must be writable. Nothing is
converted silently but a whole number to a float and a list to a tuple.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from thinmaps.errors import ThinmapsError
from thinmaps.file.atomic import check_writable
from thinmaps.nearest import alike

SourcePath = Annotated[Path, "exists"]
TargetPath = Annotated[Path, "writable"]

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


class Unfit(Exception):
    """A value that its key cannot have; the text says what was needed."""


@dataclass(frozen=True)
class Key:
    """One key of a table."""

    name: str
    hint: Any
    required: bool


def keys_of(kind: type) -> dict[str, Key]:
    """The keys that a dataclass has in a file."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        each.name: Key(
            each.name,
            hints[each.name],
            each.default is MISSING and each.default_factory is MISSING,
        )
        for each in fields(kind)
        if each.init and _has_words(hints[each.name])
    }


def read_table(
    title: str, kinds: Sequence[type], given: Any, folder: Path, reasons: list[str]
) -> list[Any]:
    """One object of each of `kinds`, whose keys share the table `title`.

    What is wrong is added to `reasons`, and None stands for an object that cannot be made. Paths
    are taken from `folder` on.
    """
    if not isinstance(given, Mapping):
        reasons.append(f"{title} is a table, [{title}], got {given!r}")
        return [None] * len(kinds)
    keys = {name: key for kind in kinds for name, key in keys_of(kind).items()}
    reasons += [
        unknown(f"[{title}] has no key", name, list(keys)) for name in given if name not in keys
    ]
    return [_made(title, kind, given, folder, reasons) for kind in kinds]


def unknown(what: str, name: str, known: Sequence[str]) -> str:
    """A sentence about a name that is none, with the nearest one."""
    near = alike(name, known, 1)
    cure = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}"
    return f"{what} {name!r}; {cure}"


def _made(
    title: str, kind: type, given: Mapping[str, Any], folder: Path, reasons: list[str]
) -> Any:
    """The object, or None and why not."""
    known = len(reasons)
    values: dict[str, Any] = {}
    for name, key in keys_of(kind).items():
        if name not in given:
            if key.required:
                reasons.append(f"[{title}] needs {name}, {needed(key.hint)}")
            continue
        try:
            values[name] = converted(given[name], key.hint, folder)
        except Unfit as needs:
            reasons.append(f"[{title}] {name} {needs}")
    if len(reasons) > known:
        return None
    try:
        return kind(**values)
    except ThinmapsError as refusal:
        reasons.append(f"[{title}]: {refusal}")
        return None


def converted(value: Any, hint: Any, folder: Path) -> Any:
    """`value` as a field of type `hint` takes it.

    Raises:
        Unfit: with what is needed and what came.
    """
    for choice in _choices(hint):
        found = _as(value, choice, folder)
        if found is not None:
            return found
    raise Unfit(f"is {needed(hint)}, got {value!r}")


def needed(hint: Any) -> str:
    """A type in words.

    >>> needed(tuple[int, int] | None), needed(Literal["a", "b"]), needed(Path)
    ('a list of 2 whole numbers', "one of 'a', 'b'", 'a path')
    """
    choices = _choices(hint)
    if Path in map(_bare, choices):
        return "a path"
    return " or ".join(_in_words(choice) for choice in choices)


def _in_words(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if _is_mapping(origin):
        return "a table of texts"
    if origin is None:
        return _WORDS[hint]
    each = _WORDS[inner[0]].removeprefix("a ")
    if origin is tuple and inner[-1] is not Ellipsis:
        return f"a list of {len(inner)} {each}s"
    return f"a list of {each}s"


def _as(value: Any, hint: Any, folder: Path) -> Any:
    """`value` as that one type; None where it is another."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value if value in inner else None
    if _bare(hint) is Path:
        return _path(folder / value, inner) if isinstance(value, str) and value else None
    if _is_mapping(origin):
        texts = isinstance(value, Mapping) and all(isinstance(v, str) for v in value.values())
        return dict(value) if texts else None
    if origin in (tuple, Sequence):
        return _listed(value, inner, folder)
    if hint is float and type(value) is int:
        return float(value)
    return value if type(value) is hint else None


def _listed(value: Any, inner: tuple[Any, ...], folder: Path) -> tuple[Any, ...] | None:
    if not isinstance(value, list):
        return None
    fixed = Ellipsis not in inner and len(inner) > 1
    found = tuple(_as(each, inner[0], folder) for each in value)
    if None in found or (fixed and len(found) != len(inner)):
        return None
    return found


def _path(path: Path, marks: tuple[Any, ...]) -> Path:
    """A path that fits its mark."""
    if "exists" in marks and not path.exists():
        raise Unfit(f"is absent: there is no {path}")
    if "writable" in marks:
        try:
            check_writable(path)
        except ThinmapsError as refusal:
            raise Unfit(f"will not do: {refusal}") from None
    return path


def _choices(hint: Any) -> list[Any]:
    """The members of a union, without None; a path where a path or a text will do."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    chosen = [member for member in members if member is not NoneType]
    return [Path] if Path in chosen else chosen


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _has_words(hint: Any) -> bool:
    """Whether TOML can say a value of that type."""
    return all(
        choice in _WORDS
        or _bare(choice) is Path
        or get_origin(choice) is Literal
        or _is_mapping(get_origin(choice))
        or (get_origin(choice) in (tuple, Sequence) and get_args(choice)[0] in _WORDS)
        for choice in _choices(hint)
    )
