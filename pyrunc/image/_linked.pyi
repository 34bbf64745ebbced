# Part of the image alone: linked.c.
FUNCTIONS: dict[str, int]  # of libseccomp: name and address
INSIDE: dict[str, str]  # what is linked in, and its version
LIBSECCOMP: str  # which build of which version, as the name of a file
