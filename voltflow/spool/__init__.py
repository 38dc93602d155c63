"""What waits on disk for a far side that is away: an append-only log a class of messages, with checksums and quotas."""
