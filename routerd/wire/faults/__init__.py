"""What an error answer means: its shapes, its kind, when to come back, whether a model is only cold."""
