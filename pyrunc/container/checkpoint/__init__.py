"""Checkpoint and restore: a running container as files, and back. CRIU does it; here it is told what, and watched."""
