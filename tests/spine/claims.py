"""What must be true at the end of every test on the bed, whatever was done to it."""

from collections import Counter
from itertools import pairwise


def check_records(bed):
    """Every record reaches the store, once and as it was sent, and every `ack` told the truth.

    Records that nobody saw count too: each boot of an agent numbers its records from 1, and the
    store has no hole in them.
    """
    acknowledged = bed.observer.acknowledged()
    rows = bed.stored()
    twice = {key: n for key, n in Counter(key for key, _ in rows).items() if n > 1}
    assert not twice, f"stored more than once: {twice}"
    lost = acknowledged - {key for key, _ in rows}
    assert not lost, f"acknowledged and not in the store: {sorted(lost)}"
    seen = bed.observer.records()
    assert seen, "the observer saw no record at all"
    bed.until(
        lambda: f"the store has {sorted(seen.keys() - {key for key, _ in bed.stored()})}",
        lambda: seen.keys() <= {key for key, _ in bed.stored()},
    )
    stored = dict(bed.stored())
    for key, (channel, body) in seen.items():
        row = stored[key]
        assert (row["channel"], row["body"]) == (channel, body), (
            f"{key} is stored with another content"
        )
    bed.until(
        lambda: f"no record is missing between those in the store: {_holes(bed)}",
        lambda: not _holes(bed),
    )


def check_phases(bed, rollout, manifest):
    """The phases of a rollout opened in order, each after the one before had passed on a device.

    Three witnesses, none of which takes the controller's word alone: what it says of its phases,
    what the devices noted about their own confirmations, and when the devices' clients were first
    answered by the new version, against when the observer first saw the next phase's orders.
    """
    shown = bed.rollout(rollout)
    opened = [p for p in shown["phases"] if p["opened_unix_ms"] is not None]
    assert opened == shown["phases"][: len(opened)], f"a phase was skipped: {shown['phases']}"
    given = bed.observer.given(rollout)
    for number, (former, later) in enumerate(pairwise(opened)):
        assert former["state"] == "passed"
        assert former["closed_unix_ms"] <= later["opened_unix_ms"]
        mine = [m["device"] for m in shown["members"] if m["phase"] == number]
        next_ones = [m["device"] for m in shown["members"] if m["phase"] == number + 1]
        told = [t for name in mine for t in _confirmed_unix_ms(bed, name, manifest)]
        assert not told or min(told) <= later["opened_unix_ms"], (
            f"phase {number + 2} opened before any device of the phase before had confirmed"
        )
        served = [bed.devices[name].client.first(shown["version"]) for name in mine]
        ordered = [given[name] for name in next_ones if name in given]
        assert min(s for s in served if s is not None) < min(ordered), (
            f"phase {number + 2} was ordered before any device of the phase before had served"
        )


def check_serving(bed, expected):
    """Each device answers, and with this version, to its client and to anybody else."""
    for name, version in expected.items():
        bed.until_served(name, version)
        answer = bed.devices[name].ask()
        assert (answer.status, answer.version) == (200, version), f"{name}: {answer}"


def check_unbroken(bed, names, *, since_s):
    """These devices answered every single request: what was done was done to others."""
    for name in names:
        failures = bed.devices[name].client.failures(since_s)
        assert not failures, f"{name} was not touched, and did not answer: {failures[:3]}"


def check_forward(bed):
    """Every client was answered by version 1, then by version 2, and never again by version 1."""
    for name, device in bed.devices.items():
        assert device.client.versions() == ["1.0.0", "2.0.0"], name


def check_answers(bed):
    """Whatever was answered is what the version that signed it answers."""
    for device in bed.devices.values():
        wrong = [a for a in device.client.answers if a.version and a.value != float(a.version[0])]
        assert not wrong, f"{device.name} answered wrongly: {wrong[:3]}"


def check_end(bed):
    """Everything ends in good order when asked to, and nothing was met that was not expected."""
    codes = bed.end()
    assert set(codes.values()) == {0}, codes
    assert not bed.tracebacks()


def _holes(bed):
    boots = {}
    for (device, boot, seq), _ in bed.stored():
        boots.setdefault((device, boot), set()).add(seq)
    return {
        key: sorted(missing)
        for key, seqs in boots.items()
        if (missing := set(range(1, max(seqs) + 1)) - seqs)
    }


def _confirmed_unix_ms(bed, name, manifest):
    return [
        event["at_unix_ms"]
        for event in bed.updates(name)
        if (event["code"], event["manifest"]) == ("confirmed", manifest)
    ]
