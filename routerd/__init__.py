"""routerd: a declarative LLM router with hot reload. `routerd.daemon.entry` is where the command begins."""

__version__ = "0.2.0"
VERSION_HEADER = "x-routerd-version"  # on every answer of the admin listener: by it a command knows whom it talks to
