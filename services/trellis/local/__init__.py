"""Everything on one machine: a private Ray and a server over one data folder, started, watched and stopped together."""
