# SPDX-License-Identifier: Apache-2.0
"""Frozen dataclasses to JSON values and arrays, and back, by their annotations alone.

The nouns are the schema: a field annotated `int` is read as an `int` and nothing else, a field
annotated `NDArray[np.int8]` is an int8 array of the container, named by its place in the document
(`source/nodes/3/operator/weights`), and the document holds that name where the array belongs. So
a new operator or codec needs no line here. Reading is strict: each key of a noun must be there
(but that of a field marked optional, which is left out where it is None), no other may, `true` is
no number, an integer stays below 2**40, a float is finite.

`Operator` and `Codec` are families: their JSON carries the member's `id` beside its fields.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from thinmaps import codecs
from thinmaps.codecs.base import Codec
from thinmaps.errors import BadFile, UnknownCodec
from thinmaps.graph.operators import OPERATORS, Operator

MAX_INTEGER = 1 << 40
MAX_ANY_DEPTH = 6

Arrays = dict[str, NDArray[Any]]


def write(value: Any, place: str, arrays: Arrays) -> Any:
    """The JSON value of `value`; arrays inside it go to `arrays` under their places."""
    if isinstance(value, np.ndarray):
        arrays[place] = value
        return place
    if isinstance(value, np.generic):
        return value.item()
    if dataclasses.is_dataclass(value):
        fields = {
            field.name: write(getattr(value, field.name), _below(place, field.name), arrays)
            for field in dataclasses.fields(value)
            if not (_is_optional(field) and getattr(value, field.name) is None)
        }
        return {"id": value.id, **fields} if isinstance(value, Operator | Codec) else fields
    if isinstance(value, Mapping):
        return {key: write(item, _below(place, key), arrays) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [write(item, _below(place, str(i)), arrays) for i, item in enumerate(value)]
    return value


def read(annotation: Any, value: Any, place: str, arrays: Arrays) -> Any:
    """The inverse of `write` for a value annotated `annotation`; used arrays leave `arrays`.

    Raises:
        BadFile: `value` is not what `annotation` allows; the message names the place.
        ThinmapsError: a noun's own check refuses its fields.
    """
    reader = _READERS.get(typing.get_origin(annotation) or annotation)
    if reader is not None:
        return reader(typing.get_args(annotation), value, place, arrays)
    if annotation in (Operator, Codec):
        return _read_member(annotation, value, place, arrays)
    assert dataclasses.is_dataclass(annotation), f"no rule reads {annotation}"
    return _read_fields(typing.cast(type, annotation), value, place, arrays)


def _below(place: str, name: str) -> str:
    return f"{place}/{name}" if place else name


def _refuse(place: str, needed: str, value: Any) -> BadFile:
    shown = repr(value)
    return BadFile(f"{place}: {needed} is needed, got {shown[:60]}{'...' * (len(shown) > 60)}")


def _is_optional(field: dataclasses.Field[Any]) -> bool:
    return bool(field.metadata.get("optional"))


@cache
def _annotations(noun: type) -> dict[str, Any]:
    """Field name -> annotation, class variables left out."""
    hints = typing.get_type_hints(noun)
    return {field.name: hints[field.name] for field in dataclasses.fields(noun)}


def _read_fields(noun: type, value: Any, place: str, arrays: Arrays) -> Any:
    fields = _annotations(noun)
    if not isinstance(value, dict):
        raise _refuse(place, f"the fields of a {noun.__name__}", value)
    needed = {field.name for field in dataclasses.fields(noun) if not _is_optional(field)}
    if missing := needed - value.keys():
        raise BadFile(f"{place or 'the document'}: {min(missing)!r} is missing")
    if unknown := value.keys() - fields.keys():
        raise BadFile(f"{place or 'the document'}: {min(unknown)!r} is unknown")
    return noun(
        **{
            name: read(annotation, value[name], _below(place, name), arrays)
            for name, annotation in fields.items()
            if name in value
        }
    )


def _read_member(family: type, value: Any, place: str, arrays: Arrays) -> Any:
    """An operator or a codec, by its id."""
    if not isinstance(value, dict) or not isinstance(value.get("id"), str):
        raise _refuse(place, f"a {family.__name__.lower()} with an id", value)
    rest = {key: item for key, item in value.items() if key != "id"}
    if family is Operator:
        member = OPERATORS.get(value["id"])
        if member is None:
            raise _refuse(f"{place}/id", f"one of {', '.join(OPERATORS)}", value["id"])
        return _read_fields(member, rest, place, arrays)
    try:
        return _read_fields(codecs.get(value["id"]), rest, place, arrays)
    except UnknownCodec as error:
        raise BadFile(f"{place}/id: {error}") from None


def _read_integer(args: Any, value: Any, place: str, arrays: Arrays) -> int:
    if type(value) is not int or abs(value) >= MAX_INTEGER:
        raise _refuse(place, "a whole number below 2**40", value)
    return value


def _read_float(args: Any, value: Any, place: str, arrays: Arrays) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise _refuse(place, "a finite number", value)
    return float(value)


def _read_boolean(args: Any, value: Any, place: str, arrays: Arrays) -> bool:
    if not isinstance(value, bool):
        raise _refuse(place, "true or false", value)
    return value


def _read_text(args: Any, value: Any, place: str, arrays: Arrays) -> str:
    if not isinstance(value, str):
        raise _refuse(place, "a text", value)
    return value


def _read_literal(args: Any, value: Any, place: str, arrays: Arrays) -> Any:
    if not any(type(value) is type(choice) and value == choice for choice in args):
        raise _refuse(place, f"one of {', '.join(map(repr, args))}", value)
    return value


def _read_union(args: Any, value: Any, place: str, arrays: Arrays) -> Any:
    """`X | None` is the only union in our nouns."""
    (annotation,) = (arg for arg in args if arg is not type(None))
    return None if value is None else read(annotation, value, place, arrays)


def _read_tuple(args: Any, value: Any, place: str, arrays: Arrays) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _refuse(place, "a list", value)
    kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
    if len(value) != len(kinds):
        raise _refuse(place, f"a list of {len(kinds)}", value)
    pairs = enumerate(zip(kinds, value, strict=True))
    return tuple(read(kind, item, _below(place, str(i)), arrays) for i, (kind, item) in pairs)


def _read_mapping(args: Any, value: Any, place: str, arrays: Arrays) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refuse(place, "an object", value)
    return {key: read(args[1], item, _below(place, key), arrays) for key, item in value.items()}


def _read_array(args: Any, value: Any, place: str, arrays: Arrays) -> NDArray[Any]:
    """The array named by its own place; `args` are those of `np.ndarray[shape, dtype[scalar]]`."""
    if value != place:
        raise _refuse(place, f"the tensor's name {place!r}", value)
    array = arrays.pop(place, None)
    if array is None:
        raise BadFile(f"the tensor {place!r} is missing")
    (scalar,) = typing.get_args(args[1])
    if scalar is not Any and array.dtype != scalar:
        raise BadFile(f"the tensor {place!r} must be {np.dtype(scalar)}, got {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadFile(f"the tensor {place!r} holds a value that is not finite")
    return array


def _read_any(args: Any, value: Any, place: str, arrays: Arrays, depth: int = 0) -> Any:
    """A plain JSON value: options and attributes, whose readers check them."""
    if depth > MAX_ANY_DEPTH:
        raise BadFile(f"{place}: nested more than {MAX_ANY_DEPTH} deep")
    if isinstance(value, list):
        return [_read_any((), item, place, arrays, depth + 1) for item in value]
    if isinstance(value, dict):
        return {
            key: _read_any((), item, _below(place, key), arrays, depth + 1)
            for key, item in value.items()
        }
    if type(value) is int:
        return _read_integer((), value, place, arrays)
    return _read_float((), value, place, arrays) if isinstance(value, float) else value


_READERS: Mapping[Any, Callable[[Any, Any, str, Arrays], Any]] = {
    int: _read_integer,
    float: _read_float,
    bool: _read_boolean,
    str: _read_text,
    Any: _read_any,
    Literal: _read_literal,
    tuple: _read_tuple,
    Mapping: _read_mapping,
    np.ndarray: _read_array,
    types.UnionType: _read_union,
    typing.Union: _read_union,
}
