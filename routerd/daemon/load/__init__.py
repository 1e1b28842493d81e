"""The one way to a configuration that may serve: read, checked, compiled, its own tests run.

    configuration  the way itself
    cases          `tests:` of the file
    forecast       what would come of a request, without sending one
"""
