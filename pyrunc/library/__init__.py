"""The library: any program, with any number of threads, makes containers through a worker process. docs/library.md"""
