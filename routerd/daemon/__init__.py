"""The composition root: processes, reloads, the operator's commands.

    cli, commands, settings   what an operator types, and what it is worth (commands: one module each)
    control, first            the control process: puts the parts together; the first generation
    operator, events, trial   what an operator may ask and order; what happened; probation as it runs
    notify                    systemd: ready, reloading, stopping, watchdog, sockets
    load, cases, forecast     a configuration that may serve: loaded, and its own tests run
    picture, rates            what the page at /ui is drawn from
    imports, drill            other routers' configurations; `routerd rehearse`
    watch, reload             a change of the inputs -> one queue -> load, check, pack, publish; what is remembered of it
    generation, crew, channel a configuration on its way to all workers; the workers as control sees them; the wire between
    worker                    one serving process: a loop around the gateway
    process                   a worker process as the operating system knows it
    drain, tasks              the end of the daemon; background tasks that cannot die unnoticed
    log, report, terminal     what is written where; problems on their way out, never with a secret; colours

More files than usual in one package: each is one concern of the process model and is tested without the others. A worker
imports `worker`, `generation`, `channel`, `log` and `tasks` only: no YAML, no schema, no Prometheus client.
"""

from __future__ import annotations

__all__: list[str] = []
