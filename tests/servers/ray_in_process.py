"""The part of Ray's interface that the jobs use for tasks and tables, carried out in this process.

A job's own code runs unchanged: its plan, its parts, its refusals. Left out is what Ray adds, other
processes and their start-up, which the tests on a real Ray cover. Whatever passes between a driver and its
workers is pickled here too.
"""

import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

CPUS = 1


class Reference:
    """What a task came to, a value or an exception."""

    def __init__(self, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
        self.value: Any = None
        self.error: Exception | None = None
        try:
            self.value = sent(function(*sent(arguments)))
        except Exception as error:
            self.error = error

    def get(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class Rows:
    """A ``ray.data.Dataset`` of rows, each handed as a batch to one actor."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = rows
        self.actor: Callable[[], Callable[[dict[str, Any]], dict[str, Any]]]

    def map_batches(
        self, kind: type, *, fn_constructor_args: Sequence[Any], batch_size: int, **_: Any
    ) -> "Rows":
        assert batch_size == 1
        self.actor = lambda: kind(*sent(fn_constructor_args))
        return self

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        actor = self.actor()
        for row in self.rows:
            batch = sent(actor({name: [value] for name, value in row.items()}))
            yield {name: value for name, (value,) in batch.items()}


def sent(value: Any) -> Any:
    """Return what arrives in another process."""
    return pickle.loads(pickle.dumps(value))


def module(name: str, **members: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(members)
    return made


def modules() -> dict[str, ModuleType]:
    """``ray`` and its submodules, by name."""

    def remote(**_: Any) -> Callable[[Callable[..., Any]], Any]:
        return lambda function: SimpleNamespace(remote=lambda *arguments: Reference(function, arguments))

    def wait(references: Sequence[Reference], num_returns: int) -> tuple[Sequence[Reference], ...]:
        return references[:num_returns], references[num_returns:]

    data = module(
        "ray.data",
        ActorPoolStrategy=lambda size: None,
        DataContext=SimpleNamespace(get_current=SimpleNamespace),
        from_items=lambda rows, override_num_blocks: Rows(rows),
    )
    exceptions = module("ray.exceptions", AuthenticationError=type("AuthenticationError", (Exception,), {}))
    ray = module(
        "ray",
        cluster_resources=lambda: {"CPU": CPUS},
        data=data,
        exceptions=exceptions,
        get=Reference.get,
        init=lambda **_: None,
        nodes=lambda: [{"Resources": {"CPU": CPUS}}],
        remote=remote,
        shutdown=lambda: None,
        wait=wait,
    )
    return {module.__name__: module for module in (ray, data, exceptions)}


@contextmanager
def ray_in_process() -> Iterator[None]:
    """Let what is imported as ``ray`` while the block runs be this one."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "of no cluster"}  # else a job leaves one of its own
    with pytest.MonkeyPatch.context() as patched:
        for name, made in modules().items():  # by name: what else is imported meanwhile stays
            patched.setitem(sys.modules, name, made)
        for name, value in token.items():
            patched.setenv(name, value)
        yield
