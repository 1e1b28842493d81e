"""What the commands other than `serve` do: one module a command, or a few that belong together.

    syntax     how a command is declared: flags, help, example, exit status
    check      check, test, schema
    compare    diff
    fmt        fmt
    explain    explain (explain_text: its screen; package daemon.load: its facts)
    init       init: a first routes.yaml
    rehearse   rehearse (package daemon.drill)
    imports    import: out of another router's configuration (package daemon.imports)
    completion completion: for bash, zsh and fish
    usage      usage: from the daemon or straight from its ledger
    live       reload, status, rollback, history: talk to the admin listener of a running daemon

`add_x(commands)` declares the flags of a command, `x(flags, environ)` runs it and returns the exit status: 0 fine, 1 a difference
or a failing answer, 2 invalid, 3 cannot read or reach. What a command was asked for goes to stdout, why it could not do it to
stderr. Modules import what they need when they run: `status` must not load a schema.
"""

from __future__ import annotations

__all__: list[str] = []
