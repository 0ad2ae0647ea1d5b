"""The fleet as a run of a pipeline sees it: releases and rollouts by the controller's API."""

from __future__ import annotations

from pathlib import Path

from fleet.api.lineage_schemas import AliasIn, AliasMove
from fleet.api.run_schemas import StoredRun
from fleet.api.schemas import Release, Rollout
from fleet.pipeline.made import to_tell
from fleet.pipeline.project import Rollout as Plan
from fleet.pipeline.record import RunRecord
from fleet.pipeline.release import Registered
from wire.errors import PeerError

from .client import Client
from .releases import open_bundle, send


class CommandFleet:
    """`fleet.pipeline.release.Fleet` for a command; connects when it is asked something."""

    def __init__(
        self,
        controller: str | None,
        keys: Path | None,
        passphrase_file: Path | None,
        output: Path | None,
    ) -> None:
        """Remember where the API is, and where the keys are that sign a release.

        With `output`, what these cannot sign is written there for others.
        """
        self._controller = controller
        self._keys = keys
        self._passphrase_file = passphrase_file
        self._output = output

    def newest(self, model: str) -> str | None:
        """See the protocol."""
        with Client(self._controller) as client:
            try:
                found = client.list(f"/v1/models/{model}/releases", Release)
            except PeerError as exc:
                if exc.code == "unknown_model":
                    return None
                raise
        return found[0].version if found else None

    def push(self, bundle: Path) -> Registered:
        """See the protocol."""
        opened = open_bundle(bundle)
        with Client(self._controller) as client:
            pushed = send(
                client,
                bundle,
                opened,
                self._keys,
                self._passphrase_file,
                output=self._output,
                # A key that is made where others sign is soon lost: on a machine of a CI service.
                may_make_key=self._output is None,
            )
        return Registered(pushed.result.release.manifest, pushed.is_signed)

    def keep(self, version: str, record: RunRecord) -> bool:
        """See the protocol."""
        body = to_tell(record)
        with Client(self._controller) as client:
            try:
                client.put(f"/v1/releases/{record.model}/{version}/run", body, StoredRun)
            except PeerError as exc:
                if exc.code == "run_exists":
                    return False
                raise
        return True

    def name(self, model: str, alias: str, version: str, why: str) -> None:
        """See the protocol."""
        path, body = f"/v1/models/{model}/aliases/{alias}", AliasIn(version=version, why=why)
        with Client(self._controller) as client:
            client.put(path, body, AliasMove)

    def start(self, model: str, version: str, plan: Plan) -> str:
        """See the protocol."""
        with Client(self._controller) as client:
            return client.post("/v1/rollouts", plan.of(model, version), Rollout).id
