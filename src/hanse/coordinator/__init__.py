"""The coordinator: what it keeps on disk, its sessions with sites, and its HTTP API."""
