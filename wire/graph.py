"""What a bundle's `model.onnx` may hold: a bounded walk over its bytes, before anything loads it.

Reads protobuf's wire format straight, so that a device needs neither the onnx package nor its
parser, and skips over weights, so that the cost does not grow with them. It looks for what is known
to hang or to harm a loader (section numbers are those of onnx.proto's messages):

- data outside the file (`TensorProto.external_data`), by whatever path;
- more nodes than a real model has, subgraphs nested too deep, functions that expand without end;
- names that would write control characters into logs and terminals;
- operators that the manifest does not declare.

It is a sieve, not the gate: the gate is the trial in a confined process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from .errors import BundleError
from .lifecycle import Code

MAX_NODES: Final = 20_000
"""onnxruntime's optimiser takes over 20 s for a chain of 200,000; large networks have 5,000."""
MAX_EXPANDED_NODES: Final = 50_000
"""Function calls count as what they expand to: thirty functions, each calling the one before twice,
hang the loader."""
MAX_DEPTH: Final = 16
MAX_FIELDS: Final = 5_000_000
"""Fields looked at one by one, about 5 s; runs of numbers are skipped at once and do not count."""
MAX_NAME_BYTES: Final = 512

Buffer = bytes | memoryview

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PRINTABLE: Final = re.compile(rb"[ -~]*+")
# Unpacked numbers, as proto2 writes them: a forest's attributes are millions of these.
_RUNS: Final = re.compile(rb"(?:\x3d.{4}|\x40[\x80-\xff]{0,9}[\x00-\x7f])++", re.DOTALL)

_MODEL: Final = {7: "graph", 25: "function"}
_GRAPH: Final = {1: "node", 5: "tensor", 11: "value", 12: "value", 15: "sparse"}
_NODE: Final = {1: "name", 2: "name", 3: "name", 4: "op", 5: "attribute", 7: "domain", 8: "name"}
_ATTRIBUTE: Final = {
    1: "name", 5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse",
}  # fmt: skip
_FUNCTION: Final = {
    1: "own_name", 4: "name", 5: "name", 7: "node", 10: "own_domain", 11: "attribute",
}  # fmt: skip
_TENSOR: Final = {8: "name", 13: "external"}
_SPARSE: Final = {1: "tensor", 2: "tensor"}
_DATA_LOCATION: Final = 14


