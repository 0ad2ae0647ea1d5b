"""The counts of a window on their way: in parts that fit, all of them, to a supervisor that is slow."""

import asyncio
import json
import socket

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent import control, measured
from agent.adapters.child_process import _describe
from agent.ports import ColumnStats, Heartbeat
from agent.runtime.incarnation import Incarnation
from agent.runtime.server import InferenceServer
from agent.runtime.session import LoadedModel
from agent.telemetry import _window_record
from wire import codec
from wire.histogram import Baseline, Column
from wire.manifest import BASELINE
from wire.windows import MAX_COLUMN_COUNTS, MAX_PART_BYTES, MAX_PART_COLUMNS, column_bytes

columns_of = st.lists(
    st.lists(st.integers(0, measured.MAX_TALLY), max_size=MAX_COLUMN_COUNTS), max_size=200
)


@given(columns_of, st.integers(1, 40), st.integers(100, 6000))
def test_parts_hold_every_column_once_and_are_no_longer_than_they_may_be(columns, most, max_bytes):
    parts = list(control.in_parts(columns, max_columns=most, max_bytes=max_bytes))
    assert [n for begin, end in parts for n in range(begin, end)] == list(range(len(columns)))
    for begin, end in parts:
        assert end - begin <= most
        assert end > begin or not columns
        used_bytes = sum(map(column_bytes, columns[begin:end]))
        assert used_bytes <= max_bytes or end == begin + 1
        assert used_bytes >= len(json.dumps(columns[begin:end], separators=(",", ":"))) - 2


@given(columns_of)
def test_a_record_of_any_part_is_within_the_cap(columns):
    stats = ColumnStats(
        model="m" * 64,
        version="1.0.0",
        manifest="0" * 64,
        start_unix_ms=2**53 - 1,
        duration_s=86_400.123,
        row_count=measured.MAX_TALLY,
        first=0,
        columns=tuple(map(tuple, columns)),
        between=(1.2345678901234567e-200,) * len(columns),
        scores=(measured.MAX_TALLY,) * 20,
    )
    firsts = []
    for part in control.in_parts(columns, max_columns=MAX_PART_COLUMNS, max_bytes=MAX_PART_BYTES):
        record = _window_record(stats, part, "0" * 16, 2**53 - 1)
        payload = codec.encode(record)
        assert codec.decode(codec.PAYLOADS["telemetry/window"], payload) == record
        assert len(record.between) == len(record.columns)
        assert bool(record.scores) == (record.first == 0)
        firsts.append(record.first)
    assert firsts == sorted(set(firsts))
    assert firsts[0] == 0, "the part that says how many rows there were"


def test_a_supervisor_that_reads_slowly_gets_the_counts_of_every_model(make_model):
    column = Column(name="X[0]", edges=(1.0,), counts=(1, 1))
    inputs = tuple(column.model_copy(update={"name": f"X[{n}]"}) for n in range(4))
    baseline = Baseline(row_count=2, inputs=inputs, outputs=()).model_dump_json()
    models = {}
    for name in (f"m{n}" for n in range(30)):
        served = make_model("1", name=name)
        served.files[BASELINE].write_text(baseline)
        models[name] = LoadedModel(_describe(served))
    app = InferenceServer(models, 30)
    for number, counters in enumerate(app.counters.values()):
        counters.columns.add(number, {"X": np.zeros((number, 4), np.float32)}, [], [])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    async def scenario():
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least that the kernel has
        for end in (ours, theirs):
            end.setblocking(False)
        incarnation = Incarnation(theirs, [], models, app)
        telling = asyncio.create_task(incarnation._tell_columns())
        for _ in range(100):
            await asyncio.sleep(0)
        assert not telling.done(), "its socket does not hold all of it"
        loop, told = asyncio.get_running_loop(), {}
        while len(told) < len(models) - 1:  # one has no rows
            payload = await loop.sock_recv(ours, control.MAX_DATAGRAM_BYTES)
            part = control._reports.decode(payload)
            told[part.model] = (part.row_count, part.columns)
        await telling
        return told

    with ours, theirs:
        told = asyncio.run(asyncio.wait_for(scenario(), 60))
    assert told == {f"m{n}": (n, ((n,),) * 4) for n in range(1, 30)}


def test_a_request_without_rows_ends_nobody(bench, make_model):
    outputs = [{"name": "Y", "edges": [1.0], "counts": [1, 1], "psi_limits": [0.1]}]
    body = {"row_count": 2, "inputs": [], "outputs": outputs, "limit_row_counts": [1]}
    model = make_model("1")
    model.files[BASELINE].write_text(json.dumps(body))
    bench.serve(model)
    empty = {"inputs": [{"name": "X", "shape": [0, 4], "datatype": "FP32", "data": []}]}
    assert bench.request("POST", "/v2/models/m/infer", empty)[0] == 200
    bench.wait(Heartbeat)
    while bench.wait(Heartbeat).models["m"].request_count < 1:
        pass
    assert bench.infer()[0] == 200
