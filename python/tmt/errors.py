"""Errors a user can mend. The entry points print them as one line and exit with code 2, a StateError with 3."""

USER_ERROR, STATE_ERROR = 2, 3
"""Exit codes."""


def reason_of(error: BaseException | None) -> str:
    """What an error of another library says, for a message of ours: on one line, at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


class TMTError(Exception):
    """Base of all errors that name a file or argument, the value found and the mend."""


class ConfigError(TMTError, ValueError):
    """A configuration value, or a combination of values, that cannot be used."""


class DataError(TMTError):
    """A dataset folder, image or label that is missing or not what its format says."""


class CheckpointError(TMTError):
    """A checkpoint or model folder that is missing, damaged or of another architecture."""


class StateError(CheckpointError):
    """What an interrupted stage left is of no use: its folder must be removed, or another one chosen."""


class TrainingError(TMTError):
    """Training that cannot go on, such as a loss that is not finite."""