class Op(NamedTuple):
    """An operator or function by its domain (`ai.onnx` when left out) and name."""

    domain: str
    name: str

    def __str__(self) -> str:
        return f"{self.domain}:{self.name}"


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What the walk found.

    Attributes:
        node_count: Nodes in the file, subgraphs and functions included.
        expanded_node_count: The same with each call of a function replaced by its body.
        depth: Levels of subgraphs below the main graph.
        ops: Operators used, functions of the model's own left out.
    """

    node_count: int
    expanded_node_count: int
    depth: int
    ops: frozenset[Op]


def scan_model(data: Buffer) -> GraphFacts:
    """Return what a serialised ModelProto holds.

    Raises:
        BundleError: `model_refused`, with the limit that it breaks.
    """
    walk = _Walk()
    main = _Body()
    for kind, part in walk.parts(memoryview(data), _MODEL):
        if kind == "graph":
            walk.graph(part, main, depth=0)
        else:
            walk.function(part)
    called = _expand(main, walk.functions)
    if called > MAX_EXPANDED_NODES:
        raise refused(f"its functions expand to more than {MAX_EXPANDED_NODES:,} nodes")
    bodies = (main, *walk.functions.values())
    used = {op for body in bodies for op in body.calls if op not in walk.functions}
    return GraphFacts(walk.node_count, called, walk.depth, frozenset(used))


def refuse_undeclared(facts: GraphFacts, declared: tuple[str, ...]) -> None:
    """Check that every operator is one that the manifest declares.

    Raises:
        BundleError: `model_refused`.
    """
    undeclared = sorted({str(op) for op in facts.ops} - set(declared))
    if undeclared:
        raise refused(f"it uses {', '.join(undeclared[:3])}, which its manifest does not declare")


def refused(why: str) -> BundleError:
    """Return the error that says so."""
    return BundleError(f"model.onnx is refused: {why}"[:300], code=Code.MODEL_REFUSED)


@dataclass(slots=True)
class _Body:
    """The nodes of the main graph or of one function: how often each operator is called."""

    calls: dict[Op, int] = field(default_factory=dict)


class _Walk:
    """One pass over a model, with what it has counted so far."""

    def __init__(self) -> None:
        self.node_count = 0
        self.depth = 0
        self.functions: dict[Op, _Body] = {}
        self._field_count = 0

    def graph(self, data: memoryview, body: _Body, *, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise refused(f"its subgraphs are nested more than {MAX_DEPTH} deep")
        self.depth = max(self.depth, depth)
        for kind, part in self.parts(data, _GRAPH):
            match kind:
                case "node":
                    self._node(part, body, depth)
                case "tensor":
                    self._tensor(part)
                case "sparse":
                    self._sparse(part)
                case _:
                    self._value(part)

    def function(self, data: memoryview) -> None:
        body = _Body()
        name, domain = "", ""
        for kind, part in self.parts(data, _FUNCTION):
            match kind:
                case "node":
                    self._node(part, body, 0)
                case "attribute":
                    self._attribute(part, body, 0)
                case "own_name":
                    name = self._text(part)
                case "own_domain":
                    domain = self._text(part)
                case _:
                    self._text(part)
        self.functions[Op(domain or "ai.onnx", name)] = body

    def _node(self, data: memoryview, body: _Body, depth: int) -> None:
        self.node_count += 1
        if self.node_count > MAX_NODES:
            raise refused(f"it has more than {MAX_NODES:,} nodes")
        name, domain = "", ""
        for kind, part in self.parts(data, _NODE):
            match kind:
                case "attribute":
                    self._attribute(part, body, depth)
                case "op":
                    name = self._text(part)
                case "domain":
                    domain = self._text(part)
                case _:
                    self._text(part)
        op = Op(domain or "ai.onnx", name)
        body.calls[op] = body.calls.get(op, 0) + 1

    def _attribute(self, data: memoryview, body: _Body, depth: int) -> None:
        for kind, part in self.parts(data, _ATTRIBUTE):
            match kind:
                case "graph":
                    self.graph(part, body, depth=depth + 1)
                case "tensor":
                    self._tensor(part)
                case "sparse":
                    self._sparse(part)
                case _:
                    self._text(part)

    def _tensor(self, data: memoryview) -> None:
        for kind, part in self.parts(data, _TENSOR, refused_number=_DATA_LOCATION):
            if kind == "external":
                raise refused("it keeps weights outside its file")
            self._text(part)

    def _sparse(self, data: memoryview) -> None:
        for _, part in self.parts(data, _SPARSE):
            self._tensor(part)

    def _value(self, data: memoryview) -> None:
        for _, part in self.parts(data, {1: "name"}):
            self._text(part)

    def _text(self, data: memoryview) -> str:
        if len(data) > MAX_NAME_BYTES or not _PRINTABLE.fullmatch(data):
            shown = ascii(bytes(data[:40]).decode("utf-8", "replace"))
            raise refused(f"the name {shown} is too long or not printable")
        return str(data, "ascii")

    def parts(
        self, data: memoryview, wanted: Mapping[int, str], *, refused_number: int | None = None
    ) -> Iterator[tuple[str, memoryview]]:
        """Return the length-delimited fields of a message that are in `wanted`.

        Args:
            data: The message.
            wanted: Names by field number.
            refused_number: A varint field that must be 0 where it is given: where data lies.
        """
        position, end = 0, len(data)
        while position < end:
            if wanted is _ATTRIBUTE and (run := _RUNS.match(data, position)) is not None:
                position = run.end()
                continue
            self._field_count += 1
            if self._field_count > MAX_FIELDS:
                raise refused(f"it has more than {MAX_FIELDS:,} fields")
            tag, position = _varint(data, position)
            number, wire_type = tag >> 3, tag & 7
            if wire_type == _BYTES:
                length, position = _varint(data, position)
                if length > end - position:
                    raise refused("it is cut off")
                if number in wanted:
                    yield wanted[number], data[position : position + length]
                position += length
            elif wire_type == _VARINT:
                value, position = _varint(data, position)
                if number == refused_number and value:
                    raise refused("it keeps weights outside its file")
            elif wire_type in (_FIXED32, _FIXED64):
                position += 4 if wire_type == _FIXED32 else 8
            else:
                raise refused("it is no ONNX file")
        if position > end:
            raise refused("it is cut off")


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data) and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise refused("it is no ONNX file")


def _expand(main: _Body, functions: Mapping[Op, _Body]) -> int:
    """Return how many nodes there are once every call is replaced by the function's body.

    Sizes are computed once per function, callees first, and capped, so that thirty doublings cost
    thirty additions.
    """
    sizes: dict[Op, int] = {}
    under_way: set[Op] = set()
    stack = list(functions)
    while stack:
        op = stack[-1]
        if op in sizes:
            stack.pop()
            continue
        missing = [c for c in functions[op].calls if c in functions and c not in sizes]
        if not missing:
            sizes[op] = _size(functions[op], sizes)
            under_way.discard(op)
            stack.pop()
        elif op in under_way:
            raise refused("a function calls itself")
        else:
            under_way.add(op)
            stack += missing
    return _size(main, sizes)


def _size(body: _Body, sizes: Mapping[Op, int]) -> int:
    total = sum(count * sizes.get(op, 1) for op, count in body.calls.items())
    return min(total, MAX_EXPANDED_NODES + 1)
