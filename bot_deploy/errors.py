"""The errors the library raises; every message says what is wrong and what to do about it."""


class BotError(Exception):
    """Something the user can act on. The CLI prints it on one line and exits with `exit_code`."""

    exit_code = 1


class InputError(BotError):
    """Wrong usage or bad input: a file, a folder, an option."""

    exit_code = 2


class ImageError(InputError):
    """A file that is not a usable image; the message names it."""


class RunError(BotError):
    """A run that could not go on: a non-finite loss, a full disk, a backend that is not installed."""


class ParityError(BotError):
    """An export whose embeddings differ from PyTorch's by more than the tolerance."""

    exit_code = 3
