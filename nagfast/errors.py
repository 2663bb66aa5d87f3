"""Errors that users see: one line that names what, where, the value received and the mend."""

from __future__ import annotations


class NagfastError(Exception):
    """A run that failed (exit code 1)."""

    exit_code = 1


class ArgumentError(NagfastError, ValueError):
    """A wrong argument (exit code 2): names the argument, the value received and the mend."""

    exit_code = 2


class SpecMismatchError(ArgumentError):
    """NAGs of two origins that may not be compared."""


class MissingDependencyError(NagfastError, ImportError):
    """An optional package is not installed; the message holds the exact pip line."""

    exit_code = 2


def missing(package: str, extra: str, purpose: str) -> MissingDependencyError:
    """The error for an optional package that is not there."""
    return MissingDependencyError(f'{purpose} needs {package}, which is not installed: pip install "nagfast[{extra}]"')
