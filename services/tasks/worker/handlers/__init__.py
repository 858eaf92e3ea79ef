"""The kinds that come with the project, one file each; `fetching` is automation's careful way out."""
