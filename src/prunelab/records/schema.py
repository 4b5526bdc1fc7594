"""The content of a record: one definition for runs, which write it, and for reports, which read it. Does not import
torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from prunelab.records.deployment import Stage
from prunelab.records.fields import Fields, RecordError
from prunelab.records.latency import LatencySummary
from prunelab.records.own_digest import check_digest, with_digest
from prunelab.records.parts import (
    Accuracy,
    BestEpoch,
    BudgetSummary,
    Calibrated,
    GitState,
    Metrics,
    PlanSummary,
    Timings,
)
from prunelab.records.quantisation import QuantisationSummary
from prunelab.records.renamed import upgraded
from prunelab.records.test_set import TestSet
from prunelab.strict_json import DuplicateKey, loads_strictly

SCHEMA = 1
"""Version of the files below. Reading a file of another version raises an error."""

FINISHED = "finished"


@dataclass(frozen=True)
class Record:
    """Everything about one finished run; the content of ``record.json``.

    ``best_epoch`` belongs to the recovery, whose last epoch gives ``pruned``; None without a recovery. ``test_set``
    describes the test images. Both are None in older records.

    ``baseline`` is the full network, ``after_pruning`` the pruned one before recovery, ``after_calibration`` the same
    after each calibration step of the recipe and ``pruned`` after recovery, all on the test set; ``validation`` is
    the recovered network on the held-out validation images, by which runs can be compared and selected (None in
    records that were made before it was measured). ``config`` is the resolved configuration, in the present names of
    settings and classes also if an older version recorded it. ``started`` and ``finished`` are ISO 8601 times.

    ``latency`` describes how a latency budget was met; None for other budgets.

    ``lowrank`` describes the factorisation of layers ("svd, flops=0.7"; "" without one), which follows the recovery;
    ``pruned`` and ``validation`` are then those of the factorised network after its own recovery. ``stages``: the
    full network, and the network after each stage; () in older records. ``lowrank_latency`` describes how
    ``lowrank.latency`` was met, in fractions of the network before; None for other rules of the ranks.

    ``precision`` is the number format of the final network ("int8"; "" for float32), and ``quantisation`` says how it
    was made and checked. ``pruned`` and ``validation`` are then the accuracies of the quantised network; the times in
    ``pruned`` are those of the float32 network in PyTorch, those of the quantised one are in ``stages``.

    ``title`` is the title of the method; ``classes`` maps places of the configuration (``method.criterion``) to the
    stable names of the classes that were used; ``contents`` maps settings to digests of what they name, see
    ``records.contents``; ``key_schema`` is the version of the definition of ``key``. Records that were made before
    these fields existed have "", {}, {} and 1.
    """

    key: str
    study: str
    method: str
    model: str
    data: str
    seed: int
    levels: tuple[str, ...]
    budget: BudgetSummary
    recipe: str
    baseline: Metrics
    after_pruning: Accuracy
    pruned: Metrics
    plan: PlanSummary
    config: Mapping[str, Any]
    timings: Timings
    versions: Mapping[str, Any]
    hardware: Mapping[str, Any]
    git: GitState
    started: str
    finished: str
    best_epoch: BestEpoch | None = None
    test_set: TestSet | None = None
    validation: Accuracy | None = None
    title: str = ""
    classes: Mapping[str, str] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)
    key_schema: int = 1
    after_calibration: tuple[Calibrated, ...] = ()
    latency: LatencySummary | None = None
    lowrank: str = ""
    stages: tuple[Stage, ...] = ()
    lowrank_latency: LatencySummary | None = None
    precision: str = ""
    quantisation: QuantisationSummary | None = None

    @classmethod
    def from_dict(cls, values: Any) -> Record:
        """Parse and check the result of ``json.load``. Unknown fields are ignored.

        Raises ``RecordError`` with the first field that is wrong.
        """
        fields = Fields(values)
        _check_schema(fields)
        if fields.text("status") != FINISHED:
            raise RecordError(f"status should be {FINISHED!r}, found {fields.text('status')!r}")
        budget = fields.nested("budget")
        validation = fields.nested_or_none("validation")
        best_epoch, test_set = fields.nested_or_none("best_epoch"), fields.nested_or_none("test_set")
        latency, lowrank = fields.nested_or_none("latency"), fields.nested_or_none("lowrank_latency")
        quantisation = fields.nested_or_none("quantisation")
        return cls(
            key=fields.text("key"),
            study=fields.text("study"),
            method=fields.text("method"),
            model=fields.text("model"),
            data=fields.text("data"),
            seed=fields.integer("seed"),
            levels=fields.texts("levels"),
            budget=BudgetSummary.from_fields(budget, reached=budget.number("reached")),
            recipe=fields.text("recipe"),
            baseline=Metrics.from_fields(fields.nested("baseline")),
            after_pruning=Accuracy.from_fields(fields.nested("after_pruning")),
            pruned=Metrics.from_fields(fields.nested("pruned")),
            plan=PlanSummary.from_fields(fields.nested("plan")),
            config=upgraded(fields.mapping("config")),
            timings=Timings.from_fields(fields.nested("timings")),
            versions=fields.mapping("versions"),
            hardware=fields.mapping("hardware"),
            git=GitState.from_fields(fields.nested("git")),
            best_epoch=None if best_epoch is None else BestEpoch.from_fields(best_epoch),
            test_set=None if test_set is None else TestSet.from_fields(test_set),
            started=fields.text("started"),
            finished=fields.text("finished"),
            validation=None if validation is None else Accuracy.from_fields(validation),
            title=fields.text("title") if fields.has("title") else "",
            classes=fields.texts_by_name("classes") if fields.has("classes") else {},
            contents=fields.texts_by_name("contents") if fields.has("contents") else {},
            key_schema=fields.integer("key_schema") if fields.has("key_schema") else 1,
            after_calibration=tuple(
                Calibrated.from_fields(each) for each in fields.nested_list("after_calibration")
            )
            if fields.has("after_calibration")
            else (),
            latency=None if latency is None else LatencySummary.from_fields(latency),
            lowrank=fields.text("lowrank") if fields.has("lowrank") else "",
            stages=tuple(Stage.from_fields(each) for each in fields.nested_list("stages"))
            if fields.has("stages")
            else (),
            lowrank_latency=None if lowrank is None else LatencySummary.from_fields(lowrank),
            precision=fields.text("precision") if fields.has("precision") else "",
            quantisation=None if quantisation is None else QuantisationSummary.from_fields(quantisation),
        )

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Parse the text of a ``record.json``.

        ``RecordError`` also if it is not JSON (a truncated file), or if a value was changed after it was written.
        """
        values = _parsed(text)
        record = cls.from_dict(values)
        check_digest(values)
        return record

    def to_dict(self) -> dict[str, Any]:
        """The record as plain data for ``json.dump``; ``from_dict`` returns an equal record."""
        return {"schema": SCHEMA, "status": FINISHED, **_plain(asdict(self))}

    def to_json(self) -> str:
        """The text of ``record.json``: ``to_dict`` and its digest."""
        return json.dumps(with_digest(self.to_dict()), indent=2) + "\n"


