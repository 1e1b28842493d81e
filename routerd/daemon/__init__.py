"""The composition root: processes, reloads, the operator's commands.

    cli, commands, settings   what an operator types, and what it is worth (commands: one module each)
    serve, first, control     the order of the daemon's life; the first generation; the parts of the control process
    load                      a configuration that may serve: read, checked, compiled, and its own tests run
    reload                    a change of the inputs -> one queue -> load, guard, pack, publish; what is remembered of it
    workers                   the worker processes, the wire to them, and what one does
    endpoints, outside        what is asked of endpoints; what is got from providers for all workers
    admin                     what an operator may ask and order; what happened; the page at /ui
    output                    log, access records, problems and spans on their way out, never with a secret
    imports, drill            other routers' configurations; `routerd rehearse`
    credit, known             balances from the ledger; the series that stand at 0 from the first moment
    notify, drain, tasks      systemd; the end of the daemon; background tasks that cannot die unnoticed
"""

from __future__ import annotations

__all__: list[str] = []
