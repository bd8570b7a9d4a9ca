"""How long a server that fails is asked again, and how often."""

import random
import time
from dataclasses import dataclass

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 25  # without a byte
FIRST_PATIENCE_S = 10.0  # with a server that has not answered yet: its address may be wrong
PATIENCE_S = 300.0  # with one that has: it is overloaded, or a part of it is being replaced
FIRST_DELAY_S, LONGEST_DELAY_S = 0.2, 20.0
TRANSIENT_STATUS = {429, 500, 502, 503, 504}


@dataclass
class RetryPolicy:
    """When a request that failed is tried again: after a random part of a delay that doubles."""

    answered: bool = False

    def delay(self, attempts: int, failing_since: float, *, at_least: float = 0.0) -> float | None:
        """Return the seconds to wait after *attempts* failures; None once patience has run out.

        Args:
            attempts: How often it failed.
            failing_since: When it began to, on the monotonic clock.
            at_least: Seconds that the server asks for; granted as far as patience reaches.
        """
        patience = PATIENCE_S if self.answered else FIRST_PATIENCE_S
        left = failing_since + patience - time.monotonic()
        if left <= 0:
            return None
        longest = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(attempts - 1, 10), left)
        return max(random.uniform(0, longest), min(at_least, left))
