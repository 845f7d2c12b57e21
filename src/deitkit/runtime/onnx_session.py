"""An ONNX file, opened by onnxruntime on the CPU."""

from __future__ import annotations

from typing import Any

from deitkit.errors import ModelFileError
from deitkit.runtime.optional import optional_package


def open_session(content: bytes, *, subject: object, num_threads: int = 0) -> Any:
    """An InferenceSession on the file's bytes; `num_threads` 0 leaves it to the library.

    Raises:
        ConfigError: MISSING_PACKAGE, BROKEN_PACKAGE.
        ModelFileError: FORMAT, the library cannot run it.
    """
    runtime = optional_package("onnxruntime", extra="onnx", subject=str(subject))
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong comes as an exception too
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base of their own
        why = f"onnxruntime {runtime.__version__} cannot run it ({first_line(error)})"
        raise ModelFileError("FORMAT", subject, why, "export it again in one ONNX file") from error


def first_line(error: Exception) -> str:
    """What an exception says first, at most 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
