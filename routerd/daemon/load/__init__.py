"""The one way to a configuration that may serve: read, checked, compiled, its own tests run.

    configuration  the way itself
    gate           what only the command line makes wrong
    cases          `tests:` of the file
    forecast       what would come of a request, without sending one
    question       what is asked of a forecast, by names
    explained      the whole decision as one plain document, for `routerd explain` and the admin listener
"""
