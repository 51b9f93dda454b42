"""Parts of tests.bench.control_plane."""
