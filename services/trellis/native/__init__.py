"""C++ kernels for the CPU, compiled on the machine that runs them, or with its image (ship.py); else PyTorch's own paths."""
