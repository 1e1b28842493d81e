"""The records of a compiled configuration.

Everything is frozen, slotted and keyword-only, with tuples and read-only mappings: a Graph that serves can never change.
Objects refer to each other by name, so that a generation can be sent to a worker in small pieces and no reference cycle keeps
an old one alive. Units are in the names. No repr holds a secret.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from routerd.graph.pattern import Pattern


class Secret:
    """A credential that does not print itself. Equality is by value, for diffs and pool keys."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the credential; call it only where bytes go to the upstream."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return (Secret, (self._value,))


class Balance(enum.StrEnum):
    """How a group or the endpoints of a provider share the load."""

    ROUND_ROBIN = "round_robin"
    WEIGHTED = "weighted"
    LEAST_BUSY = "least_busy"
    LATENCY = "latency"
    PREFIX_HASH = "prefix_hash"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCredentials:
    """Where access tokens come from: the client credentials grant of RFC 6749 section 4.4. `body`: form | json."""

    token_url: str
    client_id: str
    client_secret: Secret
    scope: str = ""
    body: str = "form"


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """How a provider wants its credential: `bearer`, `header` (name, prefix), `query` (name), `none`.

    `oauth_client_credentials`: a bearer token that is got with `oauth`; then there is no `secret`.
    """

    type: str = "bearer"
    name: str = "authorization"
    prefix: str = "Bearer "
    secret: Secret | None = None
    oauth: ClientCredentials | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Lengths by phase. `total_s` bounds unary answers; `stream_total_s` (None: unbounded) a stream that moves."""

    connect_s: float = 2.0
    first_byte_s: float = 60.0
    first_token_s: float = 120.0
    idle_s: float = 60.0
    total_s: float = 900.0
    stream_total_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Wait before retry n (from 0): min(max_s, first_s * factor**n), spread by +-jitter_ratio."""

    first_s: float = 1.0
    factor: float = 2.0
    max_s: float = 30.0
    jitter_ratio: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Tries at the same target before failing over; 1 means none beyond the first."""

    attempts: int = 1
    backoff: Backoff = field(default_factory=Backoff)


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulator:
    """The built-in upstream: `reply` is `echo` or a fixed text; `fail_ratio` of the answers are a 503."""

    first_token_s: float = 0.15
    tokens_per_s: float = 40.0
    fail_ratio: float = 0.0
    reply: str = "echo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """Where an OpenAI-compatible API deviates from OpenAI's. Empty: it does not."""

    developer_role: str = "developer"  # what that role of a message is called there
    rename_params: Mapping[str, str] = field(default_factory=dict)  # in chat requests
    param_values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # in chat requests: parameter -> value -> theirs
    drop_params: tuple[str, ...] = ()
    own_params: tuple[str, ...] = ()  # parameters that this vendor invented: they go to no other
    drop_message_fields: tuple[str, ...] = ()
    response_format: str = "nested"  # where the schema stands: nested (in json_schema) | flat (beside `type`)
    only_values: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # parameter -> all values that it accepts
    tool_call_id_chars: int | None = None  # ids of tool calls are exactly so many letters and digits
    split_content: bool = False  # `content` of answers may be a list of texts and thoughts
    finish_reasons: Mapping[str, str] = field(default_factory=dict)  # in answers: theirs -> OpenAI's


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdRule:
    """One form of the answer that means "still loading": the status, and a regular expression found in the error's text."""

    status: int | None = None
    body: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStart:
    """How to wait for a model that is loaded on demand. `fail_over_after_s`: while another target is untried, no longer."""

    when: tuple[ColdRule, ...]
    attempts: int = 10
    backoff: Backoff = field(default_factory=Backoff)
    fail_over_after_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """When an endpoint's failures put it behind the others, and how it comes back.

    10 requests: where one in ten fails by chance, five or more of ten do so 1.6 times in 1,000. 30 s fill that at 20 requests a
    minute. 10 s open: a refused connection costs little, a hanging engine costs each request that asks it a timeout.
    """

    enabled: bool = True
    failure_ratio: float = 0.5
    min_requests: int = 10
    window_s: float = 30.0
    open_for_s: float = 10.0
    ramp_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How an endpoint is asked for its health. `kind`: path (below its address) | models | chat (a request of one token).

    3 bad answers in a row, 10 s apart: a lost packet or a pause of the engine takes nobody down, a dead engine is out after 30 s,
    and its breaker has long opened by then if there is traffic.
    """

    kind: str
    path: str = ""
    model: str = ""
    every_s: float = 10.0
    timeout_s: float = 2.0
    fall: int = 3
    rise: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSource:
    """Where an engine publishes its gauges, below its address."""

    metrics: str = "/metrics"
    every_s: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateFields:
    """JSON pointers (RFC 6901) to the values of an answer; None: it has no such value."""

    text: str | None = None
    finish: str | None = None
    error: str | None = "/error"
    input_tokens: str | None = None
    output_tokens: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateStream(TemplateFields):
    """A streamed answer. `format`: sse | ndjson | vercel | raw; `eof_ends`: the end of the bytes is a good end."""

    format: str = "sse"
    done: str = "[DONE]"
    eof_ends: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A service that speaks no known dialect. At least one of `response` and `stream` is there."""

    request: Mapping[str, Any]
    path: str = ""
    response: TemplateFields | None = None
    stream: TemplateStream | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Discover:
    """How the list of a provider's models is got, and what of it is offered: ids that `include` matches; `*` is anything."""

    every_s: float = 300.0
    include: tuple[str, ...] = ("*",)
    chat_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """How many connections a worker may have to an address, how many of them idle (None: any number), and idle for how long.

    30 s: shorter than most servers keep theirs, so that few are closed under a request; see `upstream`.
    """

    max: int | None = None
    max_idle: int | None = None
    idle_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One base URL of a provider with one credential. `name` is unique in the graph; `identity` survives renames."""

    name: str
    provider: str
    url: str  # https://host:port/v1, no trailing slash
    weight: int = 1
    max_concurrent: int | None = None
    connections: Connections = field(default_factory=Connections)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A vendor or engine. `disabled` says why its targets are skipped (an optional provider without its key), or is empty."""

    name: str
    dialect: str  # openai | template | simulator
    endpoints: tuple[Endpoint, ...]
    auth: Auth = field(default_factory=Auth)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold a credential
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    direct: bool = False
    discover: Discover | None = None
    balance: Balance = Balance.ROUND_ROBIN
    budgets: tuple[str, ...] = ()
    offers: Mapping[str, str] = field(default_factory=dict)  # operation -> path below the URL; empty: all that the dialect can
    model_suffix: str = ""
    quirks: Quirks = field(default_factory=Quirks)
    foreign_params: tuple[str, ...] = ()  # `own_params` of the other providers: never sent here
    cold_start: ColdStart | None = None
    simulator: Simulator | None = None
    breaker: Breaker = field(default_factory=Breaker)
    probe: Probe | None = None
    load: LoadSource | None = None
    slow_start_s: float = 0.0  # 0: a new or recovered endpoint gets its whole share at once
    template: Template | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)  # for `direct` requests; a target carries its own
    retry: Retry = field(default_factory=Retry)  # for `direct` requests; a route carries its own
    failover: Failover = field(default_factory=lambda: Failover())  # the same
    disabled: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clamp:
    """Bounds of a numeric parameter; None is open."""

    min: float | None = None
    max: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Sampling parameters: applied in the order drop, defaults, clamp, force."""

    defaults: Mapping[str, Any] = field(default_factory=dict)
    force: Mapping[str, Any] = field(default_factory=dict)
    clamp: Mapping[str, Clamp] = field(default_factory=dict)
    drop: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.defaults or self.force or self.clamp or self.drop)


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemPrompt:
    """The operator's prompt. `mode`: prepend | append | replace | if_missing."""

    text: str
    mode: str = "if_missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a million tokens cost, in nano-dollars (1e-9 USD): whole numbers, so that sums are exact. Cached input is input read
    from the provider's cache."""

    input_nano_usd: int = 0
    output_nano_usd: int = 0
    cached_input_nano_usd: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Provider (or one endpoint of it) + upstream model name. `model` may hold `{1}`, filled from the route's pattern."""

    provider: str
    model: str
    endpoint: str | None = None
    weight: int = 1
    params: Params = field(default_factory=Params)
    timeouts: Timeouts = field(default_factory=Timeouts)
    price: Price | None = None  # its own, or its route's

    @property
    def label(self) -> str:
        """`provider/model` as configured: bounded, so fit for a metric."""
        return f"{self.provider}/{self.model}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a chain: a target, or a group that is balanced."""

    targets: tuple[Target, ...]
    balance: Balance = Balance.WEIGHTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Failover:
    """When to go on, how often, and until when (all attempts together, until commit)."""

    on: frozenset[str] = frozenset(
        {"connect", "timeout", "rate_limited", "server_error", "auth", "credits", "cold", "protocol"}
    )
    max_attempts: int = 4
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A public model name (or pattern), its policy and its chain.

    `overflow` is the chain of `failover.context_overflow`: it replaces the rest of `chain` when a prompt is too long for it.
    """

    name: str
    chain: tuple[Step, ...]
    overflow: tuple[Step, ...] = ()
    pattern: Pattern | None = None
    description: str = ""
    aliases: tuple[str, ...] = ()
    enabled: bool = True
    system_prompt: SystemPrompt | None = None
    params: Params = field(default_factory=Params)
    failover: Failover = field(default_factory=Failover)
    retry: Retry = field(default_factory=Retry)
    budgets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """One limit. `kind`: requests | tokens | usd | concurrency; a limit in usd is kept in nano-dollars (1e-9 USD).

    Its window is `window_s` (sliding) or `calendar` (hour | day | week | month, UTC; credits: ever); concurrency has neither.
    `burst` (0: none): besides, at most so many beyond the even rate limit / window_s. `scope`: global | client | model |
    provider | endpoint: one counter in all, or one a subject. `models`: only requests whose upstream or public model name
    matches one of these patterns are counted (empty: all). `queue_max` (0: none) requests may wait in line for `queue_wait_s`,
    in each worker. `shadow`: it counts and reports, but never refuses.
    """

    name: str
    kind: str
    limit: int
    window_s: float = 0.0
    calendar: str = ""
    since: str = ""  # of credits (`ever`): the day from which on use counts
    burst: int = 0
    scope: str = "global"
    models: tuple[Pattern, ...] = ()
    queue_max: int = 0
    queue_wait_s: float = 0.0
    shadow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Credits:
    """What a client may use in all: `limit` tokens, or nano-dollars. What it used since the day `since` (empty: ever) counts."""

    kind: str  # tokens | usd
    limit: int
    since: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Who may call. The key itself is never kept: `key_sha256` is its digest."""

    name: str
    key_sha256: bytes
    models: tuple[Pattern, ...] = ()  # empty: all
    budgets: tuple[str, ...] = ()
    credits: Credits | None = None

    def may_use(self, *names: str) -> bool:
        """Tell whether any of these names of one model (as asked, the route's) is in the client's list."""
        return not self.models or any(pattern.match(name) is not None for pattern in self.models for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """Allowed origins; `*` allows any."""

    origins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Probation:
    """For `for_s` a new generation may fail at most `max_error_ratio` of its requests, judged from `min_requests` on."""

    for_s: float = 60.0
    max_error_ratio: float = 0.2
    min_requests: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """How changes of the inputs are taken up. `max_removal_ratio`: of the models, or providers, that one reload may take away."""

    settle_s: float = 0.05
    max_removal_ratio: float = 0.5
    probation: Probation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes above which a body is refused."""

    request_body_bytes: int = 32 * 1024 * 1024
    response_body_bytes: int = 64 * 1024 * 1024
    upload_bytes: int = 1024 * 1024 * 1024  # of a body that is passed on and not held


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """One whole configuration. `digest` is over the canonical content of all inputs; `patterns` are in order of precedence."""

    digest: str
    providers: Mapping[str, Provider]
    endpoints: Mapping[str, Endpoint]
    routes: Mapping[str, Route]  # by name, in file order, patterns included
    aliases: Mapping[str, str]  # alias -> route name
    patterns: tuple[Route, ...]
    budgets: Mapping[str, Budget]
    clients: Mapping[str, Client] | None  # None: no `clients` block, anybody may call
    cors: Cors = field(default_factory=Cors)
    reload: Reload = field(default_factory=Reload)
    limits: Limits = field(default_factory=Limits)
    response_headers: bool = True  # the x-routerd-* headers
    disabled_clients: Mapping[str, str] = field(default_factory=dict)  # name -> why; an optional client without its key
    allow_empty: bool = False  # ready without a single model
