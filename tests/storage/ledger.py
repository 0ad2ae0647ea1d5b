"""Holds what a device found on its disk against what it had been told to be there before.

*Torn* is what is neither old nor new, *lost* what had been acknowledged and is gone.
"""

import json
from dataclasses import dataclass, field

from agent.core.states import DeviceState
from tests.storage.device import dump
from tests.storage.scenario import AT_THE_END, Scenario


@dataclass
class Ledger:
    """What a device has told over all its lives, and the faults that were found in it.

    Attributes:
        scenario: What the device goes through.
        states: Every state that a save was begun with, in order, since the last start.
        saved_count: How many of them are acknowledged, by position.
        records: Digest by boot and sequence number, of records kept and not handed to be deleted.
        sealed: Bundles that were declared whole and may not have been collected.
        desired: Generation and stage of the desired state that the broker has retained.
        restore_s: The longest that a start took until a model served again.
    """

    scenario: Scenario
    states: list[str] = field(default_factory=lambda: [dump(DeviceState())])
    saved_count: int = 1
    records: dict = field(default_factory=dict)
    sealed: set = field(default_factory=set)
    desired: tuple[int, int] = (1, 0)
    restore_s: float = 0.0
    torn: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    settled: dict | None = None
    refusals: list = field(default_factory=list)
    _must_serve: bool = False

    def read(self, lines):
        """Take in what was told, in order."""
        for what, *details in lines:
            getattr(self, f"_{what}")(*details)

    def read_unacknowledged(self, lines):
        """Take in what was told too late to be held against the disk: it may be there or not."""
        for what, *details in lines:
            if what in ("saving", "deleting", "desired"):
                getattr(self, f"_{what}")(*details)

    def check_end(self, code):
        """The last life came to the end of the scenario."""
        if code != 0 or self.settled != AT_THE_END:
            self.torn.append(f"the end was not reached: exit code {code}, settled {self.settled}")
        if self._must_serve:
            self.torn.append("nothing served, though there was a model to serve")

    def _found(self, state, losses, records, damage):
        self._find_state(state)
        self.torn += losses
        found = {(boot, seq): sha256 for boot, seq, sha256 in records}
        for key, sha256 in self.records.items():
            if found.get(key) != sha256:
                self.lost.append(f"record {key}: {found.get(key)} instead of {sha256}")
        self.torn += [f"bundle {manifest[:12]}: {why}" for manifest, why in damage.items() if why]
        self.sealed &= _needed(state)
        self.lost += [f"bundle {m[:12]} is gone" for m in self.sealed - damage.keys()]
        self._must_serve = any(record["active"] for record in json.loads(state)["models"])

    def _find_state(self, state):
        if state not in self.states:
            self.torn.append(f"a state that was never saved: {state}")
        elif state not in self.states[self.saved_count - 1 :]:
            self.lost.append(f"saved, and not found: {self.states[self.saved_count - 1]}")
        self.states, self.saved_count = [state], 1

    def _saving(self, state):
        self.states.append(state)
        self.sealed &= _needed(state)

    def _saved(self, state):
        assert self.states[-1] == state
        self.saved_count = len(self.states)

    def _kept(self, boot, seq, sha256):
        self.records[boot, seq] = sha256

    def _deleting(self, boot, first, last):
        for seq in range(first, last + 1):
            self.records.pop((boot, seq), None)

    def _sealed(self, manifest):
        self.sealed.add(manifest)

    def _desired(self, generation, stage):
        self.desired = (generation, stage)

    def _serving(self, versions, since_start_s):
        if self._must_serve and versions:
            self._must_serve = False
            self.restore_s = max(self.restore_s, since_start_s)

    def _wrong(self, name, version, path):
        self.torn.append(f"{name} {version} was to be served with a wrong {path}")

    def _settled(self, versions):
        self.settled = versions

    def _refused(self, code, text):
        self.refusals.append((code, text))

    def _ended(self, error):
        if error:
            self.torn.append(f"the loop ended: {error}")


def _needed(state):
    """Return the manifests that a state keeps from being collected."""
    parsed = json.loads(state)
    refs = [a["ref"] for a in parsed["desired"] or ()]
    refs += [record[which] for record in parsed["models"] for which in ("active", "fallback")]
    return {ref["manifest"] for ref in refs if ref}
