"""seccomp: a profile of config.json becomes a BPF program, once, and then comes from a cache."""
