"""routerd: a declarative LLM router with hot reload. `routerd.daemon.cli` is the command."""

__version__ = "0.2.0"
