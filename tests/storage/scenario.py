"""What a device goes through under the storage harness, as a seed draws it: stages of desired state.

Install, update, a bad update that rolls back, a second model, its removal, a return: all that moves the
pointer or collects content.
"""

import datetime as dt
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from tests.agent.adapters.bundles import Bundle, make_bundle
from tests.conformance.repository import Repository, direct
from wire.manifest import digest_of
from wire.messages import Desired, DesiredModel, Guards, Probation

DEVICE = "cam-0"
BAD = "bad"
"""In the version of a release whose every answer fails."""
STAGES = (
    (("digits", "1.0.0"),),
    (("digits", "2.0.0"),),
    (("digits", "3.0.0-bad"),),
    (("digits", "4.0.0"), ("faces", "1.0.0")),
    (("digits", "5.0.0"), ("faces", "1.0.0-bad")),
    (("digits", "4.0.0"),),
)
AT_THE_END = {"digits": "4.0.0"}


@dataclass(frozen=True)
class Scenario:
    """One drawn scenario.

    Attributes:
        seed: Draws it again.
        bundles: By model and version.
        is_replacing: Whether the runtime is swapped with a gap.
        ack_share: How many of the records the controller acknowledges; the others stay.
        payloads: All chunks as they are published, by digest.
        trust: What says that all of these releases are signed; its keys are drawn too.
        director: Signs the desired states.
    """

    seed: int
    bundles: dict[tuple[str, str], Bundle]
    is_replacing: bool
    ack_share: float
    payloads: dict[str, bytes]
    trust: Repository
    director: CryptoSigner

    @classmethod
    def drawn(cls, seed):
        chance = np.random.default_rng(seed)
        kept = chance.bytes(int(chance.integers(1, 3000)))  # what all versions have in common
        size = int(chance.integers(500, 2000))
        bundles = {}
        for name, version in dict.fromkeys(release for stage in STAGES for release in stage):
            model = kept + chance.bytes(int(chance.integers(1, 3000)))
            levels = 2 if chance.random() < 0.2 else 1
            bundles[name, version] = make_bundle(
                model, size=size, levels=levels, name=name, version=version
            )
        payloads = {d: p for bundle in bundles.values() for d, p in bundle.payloads().items()}
        is_replacing, ack_share = bool(chance.random() < 0.3), float(chance.random())
        trust, director = _signed(bundles, chance)
        return cls(seed, bundles, is_replacing, ack_share, payloads, trust, director)

    def desired(self, stage, generation):
        """Return the payload of a stage."""
        return direct(self.director, self._desired(stage, generation))

    def _desired(self, stage, generation):
        return Desired(
            device=DEVICE,
            generation=generation,
            models=tuple(
                DesiredModel(
                    name=name,
                    version=version,
                    manifest=digest_of(self.bundles[name, version].manifest),
                    index=digest_of(self.bundles[name, version].index),
                    probation=Probation(min_s=0, max_s=600, min_inferences=1),
                    guards=Guards(min_requests=1),
                )
                for name, version in STAGES[stage]
            ),
        )


def _signed(bundles, chance):
    """Return the metadata that lists these bundles, and the director that it names."""

    def new_key():
        return CryptoSigner(Ed25519PrivateKey.from_private_bytes(chance.bytes(32)))

    trust = Repository(new_key=new_key, expires=dt.datetime(2100, 1, 1, tzinfo=dt.UTC))
    director = trust.add_director()
    for name in sorted({name for name, _ in bundles}):
        trust.add_model(name)
    for number, ((name, version), bundle) in enumerate(bundles.items(), 1):
        trust.release(name, version, number, bundle.manifest)
    trust.publish_all(*(role for role in trust.documents if role.startswith("model-")), "targets")
    return trust, director
