"""zimage-worker fetch. Start reading in fetching.py; nothing is imported here, `serve` needs none of it."""
