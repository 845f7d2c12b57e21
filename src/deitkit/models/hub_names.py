"""Names of public weights: hf:owner/name and timm:name."""

from __future__ import annotations

import re
from typing import NamedTuple

from deitkit.errors import ConfigError

TIMM_TAGS: dict[str, str] = {
    **{f"deit_{size}_patch16_224": "fb_in1k" for size in ("tiny", "small", "base")},
    **{f"deit_{size}_distilled_patch16_224": "fb_in1k" for size in ("tiny", "small", "base")},
    "deit_base_patch16_384": "fb_in1k",
    "deit_base_distilled_patch16_384": "fb_in1k",
    **{f"deit3_{size}_patch16_224": "fb_in1k" for size in ("small", "medium", "base", "large")},
    **{f"deit3_{size}_patch16_384": "fb_in1k" for size in ("small", "base", "large")},
    "deit3_huge_patch14_224": "fb_in1k",
    # The teacher of the DeiT paper. timm itself means the later sw_in12k_ft_in1k.
    "regnety_160": "deit_in1k",
}
"""timm's name -> the training whose weights are meant where none is named."""

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_REVISION = re.compile(r"\w[\w./-]*", re.ASCII)


class HubName(NamedTuple):
    """A repository and one of its states."""

    repo: str
    revision: str


def is_hub_name(text: str) -> bool:
    """Whether `text` is meant for the hub: hf:... or timm:..."""
    return text.startswith(("hf:", "timm:"))


def parse_hub_name(name: str) -> HubName:
    """`hf:owner/name[@revision]` or `timm:name[.tag]` as repository and revision.

    Raises:
        ConfigError: HUB_NAME.
    """
    scheme, _, rest = name.partition(":")
    if scheme == "timm":
        rest, at, revision = rest.partition("@")
        if "." not in rest and rest not in TIMM_TAGS:
            tagged = f"timm:{rest or 'name'}.tag"
            raise ConfigError(
                "HUB_NAME",
                name,
                "which training of it is meant is not known here",
                f"add timm's tag ({tagged}), or take one of {', '.join(TIMM_TAGS)}",
            )
        repo = f"timm/{rest if '.' in rest else f'{rest}.{TIMM_TAGS[rest]}'}"
    else:
        repo, at, revision = rest.partition("@")
    bad_revision = bool(at) and (not _REVISION.fullmatch(revision) or ".." in revision)
    if not _REPO.fullmatch(repo) or ".." in repo or bad_revision:
        raise ConfigError(
            "HUB_NAME",
            name,
            "it names no repository of the hub",
            "write hf:owner/name, hf:owner/name@revision or timm:name",
        )
    return HubName(repo, revision or "main")
