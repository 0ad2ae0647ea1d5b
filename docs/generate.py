"""Write `docs/topics.md` (`topics.in.md` with what `wire/` and `topics_examples.py` say filled in) and
`docs/asyncapi.yaml`.

Run by `make docs`; with `--check` it writes nothing and fails when a file is not up to date.
"""  # noqa: INP001 - a script beside the text that it writes, not in a package

from __future__ import annotations

import argparse
import json
import string
import sys
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import asyncapi
import topics_examples as examples
from pydantic import BaseModel
from wire_words import all_topics, meanings, summary

from agent.core.fetch_plan import SILENCE_S
from agent.core.fetch_plan import WINDOW as CHUNK_WINDOW
from agent.core.sending import BACKLOG_PER_S, RESEND_CAP_S, RESEND_FIRST_S
from agent.core.sending import WINDOW as RECORD_WINDOW
from fleet.core.gate import STALE_LIMIT_MS
from wire import codec, content, ids, lifecycle, messages, topics
from wire.manifest import MAX_FILES, MAX_MANIFEST_BYTES, Manifest, parse_manifest

TARGET: Final = Path(__file__).with_name("topics.md")
ASYNCAPI: Final = Path(__file__).with_name("asyncapi.yaml")
TEMPLATE: Final = Path(__file__).with_name("topics.in.md")

_TYPES: Final = {
    ids.NAME_PATTERN: ("name", "a device, a model or a rollout"),
    ids.VERSION_PATTERN: ("version", "a release's name for people; it identifies nothing"),
    ids.DIGEST_PATTERN: ("digest", "sha-256 of bytes: the identity of content"),
    ids.FINGERPRINT_PATTERN: ("fingerprint", "a hash of an alert's labels; no order"),
    ids.BOOT_PATTERN: ("boot id", "random 64 bits, new at each start of a program; no order"),
    messages.CODE_PATTERN: ("code", "a cause, for programs"),
}
_UNITS: Final = {"_ms": "ms", "_s": "s", "_bytes": "bytes", "_c": "°C", "_mb": "MiB"}
_PLACES: Final = {
    "device": ("<device>",),
    "digest": ("<sha256>",),
    "model": ("<model>",),
    "role": ("timestamp", "snapshot", "targets", "root-<N>"),
}


