# Sources of kernels/cuda, for a GPU and for the emulation (tests/emulation) alike; products
# of many tokens are CUBLAS' on a GPU.
set(TANDEM_CUDA_KERNELS attention.cu attention_matrix.cu collective.cu linear.cu linear_tiles.cu
  rope.cu rows.cu sampling.cu)
set(TANDEM_CUDA_HOST cuda_backend.cc cuda_probe.cc cuda_weight.cc graph_recorder.cc host_layers.cc
  pinned_upload.cc weight_packer.cc)
