"""Mutants of payloads: a plan of small edits, which hypothesis or libFuzzer may choose and shrink."""

import json
from typing import NamedTuple

MAX_EDITS = 6
MAX_SPAN = 2**16
MAX_GROWN_BYTES = 4096
"""Above, no edit makes a payload several times as long: six of them would fill the memory."""

ABYSS = "too deep for a parser that calls itself"
DEPTH = 3000

WEIRD = (
    ABYSS, None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e308, 2**31, 2**53, 2**53 + 1, 2**63, 2**64, 10**30,
    "", " ", "a", "idle", "online", "\x00", "\n", "\u202e", "\ud800", "\uffff", "ü" * 40, "A" * 65,
    "0" * 64, "../x", "/etc/passwd", "-1", "1.0", "%s%n", "=1+1", "NaN", [], {}, [[]], [None],
    {"": 0}, {"v": 1},
)  # fmt: skip
"""Values that a field may not expect."""

TOKENS = (
    b"", b"\x00", b"\xff", b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"\n", b"\r", b"\r\n", b'"', b"'", b"\\",
    b"\\u0000", b"\\ud800", b"{", b"}", b"[", b"]", b",", b":", b"=", b"/", b"+", b"#", b"..", b"NaN",
    b"-Infinity", b"1e999", b"-0", b"9" * 400, b"[" * 300, b'{"a":' * 300, b"\xef\xbb\xbf",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", b"\xff\xff\xff\x7f", b"\x7f", b"\x1b[2J", b" " * 64,
    b"null", b"true", b"=cmd", b"-----END", b"0x", b"1_0", b'"""', b"[[", b"]]",
)  # fmt: skip


class Edit(NamedTuple):
    """One change. `where` is a place in the payload, as a fraction of `MAX_SPAN`; `what` chooses."""

    kind: int
    where: int
    what: int


def mutated(payload, plan, *, in_place=False):
    """Return `payload` with the edits of `plan`, one after the other; `in_place` moves nothing."""
    for edit in plan:
        if in_place:
            payload = (_flip if edit.kind % 2 else _set)(payload, edit)
            continue
        if len(payload) > MAX_GROWN_BYTES and edit.kind % len(EDITS) < JSON_EDITS:
            continue
        payload = EDITS[edit.kind % len(EDITS)](payload, edit)
    return payload


def plan_of(random):
    """Return a plan by chance."""
    return [
        Edit(random.randrange(len(EDITS)), random.randrange(MAX_SPAN), random.randrange(MAX_SPAN))
        for _ in range(random.randint(1, MAX_EDITS))
    ]


def _place(payload, edit):
    return edit.where * len(payload) // MAX_SPAN


def _flip(payload, edit):
    if not payload:
        return payload
    place, bit = _place(payload, edit), 1 << edit.what % 8
    return payload[:place] + bytes([payload[place] ^ bit]) + payload[place + 1 :]


def _set(payload, edit):
    if not payload:
        return payload
    place = _place(payload, edit)
    return payload[:place] + bytes([edit.what % 256]) + payload[place + 1 :]


def _insert(payload, edit):
    place = _place(payload, edit)
    return payload[:place] + TOKENS[edit.what % len(TOKENS)] + payload[place:]


def _cut(payload, edit):
    place = _place(payload, edit)
    return payload[:place] + payload[place + 1 + edit.what % 40 :]


def _double(payload, edit):
    place, length = _place(payload, edit), 1 + edit.what % 600
    return payload[: place + length] + payload[place:]


def _end(payload, edit):
    return payload[: _place(payload, edit)]


def _json(payload, edit):
    """Replace, remove, repeat or wrap one value of a document; another payload is left as it is."""
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return _insert(payload, edit)
    try:
        spots = list(_spots(document))
        if not spots:
            return _text(WEIRD[edit.what % len(WEIRD)])
        holder, key = spots[edit.where * len(spots) // MAX_SPAN]
        _change(holder, key, edit.what, spots)
        return _text(document)
    except (RecursionError, ValueError):  # a value that was put into itself
        return _cut(payload, edit)


def _text(document):
    abyss = b"[" * DEPTH + b"]" * DEPTH
    return json.dumps(document).encode().replace(json.dumps(ABYSS).encode(), abyss)


def _change(holder, key, what, spots):
    choice, rest = what % 5, what // 5
    other, other_key = spots[rest % len(spots)]
    if choice == 0:
        del holder[key]
    elif choice == 1:
        holder[key] = [holder[key]] * (rest % 70)
    elif choice == 2 and isinstance(holder, dict):
        holder[str(WEIRD[rest % len(WEIRD)])[:64]] = holder.pop(key)
    elif choice == 3:
        holder[key] = other[other_key]
    else:
        holder[key] = WEIRD[rest % len(WEIRD)]


def _spots(document):
    if isinstance(document, dict | list):
        for key in list(document) if isinstance(document, dict) else range(len(document)):
            yield document, key
            yield from _spots(document[key])


JSON_EDITS = 4
EDITS = (_json, _json, _json, _json, _flip, _set, _insert, _insert, _cut, _double, _end)
