"""Captured rows at the controller: what packs are believed, who may give them, what is kept, who gets it."""

import asyncio
import io
import zipfile

import httpx
import numpy as np
import pytest

from agent.adapters.capture_upload import PackUpload
from agent.core.captured import pack
from fleet import desired
from fleet.api import app as api
from fleet.api.capture_schemas import CaptureDeletionIn, CaptureExportIn, CaptureRequestIn
from fleet.capture import captures
from fleet.capture.export import Export
from fleet.capture.limits import CaptureLimits
from fleet.capture.packs import read_pack
from fleet.core.rights import Role
from tests.agent.captured import MANIFEST, row, text_row
from tests.fleet.peers import Fleet
from tests.fleet.site import Site
from tests.fleet.test_device_content import enrolled
from wire import codec
from wire.capture import CaptureFacts
from wire.errors import ConfigError, PeerError
from wire.messages import DesiredModel, Inventory, Reported
from wire.packs import HEAD, MAX_PACK_BYTES, PackGroup, PackHead

ON = CaptureFacts(sample_ppm=10_000, uncertain_below_ppm=600_000, row_count=5)
LIMITS = CaptureLimits()
GROUP = PackGroup(version="1.0.0", manifest=MANIFEST, row_count=2, inputs=("X",), outputs=())


def body_of(rows, request="c-1", model="digits", *, is_all=True):
    return pack(rows, request, model, is_all=is_all).body


def archive(members, how=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as made:
        for name, data in members:
            made.writestr(name, data)
    return out.getvalue()


def npy(array, **more):
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asarray(array), **more)
    return out.getvalue()


def head(**more):
    fields = {"request": "c-1", "model": "digits", "is_last": True, "groups": (GROUP,), **more}
    return HEAD, codec.encode(PackHead(**fields))


def members(**changed):
    """Return a sound pack of two rows, some of its arrays replaced or left out."""
    arrays = {
        "at_unix_ms": npy(np.array([1, 2])),
        "id": npy(np.array(["a", ""])),
        "score": npy(np.array([0.5, np.nan])),
        "input-0": npy(np.ones((2, 3), np.float32)),
    }
    arrays |= {name.replace("_0", "-0"): data for name, data in changed.items()}
    return [head(), *((f"0/{n}.npy", data) for n, data in arrays.items() if data is not None)]


# -- packs are hostile


def test_what_a_device_packs_is_what_is_read():
    rows = [row(n, score=n / 10) for n in range(3)] + [row(7, version="2.0.0")]
    found = read_pack(body_of(rows))
    first, second = found.groups
    assert (first.group.version, second.group.version) == ("1.0.0", "2.0.0")
    assert first.ids.tolist() == ["id-0", "id-1", "id-2"]
    assert first.at_unix_ms.tolist() == [0, 1, 2]
    assert np.array_equal(first.scores, [0, 0.1, 0.2])
    assert np.isnan(second.scores).all()
    assert np.array_equal(first.inputs["X"], np.arange(3, dtype=np.float32)[:, None].repeat(4, 1))
    assert first.outputs["Y"].tolist() == [0, 1, 2]
    assert found.row_count == 4


def test_texts_of_several_widths_become_one_array():
    rows = [text_row(["a", "long"], 4), text_row(["ü", ""], 1)]
    (group,) = read_pack(body_of(rows)).groups
    assert group.inputs["words"].tolist() == [["a", "long"], ["ü", ""]]
    assert group.group.left_out == ("age",)


def test_equal_rows_make_equal_packs():
    assert body_of([row(1), row(2)]) == body_of([row(1), row(2)])


def test_a_sound_pack_made_by_hand_is_taken():
    assert read_pack(archive(members())).row_count == 2


