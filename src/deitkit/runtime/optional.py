"""Other people's libraries, imported when a teacher needs them and not before."""

from __future__ import annotations

import importlib
from types import ModuleType

from deitkit.errors import ConfigError


def optional_package(package: str, *, extra: str, subject: str) -> ModuleType:
    """Import `package`, which deitkit's extra of the name `extra` brings, for `subject`.

    Raises:
        ConfigError: MISSING_PACKAGE where it is not installed, BROKEN_PACKAGE where its import
            fails.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        missing = error.name or package
        raise ConfigError(
            "MISSING_PACKAGE",
            subject,
            f"it needs {missing}, which is not installed",
            f"run: pip install 'deitkit[{extra}]'",
        ) from error
    except (ImportError, RuntimeError, OSError) as error:
        raise _broken(package, subject, error) from error


def check_torchvision(subject: str) -> None:
    """Where torchvision is installed, it can be imported: timm and transformers bring it along.

    Raises:
        ConfigError: BROKEN_PACKAGE, as beside a torch that it was not built for.
    """
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise _broken("torchvision", subject, error) from error
    except (ImportError, RuntimeError, OSError) as error:
        raise _broken("torchvision", subject, error) from error


def _broken(package: str, subject: str, error: Exception) -> ConfigError:
    said = (str(error).splitlines() or [type(error).__name__])[0][:150]
    do = f"install another version of {package}"
    if package == "torchvision":
        do = (
            "install the one built for this torch; beside CPU torch: pip install torchvision "
            "--index-url https://download.pytorch.org/whl/cpu"
        )
    return ConfigError(
        "BROKEN_PACKAGE", subject, f"it needs {package}, whose import fails here ({said})", do
    )
