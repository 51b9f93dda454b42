"""Messages and stubs generated from proto/trellis/v1 by scripts/generate-proto; do not edit."""
