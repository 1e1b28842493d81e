"""Workers as processes: started, published to, started again; the wire to them; and what one does.

    crew        the workers as control sees them
    process     a worker as the operating system knows it
    channel     the wire between control and one worker, and the messages on it
    generation  a configuration on its way to all workers, in two phases
    worker      one serving process: a loop around the gateway

A worker imports `worker`, `generation`, `channel`, `daemon.output.log` and `daemon.tasks` only: no YAML, no schema, no
Prometheus client.
"""
