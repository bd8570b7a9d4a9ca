"""The frame of every job that writes a room: find it complete or make it, then summarise it."""

from collections.abc import Callable, Mapping
from typing import Any

from jobs.command_line import Outcome
from lglm_core.rooms import M, Room


def make_room(
    room: Room[M],
    make: Callable[[], M],
    summary: Callable[[M, str], str],
    metrics: Callable[[M], Mapping[str, Any]] = lambda manifest: {},
) -> Outcome:
    """Make *room* unless it is complete, and return the outcome of the job.

    Args:
        room: The room that the job writes.
        make: Writes the room, commits it, and returns its manifest.
        summary: Returns the summary for people, of the manifest and the status: ``done`` or ``already
            complete``.
        metrics: Returns the metrics that ``--json`` reports beside the counts.
    """
    manifest = room.find()
    status = "already complete" if manifest else "done"
    manifest = manifest or make()
    return Outcome(status, room.url, summary(manifest, status), manifest.counts, metrics(manifest))
