"""Where bases are fetched from: the hub, a bucket, a folder."""
