"""What is read from providers beside requests: lists of models, gauges of engines, answers of token endpoints."""
