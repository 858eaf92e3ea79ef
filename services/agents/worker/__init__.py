"""The faces that nobody calls: agents run as tasks, news of tasks from the bus, and what is done again and again."""
