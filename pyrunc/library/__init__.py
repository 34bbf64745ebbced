"""The library: containers from any program, of any number of threads, by a worker process. docs/library.md"""
