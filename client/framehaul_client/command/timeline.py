"""`client timeline`: a trace as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from framehaul_client.command.arguments import Options
from framehaul_client.errors import InvalidOption
from framehaul_client.sinks.base import PartialFile, output_error
from framehaul_client.trace.picture import draw
from framehaul_client.trace.reader import read_trace

_SUFFIXES: Final = (".png", ".svg")


def timeline(options: Options) -> str:
    """Run the command; gives what to say about it.

    Raises:
        InvalidOption: there is no such trace, it holds nothing, or pictures aren't of that kind.
        OutputError: the picture can't be written.
    """
    out = Path(options.out)
    if out.suffix.lower() not in _SUFFIXES:
        raise InvalidOption(f"out={options.out}: must end in {' or '.join(_SUFFIXES)}")
    trace = read_trace(Path(options.file))
    drawn = draw(trace, out.suffix.lower().removeprefix("."))
    file = PartialFile(out)
    try:
        file.file.write(drawn)
        file.publish()
    except OSError as error:
        raise output_error(out, error) from error
    finally:
        if file.path != out:
            file.discard()
    return f"{out}: {trace.verdict or 'no verdict: there is no session in it'}"
