"""Random generators that are seeded by names."""

import hashlib

import numpy as np


def rng(*names: object) -> np.random.Generator:
    """Return a random generator that depends on *names* alone and is the same on every machine.

    Args:
        names: Values with a stable repr, such as text and numbers; the seed is a hash of their reprs.
    """
    # numpy's scalars have a repr that depends on numpy's version, so they count as Python's numbers.
    plain = tuple(name.item() if isinstance(name, np.generic) else name for name in names)
    seed = hashlib.sha256(repr(plain).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(seed[:16])))
