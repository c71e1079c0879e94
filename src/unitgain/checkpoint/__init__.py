"""What is kept on disk: snapshots (`snapshot`), training state (`state`), official files (`nvidia`, `convert`)."""
