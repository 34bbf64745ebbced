"""The host's side: the verbs, the state on disk, and the conversation with a process on its way to execve."""
