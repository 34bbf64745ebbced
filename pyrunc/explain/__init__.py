"""What a configuration grants to a container and what it withholds, in words. Off the path of every other verb."""