def main() -> int:
    """Write the files, or compare them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    is_check = parser.parse_args().check
    code = 0
    for target, text in ((TARGET, render()), (ASYNCAPI, asyncapi.render())):
        if not is_check:
            target.write_text(text, encoding="utf-8")
        elif not target.exists() or target.read_text(encoding="utf-8") != text:
            sys.stderr.write(f"{target.name} is not what the code says: run `make docs`\n")
            code = 1
    return code


def render() -> str:
    """Return the text of `topics.md`; equal code gives equal text."""
    return string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        topics=_topic_table(),
        limits=_limit_table(),
        types=_type_table(),
        payloads="\n\n".join(_payload(channel) for channel in codec.PAYLOADS),
        manifest=_manifest(),
        index=_index(),
        states=_words(lifecycle.UpdateState),
        outcomes=summary(lifecycle.Outcome),
        codes=_words(lifecycle.Code),
        root=topics.ROOT,
        filters=", ".join(f"`{text}`" for text in topics.device_filters("<device>")),
        chunk_kib=content.MAX_CHUNK_BYTES // 1024,
        chunk_window=CHUNK_WINDOW,
        silence_s=f"{SILENCE_S:g}",
        missing=messages.MAX_MISSING_CHUNKS,
        record_window=RECORD_WINDOW,
        backlog_per_s=f"{BACKLOG_PER_S:g}",
        gap_ranges=messages.MAX_GAP_RANGES,
        resend_s=f"{RESEND_FIRST_S:g}",
        resend_cap_s=f"{RESEND_CAP_S:g}",
        stale_s=f"{STALE_LIMIT_MS / 1000:g}",
    )


def _topic_table() -> str:
    rows = []
    for topic in all_topics(_PLACES):
        channel = codec.channel_of(topic)
        is_signed = isinstance(topic, topics.Trust | topics.ModelTrust)
        bare = "[signed metadata](#trust)" if is_signed else "[a chunk](#content)"
        payload = _link(channel) if channel else bare
        retained = "yes" if topic.retain else "no"
        is_of_kinds = isinstance(topic, topics.Event | topics.Telemetry)
        meaning = summary(codec.PAYLOADS[channel] if channel and is_of_kinds else type(topic))
        rows.append((f"`{topic.text}`", topic.writer, topic.qos, retained, payload, meaning))
    return _table(("topic", "written by", "QoS", "retained", "payload", "what it is"), rows)


def _limit_table() -> str:
    limits: tuple[tuple[str, int, str], ...] = (
        ("payload that is JSON", codec.MAX_CONTROL_BYTES, "bytes"),
        ("any payload", codec.MAX_MESSAGE_BYTES, "bytes"),
        ("chunk, unpacked", content.MAX_CHUNK_BYTES, "bytes"),
        ("content index", content.MAX_INDEX_BYTES, "bytes"),
        ("`manifest.json`", MAX_MANIFEST_BYTES, "bytes"),
        ("files of a bundle beside it", MAX_FILES, ""),
        ("topic", topics.MAX_TOPIC_BYTES, "bytes, and 7 slashes"),
        ("filters in one SUBSCRIBE", topics.MAX_FILTERS_PER_SUBSCRIBE, ""),
        ("subscriptions of one connection", topics.MAX_SUBSCRIPTIONS, ""),
        ("models of one device", messages.MAX_MODELS_PER_DEVICE, ""),
        ("quarantined digests in a report", messages.MAX_QUARANTINED, ""),
        ("ranges in an `ack`", messages.MAX_ACK_RANGES, ""),
        ("ranges in an `event/gap`", messages.MAX_GAP_RANGES, ""),
        ("chunks in a `chunks_missing`", messages.MAX_MISSING_CHUNKS, ""),
        ("integer", messages.MAX_INTEGER, ""),
    )
    return _table(
        ("at most", ""), [(what, f"{size:,} {unit}".strip()) for what, size, unit in limits]
    )


def _type_table() -> str:
    rows = [(name, f"`{pattern}`", meaning) for pattern, (name, meaning) in _TYPES.items()]
    return _table(("type", "form", "what it names"), rows)


def _payload(channel: str) -> str:
    kind, example = codec.PAYLOADS[channel], examples.PAYLOADS[channel]
    encoded = codec.encode(example)
    if codec.decode(kind, encoded) != example:
        raise ValueError(f"the example of {channel} does not survive the wire")
    return f"### `{channel}`\n\n{_fields(kind)}\n\n{_json(encoded)}"


def _manifest() -> str:
    encoded = codec.encode(examples.MANIFEST)
    parse_manifest(encoded)
    return f"{_fields(Manifest)}\n\n{_json(encoded)}"


def _index() -> str:
    content.parse_index(examples.INDEX)
    return _json(examples.INDEX)


def _json(payload: bytes) -> str:
    """Return JSON as a person would lay it out: short objects and arrays on one line."""
    return f"```json\n{_lay_out(json.loads(payload), '')}\n```"


def _lay_out(value: Any, indent: str) -> str:
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or len(indent) + len(flat) <= 96:
        return flat
    inner = indent + "  "
    if isinstance(value, dict):
        lines = [f"{json.dumps(key)}: {_lay_out(item, inner)}" for key, item in value.items()]
        opening, closing = "{", "}"
    else:
        lines = [_lay_out(item, inner) for item in value]
        opening, closing = "[", "]"
    body = ",\n".join(inner + line for line in lines)
    return f"{opening}\n{body}\n{indent}{closing}"


def _fields(kind: type[BaseModel]) -> str:
    """Return the tables of a payload and, below it, of each part that it is the first to have."""
    schema = kind.model_json_schema(by_alias=True, ref_template="{model}")
    parts = {name: part for name, part in schema.get("$defs", {}).items() if "enum" not in part}
    text = f"{summary(kind)}\n\n{_field_table(kind, schema)}"
    for name in _in_order(schema, parts):
        part = _model(kind, name)
        text += f"\n\n**{name}**: {summary(part)}\n\n{_field_table(part, parts[name])}"
    return text


def _in_order(schema: Mapping[str, Any], parts: Mapping[str, Any]) -> list[str]:
    """Return the names of all parts, each after the one that first refers to it."""
    found: list[str] = []
    for name in _references(schema["properties"]):
        if name in parts and name not in found:
            found += [name, *(n for n in _in_order(parts[name], parts) if n not in found)]
    return list(dict.fromkeys(found))


def _references(node: Any) -> Iterable[str]:
    if isinstance(node, dict):
        if isinstance(ref := node.get("$ref"), str):
            yield ref
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def _model(kind: type[BaseModel], name: str) -> type[BaseModel]:
    found = getattr(sys.modules[kind.__module__], name)
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise TypeError(f"{name} is no model")
    return found


def _field_table(kind: type[BaseModel], schema: Mapping[str, Any]) -> str:
    words = meanings(kind)
    required = schema.get("required", ())
    rows = []
    for name, field in kind.model_fields.items():
        key = field.alias or name
        node = schema["properties"][key]
        unit = next((u for suffix, u in _UNITS.items() if key.endswith(suffix)), "")
        kind_text = _type(node) + (f", {unit}" if unit and "$ref" not in node else "")
        default = "required" if key in required else _default(node)
        rows.append((f"`{key}`", kind_text, default, words.get(name, "")))
    return _table(("field", "type", "default", "meaning"), rows)


def _default(node: Mapping[str, Any]) -> str:
    default = node.get("default", {})
    return "its defaults" if default and isinstance(default, dict) else f"`{json.dumps(default)}`"


def _type(node: Mapping[str, Any]) -> str:
    match node:
        case {"anyOf": choices}:
            return " or ".join(_type(choice) for choice in choices)
        case {"$ref": "UpdateState"}:
            return "[state](#words)"
        case {"$ref": "Outcome"}:
            return "[outcome](#words)"
        case {"$ref": name}:
            return str(name)
        case {"const": value}:
            return f"`{json.dumps(value)}`"
        case {"enum": values}:
            return "one of " + ", ".join(f"`{json.dumps(value)}`" for value in values)
        case {"type": "array"}:
            return _array(node)
        case {"type": "object", "additionalProperties": values}:
            return f"object of {_type(values)}"
        case {"type": "string"}:
            return _string(node)
        case {"type": "integer" | "number" as number}:
            return f"{number}{_range(node)}"
        case _:
            return str(node["type"])


def _array(node: Mapping[str, Any]) -> str:
    most = node.get("maxItems")
    least = "1 to " if node.get("minItems") else "at most "
    return f"array of {_type(node['items'])}" + (f", {least}{most:,}" if most else "")


def _string(node: Mapping[str, Any]) -> str:
    pattern, most = node.get("pattern"), node.get("maxLength")
    if pattern in _TYPES:
        return f"[{_TYPES[pattern][0]}](#types)"
    if pattern:
        return f"text `{pattern}`"
    return f"text, at most {most} bytes" if most else "text"


def _range(node: Mapping[str, Any]) -> str:
    low = node.get("minimum", node.get("exclusiveMinimum"))
    high = node.get("maximum")
    if high in (None, messages.MAX_INTEGER):
        above = " above" if "exclusiveMinimum" in node else " from"
        return f"{above} {low}" if low is not None else ""
    return f" {low} to {high:,}"


def _words(kind: type[StrEnum]) -> str:
    return ", ".join(f"`{word}`" for word in kind)


def _link(channel: str) -> str:
    return f"[`{channel}`](#{channel.replace('/', '')})"


def _table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    cells = [tuple(str(cell) for cell in row) for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|---" * len(cells[0]) + "|", *lines[1:]])


if __name__ == "__main__":
    sys.exit(main())
