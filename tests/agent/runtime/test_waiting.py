"""What is on the books of a server: requests that run, not those that wait; and every failure."""

import asyncio
import json

import pytest

from agent.adapters.child_process import _describe
from agent.runtime import oip
from agent.runtime.server import SLOW_THREADS, InferenceServer
from agent.runtime.session import LoadedModel

BODY = {"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [200, 2, 3, 4]}]}


@pytest.fixture
def load(make_model):
    def load(graph=None):
        model = LoadedModel(_describe(make_model("1", graph=graph)))
        return model, InferenceServer({"m": model}, 120)

    return load


async def ask(server):
    """Return the status of one request."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": json.dumps(BODY).encode()}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v2/models/m/infer", "headers": []}
    await server(scope, receive, send)
    return sent[0]["status"]


def test_a_request_that_waits_for_a_thread_is_no_sign_of_a_hang(load, graphs):
    model, server = load(graphs["slow"](100_000))
    model.is_slow = True
    seen = []

    async def scenario():
        asked = [asyncio.ensure_future(ask(server)) for _ in range(12)]
        while not all(one.done() for one in asked):
            oldest_s, running = server.oldest_request_s(), dict(server._running)
            seen.append((oldest_s, len(running)))
            await asyncio.sleep(0.001)
        assert [one.result() for one in asked] == [200] * 12

    asyncio.run(scenario())
    assert max(count for _, count in seen) <= SLOW_THREADS
    assert server.oldest_request_s() == 0


def test_a_batch_that_would_take_long_runs_in_a_thread(load, graphs):
    model, _ = load()
    model._row_s = 0.004
    assert not model.is_slow
    assert [model.is_slow_for(rows) for rows in (1, 100, 1000)] == [False, False, True]


def test_an_answer_that_cannot_be_written_counts_as_a_failure(load, monkeypatch):
    _, server = load()

    def too_large(*_, **__):
        raise MemoryError

    monkeypatch.setattr(oip, "encode_answer", too_large)
    assert asyncio.run(ask(server)) == 500
    counted = server.counters["m"].so_far()
    assert (counted.request_count, counted.runtime) == (1, 1)
    assert server.oldest_request_s() == 0
    monkeypatch.undo()
    assert asyncio.run(ask(server)) == 200
