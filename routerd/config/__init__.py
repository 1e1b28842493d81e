"""Text to Graph, all or nothing.

Model: `source` makes one tree of plain values with positions out of the files; `shape` asks the published schema; `compile`
checks what it means and makes the Graph. `report` collects what is wrong, `diagnose` prints it. `load` is the order of these.
Compilation: every check runs to its end; ConfigError carries all problems, each with file, line, column, path, line and hint.
Runtime: belongs to the control process and the command line; a worker never imports it. What goes wrong is in a ConfigError,
nothing else is raised.
Cost and concurrency: pure function of the files and the environment; blocks; 2,000 models take about half a second.
"""

from routerd.config.changes import Change, diff
from routerd.config.compile import Case
from routerd.config.compile.units import duration_text
from routerd.config.diagnose import render
from routerd.config.format import Refused, formatted
from routerd.config.load import Loaded, load
from routerd.config.shape import schema_json
from routerd.config.source import Input, Kept
from routerd.config.tree import Origin

__all__ = [
    "Case", "Change", "Input", "Kept", "Loaded", "Origin", "Refused", "diff", "duration_text", "formatted",
    "load", "render", "schema_json",
]  # fmt: skip
