"""What both ends of a lane agree on beyond the contract."""

# A call refused with this code has not begun: it may be tried elsewhere whatever its method.
NOT_STARTED = "LANE_NOT_STARTED"

FRAME_ITEMS = 512

OPEN_PATH = "/mesh.lane.v1.LaneService/Open"
