"""The native API, under ``/api/v1``: bare success bodies, enveloped errors. One module a resource."""
