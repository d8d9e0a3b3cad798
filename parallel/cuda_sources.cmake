# Sources of collectives between GPUs, for GPUs and for the emulation (tests/emulation)
# alike.
set(TANDEM_CUDA_PARALLEL cuda_memory.cc device_communicator.cc device_ways.cc nccl_all_reduce.cc
  peer_all_reduce.cc process_id.cc staged_all_reduce.cc stream_wait.cc tree_program.cc)
