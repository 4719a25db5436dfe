"""The terms that stand on image embeddings: image_based, alone and together with the CLIP score.

They keep captions that are English and long enough, and pictures whose nearest cluster of the pool's embeddings is
also the nearest of a target's picture. Clusters are by far the most expensive (``dcfast.stages.filter.clusters``), so
their rule comes last: only rows that pass all others are asked about, as in DataComp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dcfast.filters import rules
from dcfast.filters.expression import Argument, Call, parse
from dcfast.filters.rules import Mask
from dcfast.filters.term import LANGUAGE_MODEL, TEXT, Clusters, Rows, Rule, Term, asks, named_rules
from dcfast.filters.text_terms import clip_score

if TYPE_CHECKING:
    import pyarrow as pa

CLUSTERS = ("centroids", "target")
"""Arguments that are paths."""
_DEFAULT_SCORE = "clip_score(l14, fraction=0.3)"  # DataComp-1B


def _clusters(call: Call) -> tuple[Clusters, tuple[Argument, ...]]:
    """The two paths of a call, and its other arguments."""
    given: dict[str, str] = {}
    others = []
    for argument in call.arguments:
        name = argument.keyword
        if name not in CLUSTERS:
            others.append(argument)
            continue
        if argument.kind != "string" or not argument.value:
            call.error(f'{call.name}: put the path of an .npy in quotes: {name}="my {name}.npy"', argument)
        if name in given:
            call.error(f"{call.name}: {name} is given twice", argument)
        given[name] = str(argument.value)
    return Clusters(given.get("centroids"), given.get("target")), tuple(others)


def _caption_rules(name: str) -> tuple[Rule, ...]:
    return named_rules(
        name,
        characters=lambda rows, _: rules.enough_characters(rows.text),
        tokens=lambda rows, _: rules.enough_tokens(rows.text),
        language=asks(LANGUAGE_MODEL),
    )


def passes_captions(batch: pa.RecordBatch) -> Mask:
    """(n,) bool, rows whose caption (column ``text``) the image terms let pass.

    Raises:
        MissingDependencyError: the language model is missing.
    """
    captions = Term("captions", _caption_rules("captions"))
    everyone = np.ones(batch.num_rows, np.bool_)
    return np.equal(captions.first_failure(Rows(batch), everyone), 0)


def _image_based(call: Call) -> Term:
    clusters, others = _clusters(call)
    if others:
        what = f"argument {others[0].keyword!r}" if others[0].keyword else f"argument {others[0].value!r}"
        call.error(f"image_based takes centroids= and target=; got {what}", others[0])
    return _image_term(call.name, clusters, Term(""))


def _both(call: Call) -> Term:
    clusters, others = _clusters(call)
    score = clip_score(replace(call, arguments=others)) if others else parse(_DEFAULT_SCORE, clip_score)
    assert isinstance(score, Term)
    return _image_term(call.name, clusters, score)


def _image_term(name: str, clusters: Clusters, score: Term) -> Term:
    """The rules of a score, which may be none, then those of captions, then that of clusters."""
    given = [score.text.removeprefix("clip_score(").removesuffix(")"), clusters.arguments]
    arguments = ", ".join(filter(None, given))
    return Term(
        f"{name}({arguments})" if arguments else name,
        (
            *(Rule(f"{name}: score", rule.passes) for rule in score.rules),
            *_caption_rules(name),
            Rule(f"{name}: cluster", lambda rows, pending: rows.in_clusters(clusters, pending)),
        ),
        (TEXT, *score.columns),
        (LANGUAGE_MODEL,),
        quantile=score.quantile,
        clusters=clusters,
        cost=100.0,
    )


IMAGE_TERMS: dict[str, Callable[[Call], Term]] = {
    "image_based": _image_based,
    "image_based_intersect_clip_score": _both,
}
