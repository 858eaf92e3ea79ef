"""Which worker runs which tests when several run at a time."""

from pathlib import PurePosixPath

from xdist.scheduler import LoadFileScheduling

_END_TO_END = PurePosixPath("tests/end_to_end")
# These start meshes of their own.
_APART = {"test_bad_input.py", "test_faults.py", "test_jaeger.py"}


class Turns(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """A file goes to one worker, and the files that share a mesh go to the same, so that it is started once."""

    def _split_scope(self, nodeid: str) -> str:
        path = PurePosixPath(super()._split_scope(nodeid))
        return str(path.parent if path.parent == _END_TO_END and path.name not in _APART else path)
