"""C++ kernels for the CPU, compiled on the machine that runs them; without a compiler PyTorch's own paths are taken."""
