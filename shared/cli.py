"""How every command ends: its own exit code, or one clear line and 2 on bad input; no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

from shared.errors import ConfigError, HeadroomError

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2


def run_cli(command: Callable[[], int]) -> int:
    """The exit code of a command; turns what a user can get wrong into one line on standard error."""
    try:
        return command()
    except ConfigError as error:
        for fault in error.faults:
            print(f"{error.file}: {fault}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except HeadroomError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except BrokenPipeError:
        return EXIT_OK
    except OSError as error:
        print(f"error: {error.filename or ''}: {error.strerror or error}".replace(": :", ":"), file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return 130
