"""What this host has for containers and what it lacks: `pyrunc doctor`. Off the path of every other verb."""
