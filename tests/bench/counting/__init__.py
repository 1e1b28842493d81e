"""What a request and a chunk cost, counted instead of timed: the same figures on every machine and under any load.

`loop` is an event loop without sockets that counts what it is asked for, `stage` a whole gateway on it with a client and
upstreams that the test plays, `meters` what is counted there; `syscalls` counts those of a real worker; `ceilings` is what each
may be. `tests/bench/count.py` is the command.
"""
