"""The HTTP API. Routes parse, call the controller or read the store, and answer; nothing more.

Each declares the right that it takes, and hands the caller's scope on to what it calls.

Plain functions run in a thread each, so that a slow disk holds no other request up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Field

from fleet import registry, rollouts
from fleet.controller import Controller
from fleet.core.rights import WHOLE_FLEET, Caller, Right, Scope
from fleet.metrics import CONTENT_TYPE
from fleet.sections import DEFAULT_REQUESTS_PER_S
from fleet.store.devices import BATCH, Selection
from fleet.store.store import Tx
from fleet.trust.stored import signed_releases
from fleet.version import VERSION
from wire.errors import StorageError
from wire.messages import MAX_INTEGER

from . import (
    administration,
    alerts,
    aliases,
    captures,
    drift,
    errors,
    identities,
    lineage,
    performance,
    retraining,
    trust,
    views,
)
from . import schemas as s
from .access import By, Door, needs, open_to_all
from .gatekeeper import Gatekeeper
from .json_route import JsonRoute, check_routes
from .notes import Strangers
from .query import Match, parse_match
from .upload import spooled
from .watch import Watchers

MAX_DEVICES_AT_ONCE = 100_000
MAX_LISTED = BATCH
"""Devices, releases or members in one answer; who wants more asks again, with `after`."""

After = Annotated[str, Query(max_length=64)]
Limit = Annotated[int, Query(ge=1, le=MAX_LISTED)]
Devices = Annotated[list[s.DeviceIn], Field(min_length=1, max_length=MAX_DEVICES_AT_ONCE)]
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": s.ErrorBody},
    "5XX": {"model": s.ErrorBody},
}


def build_app(
    controller: Controller,
    *,
    upload_dir: Path | None = None,
    rate_per_s: float = DEFAULT_REQUESTS_PER_S,
) -> FastAPI:
    """Return the API of a controller.

    Args:
        controller: Serves the commands; its store is read.
        upload_dir: Where bundles are kept while they arrive; by default beside the chunks.
        rate_per_s: How many requests a second one token may send.
    """
    app = FastAPI(
        title="modelfleet controller",
        version=VERSION,
        responses=ERRORS,
        redirect_slashes=False,
        # Served below, to those who bear a token. The framework's pages load programs of others.
        openapi_url=None,
    )
    app.router.route_class = JsonRoute
    app.state.controller = controller
    errors.install(app)
    strangers = Strangers(controller)
    app.add_middleware(Door, controller=controller, rate_per_s=rate_per_s, strangers=strangers)
    app.add_middleware(Gatekeeper, strangers=strangers)
    _add_devices(app, controller)
    identities.add_routes(app, controller)
    _add_releases(app, controller, upload_dir or controller.store.data_dir / "uploads")
    trust.add(app, controller)
    _add_rollouts(app, controller)
    _add_quarantines(app, controller)
    _add_health(app, controller)
    _add_watch(app, controller)
    drift.add_routes(app, controller)
    performance.add_routes(app, controller)
    administration.add_routes(app, controller)
    alerts.add_routes(app, controller)
    aliases.add_routes(app, controller)
    lineage.add_routes(app, controller)
    retraining.add_routes(app, controller)
    captures.add_routes(app, controller)
    check_routes(app.routes)
    return app


def _add_devices(app: FastAPI, controller: Controller) -> None:
    @app.get("/v1/devices", openapi_extra=needs(Right.SEE))
    def list_devices(
        by: By,
        match: Match = None,
        after: After = "",
        limit: Limit = MAX_LISTED,
    ) -> list[s.Device]:
        """List devices by id, those with every tag given; `after` is the last id of the page before."""
        selection = Selection(match=parse_match(match), scope=by.scope)
        with controller.store.read() as tx:
            page = tx.devices.page(selection, after=after, limit=limit)
            return views.devices(tx, Selection(among=page))

    @app.post("/v1/devices", status_code=201, openapi_extra=needs(Right.ADMINISTER))
    def add_devices(by: By, body: s.DeviceIn | Devices) -> s.Device | list[s.Device]:
        """Add one device, or a list of them: all or none."""
        added = body if isinstance(body, list) else [body]
        controller.add_devices(added, scope=by.scope)
        with controller.store.read() as tx:
            found = [_device(tx, device.id, by) for device in added[:1]]
            if isinstance(body, list) and len(body) > 1:
                ids = {device.id for device in added}
                found = [d for d in views.devices(tx, Selection()) if d.id in ids]
        return found if isinstance(body, list) else found[0]

    @app.get("/v1/devices/{device}", openapi_extra=needs(Right.SEE))
    def show_device(by: By, device: str) -> s.Device:
        """Show one device."""
        with controller.store.read() as tx:
            return _device(tx, device, by)

    @app.patch("/v1/devices/{device}", openapi_extra=needs(Right.STEER))
    def change_device(by: By, device: str, body: s.DevicePatch) -> s.Device:
        """Replace a device's tags."""
        controller.set_tags(device, body.tags, scope=by.scope)
        with controller.store.read() as tx:
            return _device(tx, device, by)

    @app.delete("/v1/devices/{device}", status_code=204, openapi_extra=needs(Right.ADMINISTER))
    def remove_device(by: By, device: str) -> Response:
        """Remove a device and its records."""
        controller.remove_device(device, scope=by.scope)
        return Response(status_code=204)

    @app.get("/v1/devices/{device}/records", openapi_extra=needs(Right.SEE))
    def list_records(
        by: By,
        device: str,
        channel: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[s.StoredRecord]:
        """List a device's newest records; `channel` is `telemetry`, `event/update` and so on."""
        with controller.store.read() as tx:
            registry.require_device(tx, device, by.scope)
            return [
                views.record(r) for r in tx.journal.records(device, channel=channel, limit=limit)
            ]


def _add_releases(app: FastAPI, controller: Controller, upload_dir: Path) -> None:
    @app.post("/v1/bundles", status_code=201, openapi_extra=needs(Right.RELEASE))
    async def push_bundle(request: Request, response: Response) -> s.PushResult:
        """Make a bundle a release; the body is the `.bundle` file itself."""
        async with spooled(request, upload_dir) as path:
            pushed = await run_in_threadpool(controller.push_bundle, path)
        response.status_code = 201 if pushed.is_new else 200
        return s.PushResult(
            release=views.release(pushed.release),
            is_new=pushed.is_new,
            new_chunk_count=pushed.new_chunk_count,
            new_bytes=pushed.new_bytes,
        )

    @app.get("/v1/models", openapi_extra=needs(Right.SEE))
    def list_models() -> list[s.Model]:
        """List the models that have releases."""
        with controller.store.read() as tx:
            return views.models(tx)

    @app.get("/v1/models/{model}/releases", openapi_extra=needs(Right.SEE))
    def list_releases(
        by: By, model: str, after: After = "", limit: Limit = MAX_LISTED
    ) -> list[s.Release]:
        """List the releases of a model, newest first; `after` is the last version of the page before."""
        with controller.store.read() as tx:
            rows = tx.releases.page(model, after=after, limit=limit)
            counts = tx.releases.device_counts(Selection(scope=by.scope))
            signed, floor = signed_releases(tx, model)
            called = lineage.aliases_by_manifest(tx, model)
        if not rows and not after:
            raise errors.no_model(model)
        return [
            views.release(
                row,
                counts.get(row.manifest, 0),
                signed.get(row.version),
                floor,
                called.get(row.manifest, ()),
            )
            for row in rows
        ]


def _add_rollouts(app: FastAPI, controller: Controller) -> None:
    def shown(
        rollout: str, scope: Scope = WHOLE_FLEET, *, after: str = "", limit: int = MAX_LISTED
    ) -> s.Rollout:
        with controller.store.read() as tx:
            row = rollouts.get(tx, rollout, scope, has_members=False)
            return views.rollout(tx, row, after=after, limit=limit)

    @app.post("/v1/rollouts", status_code=201, openapi_extra=needs(Right.RELEASE))
    def start_rollout(by: By, body: s.RolloutIn) -> s.Rollout:
        """Start a rollout of a release to the devices that match now."""
        return shown(controller.start_rollout(body, scope=by.scope, by=by.name).id)

    @app.get("/v1/rollouts", openapi_extra=needs(Right.SEE))
    def list_rollouts(by: By) -> list[s.Rollout]:
        """List the newest rollouts, newest first, without their members."""
        with controller.store.read() as tx:
            return views.rollouts(tx, by.scope)

    @app.get("/v1/rollouts/{rollout}", openapi_extra=needs(Right.SEE))
    def show_rollout(
        by: By, rollout: str, after: After = "", limit: Limit = MAX_LISTED
    ) -> s.Rollout:
        """Show a rollout with its members; `after` is the last device of the page before."""
        return shown(rollout, by.scope, after=after, limit=limit)

    @app.post("/v1/rollouts/{rollout}/approve", openapi_extra=needs(Right.RELEASE))
    def approve_rollout(by: By, rollout: str) -> s.Rollout:
        """Start a proposed rollout, as another one than who asked for it."""
        return shown(controller.approve_rollout(rollout, by=by.name, scope=by.scope).id)

    @app.post("/v1/rollouts/{rollout}/pause", openapi_extra=needs(Right.STEER))
    def pause_rollout(by: By, rollout: str) -> s.Rollout:
        """Open no further phase; a breach still halts it."""
        return shown(controller.pause_rollout(rollout, scope=by.scope).id)

    @app.post("/v1/rollouts/{rollout}/resume", openapi_extra=needs(Right.STEER))
    def resume_rollout(by: By, rollout: str) -> s.Rollout:
        """Go on after a pause."""
        return shown(controller.resume_rollout(rollout, scope=by.scope).id)

    @app.post("/v1/rollouts/{rollout}/abort", openapi_extra=needs(Right.STEER))
    def abort_rollout(by: By, rollout: str) -> s.Rollout:
        """End it; unconfirmed devices return to their previous release."""
        return shown(controller.abort_rollout(rollout, scope=by.scope).id)

    @app.post("/v1/rollbacks", openapi_extra=needs(Right.STEER))
    def roll_back(by: By, body: s.RollbackIn) -> s.RollbackResult:
        """Return each matched device to the release that it confirmed before."""
        return controller.rollback(body, scope=by.scope)


def _add_quarantines(app: FastAPI, controller: Controller) -> None:
    @app.post("/v1/quarantine-lifts", openapi_extra=needs(Right.STEER))
    def lift_quarantine(by: By, body: s.QuarantineLiftIn) -> s.QuarantineLiftResult:
        """Have devices forget that they refuse a bundle, or all bundles."""
        return controller.lift_quarantine(body, scope=by.scope)


def _add_health(app: FastAPI, controller: Controller) -> None:
    @app.get("/v1/health", openapi_extra=open_to_all())
    def health() -> s.Health:
        """Say to anyone that the controller lives, and nothing else."""
        return s.Health()

    @app.get(
        "/v1/status",
        response_model=s.Status,
        responses={503: {"model": s.Status}},
        openapi_extra=needs(Right.SEE),
    )
    def status(by: By) -> JSONResponse:
        """Say whether the store and the broker can be reached."""
        devices, online, is_ok = 0, 0, True
        try:
            with controller.store.read() as tx:
                devices, online = tx.devices.counts(Selection(scope=by.scope))
        except StorageError:
            is_ok = False
        body = s.Status(
            version=VERSION,
            store="ok" if is_ok else "failing",
            broker="connected" if controller.is_connected else "disconnected",
            broker_url=controller.broker_url,
            device_count=devices,
            online_count=online,
        )
        code = 200 if is_ok and controller.is_connected else 503
        return JSONResponse(body.model_dump(), status_code=code)

    @app.get(
        "/metrics",
        response_class=Response,
        openapi_extra=needs(Right.SEE, is_whole_fleet=True),
    )
    def metrics() -> Response:
        """Give Prometheus its metrics, in its text format."""
        return Response(controller.metrics_text(), media_type=CONTENT_TYPE)

    @app.get("/openapi.json", include_in_schema=False, openapi_extra=needs(Right.SEE))
    def openapi() -> JSONResponse:
        """Describe all of this; `x-right` of each operation is the right that it takes."""
        return JSONResponse(app.openapi())


def _add_watch(app: FastAPI, controller: Controller) -> None:
    watchers = Watchers(controller)

    @app.get("/v1/watch", response_class=StreamingResponse, openapi_extra=needs(Right.SEE))
    async def watch(
        by: By,
        since: Annotated[int | None, Query(ge=0, le=MAX_INTEGER)] = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> StreamingResponse:
        """Stream events as they happen, those after `since` or `Last-Event-ID` first."""
        if since is None and last_event_id is not None and last_event_id.isdecimal():
            since = min(int(last_event_id[:16]), MAX_INTEGER)
        stream = await watchers.stream(since, by)
        headers = {"X-Accel-Buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


def _device(tx: Tx, device: str, by: Caller) -> s.Device:
    registry.require_device(tx, device, by.scope)
    return views.device(tx, device)
