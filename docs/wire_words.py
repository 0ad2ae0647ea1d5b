"""What `wire/` says of itself in words: for the page and for the AsyncAPI document."""  # noqa: INP001 - beside them, not in a package

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import pairwise, product
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel

from wire import topics


def all_topics(places: Mapping[str, tuple[str, ...]]) -> Iterator[Any]:
    """Return every topic, with `places` standing for what its levels may be called."""
    for kind in get_args(topics.Topic):
        if kind is not topics.Unknown:
            types = get_type_hints(kind)
            names = [field.name for field in fields(kind)]
            for values in product(*(places.get(n) or get_args(types[n]) for n in names)):
                yield kind(*values)


def meanings(kind: type[BaseModel]) -> dict[str, str]:
    """Return the texts below the fields of a model, inherited ones included."""
    found: dict[str, str] = {}
    for cls in reversed(kind.__mro__[: kind.__mro__.index(BaseModel)]):
        (tree,) = ast.parse(inspect.getsource(cls)).body
        body = tree.body if isinstance(tree, ast.ClassDef) else []
        for field, below in pairwise(body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                    value=ast.Constant(value=str(text))
                ):
                    found[name] = " ".join(text.split())
    return found


def summary(kind: type) -> str:
    """Return the docstring of a type on one line."""
    return " ".join((kind.__doc__ or "").split())