@dataclass(frozen=True)
class Failure:
    """A run that ended with an error; the content of ``failure.json``. ``when`` is an ISO 8601 time."""

    key: str
    study: str
    method: str
    model: str
    data: str
    seed: int
    levels: tuple[str, ...]
    budget: BudgetSummary
    recipe: str
    error: str
    when: str
    lowrank: str = ""
    precision: str = ""

    @classmethod
    def from_dict(cls, values: Any) -> Failure:
        """Parse and check the result of ``json.load``; ``RecordError`` names the first field that is wrong."""
        fields = Fields(values)
        _check_schema(fields)
        return cls(
            key=fields.text("key"),
            study=fields.text("study"),
            method=fields.text("method"),
            model=fields.text("model"),
            data=fields.text("data"),
            seed=fields.integer("seed"),
            levels=fields.texts("levels"),
            budget=BudgetSummary.from_fields(fields.nested("budget"), reached=None),
            recipe=fields.text("recipe"),
            error=fields.text("error"),
            when=fields.text("when"),
            lowrank=fields.text("lowrank") if fields.has("lowrank") else "",
            precision=fields.text("precision") if fields.has("precision") else "",
        )

    @classmethod
    def from_json(cls, text: str) -> Failure:
        """Parse the text of a ``failure.json``; ``RecordError`` also if it is not JSON."""
        return cls.from_dict(_parsed(text))

    def to_dict(self) -> dict[str, Any]:
        """The failure as plain data for ``json.dump``; ``from_dict`` returns an equal failure."""
        return {"schema": SCHEMA, **_plain(asdict(self))}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"


def _check_schema(fields: Fields) -> None:
    found = fields.integer("schema")
    if found != SCHEMA:
        raise RecordError(f"schema {found}; this version of prunelab reads schema {SCHEMA}")


def _parsed(text: str) -> Any:
    try:
        values = loads_strictly(text)
        json.dumps(values, ensure_ascii=False).encode()  # half a surrogate pair could not be printed later
    except UnicodeEncodeError as error:
        raise RecordError("holds text that is not valid Unicode") from error
    except DuplicateKey as error:
        raise RecordError(f"not a record: {error}") from error
    except ValueError as error:
        raise RecordError(f"not valid JSON ({error}); was it cut off?") from error
    return values


def _plain(value: Any) -> Any:
    """``value`` in the types that JSON has: text for keys, lists for tuples."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
