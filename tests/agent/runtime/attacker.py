"""A runtime that a hostile model has taken over: obeys up to a point, then does one evil thing.

Started in place of `agent.runtime`: `python attacker.py NAME --control FD …`. It is the real thing's
equal in what it may do: same channel, same sockets, same user.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import time

from agent import control

CONFINED = {"type": "confined", "runtime": "onnxruntime 9", "max_opset": 9, "protections": ["x"]}
READY = {"type": "ready"}
BEAT = {"type": "beat", "models": {}, "oldest_request_s": 0.0, "rss_bytes": 1}
FAILED = {"type": "failed", "model": "digits", "code": "load_failed", "detail": "x"}
GOLDEN = {"type": "golden", "model": "digits", "is_passed": True, "detail": ""}
TALLY = {"request_count": 1}
WINDOW = {
    "model": "digits", "start_unix_ms": 1, "duration_s": 1.0, "tally": TALLY,
}  # fmt: skip
COLUMNS = {
    "type": "columns", "model": "digits", "start_unix_ms": 1, "duration_s": 1.0, "row_count": 1,
    "first": 0, "columns": [[1]], "between": [0.5],
}  # fmt: skip
LABELLED = {
    "type": "labelled", "model": "digits", "start_unix_ms": 1, "duration_s": 1.0, "labelled": 3,
    "correct": 1,
}  # fmt: skip
DEEP = b'{"type":"beat","x":' + b"[" * 60_000 + b"]" * 60_000 + b"}"


def windows(*closed):
    return {"type": "windows", "windows": list(closed)}


def beat(**tally):
    return BEAT | {"models": {"digits": tally}}


# What is said instead of `confined`, as the first word of all.
FIRST = {
    "no json": b"\x00\x01\x02",
    "not utf-8": b'{"type":"failed","model":"\xff","code":"load_failed","detail":""}',
    "nested 60,000 deep": DEEP,
    "a list": b"[]",
    "an unknown report": {"type": "obey"},
    "larger than a datagram may be": b" " * (control.MAX_DATAGRAM_BYTES + 1) + b"{}",
    "a thousand protections": CONFINED | {"protections": ["seccomp"] * 1000},
    "a protection that is a sentence": CONFINED | {"protections": ["All is well!"]},
    "a name of 10 kB": CONFINED | {"runtime": "x" * 10_000},
    "a name with escape codes": CONFINED | {"runtime": "\x1b[31mred"},
    "an opset of 10^18": CONFINED | {"max_opset": 10**18},
    "ready before it is confined": READY,
    "a failure before it is confined": FAILED,
    "a sign of life before it is confined": BEAT,
}
# What is said after `confined`, while the models should load.
LOADING = {
    "confined twice": CONFINED,
    "an unknown code": FAILED | {"code": "it was nothing"},
    "the device's code": FAILED | {"code": "content_corrupt"},
    "details of 100 kB": FAILED | {"detail": "x" * 100_000},
    "accepting before it is ready": {"type": "accepting"},
    "a sign of life before it is ready": BEAT,
}
# What is said after `ready`, before it is told to serve.
WAITING = {
    "ready twice": READY,
    "accepting without an order": {"type": "accepting"},
    "stopped without an order": {"type": "stopped"},
    "drained without an order": {"type": "drained", "handed_over": 0, "cut": 0},
    "windows that nobody asked for": windows(WINDOW),
    "columns that nobody asked for": COLUMNS,
    "golden rows that nobody asked for": GOLDEN,
    "a failure when it is ready": FAILED,
    "a negative count": beat(request_count=-1),
    "a count of 2^49": beat(request_count=2**49),
    "more errors than requests": beat(request_count=5, client=6),
    "more latencies than requests": beat(request_count=5, latency=[3, 3]),
    "a thousand bins of latency": beat(request_count=5, latency=[0] * 1000),
    "a number of 4,000 digits": beat(request_count=10**4000),
    "memory of 2^63": BEAT | {"rss_bytes": 2**63},
    "a request since -1 s": BEAT | {"oldest_request_s": -1.0},
    "a request of a century": BEAT | {"oldest_request_s": 3e9},
    "a time beyond all numbers": b'{"type":"beat","models":{},"oldest_request_s":1e999,"rss_bytes":1}',
    "65 models": BEAT | {"models": {f"m{n}": TALLY for n in range(65)}},
    "a model's name of 65 letters": BEAT | {"models": {"m" * 65: TALLY}},
}


FALLING = [beat(request_count=5), beat(request_count=4)]
VANISHING = [beat(request_count=5), BEAT]


# What is said after an order to close the window of columns.
COUNTING = {
    "a column of 10,000 counts": [COLUMNS | {"columns": [[1] * 10_000]}],
    "10,000 columns": [COLUMNS | {"columns": [[]] * 10_000}],
    "a negative count of a column": [COLUMNS | {"columns": [[1, -1]]}],
    "a sum of nothing finite": [json.dumps(COLUMNS).replace("0.5", "1e999").encode()],
    "a sum below 0": [COLUMNS | {"between": [-0.5]}],
    "a place beyond all columns": [COLUMNS | {"first": 2**40}],
    "more columns than there are": [COLUMNS | {"columns": [[1] * 200] * 80}] * 2,
    "columns without end": [COLUMNS] * (control.MAX_PARTS + 1),
    "labels without end": [LABELLED] * (control.MAX_REPORTED_MODELS + 1),
    "labels below 0": [LABELLED | {"labelled": -1}],
    "a confusion of 10,000 classes": [LABELLED | {"confusion": [0] * 10_000}],
    "a cell beyond its bound": [LABELLED | {"confusion": [10**14]}],
    "errors that are not finite": [
        json.dumps(LABELLED | {"errors": [0.5, 1, 1]}).replace("0.5", "-1e999").encode()
    ],
    "a squared error below 0": [LABELLED | {"errors": [0.5, 1, -1]}],
}


def say(channel, message):
    channel.send(message if isinstance(message, bytes) else json.dumps(message).encode())


def say_with(channel, message, *descriptors):
    socket.send_fds(channel, [json.dumps(message).encode()], list(descriptors))


def flood(channel, message, *descriptors):
    """Say the same for ever, as fast as it is heard."""
    channel.setblocking(True)
    with contextlib.suppress(OSError):
        while True:
            say_with(channel, message, *descriptors)


def a_connection():
    mine, theirs = socket.socketpair()
    os.set_inheritable(mine.fileno(), True)
    return theirs.detach()


def tricks(channel):
    """Return what is done, rather than said, when it is ready."""
    null = os.open("/dev/null", os.O_RDONLY)
    return {
        "a socket with a sign of life": lambda: say_with(channel, BEAT, null),
        "a socket with nonsense": lambda: say_with(channel, {"type": "?"}, null, null, null),
        "a socket with nothing": lambda: socket.send_fds(channel, [b""], [null]),
        "a hand-over without an order": lambda: say_with(
            channel, {"type": "hand_over"}, a_connection()
        ),
        "a hand-over of nothing": lambda: say(channel, {"type": "hand_over"}),
        "a count that falls": lambda: [say(channel, one) for one in FALLING],
        "a count that vanishes": lambda: [say(channel, one) for one in VANISHING],
        "a flood of signs of life": lambda: flood(channel, BEAT),
        "an end by a signal without a name": lambda: os.kill(os.getpid(), 40),
        "an end by SIGSEGV": lambda: os.kill(os.getpid(), signal.SIGSEGV),
        "silence without an end": channel.close,
    }


def until_told(channel, kind):
    """Return a command once it comes; hear nothing else."""
    while True:
        received = control.receive_command(channel)
        if received is None:
            sys.exit(0)
        if isinstance(received[0], kind):
            return received[0]


def serve_badly(channel, name, listeners):
    """Do one evil thing after the order to serve, or instead of it."""
    until_told(channel, control.Serve)
    if name == "never accepts":
        return
    say(channel, {"type": "accepting"})
    if name in COUNTING:
        until_told(channel, control.CloseColumns)
        for report in COUNTING[name]:
            say(channel, report)
        return
    match name:
        case "accepts twice":
            say(channel, {"type": "accepting"})
        case "counts beyond all models":
            say(channel, BEAT | {"models": {"stranger": TALLY, "digits": {"request_count": 7}}})
            until_told(channel, control.CloseWindow)
            strange = WINDOW | {"model": "stranger"}
            say(channel, windows(WINDOW, WINDOW, strange))
            say(channel, {"type": "wrong"})
        case "columns of a stranger":
            until_told(channel, control.CloseColumns)
            say(channel, COLUMNS | {"model": "stranger"})
            say(channel, COLUMNS | {"between": [0.5, 0.5]})
        case "labels that do not add up":
            until_told(channel, control.CloseColumns)
            say(channel, LABELLED | {"model": "stranger"})
            say(channel, LABELLED | {"correct": 10**14, "scores": [9], "score_correct": [10]})
        case "windows twice":
            until_told(channel, control.CloseWindow)
            say(channel, windows(WINDOW))
            say(channel, windows(WINDOW))
        case "a negative latency":
            until_told(channel, control.CloseWindow)
            say(channel, windows(WINDOW | {"tally": TALLY | {"latency": [-1]}}))
        case "a flood of connections when it drains":
            until_told(channel, control.Drain)
            flood(channel, {"type": "hand_over"}, a_connection())
        case "files in place of connections":
            until_told(channel, control.Drain)
            say_with(channel, {"type": "hand_over"}, os.open("/dev/null", os.O_RDONLY))
        case "listening sockets in place of connections":
            until_told(channel, control.Drain)
            say_with(channel, {"type": "hand_over"}, listeners[0])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--control", type=int)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--listen", type=int, action="append")
    parser.add_argument("--readable", action="append")
    options = parser.parse_args()
    name, channel = options.name, socket.socket(fileno=options.control)
    until_told(channel, control.Start)
    if name in FIRST:
        say(channel, FIRST[name])
        return channel
    say(channel, CONFINED)
    if name in LOADING:
        say(channel, LOADING[name])
        return channel
    if name == "says why it fails":
        say(channel, FAILED | {"detail": "one\nAgent: all is well\x1b[2J", "model": "stranger"})
        return channel
    if name == "never ready":
        return channel
    say(channel, READY)
    if name in WAITING:
        say(channel, WAITING[name])
    elif name in (tricks_by_name := tricks(channel)):
        tricks_by_name[name]()
    else:
        serve_badly(channel, name, options.listen)
    return channel


if __name__ == "__main__":
    kept = main()
    time.sleep(600)  # it does not end by itself: somebody has to end it
