"""The console command ``lglm``: jobs and flows by name.

``lglm VERB …`` is ``python -m jobs.VERB …``, so that both mean the same on a cluster; only what is asked
for is imported.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

JOBS = {
    "shard": "write labelled pictures as a sharded dataset",
    "verify": "check a dataset against what was written",
    "dataset": "tell what is in a dataset; draws a page of it",
    "label-embeddings": "embed a dataset's labels",
    "train": "train LGLM, or another head, and save the model",
    "evaluate": "measure a model on a split; writes a report",
    "embed": "write features and scores of a split",
    "search": "find the pictures nearest to a given one",
    "explain": "show where in pictures a model's scores come from",
    "extend": "add labels to a model by their names alone",
    "export": "write a model folded, and as ONNX",
    "complexity": "count parameters and multiply-accumulates of models",
    "tag": "tag every file of a folder or bucket prefix",
}
FLOWS = {
    "train-lglm": "from labelled pictures to tags: every job in turn",
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
    return _refuse(f"unknown verb {verb!r}; the verbs are {', '.join([*JOBS, 'flow'])}")


def _run_flow(arguments: list[str]) -> int:
    if arguments and arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if not arguments or arguments[0] not in FLOWS:
        named = f"unknown flow {arguments[0]!r}" if arguments else "no flow named"
        return _refuse(f"{named}; the flows are {', '.join(FLOWS)}")
    from jobs import command_line
    from pipelines import options as flows

    name, *rest = arguments
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


def _refuse(message: str) -> int:
    print(f"lglm: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
