"""An ONNX file, opened by onnxruntime on the CPU."""

from __future__ import annotations

from typing import Any

from deitkit.errors import ModelFileError
from deitkit.runtime.optional import optional_package


def load_runtime(subject: object) -> Any:
    """The library. Raises ConfigError MISSING_PACKAGE, BROKEN_PACKAGE."""
    return optional_package("onnxruntime", extra="onnx", subject=str(subject))


def open_session(
    content: bytes, *, subject: object, num_threads: int = 0, quick: bool = False
) -> Any:
    """An InferenceSession on the file's bytes; `num_threads` 0 leaves it to the library.

    `quick` leaves out what pays off only when it is asked often: fusing operators and reordering
    weights takes twice as long as one answer of a DeiT-tiny.

    Raises:
        ConfigError: as `load_runtime`.
        ModelFileError: FORMAT, the library cannot run it.
    """
    runtime = load_runtime(subject)
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong comes as an exception too
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    # Threads that have nothing to do sleep; by default they spin, and starve the one they wait for
    # wherever the machine does anything else: there 1.6 times as many answers without it, a
    # picture at a time. On a quiet machine, 64 at a time, it costs a twentieth.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if quick:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base of their own
        why = f"onnxruntime {runtime.__version__} cannot run it ({first_line(error)})"
        raise ModelFileError("FORMAT", subject, why, "export it again in one ONNX file") from error


def first_line(error: Exception) -> str:
    """What an exception says first, at most 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
