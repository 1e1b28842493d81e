"""Two Graphs to sentences: what changes for clients, what goes where now, which state is kept. Pure, and never with a secret.

`leaves` finds every single difference, whatever fields the records get; `routes`, `providers`, `access` make sentences of those
that have a meaning of their own. Two graphs of different digests always differ by at least one sentence (a test holds that).
"""

from routerd.config.changes.compare import diff
from routerd.config.changes.leaves import Change

__all__ = ["Change", "diff"]