BOMB = archive([head(groups=()), ("0/x.npy", bytes(2 * 2**20))])
HOSTILE = {
    "nothing": b"",
    "no archive": b"PK" + bytes(100),
    "too long": bytes(MAX_PACK_BYTES + 1),
    "a bomb": BOMB,
    "no head": archive(members()[1:]),
    "a head that is no JSON": archive([(HEAD, b"{"), *members()[1:]]),
    "more than the head names": archive([*members(), ("0/more.npy", npy([1, 2]))]),
    "less than the head names": archive(members(score=None)),
    "a path": archive([*members(), ("../../etc/passwd", b"x")]),
    "a pickle": archive(members(input_0=npy(np.array([{}, {}], object), allow_pickle=True))),
    "other rows": archive(members(input_0=npy(np.ones((3, 3), np.float32)))),
    "a structure": archive(members(input_0=npy(np.zeros(2, [("a", "<i4")])))),
    "big-endian": archive(members(input_0=npy(np.ones((2, 3), ">f4")))),
    "complex": archive(members(input_0=npy(np.ones((2, 3), complex)))),
    "in the order of Fortran": archive(members(input_0=npy(np.asfortranarray(np.ones((2, 3)))))),
    "cut": archive(members(input_0=npy(np.ones((2, 3)))[:-1])),
    "longer than it says": archive(members(input_0=npy(np.ones((2, 3))) + b"x")),
    "no array": archive(members(input_0=b"\x93NUMPY\x01\x00\x10\x00{'descr': open('x')}")),
    "format 3.0": archive(members(input_0=npy(np.ones((2, 3)), version=(3, 0)))),
    "a time before all": archive(members(at_unix_ms=npy(np.array([-1, 2])))),
    "times that are none": archive(members(at_unix_ms=npy(np.array([1.0, 2.0])))),
    "a score over one": archive(members(score=npy(np.array([0.5, 1.5])))),
    "scores of a table": archive(members(score=npy(np.ones((2, 2))))),
    "ids that are numbers": archive(members(id=npy(np.array([1, 2])))),
    "a long id": archive(members(id=npy(np.array(["a" * 300, ""])))),
    "a truth of two": archive(
        members(input_0=npy(np.zeros((2, 1), bool)).replace(b"\n\0\0", b"\n\2\0"))
    ),
    "packed by bzip2": archive(members(), zipfile.ZIP_BZIP2),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_pack_is_refused(what):
    with pytest.raises(PeerError) as refusal:
        read_pack(HOSTILE[what])
    assert refusal.value.code == "capture_invalid"
    assert len(str(refusal.value)) <= 300


def test_a_name_that_is_there_twice_is_refused():
    with pytest.warns(UserWarning, match="Duplicate name"):
        body = archive([*members(), members()[1]])
    with pytest.raises(PeerError, match="twice"):
        read_pack(body)


def test_what_is_no_character_is_replaced():
    texts = (
        npy(np.array(["a", "b"]))
        .replace(b"b\0\0\0", b"\0\xd8\0\0")
        .replace(b"a\0\0\0", b"\0\0\x11\0")
    )
    found = read_pack(archive(members(input_0=texts)))
    assert found.groups[0].inputs["X"].tolist() == ["\ufffd", "\ufffd"]


# -- who is asked, and who may give


@pytest.fixture
def fleet(tmp_path, where):
    made = Fleet(tmp_path, where=where)
    made.settle()
    yield made
    made.controller.stop()
    made.store.close()


def capturing(fleet, *names, facts=ON):
    """Have devices serve a release and report that they capture."""
    with fleet.store.write() as tx:
        for name in names:
            model = DesiredModel(name="digits", version="1.0.0", manifest=MANIFEST, index="b" * 64)
            tx.states.set_desired(name, model, 1)
            tx.states.set_generation(name, 1)
            report = Reported(
                boot="c" * 16, seq=1, generation=1, inventory=Inventory(capture=facts)
            )
            tx.states.set_reported(name, report, fleet.controller.now_unix_ms())


def now(fleet):
    return fleet.controller.now_unix_ms()


def ask(fleet, **more):
    wish = CaptureRequestIn(model="digits", **more)
    result = fleet.controller.command(lambda tx: captures.request(tx, wish, now(fleet), by="ann"))
    return {row.device: row.reason for row in result.devices}


def give(fleet, device, body, limits=LIMITS):
    return captures.take(fleet.store, device, body, now(fleet), limits)


def export(fleet, **more):
    wish = CaptureExportIn(model="digits", **more)
    return Export.read(captures.export(fleet.store, wish, now(fleet)))


def test_only_devices_that_capture_are_asked_and_their_desired_state_says_so(fleet):
    fleet.add("on", "off", "new")
    capturing(fleet, "on")
    capturing(fleet, "off", facts=None)
    reasons = ask(fleet, limit=7, uncertain_first=True)
    assert reasons["on"] == ""
    assert "captures nothing" in reasons["off"]
    assert "never given anything" in reasons["new"]
    with fleet.store.read() as tx:
        told = desired.current(tx, "on").capture
        assert desired.current(tx, "off").capture is None
    assert (told.id, told.limit, told.first) == ("c-1", 7, "uncertain")


def test_rows_come_are_counted_and_close_the_request(fleet):
    fleet.add("a")
    capturing(fleet, "a")
    ask(fleet)
    assert give(fleet, "a", body_of([row(1), row(2)], is_all=False)).is_wanted
    assert not give(fleet, "a", body_of([row(3)])).is_wanted
    with fleet.store.read() as tx:
        assert desired.current(tx, "a").capture is None
        (asked,) = [tx.captures.asked_of("a")]
    assert (asked.row_count, asked.is_open) == (3, False)
    assert export(fleet).columns["answer.Y"][0].tolist() == [1, 2]
    assert export(fleet).row_count == 3


def test_a_pack_that_comes_twice_is_stored_once(fleet):
    fleet.add("a")
    capturing(fleet, "a")
    ask(fleet)
    body = body_of([row(1), row(2)])
    first, again = give(fleet, "a", body), give(fleet, "a", body)
    assert first == again
    assert export(fleet).row_count == 2


def test_an_empty_last_pack_closes_a_request_and_may_come_twice(fleet):
    fleet.add("a")
    capturing(fleet, "a")
    ask(fleet)
    assert not give(fleet, "a", body_of([])).is_wanted
    assert not give(fleet, "a", body_of([])).is_wanted
    with pytest.raises(PeerError) as refusal:
        export(fleet)
    assert refusal.value.code == "no_captures"


@pytest.mark.parametrize(
    ("device", "rows", "request_id", "model"),
    [
        ("b", [row(1)], "c-1", "digits"),
        ("a", [row(1)], "c-2", "digits"),
        ("a", [row(1)], "c-1", "faces"),
        ("a", [row(n) for n in range(6)], "c-1", "digits"),
    ],
    ids=["another device's", "another request's", "another model's", "more than was asked"],
)
def test_what_was_not_asked_for_is_refused(fleet, device, rows, request_id, model):
    fleet.add("a", "b")
    capturing(fleet, "a", "b")
    ask(fleet, device="a", limit=5)
    with pytest.raises(PeerError) as refusal:
        give(fleet, device, body_of(rows, request_id, model))
    assert refusal.value.code == "capture_not_wanted"
    with fleet.store.read() as tx:
        assert tx.captures.size_bytes() == 0


def test_nothing_is_taken_after_the_time_of_a_request(fleet):
    fleet.add("a")
    capturing(fleet, "a")
    ask(fleet, for_s=10)
    with pytest.raises(PeerError, match="not asked"):
        captures.take(fleet.store, "a", body_of([row(1)]), now(fleet) + 10_000, LIMITS)


@pytest.mark.parametrize("which", ["device_max_bytes", "max_bytes"])
def test_a_cap_holds_and_a_deletion_makes_room(fleet, which):
    fleet.add("a")
    capturing(fleet, "a")
    ask(fleet)
    body, more = body_of([row(1)], is_all=False), body_of([row(2)])
    limits = CaptureLimits(**{which: len(body) + len(more) - 1})
    give(fleet, "a", body, limits)
    with pytest.raises(PeerError) as refusal:
        give(fleet, "a", more, limits)
    assert refusal.value.code == "capture_full"
    wish = CaptureDeletionIn(model="digits")
    count = fleet.controller.command(lambda tx: captures.delete(tx, wish, now(fleet)))
    assert count == 1
    give(fleet, "a", more, limits)


def test_rows_are_kept_for_a_time_and_go_with_their_device(fleet):
    fleet.add("a", "b")
    capturing(fleet, "a", "b")
    ask(fleet)
    give(fleet, "a", body_of([row(1)]))
    give(fleet, "b", body_of([row(2)]))
    fleet.controller.remove_device("b")
    with fleet.store.write() as tx:
        assert tx.captures.size_bytes("b") == 0 < tx.captures.size_bytes("a")
        tx.captures.prune(now(fleet))
        assert tx.captures.size_bytes("a") > 0
        tx.captures.prune(now(fleet) + 1)
        assert tx.captures.size_bytes() == 0


def test_rows_of_different_looks_make_no_table(fleet, tmp_path):
    fleet.add("a", "b")
    capturing(fleet, "a", "b")
    ask(fleet)
    give(fleet, "a", body_of([row(1)]))
    give(fleet, "b", body_of([row(2, size=5)]))
    with pytest.raises(ConfigError) as refusal:
        export(fleet).write(tmp_path / "rows.npz")
    assert refusal.value.code == "captures_differ"
    assert list(tmp_path.glob("*.npz")) == []
    export(fleet, device="b").write(tmp_path / "rows.npz")
    with np.load(tmp_path / "rows.npz", allow_pickle=False) as found:
        assert found["X"].tolist() == [[2, 2, 2, 2, 2]]
        assert found["device"].tolist() == ["b"]


@pytest.mark.parametrize("pieces", [[b"{"], [b'{"device":"a","size_bytes":5}\nabc'], [b"x" * 9000]])
def test_a_stream_that_is_none_is_told(pieces):
    with pytest.raises(PeerError):
        Export.read(pieces)


# -- over the real ways


def test_a_device_gives_over_its_own_certificate_and_no_other_can(tmp_path):
    site = Site(tmp_path / "controller")
    try:
        mine = enrolled(tmp_path / "a", site, "cam-01")
        other = enrolled(tmp_path / "b", site, "cam-02")
        fleet = Asking(site)
        capturing(fleet, "cam-01")
        ask(fleet, device="cam-01")
        body = body_of([row(1)])
        with pytest.raises(PeerError) as refusal:
            PackUpload(other).send(body)
        assert refusal.value.code == "capture_not_wanted"
        upload = PackUpload(mine)
        with pytest.raises(PeerError) as refusal:
            upload.send(b"no pack")
        assert refusal.value.code == "capture_invalid"
        assert not upload.send(body).is_wanted
        assert not upload.send(body).is_wanted
        assert export(fleet).row_count == 1
    finally:
        site.stop()


class Asking:
    """A site's store, as `Fleet` gives a controller's."""

    def __init__(self, site):
        self.store, self.controller = site.store, self
        self._now = site.now

    def now_unix_ms(self):
        return self._now()

    def command(self, do):
        with self.store.write() as tx:
            return do(tx)


def test_a_viewer_sees_counts_and_gets_no_row(fleet):
    fleet.add("a")
    capturing(fleet, "a")
    ask(fleet)
    give(fleet, "a", body_of([row(1)]))
    app = api.build_app(fleet.controller)
    viewer, releaser = fleet.bearer("vic", Role.VIEWER), fleet.bearer("rex", Role.RELEASER)

    def asked(method, path, headers, **body):
        async def send():
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://127.0.0.1"
            ) as session:
                return await session.request(method, path, headers=headers, json=body or None)

        return asyncio.run(send())

    (held,) = asked("GET", "/v1/captures", viewer).json()
    assert (held["device"], held["row_count"]) == ("a", 1)
    for path in ("capture-requests", "capture-exports", "capture-deletions"):
        assert asked("POST", f"/v1/{path}", viewer, model="digits").status_code == 403
    answer = asked("POST", "/v1/capture-exports", releaser, model="digits")
    assert answer.status_code == 200
    assert Export.read([answer.content]).row_count == 1
    assert asked("POST", "/v1/capture-deletions", releaser, model="digits").json() == {
        "row_count": 1
    }
    with fleet.store.read() as tx:
        rows = {(e.what, e.outcome) for e in tx.audit.page(before=None, limit=50)}
    assert ("POST /v1/capture-exports", "done") in rows
    assert ("POST /v1/capture-exports", "denied") in rows
    assert ("POST /v1/capture-deletions", "done") in rows
