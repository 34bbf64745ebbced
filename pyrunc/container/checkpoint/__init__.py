"""Checkpoint and restore: a running container as files, and back. CRIU does the work; this code directs and watches."""
