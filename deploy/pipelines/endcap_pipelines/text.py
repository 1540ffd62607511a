"""Tokens, as the workers see them."""

import re

_TOKEN = re.compile(r"[a-z0-9]+")
_NEGATIONS = {"without", "no", "not"}


def tokens(text: str) -> list[str]:
    """Lower-cased maximal runs of [a-z0-9], repeats included."""
    return _TOKEN.findall(text.lower())


def distinct(text: str) -> list[str]:
    return list(dict.fromkeys(tokens(text)))


def negated(text: str) -> list[str]:
    """Distinct tokens that follow a negation."""
    found: dict[str, None] = {}
    negating = False
    for token in tokens(text):
        if token in _NEGATIONS:
            negating = True
        elif negating:
            found[token] = None
    return list(found)


def normalised(query: str) -> str:
    """A query as the gateway passes it on."""
    return " ".join(query.split())
