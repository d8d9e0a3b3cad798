# Sources of kernels/cuda, both for a GPU and for the emulation (tests/emulation). On a GPU, cuBLASLt
# multiplies many tokens (matrix_product_cublaslt.cc).
set(TANDEM_CUDA_KERNELS attention.cu attention_matrix.cu collective.cu linear.cu linear_tiles.cu
  rope.cu rows.cu sampling.cu)
set(TANDEM_CUDA_HOST attention_launch.cc cuda_backend.cc cuda_probe.cc cuda_weight.cc
  graph_recorder.cc host_layers.cc linear_product.cc pinned_upload.cc weight_packer.cc)
