"""The frame of every job that writes a room: find it complete, or make it, then sum up."""

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
    """Make *room*, unless it is complete; say what there is.

    Args:
        make: Writes the room and commits it.
        summary: Turns the manifest and the status, ``done`` or ``already complete``, into text.
        metrics: Returns what ``--json`` tells beside the counts.
    """
    manifest = room.find()
    status = "already complete" if manifest else "done"
    manifest = manifest or make()
    return Outcome(status, room.url, summary(manifest, status), manifest.counts, metrics(manifest))
