# Sources of kernels/cuda, for a card and for the emulation (tests/emulation) alike.
set(TANDEM_CUDA_KERNELS rows.cu)
set(TANDEM_CUDA_HOST)
