"""What a run is: frozen dataclasses, strict loading, short names. No torch."""

from deitkit.config.loading import (
    build_config,
    flatten,
    parse_duration_s,
    read_config_file,
    with_values,
    write_config_text,
)
from deitkit.config.names import SHORT_NAMES, canonical_name
from deitkit.config.schema import AUTO, RunConfig, settled

__all__ = [
    "AUTO",
    "SHORT_NAMES",
    "RunConfig",
    "build_config",
    "canonical_name",
    "flatten",
    "parse_duration_s",
    "read_config_file",
    "settled",
    "with_values",
    "write_config_text",
]
