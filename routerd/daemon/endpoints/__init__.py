"""Endpoints as control sees them: asked for their health and load; gauges, drains by hand, a notice of every change."""
