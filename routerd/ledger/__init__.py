"""What every request used and cost, written down exactly once.

Model: an entry is one request that a client was known for: client, route, target, outcome, tokens, cost. Its identity is the run
of the worker that served it (a random id a process) and its number in that run, so writing it twice changes nothing. A table of
sums by day, client, route, provider and model is updated in the transaction that writes the entries, and is never thinned.

Compilation: none; the ledger is a setting of the daemon, not of routes.yaml.

Runtime: worker (`outbox`: a list, sent to control in batches) -> control (`writer`: a bounded queue and one thread) -> `store`
(SQLite or PostgreSQL). `usage` reads the sums; `spent` is what a client's credits are counted from.

Cost and concurrency: a request pays one tuple and one append. Nothing on its way waits for the database: when that is away,
entries wait in control up to a limit, the newest beyond it are dropped and counted. Only one thread of the control process ever
talks to the database; workers import neither driver.
"""

from routerd.ledger.answer import COLUMNS, as_csv, as_text, usage_answer
from routerd.ledger.entry import Batch, Entry
from routerd.ledger.outbox import Outbox
from routerd.ledger.period import Period, period_of
from routerd.ledger.store import BY, LedgerLost, Store, Unwritable, check_url, open_store
from routerd.ledger.writer import Writer

__all__ = [
    "BY",
    "COLUMNS",
    "Batch",
    "Entry",
    "LedgerLost",
    "Outbox",
    "Period",
    "Store",
    "Unwritable",
    "Writer",
    "as_csv",
    "as_text",
    "check_url",
    "open_store",
    "period_of",
    "usage_answer",
]
