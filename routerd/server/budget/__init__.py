"""Budgets at the door: who is let in, who waits in line, what answers and metrics tell of it."""
