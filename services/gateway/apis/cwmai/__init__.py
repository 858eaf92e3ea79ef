"""The CWMAI API: development tasks. One module a resource."""
