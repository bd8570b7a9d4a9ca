"""The console command ``lglm``: jobs and flows by name.

``lglm VERB …`` is ``python -m jobs.VERB …``, so that both mean the same on a cluster. Only the module of the
verb is imported.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

JOBS = {
    "shard": "write labelled pictures as a sharded dataset",
    "append": "add to a dataset what its source has more",
    "retry": "read the pictures again that a dataset has rejected",
    "verify": "check a dataset against what was written",
    "dataset": "describe a dataset, as text and as a page",
    "label-embeddings": "make a vector for each label of a dataset",
    "train": "train LGLM, or another head, and save the model",
    "evaluate": "measure a model on a split and write a report",
    "embed": "write features and scores of a split",
    "search": "find the pictures nearest to a given one",
    "explain": "show where in pictures a model's scores come from",
    "extend": "add labels to a model by their names alone",
    "export": "write a model folded, and as ONNX",
    "complexity": "count parameters and multiply-accumulates of models",
    "tag": "tag every file of a folder or bucket prefix",
}
FLOWS = {
    "train-lglm": "run every job in turn, from labelled pictures to tags",
    "tag-bucket": "tag a bucket prefix and sum up what was found",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb, or a flow, and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    verb, *rest = arguments
    if verb in JOBS:
        return int(importlib.import_module(f"jobs.{verb.replace('-', '_')}").main(rest))
    if verb == "flow":
        return _run_flow(rest)
    return _refuse_unknown("verb", verb, {**{name: name for name in JOBS}, **{f: f"flow {f}" for f in FLOWS}})


def _run_flow(arguments: list[str]) -> int:
    if arguments and arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if not arguments:
        return _refuse(f"no flow named; the flows are {', '.join(FLOWS)}")
    name, *rest = arguments
    if name not in FLOWS:
        return _refuse_unknown("flow", name, {flow: flow for flow in FLOWS})
    from jobs import command_line
    from pipelines import options as flows

    module = f"pipelines.{name.replace('-', '_')}"
    kind = getattr(flows, "".join(word.capitalize() for word in name.split("-")))

    def run(options: Any) -> command_line.Outcome:
        from pipelines.servers import use_embedded_prefect

        use_embedded_prefect()
        outcome: command_line.Outcome = importlib.import_module(module).run(options)
        return outcome

    return command_line.main(f"flow {name}", kind, run, rest)


def _usage() -> str:
    jobs = "\n".join(f"  {verb:<18}{text}" for verb, text in JOBS.items())
    flows = "\n".join(f"  flow {name:<13}{text}" for name, text in FLOWS.items())
    return f"usage: lglm VERB [options]; lglm VERB --help tells more\n\n{jobs}\n{flows}"


def _refuse_unknown(what: str, name: str, known: dict[str, str]) -> int:
    """Refuse a name; *known* holds the known names, and what to type for each."""
    from jobs.arguments import did_you_mean

    if hint := did_you_mean(name, known):
        return _refuse(f"unknown {what} {name!r}{hint} see lglm --help")
    return _refuse(f"unknown {what} {name!r}; the {what}s are {', '.join(known.values())}")


def _refuse(message: str) -> int:
    print(f"lglm: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
