"""What both ends of a lane agree on beyond the contract."""

# A call refused with this code has not begun: it may be tried elsewhere whatever its method.
NOT_STARTED = "LANE_NOT_STARTED"

FRAME_ITEMS = 512
# A frame ends after the item that reaches this. With the largest message it stays below what gRPC takes (16 MiB).
FRAME_BYTES = 1024 * 1024
MESSAGE_BYTES = 8 * 1024 * 1024

OPEN_PATH = "/mesh.lane.v1.LaneService/Open"
