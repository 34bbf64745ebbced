"""The container's side: what happens between clone and execve. Nothing here is imported, or imports, after clone."""
