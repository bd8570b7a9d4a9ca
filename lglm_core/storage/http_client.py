"""The connections to web servers: pooled per process, with a retry policy per server, through proxies if set.

Proxies come from where every tool looks for them: $HTTP_PROXY, $HTTPS_PROXY, $NO_PROXY.
"""

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager, Retry, Timeout
from urllib3 import exceptions as web
from urllib3.util import make_headers, parse_url

from lglm_core.errors import InputError, RunError
from lglm_core.storage import retry
from lglm_core.storage.location import UnreadableFile
from lglm_core.storage.retry import RetryPolicy

CONNECTIONS = 64  # to one server
SERVERS = 64  # to which connections are kept
REDIRECTS = 5
DRAINED = 1 << 16  # bytes of an unwanted body that are read to keep the connection; else it is closed
TRANSIENT = (
    web.TimeoutError,
    web.ProtocolError,  # closed before the answer or in its middle
    web.NewConnectionError,  # refused, no such host
    web.SSLError,
    web.ProxyError,
)
# urllib3 follows redirects and retries nothing: RetryPolicy decides on retries.
FOLLOWING = Retry(total=None, connect=0, read=0, other=0, redirect=REDIRECTS)


@dataclass(frozen=True)
class WebServer:
    """One server by its *origin*, ``https://host:port``, and the retry policy that its requests share."""

    origin: str
    pool: PoolManager
    retry_policy: RetryPolicy = field(default_factory=RetryPolicy)

    def request(self, method: str, url: str, headers: Mapping[str, str], shown_as: str) -> BaseHTTPResponse:
        """Send a request, again while the server fails and the retry policy allows, and return the answer.

        Args:
            method: ``GET`` or ``HEAD``.
            url: The address.
            headers: Headers to add to the usual ones.
            shown_as: The address in error messages.

        Raises:
            InputError: No server ever answered.
            RunError: The server stopped answering, or keeps failing.
        """
        began, failing_since = time.monotonic(), 0.0
        for attempts in itertools.count(1):
            try:
                answer = self._send(method, url, headers, shown_as)
            except TRANSIENT as error:
                reason, at_least = type(error).__name__, 0.0
            else:
                self.retry_policy.answered |= answer.status < 500
                if answer.status not in retry.TRANSIENT_STATUS:
                    return answer
                discard(answer)
                reason, at_least = str(answer.status), _retry_after(answer)
            failing_since = failing_since or time.monotonic()
            since = failing_since if self.retry_policy.answered else began
            delay = self.retry_policy.delay(attempts, since, at_least=at_least)
            if delay is None:
                break
            time.sleep(delay)
        raise self.gave_up(shown_as, reason)

    def _send(self, method: str, url: str, headers: Mapping[str, str], shown_as: str) -> BaseHTTPResponse:
        try:
            return self.pool.request(
                method,
                url,
                headers={"Accept-Encoding": "identity", "User-Agent": "lglm", **headers},
                preload_content=False,
                decode_content=False,
                retries=FOLLOWING,
            )
        except web.MaxRetryError as error:
            if isinstance(error.reason, TRANSIENT):
                raise error.reason from error
            raise UnreadableFile(f"{shown_as}: redirected more than {REDIRECTS} times") from error
        except (web.LocationParseError, ValueError) as error:  # the URL parsers' own errors are of both kinds
            raise UnreadableFile(f"{shown_as}: leads to what is no web address") from error

    def gave_up(self, url: str, reason: str) -> InputError | RunError:
        """Return the exception to raise about *url* once the retry policy gives up."""
        if self.retry_policy.answered:
            return RunError(f"{url}: the web server at {self.origin} fails or stopped answering ({reason})")
        return InputError(
            f"{url}: no web server answers at {self.origin} ({reason}); check the address and the network"
        )


@cache
def connect(origin: str) -> WebServer:
    """Return this process's connections to a server; no request is sent yet."""
    scheme, host = origin.partition("://")[0], parse_url(origin).host or ""
    proxy = None if proxy_bypass(host) else getproxies().get(scheme)
    return WebServer(origin, _pool(proxy))


@cache
def _pool(proxy: str | None) -> PoolManager:
    timeout = Timeout(connect=retry.CONNECT_TIMEOUT_S, read=retry.READ_TIMEOUT_S)
    if proxy:
        user = parse_url(proxy).auth
        headers = make_headers(proxy_basic_auth=unquote(user)) if user else None
        return ProxyManager(
            proxy, num_pools=SERVERS, maxsize=CONNECTIONS, timeout=timeout, proxy_headers=headers
        )
    return PoolManager(num_pools=SERVERS, maxsize=CONNECTIONS, timeout=timeout)


def discard(answer: BaseHTTPResponse) -> None:
    """Close an answer without its body; the connection is kept if only little of the body is left."""
    if answer.length_remaining is not None and answer.length_remaining <= DRAINED:
        answer.drain_conn()
    answer.close()


def _retry_after(answer: BaseHTTPResponse) -> float:
    """Return for how many seconds the server asks not to be called; it gives a number or a date."""
    told = answer.headers.get("Retry-After", "").strip()
    if told.isdecimal():
        return float(told)
    try:
        return max(0.0, (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0
