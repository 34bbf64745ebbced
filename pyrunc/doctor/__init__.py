"""What this host has for containers and what it lacks: `pyrunc doctor`. No other verb loads this code."""
