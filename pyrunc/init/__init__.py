"""The container's side: what happens between clone and execve. Nothing is imported after clone."""
