"""Studies, offline: how much a feeder can host, from what its meters have recorded."""
