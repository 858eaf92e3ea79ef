"""The rules file: read, refused with its line when it is wrong, and followed while the process runs."""
