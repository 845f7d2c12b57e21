"""A command that leaves nothing to interpret, understood without loading the parser.

The parser takes as long to load as a picture takes to be answered. Whatever is not plain is left to
it: help, what is missing or unknown, numbers, options given twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import Parameter, Signature
from typing import Any

TEXT = ("str", "str | None")


def plain_arguments(
    signature: Signature, tokens: Sequence[str]
) -> tuple[list[str], dict[str, Any]] | None:
    """Arguments and keyword arguments for these tokens, as `tokens.normalise` leaves them; None
    where the parser must say what is meant."""
    parameters = signature.parameters.values()
    named = {p.name: p.annotation for p in parameters if p.kind is Parameter.KEYWORD_ONLY}
    positional: list[str] = []
    keywords: dict[str, Any] = {}
    for token in tokens:
        option, sign, value = token.removeprefix("--").partition("=")
        name = option.replace("-", "_")
        if not token.startswith("-"):
            positional.append(token)
        elif not token.startswith("--") or name not in named or name in keywords:
            return None
        elif sign and value and named[name] in TEXT:
            keywords[name] = value
        elif not sign and named[name] == "bool":
            keywords[name] = True
        else:
            return None
    missing = [
        p for p in parameters if p.name in named and p.default is p.empty and p.name not in keywords
    ]
    return (positional, keywords) if not missing and _fit(parameters, positional) else None


def _fit(parameters: Any, positional: Sequence[str]) -> bool:
    """Whether the parameters in front take these texts, none left over and none missing."""
    num_taken = 0
    for parameter in parameters:
        is_text = parameter.annotation in TEXT
        if parameter.kind is Parameter.VAR_POSITIONAL:
            return is_text and all(positional)
        if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD:
            if num_taken == len(positional) or not is_text:
                return False
            num_taken += 1
    return num_taken == len(positional) and all(positional)
