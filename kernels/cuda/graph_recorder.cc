#include "kernels/cuda/graph_recorder.h"

#include "kernels/base/status_macros.h"

namespace tandem::kernels::cuda {
namespace {

class GraphRecording : public Recording {
 public:
  explicit GraphRecording(cudaGraphExec_t exec) : exec_(exec) {}
  GraphRecording(const GraphRecording&) = delete;
  ~GraphRecording() override { cudaGraphExecDestroy(exec_); }
  cudaGraphExec_t exec() const { return exec_; }

 private:
  const cudaGraphExec_t exec_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Recording>> GraphRecorder::Record(
    absl::FunctionRef<absl::Status()> body) {
  cudaSetDevice(device_);
  TANDEM_RETURN_IF_ERROR(
      CudaStatus(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "recording"));
  const absl::Status issued = body();
  cudaGraph_t graph = nullptr;
  const absl::Status ended = CudaStatus(cudaStreamEndCapture(stream_, &graph), "recording");
  TANDEM_RETURN_IF_ERROR(issued);
  TANDEM_RETURN_IF_ERROR(ended);
  cudaGraphExec_t exec = nullptr;
  const absl::Status made = CudaStatus(cudaGraphInstantiate(&exec, graph, 0), "a graph");
  cudaGraphDestroy(graph);
  TANDEM_RETURN_IF_ERROR(made);
  return std::make_unique<GraphRecording>(exec);
}

void GraphRecorder::Replay(const Recording& recording) {
  cudaSetDevice(device_);
  const auto& graph = static_cast<const GraphRecording&>(recording);
  errors_.Check(cudaGraphLaunch(graph.exec(), stream_), "a graph");
}

}  // namespace tandem::kernels::cuda
