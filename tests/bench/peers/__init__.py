"""What Trellis is measured against, in the plainest form of each."""
