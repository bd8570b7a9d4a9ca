"""From an options class to a flow's parameters: Prefect's form and ``--param`` get a field per option."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from jobs.arguments import validate
from jobs.options import Options

OptionsType = TypeVar("OptionsType", bound=Options)
Result = TypeVar("Result")


def with_form(
    name: str, kind: type[OptionsType]
) -> Callable[[Callable[[OptionsType], Result]], Callable[..., Result]]:
    """Let a function of one options object be called with the options by name.

    Args:
        name: The flow's name, for refusals.
        kind: The options class; its types, defaults and help texts become those of the parameters.
    """

    def decorate(function: Callable[[OptionsType], Result]) -> Callable[..., Result]:
        @functools.wraps(function)
        def by_name(**values: Any) -> Result:
            return function(validate(f"lglm flow {name}", kind, values))

        # Required options come first, then those of the class itself, then those that it inherits.
        level = {name: number for number, base in enumerate(kind.__mro__) for name in _own_fields(base)}
        fields = sorted(kind.model_fields.items(), key=lambda f: (not f[1].is_required(), level[f[0]]))
        parameters = [
            inspect.Parameter(
                option,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if info.is_required() else info.default,
                annotation=Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation,
            )
            for option, info in fields
        ]
        by_name.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        by_name.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        helps = (f"    {option}: {' '.join(str(info.description).split())}" for option, info in fields)
        by_name.__doc__ = "\n".join([str(inspect.getdoc(function)), "", "Args:", *helps])
        return by_name

    return decorate


def _own_fields(kind: type) -> list[str]:
    return list(vars(kind).get("__annotations__", {}))
