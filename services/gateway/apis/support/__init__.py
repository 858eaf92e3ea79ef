"""The customer-service API: tasks, workers and channels. One module a resource."""
