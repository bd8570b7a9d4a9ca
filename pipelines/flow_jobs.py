"""The jobs of each flow, with their options; nothing here starts one."""

from dataclasses import dataclass
from typing import TypeVar

from jobs import options as jobs
from jobs.arguments import validate
from jobs.options import Options
from lglm_core import storage
from pipelines.options import JOB_OPTIONS, TagBucket, TrainLglm

OptionsType = TypeVar("OptionsType", bound=Options)


@dataclass(frozen=True)
class Job:
    """A job that a flow starts: ``lglm VERB …``, or ``lglm VERB SOURCE …``."""

    verb: str
    options: Options
    source: str | None = None


@dataclass(frozen=True)
class TrainingUrls:
    """The URLs of what train-lglm writes below its folder, and of what it reads."""

    dataset: str
    labels: str
    run: str
    model: str
    evaluation: str
    embeddings: str
    neighbours: str
    """The page with the neighbours of one picture."""
    drawn: str | None
    """The folder of drawn scenes, with source toy."""
    images: str | None
    """The pictures to tag, if any."""
    tags: str | None
    """The room of their tags."""

    @property
    def rooms(self) -> tuple[str, ...]:
        """The rooms that are complete once the flow has succeeded."""
        return (
            *(self.dataset, self.labels, self.run, self.evaluation, self.embeddings),
            *([self.tags] if self.tags else []),
        )


def urls_of(options: TrainLglm) -> TrainingUrls:
    """Return the URLs at which the flow train-lglm reads and writes."""
    drawn = (options.root or storage.join(options.out, "raw")) if options.source == "toy" else None
    images = options.images or (storage.join(drawn, "test2017") if drawn else None)
    run = storage.join(options.out, "run")
    return TrainingUrls(
        dataset=storage.join(options.out, "dataset"),
        labels=storage.join(options.out, "labels"),
        run=run,
        model=storage.join(run, "model"),
        evaluation=storage.join(options.out, "evaluation"),
        embeddings=storage.join(options.out, "embeddings"),
        neighbours=storage.join(options.out, "neighbours.html"),
        drawn=drawn,
        images=images,
        tags=storage.join(options.out, "tags") if images else None,
    )


def training_jobs(options: TrainLglm) -> list[Job]:
    """Return the jobs of the flow train-lglm in their order, all but the search.

    Raises:
        InputError: a job would refuse its options.
    """
    urls = urls_of(options)
    on_val = {"model": urls.model, "dataset": urls.dataset, "split": "val"}
    root = {"root": urls.drawn} if urls.drawn else {}
    shard = _options(jobs.SHARD[options.source], options, out=urls.dataset, **root)
    embed_labels = _options(jobs.MakeLabelEmbeddings, options, dataset=urls.dataset, out=urls.labels)
    train = _options(jobs.Train, options, dataset=urls.dataset, label_embeddings=urls.labels, out=urls.run)
    started = [
        Job("shard", shard, source=options.source),
        Job("label-embeddings", embed_labels),
        Job("train", train),
        Job("evaluate", jobs.Evaluate(**on_val, out=urls.evaluation)),
        Job("embed", jobs.Embed(**on_val, out=urls.embeddings)),
    ]
    if urls.images and urls.tags:
        started.append(Job("tag", jobs.Tag(model=urls.model, images=urls.images, out=urls.tags)))
    return started


def search_job(options: TrainLglm, query: str) -> Job:
    """Return the job that finds the neighbours of one picture, the last one of the flow train-lglm."""
    urls = urls_of(options)
    search = _options(
        jobs.Search, options, model=urls.model, embeddings=urls.embeddings, query=query, out=urls.neighbours
    )
    return Job("search", search)


def tagging_job(options: TagBucket) -> Job:
    """Return the one job of the flow tag-bucket."""
    return Job("tag", jobs.Tag(model=options.model, images=options.images, out=options.out))


def _options(kind: type[OptionsType], flow: TrainLglm, **decided: str) -> OptionsType:
    """Make the options of a job from those of the flow, by name, and from what the flow decides itself."""
    given = {option: getattr(flow, name) for name, option in JOB_OPTIONS[kind].items()}
    return validate("lglm flow train-lglm", kind, given | decided)
