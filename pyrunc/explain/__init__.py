"""What a configuration grants to a container and what it withholds, in words. No other verb loads this code."""
