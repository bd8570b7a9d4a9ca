"""The retry policy: whether and when a failed request is sent again.

:meth:`RetryPolicy.delay` decides, and everything that talks to a server asks it:

- requests to S3: ``s3_client.S3RetryPolicy.after_attempt``, which botocore calls after each attempt
- requests to a web server: ``http_client.WebServer.request``
- downloads from either that break off: ``resuming.Download.readinto``
- keys that S3 could not delete just now: ``s3.S3Location._delete``
"""

import random
import time
from dataclasses import dataclass

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 25  # without a byte
RETRY_FOR_UNANSWERED_S = 10.0  # a server that never answered: its address may be wrong
RETRY_FOR_S = 300.0  # a server that did: it is overloaded, or a part of it is being replaced
FIRST_DELAY_S, LONGEST_DELAY_S = 0.2, 20.0
TRANSIENT_STATUS = {429, 500, 502, 503, 504}


@dataclass
class RetryPolicy:
    """How long one server is retried: after a random fraction of a delay that doubles, up to a limit.

    ``answered`` tells whether the server ever gave an answer that is not a failure; if it did, it is retried
    for ``RETRY_FOR_S`` seconds, otherwise for ``RETRY_FOR_UNANSWERED_S``.
    """

    answered: bool = False

    def delay(self, attempts: int, failing_since: float, *, at_least: float = 0.0) -> float | None:
        """Return the seconds to wait before the next attempt, or None to give up.

        Args:
            attempts: How many attempts have failed.
            failing_since: When they began to fail, on the monotonic clock.
            at_least: Seconds for which the server asks not to be called; at most the time left is granted.
        """
        limit = RETRY_FOR_S if self.answered else RETRY_FOR_UNANSWERED_S
        left = failing_since + limit - time.monotonic()
        if left <= 0:
            return None
        longest = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(attempts - 1, 10), left)
        return max(random.uniform(0, longest), min(at_least, left))
