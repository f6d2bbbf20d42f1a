"""Metrics of entities: spans of tokens from tags, and how many of them were found."""

# C = kinds of entities

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from compiler.metrics import EntityF1, EntityPrecision, EntityRecall, Metric, name_of
from runtimes.metrics.averages import Counts, Ratio, averaged, ratios

Scheme = Literal["lenient", "iob2", "iobes"]
"""How tags are read. `iob2` and `iobes` take only what is written as the scheme asks (seqeval's strict mode); `lenient`
lets any tag begin an entity, as conlleval.pl does and seqeval by default. BILOU's L and U are read as E and S."""
_PREFIXES: Mapping[Scheme, str] = {"lenient": "BIES", "iob2": "BI", "iobes": "BIES"}
_AS_IOBES = {"L": "E", "U": "S"}


class Span(NamedTuple):
    """An entity: its kind, its first token and the one after its last."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityCounts:
    """[C] how many entities of each kind were answered rightly, were answered, and are there."""

    kinds: tuple[str, ...]
    right: Counts
    given: Counts
    truth: Counts


def score_entities(
    metrics: Sequence[Metric],
    references: Sequence[Sequence[str]],
    answers: Sequence[Sequence[str]],
    scheme: Scheme = "lenient",
) -> dict[str, float]:
    """Each metric by its name, over the tags that rows have and that they were given."""
    return score_spans(metrics, [spans(tags, scheme) for tags in references], [spans(tags, scheme) for tags in answers])


def score_spans(
    metrics: Sequence[Metric], references: Sequence[Collection[Span]], answers: Sequence[Collection[Span]]
) -> dict[str, float]:
    """Each metric by its name, over the entities that rows have and that they were given."""
    counts = count_spans(references, answers)
    return {name_of(metric): measure_spans(metric, counts) for metric in metrics}


def measure_spans(metric: Metric, counts: EntityCounts) -> float:
    """One metric of entities."""
    ratio: Ratio
    match metric:
        case EntityF1():
            ratio = "f1"
        case EntityPrecision():
            ratio = "precision"
        case EntityRecall():
            ratio = "recall"
        case _:
            raise ValueError(f"{metric.type} is no metric of entities")
    return averaged(ratio, metric.average, counts.right, counts.given, counts.truth)


def details_of(counts: EntityCounts) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of each kind, and how many entities of it there are and were answered."""
    columns = {
        "precision": ratios("precision", counts.right, counts.given, counts.truth),
        "recall": ratios("recall", counts.right, counts.given, counts.truth),
        "f1": ratios("f1", counts.right, counts.given, counts.truth),
        "entities": counts.truth,
        "answered": counts.given,
    }
    return {
        kind: {name: column[place].item() for name, column in columns.items()}
        for place, kind in enumerate(counts.kinds)
    }


def count_spans(references: Sequence[Collection[Span]], answers: Sequence[Collection[Span]]) -> EntityCounts:
    """The counts of each kind that stands on either side, in order of their names."""
    right: Counter[str] = Counter()
    for there, answered in zip(references, answers, strict=True):
        right.update(span.kind for span in set(there) & set(answered))
    truth = Counter(span.kind for row in references for span in set(row))
    given = Counter(span.kind for row in answers for span in set(row))
    kinds = tuple(sorted(truth | given))
    return EntityCounts(
        kinds=kinds,
        **{
            name: np.asarray([count[kind] for kind in kinds], np.int64)
            for name, count in (("right", right), ("given", given), ("truth", truth))
        },
    )


def spans(tags: Sequence[str], scheme: Scheme = "lenient") -> tuple[Span, ...]:
    """The entities of a row, in order. Raises ValueError on what is no tag of the scheme."""
    found: list[Span] = []
    kind, start = "", -1  # of the entity that is open; -1: none is
    for place, tag in enumerate((*tags, "O")):
        prefix, named = split_tag(tag, scheme)
        if start >= 0 and prefix in "IE" and named == kind:
            if prefix == "E":
                found.append(Span(kind, start, place + 1))
                start = -1
            continue
        if start >= 0 and scheme != "iobes":  # that one needs its E
            found.append(Span(kind, start, place))
        begins = prefix == "B" or (prefix == "I" and scheme == "lenient")
        kind, start = named, place if begins else -1
        if prefix == "S" or (prefix == "E" and scheme == "lenient"):
            found.append(Span(named, place, place + 1))
    return tuple(found)


def split_tag(tag: str, scheme: Scheme = "lenient") -> tuple[str, str]:
    """B, I, E, S or O, and the kind of the entity; "_" where a tag names none. Raises ValueError."""
    prefix, dash, kind = tag[:1], tag[1:2], tag[2:]
    prefix = _AS_IOBES.get(prefix, prefix)
    if tag == "O":
        return "O", ""
    if prefix and prefix in _PREFIXES[scheme] and dash in ("", "-"):
        return prefix, kind or "_"
    expected = ", ".join(f"{letter}-" for letter in _PREFIXES[scheme])
    raise ValueError(f'"{tag}" is no tag: expected O, or one of {expected} and a kind')
