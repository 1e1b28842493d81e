"""`providers:` to Provider and Endpoint records: addresses, credentials, templates, traits."""
