"""containerd-shim-pyrunc-v2: containerd's runtime v2, with the runtime in the same process."""
