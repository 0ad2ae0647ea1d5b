"""Give a device a new desired state, or say the present one again."""

from __future__ import annotations

from fleet.core.reconcile import desired_message, next_generation
from fleet.store.devices import Selection
from fleet.store.store import Tx
from wire import codec, topics
from wire import messages as m


def generation_after(tx: Tx, device: str) -> int:
    """Return the generation that the next desired state of a device carries."""
    selection = Selection(device=device)
    report = tx.states.reports(selection).get(device)
    return next_generation(
        desired_generation=tx.states.generations(selection).get(device, 0),
        reported_generation=report.generation if report else 0,
    )


def give(tx: Tx, device: str, generation: int, model: m.DesiredModel) -> None:
    """Make `model` part of a device's desired state, ending its shadow, and have that published."""
    tx.shadows.drop_desired(device, model.name)
    tx.states.set_desired(device, model, generation)
    renumber(tx, device, generation)


def take(tx: Tx, device: str, generation: int, model: str) -> None:
    """Remove a model from a device, with its shadow, and have that published."""
    tx.shadows.drop_desired(device, model)
    tx.states.drop_desired(device, model)
    renumber(tx, device, generation)


def renumber(tx: Tx, device: str, generation: int) -> None:
    """Set the generation of a device's desired state and have it published."""
    tx.states.set_generation(device, generation)
    message = current(tx, device)
    if message is not None:
        tx.journal.publish(topics.Desired(device).text, codec.encode(message).decode())


def current(tx: Tx, device: str) -> m.Desired | None:
    """Return a device's desired state, None if it was never given any."""
    selection = Selection(device=device)
    generation = tx.states.generations(selection).get(device)
    if generation is None:
        return None
    models = [row.model for row in tx.states.desired(selection)]
    return desired_message(
        device,
        generation,
        models,
        tx.states.lifted(selection).get(device, ()),
        capture=tx.captures.open_message(device),
        shadow=tx.shadows.desired(device),
    )
