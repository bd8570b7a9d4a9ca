"""An HTTP proxy on which some requests fail as they do on a bad day, and the rest pass byte for byte."""

import asyncio
import contextlib
import random
import threading
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

PIECE = 1 << 18
KINDS = ("503", "drop_request", "drop_body")
ALL_KINDS = (*KINDS, "500", "stall")
STALL_S = 3.0
REFUSALS = {"503": (b"Slow Down", b"SlowDown"), "500": (b"Internal Server Error", b"InternalError")}


@dataclass(frozen=True)
class Head:
    """The first lines of a request or an answer, as they came."""

    raw: bytes
    start: list[bytes]
    fields: dict[bytes, bytes]

    @classmethod
    async def read(cls, reader: StreamReader) -> "Head":
        raw = await reader.readuntil(b"\r\n\r\n")
        start, *lines = raw[:-4].split(b"\r\n")
        pairs = [line.partition(b":") for line in lines]
        fields = {name.strip().lower(): value.strip() for name, _, value in pairs}
        return cls(raw, start.split(b" ", 2), fields)

    @property
    def status(self) -> int:
        return int(self.start[1])

    @property
    def length(self) -> int | None:
        """Bytes of the body, if they are told."""
        told = self.fields.get(b"content-length")
        return None if self.chunked or told is None else int(told)

    @property
    def chunked(self) -> bool:
        return self.fields.get(b"transfer-encoding", b"").lower() == b"chunked"

    @property
    def closes(self) -> bool:
        return b"close" in self.fields.get(b"connection", b"").lower()


class FaultyProxy:
    """Stands before one server; ``requests`` and ``faults`` count what it saw and what it did."""

    def __init__(self, host: str, port: int, share: float, seed: int, kinds: Sequence[str]) -> None:
        if unknown := set(kinds) - set(ALL_KINDS):
            raise ValueError(f"{sorted(unknown)} are no kinds of fault; there are {ALL_KINDS}")
        self.upstream = (host, port)
        self.share, self.kinds = share, tuple(kinds)
        self.requests = 0
        self.faults: Counter[str] = Counter()
        self.port = 0
        self._random = random.Random(seed)

    def _draw(self, method: bytes) -> str | None:
        """What happens to the next request; as many draws for each, so that it depends on its number only."""
        fails, kind, early = (self._random.random() for _ in range(3))
        # An answer to PUT, DELETE or HEAD has no body that could break off.
        possible = [name for name in self.kinds if name != "drop_body" or method in (b"GET", b"POST")]
        if fails >= self.share or not possible:
            return None
        drawn = possible[int(kind * len(possible))]
        return {"drop_request": "drop_before" if early < 0.5 else "drop_after"}.get(drawn, drawn)

    async def connection(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Serve one client until it, the server or a fault ends it."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._exchange(reader, writer):
                pass
        writer.close()

    async def _exchange(self, reader: StreamReader, writer: StreamWriter) -> bool:
        """One request and its answer; whether another may follow on this connection."""
        request = await Head.read(reader)
        self.requests += 1
        fault = self._draw(request.start[0])
        if fault in REFUSALS:
            self.faults[fault] += 1
            if b"expect" not in request.fields:
                await copy_body(request, reader, None)
            writer.write(refusal(fault, with_body=request.start[0] != b"HEAD"))
            await writer.drain()
            return False
        if fault == "stall":
            self.faults[fault] += 1
            await asyncio.sleep(STALL_S)
            return False
        if fault == "drop_before":
            self.faults[fault] += 1
            return False
        server_reader, server_writer = await asyncio.open_connection(*self.upstream, limit=PIECE)
        sending = asyncio.create_task(send(request, reader, server_writer))
        try:
            if not await self._answer(request, server_reader, writer, fault):
                return False
            await asyncio.wait({sending}, timeout=1)  # its last byte has left, or the answer came early
            return sending.done()
        finally:
            sending.cancel()
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await sending
            server_writer.close()

    async def _answer(
        self, request: Head, server: StreamReader, writer: StreamWriter, fault: str | None
    ) -> bool:
        while (answer := await Head.read(server)).status < 200:  # 100 Continue: the client waits for it
            writer.write(answer.raw)
            await writer.drain()
        bare = request.start[0] == b"HEAD" or answer.status in (204, 304) or answer.length == 0
        framed = bare or answer.chunked or answer.length is not None
        if fault == "drop_body" and (bare or not framed):
            fault = "drop_after"  # nothing to break off, or a client could not tell
        if fault:
            self.faults[fault] += 1
        if fault == "drop_after":
            if not bare:
                await copy_body(answer, server, None, until_end=not framed)
            return False
        writer.write(answer.raw)
        if fault == "drop_body":
            await copy_half(answer, server, writer)
            return False
        if not bare:
            await copy_body(answer, server, writer, until_end=not framed)
        await writer.drain()
        return framed and not answer.closes and not request.closes and answer.start[0] != b"HTTP/1.0"


def refusal(status: str, *, with_body: bool) -> bytes:
    """An S3 server's answer when it cannot serve just now."""
    reason, code = REFUSALS[status]
    body = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>%s</Code></Error>' % code
    head = b"HTTP/1.1 %s %s\r\nContent-Type: application/xml\r\n" % (status.encode(), reason)
    framing = b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    return head + framing + (body if with_body else b"")


async def send(request: Head, client: StreamReader, server: StreamWriter) -> None:
    """Pass a request on; a client that vanishes in the middle of it vanishes for the server too."""
    try:
        server.write(request.raw)
        await copy_body(request, client, server)
    except (OSError, asyncio.IncompleteReadError):
        server.transport.abort()
        raise


async def copy_body(
    head: Head, source: StreamReader, target: StreamWriter | None, *, until_end: bool = False
) -> None:
    """Copy a body piece by piece, framing and all; to nowhere if there is no target."""
    if head.chunked:
        while size := int((await copy_line(source, target)).split(b";")[0], 16):
            await copy_bytes(size + 2, source, target)
        while await copy_line(source, target) != b"\r\n":
            pass  # trailers
    elif until_end:
        while piece := await source.read(PIECE):
            if target:
                target.write(piece)
                await target.drain()
    else:
        await copy_bytes(head.length or 0, source, target)


async def copy_half(head: Head, source: StreamReader, target: StreamWriter) -> None:
    """Copy half a body, or half of its first chunk."""
    size = int((await copy_line(source, target)).split(b";")[0], 16) if head.chunked else head.length or 0
    await copy_bytes(size // 2, source, target)


async def copy_line(source: StreamReader, target: StreamWriter | None) -> bytes:
    line = await source.readuntil(b"\r\n")
    if target:
        target.write(line)
        await target.drain()
    return line


async def copy_bytes(count: int, source: StreamReader, target: StreamWriter | None) -> None:
    while count:
        piece = await source.read(min(count, PIECE))
        if not piece:
            raise asyncio.IncompleteReadError(piece, count)
        count -= len(piece)
        if target:
            target.write(piece)
            await target.drain()


@contextmanager
def proxied(proxy: FaultyProxy) -> Iterator[FaultyProxy]:
    """Run the proxy in a thread of its own."""
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with await asyncio.start_server(proxy.connection, "127.0.0.1", 0, limit=PIECE) as server:
            proxy.port = server.sockets[0].getsockname()[1]
            ready.set()
            await stop.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:  # cancels the connections at its end
            runner.run(serve())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        if not ready.wait(timeout=10):
            raise RuntimeError("the faulty proxy did not start")
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=10)
