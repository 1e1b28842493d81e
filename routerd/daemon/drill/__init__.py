"""`routerd rehearse`: the routes against simulated upstreams with faults on a timeline, and what clients would have seen.

    scenario   the file: phases, each with a load, faults and what is expected
    simulated  one loopback server an endpoint, which does what the phase says
    stage      the gateway that serves traffic, over a graph whose endpoints are those servers; clients that ask it
    outcome    counts and times of a phase, held against what was expected

Model: the graph is the operator's, with its chains, timeouts, retries, breakers, cooldowns and budgets; only the addresses are
others, all upstreams speak OpenAI's API, and nobody needs a credential. Runtime: one process, one loop, loopback only. With
`speed: 10` every length of the graph and of the scenario is a tenth, and every time in the report is told tenfold again.
Calendar windows of budgets are not compressed. Health probes do not run: what is known of an endpoint comes from its answers.
"""

from __future__ import annotations

__all__: list[str] = []
